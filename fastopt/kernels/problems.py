"""Steps of many independent problems, which lie one behind the other in each array and have scalars of their own.

The loop over elements takes each scalar from an array, as it takes the state: a block's scalars are spread over its
elements on the stack, which costs a store for every 16 of them. Those that are the same for all problems stay in
registers. So the loop is vectorised however few numbers a problem has. What is spread is worked out for some hundred
problems at a time, from learning rates and from numbers by step count, so that Python does it for none.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from fastopt.kernels.compose import clone
from fastopt.kernels.intrinsics import (
    addresses,
    call,
    load,
    numbers,
    peek,
    plus,
    put,
    row_address,
    store,
)
from fastopt.kernels.loops import parallel, serial
from fastopt.kernels.stores import SHIFT, stack_bytes

BLOCK = 512
"""Elements whose scalars are on the stack at a time."""

AT_ONCE = 16
"""Elements that a scalar is stored to at a time, also where a problem has fewer: the next one overwrites them."""

TOGETHER = 256
"""Problems whose scalars, or sums, are worked out at a time."""

FEW = 64
"""The same where not all are active."""

STRIDE = 8 * (BLOCK + 2 * AT_ONCE)
"""Bytes between the scalars on the stack; not a power of two."""

SPARSE = 10
"""Where fewer problems than one in so many are active, each steps alone; else all do, some in vain."""

# What the last column of the table is the address of, int64 numbers: the elements of a problem; the address of the
# scalars, float64, of which those that differ are not read; and that of what arrays of the same settings share.
WIDTH, CONSTANTS, SHARED = range(3)

# That is: how many scalars differ, or say whether a problem is active; where not all are active, the addresses of int64
# numbers: how many are before each problem, and which are; where numbers by step count differ, the address of int64
# numbers, how many bytes those of each problem's count are behind the first; the address of how many bytes the first
# ones have moved on by now; the address of what `problem_norms.clip_problems` takes, or 0; and for each scalar that
# differs:
COUNT, BEFORE, WHICH, INDEX, MOVED, CLIPPING, SCALARS_AT = range(7)
# the address of float64 numbers by problem, or 0; that of a product that makes the same of them as all operations,
# though it is rounded otherwise, or 0; how many operations there are; and of each what it does, and the address of the
# number with which, the first by step count.
SOURCE, PRODUCT, OPERATIONS, FIRST_OPERATION = range(4)
TAKE, MULTIPLY, DIVIDE, ADD = range(4)
MOST_OPERATIONS = 6
EACH = FIRST_OPERATION + 2 * MOST_OPERATIONS
"""The numbers of a scalar."""

DOUBT = 2.0**-48
"""A bound on the relative difference of a product from what operations make, with room to spare.

Each of the at most six operations, and as many for the product, moves a result by 2**-53 of it at most, as none
overflows or vanishes."""

# See `loops.py`.
rule: Any = None
DTYPE: Any = None
SIZE: Any = None
COLUMNS: Any = None
WRITTEN: Any = None
SMALL: Any = None
SCALARS: Any = None
BEHIND: Any = None  # how many columns there are
PLACES: Any = (
    None  # for each scalar, and for the mark of active elements, where it is among those on the stack; -1: nowhere
)


@intrinsic
def spread(typingctx: Any, constants: Any, address: Any, element: Any, where: Any, dtype: Any) -> Any:
    """The scalars of an element, and whether it is active: from arrays STRIDE bytes apart, or constants where -1 is."""
    result = types.UniTuple(dtype.dtype, len(where))

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        constants, address, element, where, _ = args
        kind = context.get_value_type(dtype.dtype)
        values = []
        fixed = [*cgutils.unpack_tuple(builder, constants), ir.Constant(kind, 1.0)]
        for constant, place in zip(fixed, cgutils.unpack_tuple(builder, where), strict=True):
            # `place` is a constant to LLVM, which drops what is not chosen.
            start = builder.add(address, builder.mul(place, ir.Constant(place.type, STRIDE)))
            pointer = builder.gep(builder.inttoptr(start, kind.as_pointer()), [element])
            is_constant = builder.icmp_signed("<", place, ir.Constant(place.type, 0))
            safe = builder.select(is_constant, builder.inttoptr(address, kind.as_pointer()), pointer)
            loaded = builder.load(safe, align=dtype.dtype.bitwidth // 8)
            values.append(builder.select(is_constant, constant, loaded))
        return context.make_tuple(builder, result, values)

    return result(constants, types.int64, types.int64, where, dtype), codegen


@intrinsic
def choose(typingctx: Any, condition: Any, one: Any, other: Any) -> Any:
    """One of two tuples, element by element, with no branch."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        pairs = zip(*(cgutils.unpack_tuple(builder, values) for values in args[1:]), strict=True)
        return context.make_tuple(builder, one, [builder.select(args[0], *pair) for pair in pairs])

    return one(types.boolean, one, other), codegen


@intrinsic
def put_many(typingctx: Any, address: Any, index: Any, value: Any) -> Any:
    """Writes a number to AT_ONCE elements of the array of its dtype at an address, from an index on."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        address, index, number = args
        kind = context.get_value_type(value)
        vector = ir.VectorType(kind, AT_ONCE)
        single = builder.insert_element(ir.Constant(vector, ir.Undefined), number, ir.Constant(ir.IntType(32), 0))
        zeros = ir.Constant(ir.VectorType(ir.IntType(32), AT_ONCE), [0] * AT_ONCE)
        splat = builder.shuffle_vector(single, ir.Constant(vector, ir.Undefined), zeros)
        place = builder.gep(builder.inttoptr(address, kind.as_pointer()), [index])
        builder.store(splat, builder.bitcast(place, vector.as_pointer()), align=value.bitwidth // 8)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, value), codegen


def problems_loop(row, own, parameter, memory, count, first, last):
    """Applies the rule to elements `first` to `last`, with the scalars of each element.

    own : the address of what the last column of the table says
    memory : where the scalars of problems are, from that of element `first` on, see `walk_problems`, and room to spread
    count : how many of them there are
    """
    where, written = addresses(row, COLUMNS), addresses(row, WRITTEN)
    fixed = numbers(peek(own + 8 * CONSTANTS), SCALARS, DTYPE)
    width, zero = peek(own + 8 * WIDTH), DTYPE(0)
    of_problems = memory - (first // width) * SIZE
    room = memory + 8 * TOGETHER * count + 8 * AT_ONCE
    index = first
    while index < last:
        until = min(index + BLOCK, last)
        problem, behind = index // width, (until - 1) // width + 1
        for scalar in range(count):
            values, place = of_problems + 8 * TOGETHER * scalar, room + STRIDE * scalar
            if width > AT_ONCE:
                for each in range(problem, behind):
                    value = load((values,), each, DTYPE)[0]
                    begin, end = max(each * width - index, 0), min((each + 1) * width, until) - index
                    for element in range(begin, end, AT_ONCE):
                        put_many(place, element, value)
            else:
                for each in range(problem, behind):
                    put_many(place, each * width - index, load((values,), each, DTYPE)[0])
        for element in range(index, until):
            old = load((parameter, *where[1:]), element, DTYPE)
            spread_scalars = spread(fixed, room, element - index, PLACES, DTYPE)
            new = rule(*(old + spread_scalars[:-1]))
            store(
                (parameter, *written[1:]),
                element,
                choose(spread_scalars[-1] != zero, new, (old[0], *old[2:BEHIND])),
                SMALL,
                DTYPE,
            )
        index = until


def at(address, index):
    """A float64 of an array at an address."""
    return load((address,), index, np.float64)[0]


def work_out(shift, scalar, index, moved, first, count, values, work):
    """Writes a scalar of `count` problems from `first` on, in the dtype of the arrays, to the address `values`.

    scalar : the address of the numbers that say how
    index, moved : as INDEX, and what MOVED is the address of
    work : the address of room for 2 TOGETHER float64 numbers
    """
    source, product, other = peek(scalar + 8 * SOURCE), peek(scalar + 8 * PRODUCT), work + 8 * TOGETHER
    of_first = source + 8 * first
    if product and shift == 2:
        look_up(product + moved, index, first, count, other)
        doubt = np.float32(0)
        for k in range(count):
            value = at(of_first, k) * at(other, k)
            low, high = np.float32(value * (1 - DOUBT)), np.float32(value * (1 + DOUBT))
            put(values, k, low)
            doubt = plus(doubt, abs(high - low))
        if doubt == 0:
            return
    if source:
        for k in range(count):
            put(work, k, at(of_first, k))
    for number in range(peek(scalar + 8 * OPERATIONS)):
        operation = scalar + 8 * (FIRST_OPERATION + 2 * number)
        kind, numbers_at = peek(operation), peek(operation + 8) + moved
        if kind == TAKE:
            look_up(numbers_at, index, first, count, work)
        else:
            look_up(numbers_at, index, first, count, other)
            operate(kind, work, other, count)
    if shift == 2:
        for k in range(count):
            put(values, k, np.float32(at(work, k)))
    else:
        for k in range(count):
            put(values, k, at(work, k))


def look_up(numbers_at, index, first, count, target):
    """Copies the number of each problem's step count."""
    if index:
        for k in range(count):
            put(target, k, at(numbers_at + peek(index + 8 * (first + k)), 0))
    else:
        number = at(numbers_at, 0)
        for k in range(count):
            put(target, k, number)


def operate(kind, work, other, count):
    """Does to numbers at one address, with those at another, what an operation says."""
    if kind == MULTIPLY:
        for k in range(count):
            put(work, k, at(work, k) * at(other, k))
    elif kind == DIVIDE:
        for k in range(count):
            put(work, k, at(work, k) / at(other, k))
    else:
        for k in range(count):
            put(work, k, at(work, k) + at(other, k))


def walk_problems(kernel, form, table, starts, first, last):
    """Has a kernel work on elements `first` to `last` of all arrays, counted through as if they were one.

    The scalars of some problems are worked out at a time, to memory where TOGETHER numbers of 8 bytes have room for
    each; behind them is room for those of elements.
    """
    # Where there is no element the row behind the last array would be found.
    array = min(np.searchsorted(starts, first, side="right"), len(starts) - 1) - 1
    shift = peek(form + 8 * SHIFT)
    # Those of all arrays differ alike.
    count = peek(peek(table[array, -1] + 8 * SHARED) + 8 * COUNT)
    work = stack_bytes(8 * TOGETHER * (2 + count) + STRIDE * count + 16 * AT_ONCE)
    memory = work + 16 * TOGETHER
    while first < last:
        begin = starts[array]
        end = min(last, starts[array + 1])
        row, own, parameter = row_address(table, array), table[array, -1], table[array, 0]
        width, shared = peek(own + 8 * WIDTH), peek(own + 8 * SHARED)
        before, which, order = peek(shared + 8 * BEFORE), peek(shared + 8 * WHICH), peek(shared + 8 * INDEX)
        moved = peek(peek(shared + 8 * MOVED))
        index, stop = first - begin, end - begin
        while index < stop:
            problem = index // width
            until = min((problem + (FEW if before else TOGETHER)) * width, stop)
            behind = (until - 1) // width + 1
            number, numbers_behind = 0, 1
            each = False
            if before:
                number, numbers_behind = peek(before + 8 * problem), peek(before + 8 * behind)
                each = (numbers_behind - number) * SPARSE < behind - problem
            if not each:
                numbers_behind = number + 1
            while number < numbers_behind:
                here, there = index, until
                if each:
                    here = max(index, peek(which + 8 * number) * width)
                    there = min(until, peek(which + 8 * number) * width + width)
                start = here // width
                for scalar in range(count):
                    how, values = shared + 8 * (SCALARS_AT + EACH * scalar), memory + 8 * TOGETHER * scalar
                    work_out(shift, how, order, moved, start, (there - 1) // width + 1 - start, values, work)
                call(kernel, row, own, parameter, memory, count, here, there)
                number += 1
            index = until
        first = end
        array += 1


serial_problems = clone(serial, "serial_problems", {"run": walk_problems})
parallel_problems = clone(parallel, "parallel_problems", {"run": walk_problems})
