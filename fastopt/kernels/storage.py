"""State in 16 or 8 bits, compiled: blocks of it are decoded into the first cache before the rule, and encoded after.

`codecs.py` says what the codes mean. `loops.walk_stored` decodes a block of each slot, has the rule's own kernel work
on the float32 numbers there, and encodes them: no rule is compiled anew for any storage.

The loops over a group are of constant length and without branches, so LLVM makes vectors of them. All arithmetic is of
32 bits; without the many casts numba would make it of 64.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import float32, int32, types, uint32, uint64
from numba.extending import intrinsic

from fastopt.kernels import codecs
from fastopt.kernels.intrinsics import ask_for, put
from fastopt.kernels.passes import AHEAD

BFLOAT16, SIGNED, NONNEGATIVE = 1, 2, 3
"""The forms of a slot: 16 bits, and 8 bits with a sign or without."""

GROUP = codecs.GROUP
TWO_LINES = 2 * GROUP  # bytes of a group of 16 bits
NOISE = codecs.NOISE
GOLDEN, FIRST, SECOND = (np.uint64(value) for value in (codecs.GOLDEN, codecs.FIRST, codecs.SECOND))
MIX = codecs.MIX
INFINITE = np.uint32(0x7F800000)
MAGNITUDE = np.uint32(0x7FFFFFFF)
SMALLEST, BELOW_ONE = codecs.SMALLEST, codecs.BELOW_ONE
INT8, UINT8, INT32, UINT16, FLOAT32 = np.int8, np.uint8, np.int32, np.uint16, np.float32


def kind(storage: str, nonnegative: bool) -> int:
    """The form of a slot."""
    return BFLOAT16 if storage == codecs.BFLOAT16 else NONNEGATIVE if nonnegative else SIGNED


@intrinsic
def in_wide_vectors(typingctx: Any) -> Any:
    """Has LLVM make the function of the widest vectors that the processor has.

    On Intel's it keeps to 256 bits by default. Codes take whole numbers, shifts and masks, which 512 bits do in three
    quarters of the time: a step in the caches takes 1.53 of float32's instead of 1.72 (bfloat16), 2.5 instead of 2.7.
    """

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        for attribute in ("prefer-vector-width", "min-legal-vector-width"):
            # llvmlite's own `add` knows the attributes that are a word; it writes what is in the set as it stands.
            set.add(builder.function.attributes, f'"{attribute}"="512"')
        return context.get_dummy_value()

    return types.void(), codegen


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
ZERO, ONE_BELOW, EIGHT, ONE = np.float32(0), np.uint32(16), np.uint32(8), np.uint32(1)
HALF_GAP, GAP = np.float32(2.0**-24), np.float32(2.0**-23)
SIGNED_SQUARE, SIGNED_SHARE = np.float32(127**2), np.float32(1 / 127**2)
SQUARE, SHARE = np.float32(255**2), np.float32(1 / 255**2)
# Those of groups in which something is not finite.
SPECIAL_SIGNED_SQUARE, SPECIAL_SIGNED_SHARE = np.float32(126**2), np.float32(1 / 126**2)
SPECIAL_SQUARE, SPECIAL_SHARE = np.float32(253**2), np.float32(1 / 253**2)


def decode(kind, codes, size, target, index, end, key):
    """Writes elements `index` to `end` of an array of a slot to `target`, as float32.

    kind : `BFLOAT16`, `SIGNED` or `NONNEGATIVE`
    codes : the address of the array's run of bytes, `size` its number of elements
    target : an address with room for whole groups; `index` is the first element of one
    key : unused, so that it takes what `encode` takes
    """
    in_wide_vectors()
    if kind == BFLOAT16:
        decode_bfloat16(codes + 2 * index, target, end - index)
        return 0
    scales = codes + (size + GROUP - 1) // GROUP * GROUP + 4 * (index // GROUP)
    if kind == SIGNED:
        decode_signed(codes + index, scales, target, end - index)
    else:
        decode_nonnegative(codes + index, scales, target, end - index)
    return 0


def encode(kind, codes, size, source, index, end, key):
    """Writes what `decode` reads, from float32 at `source`; `key` is that of the slot, see `codecs.slot_key`."""
    in_wide_vectors()
    if kind == BFLOAT16:
        encode_bfloat16(source, codes + 2 * index, index, end - index, key)
        return 0
    scales = codes + (size + GROUP - 1) // GROUP * GROUP + 4 * (index // GROUP)
    if kind == SIGNED:
        encode_signed(source, codes + index, scales, index, end - index, key)
    else:
        encode_nonnegative(source, codes + index, scales, index, end - index, key)
    return 0


def mixed(value):
    """As in `codecs`, of a uint64."""
    value = (value ^ (value >> np.uint64(30))) * FIRST
    value = (value ^ (value >> np.uint64(27))) * SECOND
    return value ^ (value >> np.uint64(31))


def group_key(key, group):
    """The key of a group, from that of its slot."""
    return uint32(mixed(uint64(key) + uint64(group) * GOLDEN) >> np.uint64(32))


def noise(key, place):
    """The random bits of an element of a group."""
    value = uint32(NOISE[place] + key)
    return uint32(uint32(value ^ (value >> ONE_BELOW)) * MIX)


def decode_bfloat16(codes, target, count):
    in_wide_vectors()
    for group in range((count + GROUP - 1) // GROUP):
        ask_for((codes,), 2 * GROUP * group + AHEAD, TWO_LINES)
        for place in range(GROUP):
            element = group * GROUP + place
            put(target, element, float_of(uint32(uint32(get(codes, element, UINT16)) << ONE_BELOW)))


def encode_bfloat16(source, codes, index, count, key):
    in_wide_vectors()
    for group in range((count + GROUP - 1) // GROUP):
        random = group_key(key, index // GROUP + group)
        for place in range(GROUP):
            bits = bits_of(get(source, group * GROUP + place, FLOAT32))
            rounded = uint32(bits + (noise(random, place) >> ONE_BELOW))
            nan = uint32(bits | np.uint32(0x400000))
            rounded = rounded if uint32(bits & MAGNITUDE) <= INFINITE else nan
            put(codes, group * GROUP + place, UINT16(rounded >> ONE_BELOW))


def decode_signed(codes, scales, target, count):
    in_wide_vectors()
    for group in range((count + GROUP - 1) // GROUP):
        ask_for((codes,), GROUP * group + AHEAD, GROUP)
        scale = get(scales, group, FLOAT32)
        if bits_of(scale) > MAGNITUDE:
            for place in range(GROUP):
                code = int32(get(codes, group * GROUP + place, INT8))
                value = float32(int32(code * abs(code))) * SPECIAL_SIGNED_SHARE * abs(scale)
                value = float32(np.inf) if code == 127 else float32(-np.inf) if code == -127 else value
                put(target, group * GROUP + place, float32(np.nan) if code == -128 else value)
            continue
        for place in range(GROUP):
            code = int32(get(codes, group * GROUP + place, INT8))
            put(target, group * GROUP + place, float32(int32(code * int32(abs(code)))) * SIGNED_SHARE * scale)


def decode_nonnegative(codes, scales, target, count):
    in_wide_vectors()
    for group in range((count + GROUP - 1) // GROUP):
        ask_for((codes,), GROUP * group + AHEAD, GROUP)
        scale = get(scales, group, FLOAT32)
        if bits_of(scale) > MAGNITUDE:
            for place in range(GROUP):
                code = int32(get(codes, group * GROUP + place, UINT8))
                value = float32(int32(code * code)) * SPECIAL_SHARE * abs(scale)
                value = float32(np.inf) if code == 254 else value
                put(target, group * GROUP + place, float32(np.nan) if code == 255 else value)
            continue
        for place in range(GROUP):
            code = int32(get(codes, group * GROUP + place, UINT8))
            put(target, group * GROUP + place, float32(int32(code * code)) * SHARE * scale)


def largest_bits(source, group, mask):
    """The largest of the bits of a group, as those of magnitudes are ordered; NaN and what is negative come last."""
    most = np.uint32(0)
    for place in range(GROUP):
        most = max(most, uint32(bits_of(get(source, group * GROUP + place, FLOAT32)) & mask))
    return uint32(most)


def largest_regular(source, group, nonnegative):
    """The largest magnitude in a group besides those that have codes of their own."""
    most = np.uint32(0)
    for place in range(GROUP):
        bits = bits_of(get(source, group * GROUP + place, FLOAT32))
        most = max(most, uint32(bits & MAGNITUDE) if is_regular(bits, nonnegative) else np.uint32(0))
    return uint32(most)


def is_regular(bits, nonnegative):
    """Whether a value has a code by its magnitude: it is finite, and not negative where that cannot be."""
    magnitude = uint32(bits & MAGNITUDE)
    return magnitude < INFINITE and (not nonnegative or bits <= MAGNITUDE or magnitude == np.uint32(0))


def write_scales(source, scales, count, nonnegative):
    """Finds the scale of each group, in a loop of its own: what one group waits for need not delay the next."""
    for group in range((count + GROUP - 1) // GROUP):
        most = largest_bits(source, group, np.uint32(0xFFFFFFFF) if nonnegative else MAGNITUDE)
        special = most >= INFINITE
        if special:
            most = largest_regular(source, group, nonnegative)
        scale = float_of(most)
        scale = scale if scale >= SMALLEST else ZERO
        put(scales, group, -scale if special else scale)


def factor_of(scale, square):
    """Return the factor that takes values to squares of codes."""
    return square / scale * BELOW_ONE if scale > ZERO else ZERO


def code_of(square, random):
    """The code whose square is the number given, in the mean."""
    lower = int32(np.sqrt(square))
    root = float32(lower)
    is_above = float32(int32(random >> EIGHT)) * (root * GAP + HALF_GAP) < square - root * root
    return int32(lower + int32(is_above))


def encode_signed(source, codes, scales, index, count, key):
    in_wide_vectors()
    write_scales(source, scales, count, False)
    for group in range((count + GROUP - 1) // GROUP):
        scale = get(scales, group, FLOAT32)
        random = group_key(key, index // GROUP + group)
        if bits_of(scale) > MAGNITUDE:
            factor = factor_of(-scale, SPECIAL_SIGNED_SQUARE)
            for place in range(GROUP):
                value = get(source, group * GROUP + place, FLOAT32)
                regular = is_regular(bits_of(value), False)
                code = code_of((abs(value) if regular else ZERO) * factor, noise(random, place))
                code = code if regular else int32(127) if abs(value) > ZERO else int32(128)
                put(codes, group * GROUP + place, INT8(int32(-code) if value < ZERO or code == 128 else code))
            continue
        factor = factor_of(scale, SIGNED_SQUARE)
        for place in range(GROUP):
            value = get(source, group * GROUP + place, FLOAT32)
            code = code_of(abs(value) * factor, noise(random, place))
            put(codes, group * GROUP + place, INT8(int32(-code) if value < ZERO else code))


def encode_nonnegative(source, codes, scales, index, count, key):
    in_wide_vectors()
    write_scales(source, scales, count, True)
    for group in range((count + GROUP - 1) // GROUP):
        scale = get(scales, group, FLOAT32)
        random = group_key(key, index // GROUP + group)
        if bits_of(scale) > MAGNITUDE:
            factor = factor_of(-scale, SPECIAL_SQUARE)
            for place in range(GROUP):
                value = get(source, group * GROUP + place, FLOAT32)
                regular = is_regular(bits_of(value), True)
                square = (value if regular else ZERO) * factor
                code = int32(max(code_of(square, noise(random, place)), int32(square > ZERO)))
                infinite = int32(254) if value > ZERO else int32(255)
                put(codes, group * GROUP + place, UINT8(code if regular else infinite))
            continue
        factor = factor_of(scale, SQUARE)
        for place in range(GROUP):
            square = get(source, group * GROUP + place, FLOAT32) * factor
            code = code_of(square, noise(random, place))
            put(codes, group * GROUP + place, UINT8(max(code, int32(square > ZERO))))
