"""Reads and writes array elements by address, for any number of arrays at once.

The kernels get a table of addresses instead of arrays: one launch then walks a whole model, and numba need not
compile again for every number of arrays. A tuple of addresses, one per column of the table, becomes a tuple of values
and back; LLVM takes the tuples apart and vectorises the loop around them as if each array had been named.

Alignment is that of one element, and nothing is promised about overlap: LLVM checks at run time, once per array.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.errors import RequireLiteralValue, TypingError
from numba.extending import intrinsic

_INT64 = ir.IntType(64)
_ONE = ir.Constant(_INT64, 1)

LINE = 64
"""Bytes of a cache line."""

EARLY = 2.0**16
"""How many times the smallest normal number state is flushed at."""


# What becomes of smaller values: zero, or the smallest state with their sign, or nothing.
FLUSHED, SIGN_KEPT, KEPT = range(3)


def smallest_state(dtype: Any) -> float:
    """The smallest magnitude of state of a dtype, besides zero: 7.7e-34 in float32, 1.5e-303 in float64."""
    return float(np.finfo(dtype).tiny) * EARLY


RESULTS = "the results of the formula are not of the dtype of the arrays:"


def element_pointer(builder: Any, address: Any, index: Any, value_type: Any) -> Any:
    return builder.gep(builder.inttoptr(address, value_type.as_pointer()), [index])


# What never overlaps: arrays of numbers, the codes of slots, and their values on the stack.
NUMBERS, CODES, VALUES = "numbers", "codes", "values"
_SPACES = [(NUMBERS, 0), *((what, slot) for what in (CODES, VALUES) for slot in range(8))]


def apart(builder: Any, instruction: Any, what: str, slot: int = 0) -> Any:
    """A load or store that LLVM knows to meet none in another space; slots have spaces of their own."""
    module = builder.module
    domain = module.add_metadata([ir.MetaDataString(module, "fastopt")])
    scopes = {
        space: module.add_metadata([ir.MetaDataString(module, f"{space[0]} {space[1]}"), domain]) for space in _SPACES
    }
    instruction.set_metadata("alias.scope", module.add_metadata([scopes.pop((what, slot))]))
    instruction.set_metadata("noalias", module.add_metadata(list(scopes.values())))
    return instruction


@intrinsic
def peek(typingctx: Any, address: Any) -> Any:
    """The int64 at an address."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.load(builder.inttoptr(args[0], _INT64.as_pointer()))

    return types.int64(types.int64), codegen


@intrinsic
def call(
    typingctx: Any,
    address: Any,
    row: Any,
    scalars: Any,
    parameter: Any,
    statistics: Any,
    form: Any,
    first: Any,
    last: Any,
) -> Any:
    """Calls the compiled `passes.step_loop` at an address."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        address, *arguments = args
        step_loop = ir.FunctionType(ir.VoidType(), [_INT64] * len(arguments))
        builder.call(builder.inttoptr(address, step_loop.as_pointer()), arguments)
        return context.get_dummy_value()

    return types.void(*[types.int64] * 8), codegen


@intrinsic
def call_c(typingctx: Any, address: Any, first: Any, second: Any, third: Any) -> Any:
    """Calls the C function of at most three integers at an address."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        address, *arguments = args
        function = ir.FunctionType(_INT64, [_INT64] * len(arguments))
        return builder.call(builder.inttoptr(address, function.as_pointer()), arguments)

    return types.int64(*[types.int64] * 4), codegen


@intrinsic
def row_address(typingctx: Any, table: Any, row: Any) -> Any:
    """Where row `row` of an int64 table begins."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        array = cgutils.create_struct_proxy(table)(context, builder, args[0])
        _, width = cgutils.unpack_tuple(builder, array.shape)
        return builder.ptrtoint(builder.gep(array.data, [builder.mul(args[1], width)]), _INT64)

    return types.int64(table, types.int64), codegen


@intrinsic
def addresses(typingctx: Any, row: Any, columns: Any) -> Any:
    """The int64 numbers of a table's row that stand in `columns`, a tuple of their numbers, as a tuple."""
    result = types.UniTuple(types.int64, len(columns))

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        values = [
            builder.load(element_pointer(builder, args[0], column, _INT64))
            for column in cgutils.unpack_tuple(builder, args[1])
        ]
        return context.make_tuple(builder, result, values)

    return result(types.int64, columns), codegen


@intrinsic
def spread(typingctx: Any, address: Any, stride: Any, like: Any) -> Any:
    """As many addresses as the tuple `like` has elements, a stride apart, as a tuple."""
    result = types.UniTuple(types.int64, len(like))

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        steps = [builder.mul(args[1], ir.Constant(_INT64, number)) for number in range(len(like))]
        return context.make_tuple(builder, result, [builder.add(args[0], step) for step in steps])

    return result(types.int64, types.int64, like), codegen


@intrinsic
def ask_for(typingctx: Any, where: Any, offset: Any, length: Any) -> Any:
    """Asks for the cache lines of `length` bytes, a constant, at an offset from each address."""
    if not isinstance(length, types.IntegerLiteral):
        raise RequireLiteralValue("length")

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        pointer, flag = ir.IntType(8).as_pointer(), ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [pointer, flag, flag, flag])
        ask = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
        how = [ir.Constant(flag, value) for value in (0, 3, 1)]  # to read it, to keep it, data
        for address in cgutils.unpack_tuple(builder, args[0]):
            for line in range(0, length.literal_value, LINE):
                at = builder.add(builder.add(address, args[1]), ir.Constant(_INT64, line))
                builder.call(ask, [builder.inttoptr(at, pointer), *how])
        return context.get_dummy_value()

    return types.void(where, types.int64, length), codegen


def pair_of(dtype: Any) -> tuple[Any, Any]:
    """The type of real numbers of numba's type `dtype`, and that of its elements: complex ones are pairs of these."""
    if isinstance(dtype, types.Complex):
        return dtype.underlying_float, types.UniTuple(dtype.underlying_float, 2)
    return dtype, dtype


def parts_of(builder: Any, address: Any, index: Any, real: Any, element: Any, value_type: Any) -> list[Any]:
    """Pointers to the real numbers of an element."""
    if element is real:
        return [element_pointer(builder, address, index, value_type)]
    first = builder.mul(index, ir.Constant(_INT64, 2))
    return [element_pointer(builder, address, at, value_type) for at in (first, builder.add(first, _ONE))]


@intrinsic
def load(typingctx: Any, where: Any, index: Any, dtype: Any) -> Any:
    """Element `index` of the array at each address; of a complex dtype as a pair of real numbers."""
    real, element = pair_of(dtype.dtype)
    result = types.UniTuple(element, len(where))

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        value_type, values = context.get_value_type(real), []
        for address in cgutils.unpack_tuple(builder, args[0]):
            places = parts_of(builder, address, args[1], real, element, value_type)
            parts = [apart(builder, builder.load(place, align=real.bitwidth // 8), NUMBERS) for place in places]
            values.append(parts[0] if element is real else context.make_tuple(builder, element, parts))
        return context.make_tuple(builder, result, values)

    return result(where, types.int64, dtype), codegen


@intrinsic
def part(typingctx: Any, value: Any, number: Any) -> Any:
    """One of the real numbers of a pair, 0 or 1; of a number itself."""
    if not isinstance(value, types.UniTuple):
        return value(value, types.int64), lambda context, builder, signature, args: args[0]

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        first, second = cgutils.unpack_tuple(builder, args[0])
        return builder.select(builder.icmp_signed("==", args[1], _ONE), second, first)

    return value.dtype(value, types.int64), codegen


@intrinsic
def chosen(typingctx: Any, mask: Any, new: Any, old: Any) -> Any:
    """The numbers of `new` where `mask` is not zero, else the first as many of `old`, of two tuples of one dtype."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        mask_value = builder.extract_value(args[0], 0) if isinstance(mask, types.UniTuple) else args[0]
        moves = builder.fcmp_unordered("!=", mask_value, ir.Constant(mask_value.type, 0.0))
        pairs = zip(cgutils.unpack_tuple(builder, args[1]), cgutils.unpack_tuple(builder, args[2]), strict=False)
        return context.make_tuple(builder, new, [builder.select(moves, *pair) for pair in pairs])

    return new(mask, new, old), codegen


@intrinsic
def store(typingctx: Any, where: Any, index: Any, values: Any, small: Any, dtype: Any) -> Any:
    """Writes a formula's results `(p, *state)` to the addresses `(p, g, *state)`; the gradient is never written.

    A state value smaller than `smallest_state` becomes a zero of the same sign, or what `small` says, a constant for
    each slot. Otherwise decaying state turns subnormal once gradients die, stays so (in float32 0.9 * 5.6e-45 rounds to
    5.6e-45), and every later step pays the processor's penalty for it. It is flushed well before that, as products of
    it with a learning rate or 1 - beta2 are subnormal earlier: up to 22 times slower steps for 75 steps (Adam) or 1,200
    (Adan). A select costs nothing measurable. NaN compares false and goes through.
    """
    real, element = pair_of(dtype.dtype)
    if values != types.UniTuple(element, len(where) - 1):  # would be written beyond the element
        raise TypingError(f"{RESULTS} {values}")

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        value_type = context.get_value_type(real)
        parameter, _gradient, *state = cgutils.unpack_tuple(builder, args[0])
        kinds = [None, *cgutils.unpack_tuple(builder, args[3])]
        new = cgutils.unpack_tuple(builder, args[2])
        for address, value, kind in zip((parameter, *state), new, kinds, strict=True):
            places = parts_of(builder, address, args[1], real, element, value_type)
            parts = [value] if element is real else cgutils.unpack_tuple(builder, value)
            for place, number in zip(places, parts, strict=True):
                number = number if kind is None else flushed(builder, number, kind, real)
                apart(builder, builder.store(number, place, align=real.bitwidth // 8), NUMBERS)
        return context.get_dummy_value()

    return types.void(where, types.int64, values, small, dtype), codegen


def flushed(builder: Any, value: Any, kind: Any, element: Any) -> Any:
    """A state value as it is stored, see `store`: of numba's type `element`, with the constant `kind` of its slot."""
    value_type = value.type
    absolute, with_sign = (
        cgutils.get_or_insert_function(
            builder.module, ir.FunctionType(value_type, [value_type] * count), f"llvm.{name}.f{element.bitwidth}"
        )
        for count, name in ((1, "fabs"), (2, "copysign"))
    )
    zero, least = ir.Constant(value_type, 0.0), ir.Constant(value_type, smallest_state(str(element)))
    # `kind` is a constant to LLVM, so of this one select is left, or none.
    is_small = builder.fcmp_ordered("<", builder.call(absolute, [value]), least)
    is_small = builder.and_(is_small, builder.icmp_signed("!=", kind, ir.Constant(kind.type, KEPT)))
    signed = builder.select(builder.fcmp_ordered("==", value, zero), value, builder.call(with_sign, [least, value]))
    keeps_sign = builder.icmp_signed("==", kind, ir.Constant(kind.type, SIGN_KEPT))
    return builder.select(is_small, builder.select(keeps_sign, signed, builder.fmul(value, zero)), value)


@intrinsic
def numbers(typingctx: Any, address: Any, like: Any, dtype: Any) -> Any:
    """The float64 numbers at an address as a tuple in the arrays' dtype, as many as the tuple `like` has elements."""
    result = types.UniTuple(dtype.dtype, len(like))

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        places = [element_pointer(builder, args[0], ir.Constant(_INT64, k), ir.DoubleType()) for k in range(len(like))]
        values = [context.cast(builder, builder.load(place), types.float64, dtype.dtype) for place in places]
        return context.make_tuple(builder, result, values)

    return result(types.int64, like, dtype), codegen


@intrinsic
def times(typingctx: Any, one: Any, other: Any) -> Any:
    """The product of two numbers of one type; compiles in a fifth of the time of a function that returns it."""
    return one(one, one), lambda context, builder, signature, args: builder.fmul(*args)


@intrinsic
def times_itself(typingctx: Any, value: Any) -> Any:
    """The square of a number."""
    return value(value), lambda context, builder, signature, args: builder.fmul(args[0], args[0])


@intrinsic
def plus(typingctx: Any, total: Any, value: Any) -> Any:
    """The sum of two numbers of one type, which LLVM may reorder to add up several elements at a time."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.fadd(*args, flags=("reassoc",))

    return total(total, total), codegen


@intrinsic
def plus_square(typingctx: Any, total: Any, value: Any) -> Any:
    """The sum of a float64 and the square of another, which LLVM may reorder, and round once where there is FMA."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        total, value = args
        return builder.fadd(total, builder.fmul(value, value, flags=("contract",)), flags=("reassoc", "contract"))

    return total(total, total), codegen


@intrinsic
def put(typingctx: Any, address: Any, index: Any, value: Any) -> Any:
    """Writes a number to an element of the array of its dtype at an address."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        builder.store(args[2], element_pointer(builder, args[0], args[1], context.get_value_type(value)))
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, value), codegen


@intrinsic
def fetch_add(typingctx: Any, counters: Any, index: Any) -> Any:
    """Adds 1 to an element of an int64 array, atomically, and returns what it was."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        array = cgutils.create_struct_proxy(counters)(context, builder, args[0])
        return builder.atomic_rmw("add", builder.gep(array.data, [args[1]]), ir.Constant(_INT64, 1), "monotonic")

    return types.int64(counters, types.int64), codegen
