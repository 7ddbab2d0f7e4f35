"""The loops over elements of a rule whose state is stored in 16 or 8 bits: decoded, through the rule, encoded.

One loop for all of it: while some elements wait for roots and divisions others are decoded and encoded, and memory is
asked for all along. In blocks through the first cache, one thing after the other, a step takes half as long again.
"""

from __future__ import annotations

from typing import Any

from fastopt.kernels.intrinsics import addresses, ask_for, load, numbers, peek, spread, store
from fastopt.kernels.passes import AHEAD, STRIP_BYTES
from fastopt.kernels.storage import (
    GROUP,
    decode_group,
    encode_group,
    in_wide_vectors,
    load_halves,
    scales_at,
    store_halves,
)
from fastopt.kernels.stores import KINDS, STRIP, WHOLE, stack_bytes

# As in `passes.py`.
rule: Any = None
DTYPE: Any = None
SMALL: Any = None
SCALARS: Any = None
FLOATS: Any = None  # the columns of the table that are not stored in fewer bits: parameter, gradient, averages, bounds
WRITTEN: Any = None  # those of them that are written, beside the gradient
RESULTS: Any = None  # how many results of the formula go there
SLOTS: Any = None  # the columns of slots
SMALL_FLOATS: Any = None  # SMALL of those that are not stored in fewer bits
SMALL_SLOTS: Any = None

# What a step has of an array beside its row: the number of its elements, then the key of each slot.
ELEMENTS, ARRAY_KEYS = 0, 1
KEYS_AT: Any = None  # the places of the keys

STRIP_OF_HALVES = STRIP_BYTES // 2
LINES, FLOAT_LINES = GROUP, 4 * GROUP  # bytes of a group
STRIDE = 4 * GROUP + 64  # so that the groups of slots do not lie at one place modulo 4096 bytes


def bfloat16_loop(row, scalars, parameter, array, form, first, last):
    """`passes.step_loop` with slots in 16 bits.

    array : the address of numbers of the array, as said above
    """
    in_wide_vectors()
    floats, written = addresses(row, FLOATS), addresses(row, WRITTEN)
    codes, keys = addresses(row, SLOTS), addresses(array, KEYS_AT)
    constants = numbers(scalars, SCALARS, DTYPE)
    strip = first
    while strip < last:
        until = min(strip + peek(form + 8 * STRIP), last)
        if peek(form + 8 * STRIP) != WHOLE:
            ask_for((parameter, *floats[1:]), 4 * strip + AHEAD, STRIP_BYTES)
            ask_for(codes, 2 * strip + AHEAD, STRIP_OF_HALVES)
        for element in range(strip, until):
            before = load((parameter, *floats[1:]), element, DTYPE) + load_halves(codes, element)
            values = rule(*(before + constants))
            store((parameter, *written[1:]), element, values[:RESULTS], SMALL_FLOATS, DTYPE)
            store_halves(codes, element, values[RESULTS:], SMALL_SLOTS, keys)
        strip = until


def int8_loop(row, scalars, parameter, array, form, first, last):
    """The same with slots in 8 bits; `first` is the first element of a group, `last` that of one or the array's end."""
    in_wide_vectors()
    floats, written = addresses(row, FLOATS), addresses(row, WRITTEN)
    constants = numbers(scalars, SCALARS, DTYPE)
    size, kinds = peek(array + 8 * ELEMENTS), peek(form + 8 * KINDS)
    home = stack_bytes(STRIDE * len(SLOTS))
    for group in range(first // GROUP, (last + GROUP - 1) // GROUP):
        begin = group * GROUP
        if peek(form + 8 * STRIP) != WHOLE:
            ask_for((parameter, *floats[1:]), 4 * begin + AHEAD, FLOAT_LINES)
            ask_for(addresses(row, SLOTS), begin + AHEAD, LINES)
        for slot in range(len(SLOTS)):
            codes = peek(row + 8 * (SLOTS[0] + slot))
            decode_group(peek(kinds + 8 * slot), codes, scales_at(codes, size), group, home + STRIDE * slot)
        slots = spread(home - 4 * begin, STRIDE, SLOTS)
        for element in range(begin, min(begin + GROUP, last)):
            values = rule(*(load((parameter, *floats[1:], *slots), element, DTYPE) + constants))
            store((parameter, *written[1:], *slots), element, values, SMALL, DTYPE)
        for slot in range(len(SLOTS)):
            codes, key = peek(row + 8 * (SLOTS[0] + slot)), peek(array + 8 * (ARRAY_KEYS + slot))
            place = home + STRIDE * slot
            encode_group(peek(kinds + 8 * slot), place, codes, scales_at(codes, size), group, key)
