"""State in 16 or 8 bits, compiled: what the loops over elements are made of, and codecs that C can call.

`codecs.py` says what the codes mean. `stored_loops.py` has the loops in which the state of a group is decoded, goes
through a rule and is encoded again. For the others, which are rare, `loops.walk_stored` has blocks decoded and encoded
by the functions at the end of this file.

The loops over a group are of constant length and without branches, so LLVM makes vectors of them. All arithmetic is of
32 bits; without the many casts numba would make it of 64.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import float32, int32, types, uint32
from numba.core import cgutils
from numba.extending import intrinsic

from fastopt.kernels import codecs
from fastopt.kernels.codecs import BELOW_ONE, OFFSET, SMALLEST, WEYL, range_of
from fastopt.kernels.intrinsics import KEPT, element_pointer, flushed, put

BFLOAT16, SIGNED, NONNEGATIVE = 1, 2, 3
"""The forms of a slot: 16 bits, and 8 bits with a sign or without."""

GROUP = codecs.GROUP
MIX = codecs.MIX
INFINITE = np.uint32(0x7F800000)
MAGNITUDE = np.uint32(0x7FFFFFFF)
INT8, UINT8, FLOAT32 = np.int8, np.uint8, np.float32

_WORD = ir.IntType(32)


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


@intrinsic
def inlined(typingctx: Any) -> Any:
    """Has LLVM put the function into those that call it, however long it is."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        builder.function.attributes.add("alwaysinline")
        return context.get_dummy_value()

    return types.void(), codegen


# Constants of their dtypes.
ZERO = np.float32(0)
SIGN, BASE = np.uint32(1 << 31), np.uint32(codecs.BASE)
SHIFT = np.uint32(codecs.SHIFT)
NOISE_BITS = codecs.NOISE_BITS[codecs.INT8]
SIGNED_RANGE, NONNEGATIVE_RANGE = range_of(codecs.SIGNED_LAST), range_of(codecs.NONNEGATIVE_LAST)
SIGNED_SHARE, NONNEGATIVE_SHARE = (np.float32(1) / last * BELOW_ONE for last in (SIGNED_RANGE, NONNEGATIVE_RANGE))
# Those of groups in which something is not finite.
SPECIAL_SIGNED_RANGE, SPECIAL_RANGE = range_of(codecs.SIGNED_LAST_SPECIAL), range_of(codecs.NONNEGATIVE_LAST_SPECIAL)
SPECIAL_SIGNED_SHARE, SPECIAL_SHARE = (
    np.float32(1) / last * BELOW_ONE for last in (SPECIAL_SIGNED_RANGE, SPECIAL_RANGE)
)


def hashed(builder: Any, key: Any, element: Any) -> Any:
    """The hash of an element, in LLVM's terms, from the key of its slot; see `codecs.noise`."""

    def folded(value: Any, by: int) -> Any:
        return builder.xor(value, builder.lshr(value, ir.Constant(_WORD, by)))

    upper = builder.trunc(builder.lshr(key, ir.Constant(key.type, 32)), _WORD)
    value = builder.add(builder.mul(builder.trunc(element, _WORD), ir.Constant(_WORD, int(WEYL))), upper)
    return folded(builder.mul(folded(value, 16), ir.Constant(_WORD, int(MIX))), 15)


def cut(builder: Any, value: Any, key: Any, bits: Any) -> Any:
    """The upper bits of a hash, or where the key is odd the lower ones."""
    others = builder.sub(ir.Constant(_WORD, 32), bits)
    is_odd = builder.trunc(key, ir.IntType(1))
    return builder.lshr(builder.shl(value, builder.select(is_odd, others, ir.Constant(_WORD, 0))), others)


@intrinsic
def noise(typingctx: Any, key: Any, element: Any, bits: Any) -> Any:
    """So many random bits of an element."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return cut(builder, hashed(builder, *args[:2]), args[0], builder.trunc(args[2], _WORD))

    return types.uint32(types.int64, types.int64, types.int64), codegen


@intrinsic
def load_halves(typingctx: Any, where: Any, index: Any) -> Any:
    """Element `index` of the array of bfloat16 at each address, as float32."""
    half = ir.IntType(16)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        values = []
        for address in cgutils.unpack_tuple(builder, args[0]):
            code = builder.load(element_pointer(builder, address, args[1], half), align=2)
            bits = builder.shl(builder.zext(code, _WORD), ir.Constant(_WORD, 16))
            values.append(builder.bitcast(bits, ir.FloatType()))
        return context.make_tuple(builder, signature.return_type, values)

    return types.UniTuple(types.float32, len(where))(where, types.int64), codegen


@intrinsic
def store_halves(typingctx: Any, where: Any, index: Any, values: Any, small: Any, keys: Any) -> Any:
    """Writes float32 values to what `load_halves` reads; `small` as of `intrinsics.store`, a key for each address."""
    half = ir.IntType(16)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        columns = zip(*(cgutils.unpack_tuple(builder, args[place]) for place in (0, 2, 3, 4)), strict=True)
        shared = None
        for slot, (address, value, kind, key) in enumerate(columns):
            if slot % 2:  # two slots share a hash
                random = builder.and_(shared, ir.Constant(_WORD, 0xFFFF))
            else:
                shared = hashed(builder, key, args[1])
                random = cut(builder, shared, key, ir.Constant(_WORD, 16))
            value = flushed(builder, value, kind, types.float32)
            bits = builder.bitcast(value, _WORD)
            quiet = builder.or_(bits, ir.Constant(_WORD, 0x400000))
            is_nan = builder.fcmp_unordered("uno", value, value)
            rounded = builder.select(is_nan, quiet, builder.add(bits, random))
            code = builder.trunc(builder.lshr(rounded, ir.Constant(_WORD, 16)), half)
            builder.store(code, element_pointer(builder, address, args[1], half), align=2)
        return context.get_dummy_value()

    return types.void(where, types.int64, values, small, keys), codegen


def decode_group(kind, codes, scales, group, target):
    """Writes the values of a group of 8 bits to `target`; `codes` and `scales` are the addresses of the array's."""
    inlined()
    in_wide_vectors()  # a function is optimized on its own first
    scale, begin = get(scales, group, FLOAT32), group * GROUP
    if bits_of(scale) > MAGNITUDE:
        decode_special(kind, codes + begin, -scale, target)
    elif kind == SIGNED:
        share = float32(scale * SIGNED_SHARE)
        for place in range(GROUP):
            code = int32(get(codes, begin + place, INT8))
            put(target, place, with_sign(magnitude_of(abs(code)) * share, code))
    else:
        share = float32(scale * NONNEGATIVE_SHARE)
        for place in range(GROUP):
            put(target, place, magnitude_of(get(codes, begin + place, UINT8)) * share)


def magnitude_of(code):
    """A code as a number, the last one as RANGE."""
    return float32(float_of(uint32(uint32(uint32(code) << SHIFT) | BASE)) - OFFSET)


def with_sign(value, code):
    """A positive number with the sign of an int32."""
    return float_of(uint32(bits_of(value) | uint32(uint32(code) & SIGN)))


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


def encode_group(kind, source, codes, scales, group, key):
    """Writes what `decode_group` reads, from the values of a group at `source`; `key` as of `codecs.slot_key`."""
    inlined()
    in_wide_vectors()  # a function is optimized on its own first
    begin, most = group * GROUP, np.uint32(0)
    # As bits magnitudes have their order; NaN and what is negative where nothing is come last.
    mask = MAGNITUDE if kind == SIGNED else np.uint32(0xFFFFFFFF)
    for place in range(GROUP):
        most = max(most, uint32(bits_of(get(source, place, FLOAT32)) & mask))
    if most >= INFINITE:
        encode_special(kind, source, codes + begin, scales + 4 * group, begin, key)
        return
    scale = float_of(uint32(most))
    scale = scale if scale >= SMALLEST else ZERO
    put(scales, group, scale)
    if kind == SIGNED:
        factor = factor_of(scale, SIGNED_RANGE)
        for place in range(GROUP):
            value = get(source, place, FLOAT32)
            code = code_of(abs(value) * factor, noise(key, begin + place, NOISE_BITS))
            put(codes, begin + place, INT8(int32(-code) if value < ZERO else code))
    else:
        factor = factor_of(scale, NONNEGATIVE_RANGE)
        for place in range(GROUP):
            value = get(source, place, FLOAT32)
            code = code_of(value * factor, noise(key, begin + place, NOISE_BITS))
            put(codes, begin + place, UINT8(max(code, ABOVE_ZERO) if value > ZERO else code))


def factor_of(scale, last):
    """The factor that takes the largest of a group to RANGE."""
    return float32(last / scale * BELOW_ONE) if scale > ZERO else ZERO


def code_of(number, random):
    """The code of a number up to RANGE, in its last 8 bits: those of `BASE` stand before them."""
    return int32(uint32(uint32(bits_of(float32(number + OFFSET)) + random) >> SHIFT))


ABOVE_ZERO = np.int32((codecs.BASE >> codecs.SHIFT) + 1)
"""The smallest code of what is not zero, as `code_of` returns it."""


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
        code = code_of((abs(value) if regular else ZERO) * factor, noise(key, begin + place, NOISE_BITS))
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
        place = target + 4 * (group * GROUP - index)
        if kind == BFLOAT16:
            for element in range(GROUP):
                put(place, element, load_halves((codes,), group * GROUP + element)[0])
        else:
            decode_group(kind, codes, scales, group, place)
    return 0


def encode(kind, codes, size, source, index, end, key):
    """Writes what `decode` reads, from float32 at `source`; `key` is that of the slot, see `codecs.slot_key`."""
    in_wide_vectors()
    scales = scales_at(codes, size)
    for group in range(index // GROUP, (end + GROUP - 1) // GROUP):
        place = source + 4 * (group * GROUP - index)
        if kind == BFLOAT16:
            for element in range(GROUP):
                value = get(place, element, FLOAT32)
                store_halves((codes,), group * GROUP + element, (value,), (KEPT,), (key,))
        else:
            encode_group(kind, place, codes, scales, group, key)
    return 0


def scales_at(codes, size):
    """The address of the scales of an array's run of bytes."""
    return codes + (size + GROUP - 1) // GROUP * GROUP
