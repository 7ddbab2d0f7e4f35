"""The loops that a formula is put into, before they are compiled: over elements, pieces and threads."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import carray, prange

from fastopt.kernels.intrinsics import (
    add_squares,
    addresses,
    call,
    fetch_add,
    load,
    numbers,
    peek,
    plus,
    plus_square,
    put,
    store,
)
from fastopt.kernels.stores import CLOSE, LENGTH, LINE, NONTEMPORAL, OPEN, PLAIN, fence, invoke, stack_block

# Threads take the elements in pieces of this many: long enough that taking one (some 20 ns) costs nothing, short enough
# that no thread waits long for another.
PIECE = 8192

# Counters of different threads stand a cache line apart.
APART = 8

# Elements whose sums for a report are added up before they go to those of the piece: the same in every form.
SUMMED = 1024

# Columns of a tally: sums of squares of gradients, of new parameters and of their changes, then numbers of gradients
# that are zero and that are not finite, then the first three again of float64 numbers times DOWN, and times UP.
GRADIENTS, PARAMETERS, CHANGES, ZEROS, NONFINITE = range(5)
LARGE, SMALL_ONES = 5, 8
FIELDS = 11
TOTAL, REST = 0, 1  # those of a norm: a sum of squares, and what rounding took from it
SECOND_TOTAL, SECOND_REST = 2, 3  # and of another one

# Squares of float64 numbers overflow from 1e154 on and vanish below 1e-162. These factors bring such numbers to where
# they do neither; powers of two, so that sums of squares in range are the same to the bit.
DOWN, UP = 2.0**-600, 2.0**600

# Elements whose measures wait in the first cache to be added up.
BLOCK = 512

# What the functions below find under these names in their globals; every compiled clone of them has its own.
rule: Any = None  # the formula, compiled, with the options that are bound
option: Any = None  # a function of gradients.py or averages.py, compiled
DTYPE: Any = None  # np.float32 or np.float64
SIZE: Any = None  # the bytes of an element
COLUMNS: Any = None  # the columns of the table that the rule takes: parameter, gradient and state slots
WRITTEN: Any = None  # those whose elements it may write, beside the gradient: all but that of means
SMALL: Any = None  # what becomes of small values of each of those, but for the first two
SCALARS: Any = None  # a tuple as long as the scalars and amounts
SCALED: Any = None  # the dtype of measures times FACTOR
FACTOR: Any = None


def with_option(p, g, *rest):  # type: ignore[no-untyped-def]
    """A rule with an option before it, whose amount stands behind the rule's scalars."""
    p, g = option(p, g, rest[-1])
    return rule(p, g, *rest[:-1])


def with_average(p, g, average, *rest):  # type: ignore[no-untyped-def]
    """A rule with an average after it, whose slot stands before the rule's and whose amount stands last."""
    new = rule(p, g, *rest[:-1])
    p, average = option(new[0], average, rest[-1])
    return p, average, *new[1:]


def with_mean(p, g, mean, *rest):  # type: ignore[no-untyped-def]
    """A rule with an option before it that takes an element of an array, which stands before the state slots."""
    p, g = option(p, g, mean)
    return rule(p, g, *rest)


def span(table, starts, first, last, form):  # type: ignore[no-untyped-def]
    """Applies the rule to elements `first` to `last` of all arrays, counted through as if they were one."""
    stack = stack_block()
    array = np.searchsorted(starts, first, side="right") - 1
    while first < last:
        begin = starts[array]
        end = min(last, starts[array + 1])
        where, written = addresses(table, array, COLUMNS), addresses(table, array, WRITTEN)
        constants = numbers(table[array, -1], SCALARS, DTYPE)
        index, stop = first - begin, end - begin
        while index < stop:
            line = (where[0] + index * SIZE + peek(form + 8 * LENGTH)) // LINE * LINE
            until = min(stop, (line - where[0]) // SIZE)
            home, block = (where[0],), (index, until, stop)
            if peek(form) != PLAIN:
                home = (invoke(peek(form + 8 * OPEN), peek(form), stack, where[0], SIZE, block),)
            for element in range(index, until):
                values = rule(*(load(home + where[1:], element, DTYPE) + constants))
                store(home + written[1:], element, values, SMALL, DTYPE)
            if peek(form) != PLAIN:
                invoke(peek(form + 8 * CLOSE), peek(form), stack, where[0], SIZE, block)
            index = until
        first = end
        array += 1
    if peek(form) == NONTEMPORAL:
        fence()


def tallied_span(table, starts, first, last, form):  # type: ignore[no-untyped-def]
    """`span`, which also adds up what a report of the step needs, one row of the tally per array and piece.

    The table's last row holds the address of the tally. Sums over a piece are added up in one order, however many
    threads there are.
    """
    zero, one = DTYPE(0), DTYPE(1)
    stack = stack_block()
    array = np.searchsorted(starts, first, side="right") - 1
    tally = table[len(starts) - 1, 0]
    while first < last:
        begin, piece = starts[array], first // PIECE
        end = min(last, starts[array + 1], (piece + 1) * PIECE)
        where, written = addresses(table, array, COLUMNS), addresses(table, array, WRITTEN)
        constants = numbers(table[array, -1], SCALARS, DTYPE)
        gradients = parameters = changes = 0.0
        large_gradients = large_parameters = large_changes = 0.0
        small_gradients = small_parameters = small_changes = 0.0
        zeros, strange = zero, 0
        index, stop = first - begin, end - begin
        while index < stop:
            until = min(stop, index + SUMMED)
            home, block = (where[0],), (index, until, stop)
            if peek(form) != PLAIN:
                home = (invoke(peek(form + 8 * OPEN), peek(form), stack, where[0], SIZE, block),)
            gradients_here = parameters_here = changes_here = 0.0
            large_gradients_here = large_parameters_here = large_changes_here = 0.0
            small_gradients_here = small_parameters_here = small_changes_here = 0.0
            for element in range(index, until):
                before = load(home + where[1:], element, DTYPE)
                after = rule(*(before + constants))
                store(home + written[1:], element, after, SMALL, DTYPE)
                gradient, parameter = np.float64(before[1]), np.float64(after[0])
                change = parameter - np.float64(before[0])
                gradients_here = plus_square(gradients_here, gradient)
                parameters_here = plus_square(parameters_here, parameter)
                changes_here = plus_square(changes_here, change)
                if SIZE == 8:  # decided when it is compiled
                    large_gradients_here = plus_square(large_gradients_here, gradient * DOWN)
                    large_parameters_here = plus_square(large_parameters_here, parameter * DOWN)
                    large_changes_here = plus_square(large_changes_here, change * DOWN)
                    small_gradients_here = plus_square(small_gradients_here, gradient * UP)
                    small_parameters_here = plus_square(small_parameters_here, parameter * UP)
                    small_changes_here = plus_square(small_changes_here, change * UP)
                zeros = plus(zeros, one if before[1] == zero else zero)
            if peek(form) != PLAIN:
                invoke(peek(form + 8 * CLOSE), peek(form), stack, where[0], SIZE, block)
            gradients += gradients_here
            parameters += parameters_here
            changes += changes_here
            large_gradients += large_gradients_here
            large_parameters += large_parameters_here
            large_changes += large_changes_here
            small_gradients += small_gradients_here
            small_parameters += small_parameters_here
            small_changes += small_changes_here
            index = until
        if not gradients < np.inf:
            for index in range(first - begin, end - begin):
                strange += not abs(load(where, index, DTYPE)[1]) < np.inf
        if SIZE == 4:  # sums of these are in range; what is not finite must not be lost beside sums of float64
            large_gradients, large_parameters = gradients * DOWN * DOWN, parameters * DOWN * DOWN
            large_changes = changes * DOWN * DOWN
        row = FIELDS * (piece + array)
        put(tally, row + GRADIENTS, gradients)
        put(tally, row + PARAMETERS, parameters)
        put(tally, row + CHANGES, changes)
        put(tally, row + ZEROS, np.float64(zeros))
        put(tally, row + NONFINITE, np.float64(strange))
        put(tally, row + LARGE + GRADIENTS, large_gradients)
        put(tally, row + LARGE + PARAMETERS, large_parameters)
        put(tally, row + LARGE + CHANGES, large_changes)
        put(tally, row + SMALL_ONES + GRADIENTS, small_gradients)
        put(tally, row + SMALL_ONES + PARAMETERS, small_parameters)
        put(tally, row + SMALL_ONES + CHANGES, small_changes)
        first = end
        if end == starts[array + 1]:
            array += 1
    if peek(form) == NONTEMPORAL:
        fence()


def gradient_span(table, starts, first, last, form):  # type: ignore[no-untyped-def]
    """Writes to the tally whether there is a gradient that is not finite, and nothing else."""
    zero = DTYPE(0)
    array = np.searchsorted(starts, first, side="right") - 1
    tally = table[len(starts) - 1, 0]
    while first < last:
        begin, piece = starts[array], first // PIECE
        end = min(last, starts[array + 1], (piece + 1) * PIECE)
        gradient = (table[array, 1],)
        total = zero
        for index in range(first - begin, end - begin):
            total = plus(total, load(gradient, index, DTYPE)[0] * zero)  # NaN for NaN and infinity
        put(tally, FIELDS * (piece + array) + NONFINITE, np.float64(total != zero))
        first = end
        if end == starts[array + 1]:
            array += 1


def square_span(table, starts, first, last, form):  # type: ignore[no-untyped-def]
    """Writes to the tally whether there is a gradient whose square is not finite in DTYPE, and nothing else."""
    zero = DTYPE(0)
    array = np.searchsorted(starts, first, side="right") - 1
    tally = table[len(starts) - 1, 0]
    while first < last:
        begin, piece = starts[array], first // PIECE
        end = min(last, starts[array + 1], (piece + 1) * PIECE)
        gradient = (table[array, 1],)
        total = zero
        for index in range(first - begin, end - begin):
            g = load(gradient, index, DTYPE)[0]
            total = plus(total, g * g * zero)
        put(tally, FIELDS * (piece + array) + NONFINITE, np.float64(total != zero))
        first = end
        if end == starts[array + 1]:
            array += 1


def norm_span(table, starts, first, last, form):  # type: ignore[no-untyped-def]
    """Writes to the tally the sum of squares of the gradients and what rounding took from it, and nothing else."""
    array = np.searchsorted(starts, first, side="right") - 1
    tally = table[len(starts) - 1, 0]
    while first < last:
        begin, piece = starts[array], first // PIECE
        end = min(last, starts[array + 1], (piece + 1) * PIECE)
        total, rest = add_squares(0.0, 0.0, table[array, 1], first - begin, end - begin, DTYPE)
        put(tally, FIELDS * (piece + array) + TOTAL, total)
        put(tally, FIELDS * (piece + array) + REST, rest)
        first = end
        if end == starts[array + 1]:
            array += 1


def measured_span(table, starts, first, last, form):  # type: ignore[no-untyped-def]
    """Writes to the tally the sums of squares of the two results of the formula, as `norm_span`, and nothing else.

    Of these results times FACTOR, as SCALED.
    """
    one, other = np.empty(BLOCK, SCALED), np.empty(BLOCK, SCALED)
    array = np.searchsorted(starts, first, side="right") - 1
    tally = table[len(starts) - 1, 0]
    while first < last:
        begin, piece = starts[array], first // PIECE
        end = min(last, starts[array + 1], (piece + 1) * PIECE)
        where = addresses(table, array, COLUMNS)
        constants = numbers(table[array, -1], SCALARS, DTYPE)
        total = rest = second_total = second_rest = 0.0
        for block in range(first - begin, end - begin, BLOCK):
            size = min(BLOCK, end - begin - block)
            for place in range(size):
                first_measure, second_measure = rule(*(load(where, block + place, DTYPE) + constants))
                one[place], other[place] = first_measure * FACTOR, second_measure * FACTOR
            total, rest = add_squares(total, rest, np.int64(one.ctypes.data), 0, size, SCALED)
            second_total, second_rest = add_squares(
                second_total, second_rest, np.int64(other.ctypes.data), 0, size, SCALED
            )
        row = FIELDS * (piece + array)
        put(tally, row + TOTAL, total)
        put(tally, row + REST, rest)
        put(tally, row + SECOND_TOTAL, second_total)
        put(tally, row + SECOND_REST, second_rest)
        first = end
        if end == starts[array + 1]:
            array += 1


def prepared_span(table, starts, first, last, form):  # type: ignore[no-untyped-def]
    """Writes the result of the formula to the last state slot, and nothing else."""
    array = np.searchsorted(starts, first, side="right") - 1
    while first < last:
        begin = starts[array]
        end = min(last, starts[array + 1])
        where = addresses(table, array, COLUMNS)
        constants = numbers(table[array, -1], SCALARS, DTYPE)
        for index in range(first - begin, end - begin):
            store((where[-1], where[1]), index, (rule(*(load(where, index, DTYPE) + constants)),), (), DTYPE)
        first = end
        array += 1


def entry(table, width, starts, length, first, last, form):  # type: ignore[no-untyped-def]
    """`span` for C: `table` and `starts` are pointers, `width` the columns of the table, `length` that of `starts`."""
    span(carray(table, (length, width)), carray(starts, (length,)), first, last, form)


def serial(address, form, table, starts, threads):  # type: ignore[no-untyped-def]
    """Applies a rule to every element of every array.

    address : of the rule's compiled `entry`: this function and `parallel` are compiled once for all rules
    form : how parameters are stored: an address that `stores.py` explains
    table : int64[arrays + 1, 5 + state slots], the addresses of parameter, gradient, state, averages (0 where there are
        none) and the array's scalars: float64, those of the rule in the order of the formula, then the amounts of the
        options. Of the last row the first element is the address of the tally, if there is one. With `centralize` the
        means of gradients have a column more, before the scalars
    starts : int64[arrays + 1], the running sum of the array sizes
    threads : 1
    """
    call(address, table, starts, 0, starts[-1], form)


def parallel(address, form, table, starts, threads):  # type: ignore[no-untyped-def]
    """The same on several threads.

    The elements are cut into as many equal shares as threads. A thread works through its own share, the same at every
    step, so that its part of the model stays in its core's cache; then it helps with the others'. A core that BLAS's
    threads still hold, spinning, therefore delays a step by one piece and not by a whole share.
    """
    total = starts[-1]
    pieces = (total + PIECE - 1) // PIECE
    taken = np.zeros(threads * APART, dtype=np.int64)
    for thread in prange(threads):
        for turn in range(threads):
            share = (thread + turn) % threads
            begin, end = pieces * share // threads, pieces * (share + 1) // threads
            piece = begin + fetch_add(taken, share * APART)
            while piece < end:
                call(address, table, starts, piece * PIECE, min(piece * PIECE + PIECE, total), form)
                piece = begin + fetch_add(taken, share * APART)
