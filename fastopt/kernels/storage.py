"""State in 16 or 8 bits, compiled: groups of elements, and codecs that C can call.

`codecs.py` says what the codes mean, `codes.py` reads and writes those of an element. `stored_loops.py` has the loops
in which the state of a group is decoded, goes through a rule and is encoded again. For the others, which are rare,
`loops.walk_stored` has blocks decoded and encoded by the functions at the end of this file.

All arithmetic is of 32 bits; without the many casts numba would make it of 64.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import float32, int32, types, uint32
from numba.extending import intrinsic

from fastopt.kernels import codecs
from fastopt.kernels.codecs import BELOW_ONE, OFFSET, SMALLEST, range_of
from fastopt.kernels.codes import (
    ABOVE_ZERO,
    BASE,
    BFLOAT16,
    BYTE_BITS,
    MAGNITUDE,
    NONNEGATIVE,
    SHIFT,
    SIGN,
    SIGNED,
    counters,
    further,
    in_wide_vectors,
    larger,
    load_codes,
    load_halves,
    load_values,
    store_codes,
    store_halves,
    store_values,
)
from fastopt.kernels.intrinsics import KEPT, put

GROUP = codecs.GROUP
MIX, WEYL = codecs.MIX, codecs.WEYL
INFINITE = np.uint32(0x7F800000)
INT8, UINT8, FLOAT32 = np.int8, np.uint8, np.float32


def kind(storage: str, nonnegative: bool) -> int:
    """The form of a slot."""
    return BFLOAT16 if storage == codecs.BFLOAT16 else NONNEGATIVE if nonnegative else SIGNED


@intrinsic
def get(typingctx: Any, address: Any, index: Any, dtype: Any) -> Any:
    """An element of the array of a dtype at an address."""
    element = dtype.dtype

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        pointer = builder.inttoptr(args[0], context.get_value_type(element).as_pointer())
        return builder.load(builder.gep(pointer, [args[1]]), align=element.bitwidth // 8)

    return element(types.int64, types.int64, dtype), codegen


@intrinsic
def bits_of(typingctx: Any, value: Any) -> Any:
    """The bits of a float32."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.bitcast(args[0], ir.IntType(32))

    return types.uint32(types.float32), codegen


@intrinsic
def float_of(typingctx: Any, bits: Any) -> Any:
    """The float32 of some bits."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.bitcast(args[0], ir.FloatType())

    return types.float32(types.uint32), codegen


# Constants of their dtypes.
ZERO = np.float32(0)
SIGNED_RANGE, NONNEGATIVE_RANGE = range_of(codecs.SIGNED_LAST), range_of(codecs.NONNEGATIVE_LAST)
SIGNED_SHARE, NONNEGATIVE_SHARE = (np.float32(1) / last * BELOW_ONE for last in (SIGNED_RANGE, NONNEGATIVE_RANGE))
# Those of groups in which something is not finite.
SPECIAL_SIGNED_RANGE, SPECIAL_RANGE = range_of(codecs.SIGNED_LAST_SPECIAL), range_of(codecs.NONNEGATIVE_LAST_SPECIAL)
SPECIAL_SIGNED_SHARE, SPECIAL_SHARE = (
    np.float32(1) / last * BELOW_ONE for last in (SPECIAL_SIGNED_RANGE, SPECIAL_RANGE)
)
CUT = np.uint32((1 << BYTE_BITS) - 1)


def magnitude_of(code):
    """A code as a number, the last one as RANGE."""
    return float32(float_of(uint32(uint32(uint32(code) << SHIFT) | BASE)) - OFFSET)


def with_sign(value, code):
    """A positive number with the sign of an int32."""
    return float_of(uint32(bits_of(value) | uint32(uint32(code) & SIGN)))


def share_of(kind, scale):
    """The factor from the numbers of codes to values."""
    return float32(scale * (SIGNED_SHARE if kind == SIGNED else NONNEGATIVE_SHARE))


def decode_special(kind, codes, scale, target):
    """Writes the values of a group in which something is not finite."""
    for place in range(GROUP):
        if kind == SIGNED:
            code = int32(get(codes, place, INT8))
            value = with_sign(magnitude_of(abs(code)) * float32(scale * SPECIAL_SIGNED_SHARE), code)
            value = float32(np.inf) if code == 127 else float32(-np.inf) if code == -127 else value
            put(target, place, float32(np.nan) if code == -128 else value)
        else:
            code = int32(get(codes, place, UINT8))
            value = magnitude_of(code) * float32(scale * SPECIAL_SHARE)
            value = float32(np.inf) if code == 254 else value
            put(target, place, float32(np.nan) if code == 255 else value)


def write_scale(kind, most, scales, group):
    """Writes the scale of a group whose largest magnitude has the bits `most`; returns what takes it to RANGE."""
    scale = float_of(uint32(most))
    scale = scale if scale >= SMALLEST else ZERO
    put(scales, group, scale)
    return factor_of(scale, SIGNED_RANGE if kind == SIGNED else NONNEGATIVE_RANGE)


def factor_of(scale, last):
    """The factor that takes the largest of a group to RANGE."""
    return float32(last / scale * BELOW_ONE) if scale > ZERO else ZERO


def noise(key, element):
    """The random bits of an element; see `codecs.noise`."""
    value = uint32(uint32(element) * WEYL + uint32(key >> 32))
    value = uint32(uint32(value ^ uint32(value >> uint32(16))) * MIX)
    value = uint32(value ^ uint32(value >> uint32(15)))
    return uint32(value & CUT) if key & 1 else uint32(value >> uint32(32 - BYTE_BITS))


def code_of(number, random):
    """The code of a number up to RANGE, in its last 8 bits: those of `BASE` stand before them."""
    return int32(uint32(uint32(bits_of(float32(number + OFFSET)) + random) >> SHIFT))


def encode_special(kind, source, codes, scales, begin, key):
    """Writes the codes and the scale of a group in which something is not finite."""
    most = np.uint32(0)
    for place in range(GROUP):
        bits = bits_of(get(source, place, FLOAT32))
        most = max(most, uint32(bits & MAGNITUDE) if is_regular(bits, kind) else np.uint32(0))
    scale = float_of(uint32(most))
    scale = scale if scale >= SMALLEST else ZERO
    put(scales, 0, -scale)
    factor = factor_of(scale, SPECIAL_SIGNED_RANGE if kind == SIGNED else SPECIAL_RANGE)
    for place in range(GROUP):
        value = get(source, place, FLOAT32)
        regular = is_regular(bits_of(value), kind)
        code = code_of((abs(value) if regular else ZERO) * factor, noise(key, begin + place))
        if kind == SIGNED:
            code = code if regular else int32(127) if abs(value) > ZERO else int32(128)
            put(codes, place, INT8(int32(-code) if value < ZERO else code))
        else:
            code = max(code, ABOVE_ZERO) if value > ZERO else code
            put(codes, place, UINT8(code if regular else int32(254) if value > ZERO else int32(255)))


def is_regular(bits, kind):
    """Whether a value has a code by its magnitude: it is finite, and not negative where that cannot be."""
    magnitude = uint32(bits & MAGNITUDE)
    return magnitude < INFINITE and (kind == SIGNED or bits <= MAGNITUDE or magnitude == np.uint32(0))


def decode(kind, codes, size, target, index, end, key):
    """Writes elements `index` to `end` of an array of a slot to `target`, as float32.

    kind : `BFLOAT16`, `SIGNED` or `NONNEGATIVE`
    codes : the address of the array's run of bytes, `size` its number of elements
    target : an address with room for whole groups; `index` is the first element of one
    key : unused, so that it takes what `encode` takes
    """
    in_wide_vectors()
    scales = scales_at(codes, size)
    for group in range(index // GROUP, (end + GROUP - 1) // GROUP):
        begin = group * GROUP
        place = target + 4 * (begin - index)
        if kind == BFLOAT16:
            for element in range(GROUP):
                put(place, element, load_halves((codes,), begin + element)[0])
            continue
        scale = get(scales, group, FLOAT32)
        if bits_of(scale) > MAGNITUDE:
            decode_special(kind, codes + begin, -scale, place)
            continue
        share = share_of(kind, scale)
        for element in range(GROUP):
            store_values((place,), element, load_codes((codes + begin,), element, (share,), (kind,)))
    return 0


def encode(kind, codes, size, source, index, end, key):
    """Writes what `decode` reads, from float32 at `source`; `key` is that of the slot, see `codecs.slot_key`."""
    in_wide_vectors()
    scales = scales_at(codes, size)
    for group in range(index // GROUP, (end + GROUP - 1) // GROUP):
        begin = group * GROUP
        place, first = source + 4 * (begin - index), counters((key,), begin)
        if kind == BFLOAT16:
            for element in range(GROUP):
                value, counter = get(place, element, FLOAT32), further(first, element)
                store_halves((codes,), begin + element, (value,), (KEPT,), counter, (key,))
            continue
        most = (np.uint32(0),)
        for element in range(GROUP):
            most = larger(most, load_values((place,), element), (kind,))
        if most[0] >= INFINITE:
            encode_special(kind, place, codes + begin, scales + 4 * group, begin, key)
            continue
        factors = (write_scale(kind, most[0], scales, group),)
        for element in range(GROUP):
            values, counter = load_values((place,), element), further(first, element)
            store_codes((codes + begin,), element, values, factors, counter, (key,), (kind,))
    return 0


def scales_at(codes, size):
    """The address of the scales of an array's run of bytes."""
    return codes + (size + GROUP - 1) // GROUP * GROUP
