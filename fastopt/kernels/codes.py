"""Elements of state in 16 or 8 bits, read and written by address for all slots at once.

As in `intrinsics.py` a tuple of addresses, one for each slot, becomes a tuple of values. The loops around them are of
constant length and without branches, so LLVM makes vectors of them. All arithmetic is of 32 bits. `codecs.py` says what
the codes mean.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from fastopt.kernels import codecs
from fastopt.kernels.codecs import OFFSET
from fastopt.kernels.intrinsics import CODES, VALUES, apart, element_pointer, flushed

BFLOAT16, SIGNED, NONNEGATIVE = 1, 2, 3
"""The forms of a slot: 16 bits, and 8 bits with a sign or without. To the functions here they are constants."""

MAGNITUDE = np.uint32(0x7FFFFFFF)
SIGN, BASE = np.uint32(1 << 31), np.uint32(codecs.BASE)
SHIFT = np.uint32(codecs.SHIFT)
HALF_BITS, BYTE_BITS = (codecs.NOISE_BITS[storage] for storage in (codecs.BFLOAT16, codecs.INT8))

ABOVE_ZERO = np.int32((codecs.BASE >> codecs.SHIFT) + 1)
"""The smallest code of what is not zero, before all but its last 8 bits are cut: those of `BASE` stand there."""

_BYTE, _HALF, _WORD, _FLOAT = ir.IntType(8), ir.IntType(16), ir.IntType(32), ir.FloatType()


def _word(value: Any) -> Any:
    return ir.Constant(_WORD, int(value))


def _columns(builder: Any, *tuples: Any) -> Any:
    """The slots, each with its element of each tuple."""
    return enumerate(zip(*(cgutils.unpack_tuple(builder, each) for each in tuples), strict=True))


@intrinsic
def in_wide_vectors(typingctx: Any) -> Any:
    """Has LLVM make the function of the widest vectors that the processor has.

    On Intel's it keeps to 256 bits by default. Codes take whole numbers, shifts and masks, which 512 bits do in three
    quarters of the time.
    """

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        for attribute in ("prefer-vector-width", "min-legal-vector-width"):
            # llvmlite's own `add` knows the attributes that are a word; it writes what is in the set as it stands.
            set.add(builder.function.attributes, f'"{attribute}"="512"')
        return context.get_dummy_value()

    return types.void(), codegen


@intrinsic
def inlined(typingctx: Any) -> Any:
    """Has LLVM put the function into those that call it, however long it is."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        builder.function.attributes.add("alwaysinline")
        return context.get_dummy_value()

    return types.void(), codegen


@intrinsic
def counters(typingctx: Any, keys: Any, element: Any) -> Any:
    """Numbers whose hashes are the noise of an element, one for each key; see `codecs.noise`."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        keys = cgutils.unpack_tuple(builder, args[0])
        upper = [builder.trunc(builder.lshr(key, ir.Constant(key.type, 32)), _WORD) for key in keys]
        step = builder.mul(builder.trunc(args[1], _WORD), _word(codecs.WEYL))
        return context.make_tuple(builder, signature.return_type, [builder.add(each, step) for each in upper])

    return types.UniTuple(types.uint32, len(keys))(keys, types.int64), codegen


@intrinsic
def further(typingctx: Any, before: Any, elements: Any) -> Any:
    """The counters of an element further on."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        step = builder.mul(builder.trunc(args[1], _WORD), _word(codecs.WEYL))
        values = [builder.add(each, step) for each in cgutils.unpack_tuple(builder, args[0])]
        return context.make_tuple(builder, before, values)

    return before(before, types.int64), codegen


def _noise(builder: Any, slot: int, hashed: Any, counter: Any, key: Any, bits: int, is_alone: bool) -> tuple[Any, Any]:
    """So many random bits, and the hash that they are from: two slots share one.

    Which bits are whose the key of a slot that is alone says; among several it is their order.
    """
    if slot % 2:
        return builder.and_(hashed, _word((1 << bits) - 1)), hashed
    for by, factor in ((16, codecs.MIX), (15, 1)):
        counter = builder.mul(builder.xor(counter, builder.lshr(counter, _word(by))), _word(factor))
    upper = builder.lshr(counter, _word(32 - bits))
    if is_alone:
        lower = builder.and_(counter, _word((1 << bits) - 1))
        return builder.select(builder.trunc(key, ir.IntType(1)), lower, upper), counter
    return upper, counter


@intrinsic
def load_halves(typingctx: Any, where: Any, index: Any) -> Any:
    """Element `index` of the array of bfloat16 at each address, as float32."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        values = []
        for slot, (address,) in _columns(builder, args[0]):
            code = builder.load(element_pointer(builder, address, args[1], _HALF), align=2)
            bits = builder.shl(builder.zext(apart(builder, code, CODES, slot), _WORD), _word(16))
            values.append(builder.bitcast(bits, _FLOAT))
        return context.make_tuple(builder, signature.return_type, values)

    return types.UniTuple(types.float32, len(where))(where, types.int64), codegen


@intrinsic
def store_halves(typingctx: Any, where: Any, index: Any, values: Any, small: Any, counters: Any, keys: Any) -> Any:
    """Writes float32 values to what `load_halves` reads.

    small : as of `intrinsics.store`
    counters, keys : those of the element and of the array, for each slot
    """

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        hashed = None
        for slot, (address, value, kind, counter, key) in _columns(builder, args[0], *args[2:]):
            random, hashed = _noise(builder, slot, hashed, counter, key, HALF_BITS, len(where) == 1)
            value = flushed(builder, value, kind, types.float32)
            bits = builder.bitcast(value, _WORD)
            quiet = builder.or_(bits, _word(0x400000))
            is_nan = builder.fcmp_unordered("uno", value, value)
            rounded = builder.select(is_nan, quiet, builder.add(bits, random))
            code = builder.trunc(builder.lshr(rounded, _word(16)), _HALF)
            stored = builder.store(code, element_pointer(builder, address, args[1], _HALF), align=2)
            apart(builder, stored, CODES, slot)
        return context.get_dummy_value()

    return types.void(where, types.int64, values, small, counters, keys), codegen


@intrinsic
def load_codes(typingctx: Any, where: Any, index: Any, shares: Any, kinds: Any) -> Any:
    """Element `index` of the array of 8-bit codes at each address, as float32; `storage.share_of` for each."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        absolute = cgutils.get_or_insert_function(
            builder.module, ir.FunctionType(_WORD, [_WORD, ir.IntType(1)]), "llvm.abs.i32"
        )
        values = []
        for slot, (address, share, kind) in _columns(builder, args[0], *args[2:]):
            code = apart(builder, builder.load(element_pointer(builder, address, args[1], _BYTE), align=1), CODES, slot)
            signed = builder.icmp_signed("==", kind, ir.Constant(kind.type, SIGNED))
            code = builder.select(signed, builder.sext(code, _WORD), builder.zext(code, _WORD))
            magnitude = builder.shl(builder.call(absolute, [code, ir.Constant(ir.IntType(1), 0)]), _word(SHIFT))
            magnitude = builder.bitcast(builder.or_(magnitude, _word(BASE)), _FLOAT)
            value = builder.fmul(builder.fsub(magnitude, ir.Constant(_FLOAT, float(OFFSET))), share)
            bits = builder.or_(builder.bitcast(value, _WORD), builder.and_(code, _word(SIGN)))
            values.append(builder.bitcast(bits, _FLOAT))
        return context.make_tuple(builder, signature.return_type, values)

    return types.UniTuple(types.float32, len(where))(where, types.int64, shares, kinds), codegen


@intrinsic
def store_codes(
    typingctx: Any, where: Any, index: Any, values: Any, factors: Any, counters: Any, keys: Any, kinds: Any
) -> Any:
    """Writes float32 values to what `load_codes` reads.

    factors : `storage.factor_of` for each
    counters, keys : as of `store_halves`
    """

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        absolute = cgutils.get_or_insert_function(builder.module, ir.FunctionType(_FLOAT, [_FLOAT]), "llvm.fabs.f32")
        zero, hashed = ir.Constant(_FLOAT, 0.0), None
        for slot, (address, value, factor, counter, key, kind) in _columns(builder, args[0], *args[2:]):
            random, hashed = _noise(builder, slot, hashed, counter, key, BYTE_BITS, len(where) == 1)
            signed = builder.icmp_signed("==", kind, ir.Constant(kind.type, SIGNED))
            magnitude = builder.select(signed, builder.call(absolute, [value]), value)
            number = builder.fadd(builder.fmul(magnitude, factor), ir.Constant(_FLOAT, float(OFFSET)))
            code = builder.lshr(builder.add(builder.bitcast(number, _WORD), random), _word(SHIFT))
            with_sign = builder.select(builder.fcmp_ordered("<", value, zero), builder.neg(code), code)
            least = builder.select(builder.icmp_unsigned(">", code, _word(ABOVE_ZERO)), code, _word(ABOVE_ZERO))
            without = builder.select(builder.fcmp_ordered(">", value, zero), least, code)
            code = builder.trunc(builder.select(signed, with_sign, without), _BYTE)
            stored = builder.store(code, element_pointer(builder, address, args[1], _BYTE), align=1)
            apart(builder, stored, CODES, slot)
        return context.get_dummy_value()

    return types.void(where, types.int64, values, factors, counters, keys, kinds), codegen


@intrinsic
def load_values(typingctx: Any, where: Any, index: Any) -> Any:
    """Element `index` of the float32 values at each address on the stack."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        values = []
        for slot, (address,) in _columns(builder, args[0]):
            value = builder.load(element_pointer(builder, address, args[1], _FLOAT), align=4)
            values.append(apart(builder, value, VALUES, slot))
        return context.make_tuple(builder, signature.return_type, values)

    return types.UniTuple(types.float32, len(where))(where, types.int64), codegen


@intrinsic
def store_values(typingctx: Any, where: Any, index: Any, values: Any) -> Any:
    """Writes what `load_values` reads."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        for slot, (address, value) in _columns(builder, args[0], args[2]):
            place = element_pointer(builder, address, args[1], _FLOAT)
            apart(builder, builder.store(value, place, align=4), VALUES, slot)
        return context.get_dummy_value()

    return types.void(where, types.int64, values), codegen


@intrinsic
def without_small(typingctx: Any, values: Any, small: Any) -> Any:
    """Values of slots as `intrinsics.store` flushes them."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        results = [flushed(builder, value, kind, types.float32) for _, (value, kind) in _columns(builder, *args)]
        return context.make_tuple(builder, values, results)

    return values(values, small), codegen


@intrinsic
def larger(typingctx: Any, most: Any, values: Any, kinds: Any) -> Any:
    """The larger of each: bits of magnitudes, and of those of values.

    As bits magnitudes have their order; NaN and what is negative where nothing is come last.
    """

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        results = []
        for _, (before, value, kind) in _columns(builder, *args):
            signed = builder.icmp_signed("==", kind, ir.Constant(kind.type, SIGNED))
            mask = builder.select(signed, _word(MAGNITUDE), _word(0xFFFFFFFF))
            bits = builder.and_(builder.bitcast(value, _WORD), mask)
            results.append(builder.select(builder.icmp_unsigned(">", bits, before), bits, before))
        return context.make_tuple(builder, most, results)

    return most(most, values, kinds), codegen


@intrinsic
def offset_by(typingctx: Any, where: Any, offset: Any) -> Any:
    """Addresses further on by so many bytes."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        moved = [builder.add(address, args[1]) for address in cgutils.unpack_tuple(builder, args[0])]
        return context.make_tuple(builder, where, moved)

    return where(where, types.int64), codegen
