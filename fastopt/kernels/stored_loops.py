"""The loops over elements of a rule whose state is stored in 16 or 8 bits: decoded, through the rule, encoded.

One loop for all of it: while some elements wait for roots and divisions others are decoded and encoded, and memory is
asked for all along. One thing after the other each waits for the last results of the one before, and a step takes half
as long again.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from fastopt.kernels.codes import (
    MAGNITUDE,
    counters,
    further,
    in_wide_vectors,
    inlined,
    larger,
    load_codes,
    load_halves,
    load_values,
    offset_by,
    store_codes,
    store_halves,
    store_values,
    without_small,
)
from fastopt.kernels.intrinsics import addresses, ask_for, load, numbers, peek, put, spread, store
from fastopt.kernels.passes import DISTANCE, STRIP_BYTES
from fastopt.kernels.storage import (
    FLOAT32,
    GROUP,
    INFINITE,
    bits_of,
    decode_special,
    encode_special,
    get,
    scales_at,
    share_of,
    write_scale,
)
from fastopt.kernels.stores import STRIP, WHOLE, stack_bytes

# As in `passes.py`.
rule: Any = None
DTYPE: Any = None
SCALARS: Any = None
FLOATS: Any = None  # the columns of the table that are not stored in fewer bits: parameter, gradient, averages, bounds
WRITTEN: Any = None  # those of them that are written, beside the gradient
RESULTS: Any = None  # how many results of the formula go there
SLOTS: Any = None  # the columns of slots
SMALL_FLOATS: Any = None  # as SMALL there, of those that are not stored in fewer bits, and of slots
SMALL_SLOTS: Any = None

# What a step has of an array beside its row: the number of its elements, then the key of each slot.
ELEMENTS, ARRAY_KEYS = 0, 1
KEYS_AT: Any = None  # the places of the keys
KINDS: Any = None  # of slots
NOTHING: Any = None  # a zero for each slot

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
    strip, counter = first, counters(keys, first)
    while strip < last:
        until = min(strip + peek(form + 8 * STRIP), last)
        if peek(form + 8 * STRIP) != WHOLE:
            ask_for((parameter, *floats[1:]), 4 * strip + DISTANCE, STRIP_BYTES)
            ask_for(codes, 2 * strip + DISTANCE, STRIP_OF_HALVES)
        for element in range(strip, until):
            before = load((parameter, *floats[1:]), element, DTYPE) + load_halves(codes, element)
            values = rule(*(before + constants))
            store((parameter, *written[1:]), element, values[:RESULTS], SMALL_FLOATS, DTYPE)
            store_halves(codes, element, values[RESULTS:], SMALL_SLOTS, counter, keys)
            counter = further(counter, 1)
        strip = until


def int8_loop(row, scalars, parameter, array, form, first, last):
    """The same with slots in 8 bits; `first` is the first element of a group, `last` that of one or the array's end.

    A group is decoded, goes through the rule and is encoded. As its codes depend on its largest number, they are
    written in the loop that has the next group go through the rule: its roots and divisions need not wait for them, nor
    they for the roots. What does not fill a group at the end of an array comes first.
    """
    in_wide_vectors()
    floats, written = addresses(row, FLOATS), addresses(row, WRITTEN)
    codes, keys = addresses(row, SLOTS), addresses(array, KEYS_AT)
    constants = numbers(scalars, SCALARS, DTYPE)
    size, asks = peek(array + 8 * ELEMENTS), peek(form + 8 * STRIP) != WHOLE
    stack = stack_bytes((2 * STRIDE + GROUP + 4) * len(SLOTS))
    before, after = spread(stack, STRIDE, SLOTS), spread(stack + STRIDE * len(SLOTS), STRIDE, SLOTS)
    nowhere, factors = stack + 2 * STRIDE * len(SLOTS), stack + (2 * STRIDE + GROUP) * len(SLOTS)
    begin = last // GROUP * GROUP
    target = spread(nowhere, GROUP, SLOTS)  # so the first loop needs no case of its own; it writes what is on the stack
    if begin < last:
        decode_group(codes, size, begin, factors, after)
        for place in range(last - begin):
            values = load((parameter, *floats[1:]), begin + place, DTYPE) + load_values(after, place)
            values = rule(*(values + constants))
            store((parameter, *written[1:]), begin + place, values[:RESULTS], SMALL_FLOATS, DTYPE)
            store_values(after, place, without_small(values[RESULTS:], SMALL_SLOTS))
        most = NOTHING
        for place in range(GROUP):
            most = larger(most, load_values(after, place), KINDS)
        target = write_scales(codes, size, begin, most, factors, after, keys, target)
    counter = counters(keys, begin)
    for begin in range(first, last // GROUP * GROUP, GROUP):
        if asks:
            ask_for((parameter, *floats[1:]), 4 * begin + DISTANCE, FLOAT_LINES)
            ask_for(codes, begin + DISTANCE, LINES)
        pending = load_values(spread(factors, 4, SLOTS), 0)
        decode_group(codes, size, begin, factors, before)
        most = NOTHING
        for place in range(GROUP):
            values = load((parameter, *floats[1:]), begin + place, DTYPE) + load_values(before, place)
            values = rule(*(values + constants))
            store_codes(target, place, load_values(after, place), pending, further(counter, place), keys, KINDS)
            store((parameter, *written[1:]), begin + place, values[:RESULTS], SMALL_FLOATS, DTYPE)
            slots = without_small(values[RESULTS:], SMALL_SLOTS)
            store_values(after, place, slots)
            most = larger(most, slots, KINDS)
        target = write_scales(codes, size, begin, most, factors, after, keys, spread(nowhere, GROUP, SLOTS))
        counter = counters(keys, begin)
    pending = load_values(spread(factors, 4, SLOTS), 0)
    for place in range(GROUP):
        store_codes(target, place, load_values(after, place), pending, further(counter, place), keys, KINDS)


def decode_group(codes, size, begin, shares, values):
    """Writes the values of a group of all slots to the stack; `shares` has room for a float32 for each slot."""
    inlined()
    in_wide_vectors()  # a function is optimized on its own first
    special, group = np.uint32(0), begin // GROUP
    for slot in range(len(SLOTS)):
        scale = get(scales_at(codes[slot], size), group, FLOAT32)
        special |= bits_of(scale)
        put(shares, slot, share_of(KINDS[slot], scale))
    loaded = load_values(spread(shares, 4, SLOTS), 0)
    for place in range(GROUP):
        store_values(values, place, load_codes(codes, begin + place, loaded, KINDS))
    if special > MAGNITUDE:
        for slot in range(len(SLOTS)):
            scale = get(scales_at(codes[slot], size), group, FLOAT32)
            if bits_of(scale) > MAGNITUDE:
                decode_special(KINDS[slot], codes[slot] + begin, -scale, values[slot])


def write_scales(codes, size, begin, most, factors, values, keys, nowhere):
    """Writes the scales of a group and what takes values to codes; returns where these go.

    Codes of a group in which something is not finite are written at once: then others go `nowhere`.
    """
    inlined()
    special, group, target = False, begin // GROUP, offset_by(codes, begin)
    for slot in range(len(SLOTS)):
        put(factors, slot, write_scale(KINDS[slot], most[slot], scales_at(codes[slot], size), group))
        special |= most[slot] >= INFINITE
    if not special:
        return target
    counter = counters(keys, begin)
    shares = load_values(spread(factors, 4, SLOTS), 0)
    for place in range(GROUP):
        store_codes(target, place, load_values(values, place), shares, further(counter, place), keys, KINDS)
    for slot in range(len(SLOTS)):
        if most[slot] >= INFINITE:
            scales = scales_at(codes[slot], size) + 4 * group
            encode_special(KINDS[slot], values[slot], codes[slot] + begin, scales, begin, keys[slot])
    return nowhere
