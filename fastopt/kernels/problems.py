"""Steps of many independent problems, which lie one behind the other in each array and have scalars of their own.

The loop over elements takes each scalar from an array, as it takes the state: a block's scalars are spread over its
elements on the stack, which costs a store for every 16 of them. Those that are the same for all problems stay in
registers. So the loop is vectorised however few numbers a problem has.
"""

from __future__ import annotations

import math
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
    row_address,
    store,
)
from fastopt.kernels.loops import parallel, serial
from fastopt.kernels.stores import stack_bytes

BLOCK = 512
"""Elements whose scalars are on the stack at a time."""

AT_ONCE = 16
"""Elements that a scalar is stored to at a time, also where a problem has fewer: the next one overwrites them."""

TOGETHER = 256
"""Problems whose sums are in the caches together."""

STRIDE = 8 * (BLOCK + 2 * AT_ONCE)
"""Bytes between the scalars on the stack; not a power of two."""

SPARSE = 10
"""Where fewer problems of a block than one in so many are active, each steps alone; else all do, some in vain."""

# What the last column of the table is the address of, int64 numbers: the elements of a problem; the address of the
# scalars, float64, of which those that differ are not read; how many differ, or say whether a problem is active; where
# not all are active, the addresses of int64 numbers: how many are before each problem, and which are; and of each that
# differs the address of its float64 values.
WIDTH, CONSTANTS, COUNT, BEFORE, WHICH, VALUES = range(6)

# See `loops.py`.
rule: Any = None
DTYPE: Any = None
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


def problems_loop(row, scalars, parameter, constants, form, first, last):
    """Applies the rule to elements `first` to `last`, with the scalars of each element.

    scalars : the address of element 0 of the first one that is spread
    constants : the address of those that are the same for all
    """
    where, written = addresses(row, COLUMNS), addresses(row, WRITTEN)
    fixed = numbers(constants, SCALARS, DTYPE)
    zero = DTYPE(0)
    for element in range(first, last):
        old = load((parameter, *where[1:]), element, DTYPE)
        spread_scalars = spread(fixed, scalars, element, PLACES, DTYPE)
        new = rule(*(old + spread_scalars[:-1]))
        store(
            (parameter, *written[1:]),
            element,
            choose(spread_scalars[-1] != zero, new, (old[0], *old[2:BEHIND])),
            SMALL,
            DTYPE,
        )


def at(address):
    """The float64 at an address."""
    return load((address,), 0, np.float64)[0]


def spread_number(shift, place, first, last, value):
    """Stores a number to elements `first` to `last` at an address, and to some behind them."""
    if shift == 2:
        single = np.float32(value)
        for element in range(first, last, AT_ONCE):
            put_many(place, element, single)
    else:
        for element in range(first, last, AT_ONCE):
            put_many(place, element, value)


def spread_problems(shift, values, place, width, index, until):
    """Spreads the numbers of the problems of elements `index` to `until`, of which the first lies at an address.

    May write AT_ONCE elements before and behind them.
    """
    problem, behind = index // width, (until - 1) // width + 1
    if width > AT_ONCE:
        begin = index
        while begin < until:
            end = min(until, (problem + 1) * width)
            spread_number(shift, place, begin - index, end - index, at(values + 8 * problem))
            begin, problem = end, problem + 1
    elif shift == 2:
        for each in range(problem, behind):
            put_many(place, each * width - index, np.float32(at(values + 8 * each)))
    else:
        for each in range(problem, behind):
            put_many(place, each * width - index, at(values + 8 * each))


def walk_problems(kernel, shift, table, starts, first, last):
    """Has a kernel work on elements `first` to `last` of all arrays, counted through as if they were one."""
    array = np.searchsorted(starts, first, side="right") - 1
    # Those of all arrays differ alike.
    stack = stack_bytes(STRIDE * (peek(table[array, -1] + 8 * COUNT) + 1)) + 8 * AT_ONCE
    while first < last:
        begin = starts[array]
        end = min(last, starts[array + 1])
        row, own, parameter = row_address(table, array), table[array, -1], table[array, 0]
        width, constants, count = peek(own + 8 * WIDTH), peek(own + 8 * CONSTANTS), peek(own + 8 * COUNT)
        before, which = peek(own + 8 * BEFORE), peek(own + 8 * WHICH)
        index, stop = first - begin, end - begin
        while index < stop:
            until = min(index + BLOCK, stop)
            problem, behind = index // width, (until - 1) // width + 1
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
                for scalar in range(count):
                    values, place = peek(own + 8 * (VALUES + scalar)), stack + STRIDE * scalar
                    spread_problems(shift, values, place, width, here, there)
                call(kernel, row, stack - (here << shift), parameter, constants, 0, here, there)
                number += 1
            index = until
        first = end
        array += 1


# The drivers take the size of an element as a power of two where those of `loops.py` take a form.
serial_problems = clone(serial, "serial_problems", {"run": walk_problems})
parallel_problems = clone(parallel, "parallel_problems", {"run": walk_problems})


def gathered(gradient, shift, width, start, count, column):
    """Copies an element of each of some problems to `column`, of which the first is `start`."""
    if shift == 2:
        for place in range(count):
            column[place] = np.float64(load((gradient,), start + place * width, np.float32)[0])
    else:
        for place in range(count):
            column[place] = load((gradient,), start + place * width, np.float64)[0]


def problem_peaks(gradient, shift, problems, width, peaks):
    """The largest magnitude of each problem's gradient at an address, NaN if there is one; zero before the first."""
    column = np.empty(TOGETHER)
    for first in range(0, problems, TOGETHER):
        largest = peaks[first : first + TOGETHER]
        for element in range(width):
            gathered(gradient, shift, width, first * width + element, len(largest), column)
            for place in range(len(largest)):
                size, before = abs(column[place]), largest[place]
                largest[place] = before if size <= before or before != before else size


def problem_squares(gradient, shift, problems, width, totals, rests):
    """Adds the squares of each problem's gradient to a sum, and what rounding takes from it to another.

    The sums of problems do not wait for one another, so several are added to at a time.
    """
    column = np.empty(TOGETHER)
    for first in range(0, problems, TOGETHER):
        sums, lost = totals[first : first + TOGETHER], rests[first : first + TOGETHER]
        for element in range(width):
            gathered(gradient, shift, width, first * width + element, len(sums), column)
            for place in range(len(sums)):
                square, total = column[place] * column[place], sums[place]
                new = total + square
                back = new - total
                lost[place] += (total - (new - back)) + (square - back)
                sums[place] = new


def problem_factors(totals, rests, factor, most, least, factors):
    """The factor of each problem's gradient by the norm of which it has most; how many are clipped, and how many odd.

    totals, rests : sums of squares; those beyond float64, or below `least`, make a problem odd, and its factor NaN
    """
    clipped = odd = 0
    for problem in range(len(totals)):
        total = totals[problem]
        is_odd = not (least <= total < np.inf)
        norm = math.sqrt(total + rests[problem])
        scaled = norm * abs(factor)
        is_clipped = not scaled <= most
        factors[problem] = np.nan if is_odd else factor * (most / scaled) if is_clipped else factor
        clipped += is_clipped
        odd += is_odd
    return clipped, odd
