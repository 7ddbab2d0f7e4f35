"""The loops that a formula is put into, before they are compiled: over elements, pieces and threads."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import prange

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
    row_address,
    store,
)
from fastopt.kernels.stores import (
    CLOSE,
    DECODE,
    ENCODE,
    IN_PIECES,
    KEYS,
    KINDS,
    LENGTH,
    LINE,
    NONTEMPORAL,
    OPEN,
    PLAIN,
    SHIFT,
    SLOTS,
    fence,
    invoke,
    stack_block,
    stack_bytes,
)

# Threads take the elements in pieces of this many: long enough that taking one (some 20 ns) costs nothing, short enough
# that no thread waits long for another.
PIECE = 8192

# Counters of different threads stand a cache line apart.
APART = 8

# Elements whose sums for a report are added up before they go to those of the piece: the same in every form.
SUMMED = 1024

# Columns of statistics: sums of squares of gradients, of new parameters and of their changes, then numbers of gradients
# that are zero and that are not finite, then the first three again of float64 numbers times DOWN, and times UP.
GRADIENTS, PARAMETERS, CHANGES, ZEROS, NONFINITE = range(5)
LARGE, SMALL_ONES = 5, 8
FIELDS = 11
TOTAL, COMPENSATION = 0, 1  # those of a norm: a sum of squares, and what rounding took from it
SECOND_TOTAL, SECOND_COMPENSATION = 2, 3  # and of another one

# Squares of float64 numbers overflow from 1e154 on and vanish below 1e-162. These factors bring such numbers to where
# they do neither; powers of two, so that sums of squares in range are the same to the bit.
DOWN, UP = 2.0**-600, 2.0**600
FACTORS = {"large_measure": DOWN, "small_measure": UP}
"""By what measures are multiplied whose squares would overflow or vanish."""

# Elements whose measures wait in a block on the stack to be added up.
BLOCK = 512

# Elements of a block of `walk_stored`: with those of the parameter and the gradient they fit into the first cache.
STORED = 1024

# What the functions below find under these names in their globals; every compiled clone of them has its own.
rule: Any = None  # the formula, compiled, with the transforms that are bound
DTYPE: Any = None  # np.float32 or np.float64
SIZE: Any = None  # the bytes of an element
COLUMNS: Any = None  # the columns of the table that the rule takes: parameter, gradient and state slots
WRITTEN: Any = None  # those whose elements it may write, beside the gradient: all but that of means
SMALL: Any = None  # what becomes of small values of each of those, but for the first two
SCALARS: Any = None  # a tuple as long as the scalars of rule and transforms
SCALED: Any = None  # the dtype of measures times FACTOR
FACTOR: Any = None


def step_loop(row, scalars, parameter, statistics, form, first, last):
    """Applies the rule to elements `first` to `last` of an array; the loop that is compiled for each rule.

    row : the address of the array's row in the table
    scalars : the address of its scalars
    parameter : the address of element 0 of the parameter: `walk` may have copied a block of it to elsewhere
    statistics, form : for the functions below
    """
    where, written = addresses(row, COLUMNS), addresses(row, WRITTEN)
    constants = numbers(scalars, SCALARS, DTYPE)
    for element in range(first, last):
        values = rule(*(load((parameter, *where[1:]), element, DTYPE) + constants))
        store((parameter, *written[1:]), element, values, SMALL, DTYPE)


def report_loop(row, scalars, parameter, statistics, form, first, last):
    """`step_loop` over a piece of an array, which also adds up what a report of the step needs.

    statistics : the address of the piece's row in the statistics
    form : the address of that of the step, see `stores.py`
    """
    zero, one = DTYPE(0), DTYPE(1)
    stack = stack_block()
    where, written = addresses(row, COLUMNS), addresses(row, WRITTEN)
    constants = numbers(scalars, SCALARS, DTYPE)
    gradients = parameters = changes = 0.0
    large_gradients = large_parameters = large_changes = 0.0
    small_gradients = small_parameters = small_changes = 0.0
    zeros, nonfinite = zero, 0
    index = first
    while index < last:
        until = min(last, index + SUMMED)
        home, block = parameter, (index, until, last)
        if peek(form) != PLAIN:
            home = invoke(peek(form + 8 * OPEN), peek(form), stack, parameter, SIZE, block)
        gradients_here = parameters_here = changes_here = 0.0
        large_gradients_here = large_parameters_here = large_changes_here = 0.0
        small_gradients_here = small_parameters_here = small_changes_here = 0.0
        for element in range(index, until):
            before = load((home, *where[1:]), element, DTYPE)
            after = rule(*(before + constants))
            store((home, *written[1:]), element, after, SMALL, DTYPE)
            gradient, new = np.float64(before[1]), np.float64(after[0])
            change = new - np.float64(before[0])
            gradients_here = plus_square(gradients_here, gradient)
            parameters_here = plus_square(parameters_here, new)
            changes_here = plus_square(changes_here, change)
            if SIZE == 8:  # decided when it is compiled
                large_gradients_here = plus_square(large_gradients_here, gradient * DOWN)
                large_parameters_here = plus_square(large_parameters_here, new * DOWN)
                large_changes_here = plus_square(large_changes_here, change * DOWN)
                small_gradients_here = plus_square(small_gradients_here, gradient * UP)
                small_parameters_here = plus_square(small_parameters_here, new * UP)
                small_changes_here = plus_square(small_changes_here, change * UP)
            zeros = plus(zeros, one if before[1] == zero else zero)
        if peek(form) != PLAIN:
            invoke(peek(form + 8 * CLOSE), peek(form), stack, parameter, SIZE, block)
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
        for element in range(first, last):
            nonfinite += not abs(load(where, element, DTYPE)[1]) < np.inf
    if SIZE == 4:  # sums of these are in range; what is not finite must not be lost beside sums of float64
        large_gradients, large_parameters = gradients * DOWN * DOWN, parameters * DOWN * DOWN
        large_changes = changes * DOWN * DOWN
    put(statistics, GRADIENTS, gradients)
    put(statistics, PARAMETERS, parameters)
    put(statistics, CHANGES, changes)
    put(statistics, ZEROS, np.float64(zeros))
    put(statistics, NONFINITE, np.float64(nonfinite))
    put(statistics, LARGE + GRADIENTS, large_gradients)
    put(statistics, LARGE + PARAMETERS, large_parameters)
    put(statistics, LARGE + CHANGES, large_changes)
    put(statistics, SMALL_ONES + GRADIENTS, small_gradients)
    put(statistics, SMALL_ONES + PARAMETERS, small_parameters)
    put(statistics, SMALL_ONES + CHANGES, small_changes)
    if peek(form) == NONTEMPORAL:
        fence()


def finite_loop(row, scalars, parameter, statistics, form, first, last):
    """Writes to the statistics whether there is a gradient that is not finite, and nothing else."""
    zero = total = DTYPE(0)
    gradient = addresses(row, (1,))
    for index in range(first, last):
        total = plus(total, load(gradient, index, DTYPE)[0] * zero)  # NaN for NaN and infinity
    put(statistics, NONFINITE, np.float64(total != zero))


def finite_squares_loop(row, scalars, parameter, statistics, form, first, last):
    """Writes to the statistics whether there is a gradient whose square is not finite in DTYPE, and nothing else."""
    zero = total = DTYPE(0)
    gradient = addresses(row, (1,))
    for index in range(first, last):
        g = load(gradient, index, DTYPE)[0]
        total = plus(total, g * g * zero)
    put(statistics, NONFINITE, np.float64(total != zero))


def norm_loop(row, scalars, parameter, statistics, form, first, last):
    """Writes to the statistics the sum of squares of the gradients and what rounding took from it, and nothing else."""
    (gradient,) = addresses(row, (1,))
    total, compensation = add_squares(0.0, 0.0, gradient, first, last, DTYPE)
    put(statistics, TOTAL, total)
    put(statistics, COMPENSATION, compensation)


def quick_norm_loop(row, scalars, parameter, statistics, form, first, last):
    """`norm_loop` by a plain float64 sum, as if rounding had taken nothing from it.

    LLVM adds it up in whatever order it likes: `norms.QUICK_ERROR` is right for all of them.
    """
    total = 0.0
    gradient = addresses(row, (1,))
    for index in range(first, last):
        total = plus_square(total, np.float64(load(gradient, index, DTYPE)[0]))
    put(statistics, TOTAL, total)
    put(statistics, COMPENSATION, 0.0)


def measure_loop(row, scalars, parameter, statistics, form, first, last):
    """Writes to the statistics the sums of squares of the two results of the formula, as `norm_loop`, and nothing else.

    Of these results times FACTOR, as SCALED.
    """
    one = stack_block()
    other = one + 8 * BLOCK
    where = addresses(row, COLUMNS)
    constants = numbers(scalars, SCALARS, DTYPE)
    total = compensation = second_total = second_compensation = 0.0
    for block in range(first, last, BLOCK):
        size = min(BLOCK, last - block)
        for place in range(size):
            first_measure, second_measure = rule(*(load(where, block + place, DTYPE) + constants))
            put(one, place, SCALED(first_measure * FACTOR))
            put(other, place, SCALED(second_measure * FACTOR))
        total, compensation = add_squares(total, compensation, one, 0, size, SCALED)
        second_total, second_compensation = add_squares(second_total, second_compensation, other, 0, size, SCALED)
    put(statistics, TOTAL, total)
    put(statistics, COMPENSATION, compensation)
    put(statistics, SECOND_TOTAL, second_total)
    put(statistics, SECOND_COMPENSATION, second_compensation)


def aligned_loop(row, scalars, parameter, statistics, form, first, last):
    """Writes to the statistics for how many elements the formula, of which all others are the same, says yes."""
    where, count = addresses(row, COLUMNS), 0
    constants = numbers(scalars, SCALARS, DTYPE)
    for element in range(first, last):
        count += rule(*(load(where, element, DTYPE) + constants))
    put(statistics, TOTAL, np.float64(count))
    put(statistics, COMPENSATION, 0.0)


def prepare_loop(row, scalars, parameter, statistics, form, first, last):
    """Writes the result of the formula to the last state slot, and nothing else."""
    where = addresses(row, COLUMNS)
    constants = numbers(scalars, SCALARS, DTYPE)
    for index in range(first, last):
        store((where[-1], where[1]), index, (rule(*(load(where, index, DTYPE) + constants)),), (), DTYPE)


def walk(kernel, form, table, starts, first, last):
    """Has a kernel work on elements `first` to `last` of all arrays, counted through as if they were one.

    It gets them by array, and by block where the form works on blocks. Not part of the kernels: one that is the loop
    over elements alone compiles in a third of the time.
    """
    stack, shift = stack_block(), peek(form + 8 * SHIFT)
    array = np.searchsorted(starts, first, side="right") - 1
    while first < last:
        begin = starts[array]
        end = min(last, starts[array + 1])
        row, scalars, parameter = row_address(table, array), table[array, -1], table[array, 0]
        index, stop = first - begin, end - begin
        if peek(form) == PLAIN:
            call(kernel, row, scalars, parameter, 0, form, index, stop)
            index = stop
        while index < stop:
            line = (parameter + (index << shift) + peek(form + 8 * LENGTH)) // LINE * LINE
            block = (index, min(stop, (line - parameter) >> shift), stop)
            home = invoke(peek(form + 8 * OPEN), peek(form), stack, parameter, 1 << shift, block)
            call(kernel, row, scalars, home, 0, form, index, block[1])
            invoke(peek(form + 8 * CLOSE), peek(form), stack, parameter, 1 << shift, block)
            index = block[1]
        first = end
        array += 1
    if peek(form) == NONTEMPORAL:
        fence()


def walk_pieces(kernel, form, table, starts, first, last):
    """`walk` for a kernel that fills a row of the statistics per array and piece.

    The table's last row holds the address of the statistics. Sums over a piece are added up in one order, however many
    threads there are.
    """
    array = np.searchsorted(starts, first, side="right") - 1
    statistics = table[len(starts) - 1, 0]
    while first < last:
        begin, piece = starts[array], first // PIECE
        end = min(last, starts[array + 1], (piece + 1) * PIECE)
        row, cells = row_address(table, array), statistics + 8 * FIELDS * (piece + array)
        call(kernel, row, table[array, -1], table[array, 0], cells, form, first - begin, end - begin)
        first = end
        if end == starts[array + 1]:
            array += 1


def walk_stored(kernel, form, table, starts, first, last):
    """`walk` or `walk_pieces` for a kernel of a rule whose state is stored in fewer bits.

    A block of each slot is decoded to the stack, which the kernel finds in a copy of the table's row. Blocks begin
    where an array does, so that each group of elements is in one; those that begin among the elements `first` to
    `last` are worked on.
    """
    slots, in_pieces, width = peek(form + 8 * SLOTS), peek(form + 8 * IN_PIECES), table.shape[1]
    stride = 4 * (PIECE + STORED if in_pieces else STORED) + LINE  # not at one place modulo 4096 bytes
    stack, home = stack_bytes(slots * stride + 8 * width), stack_block()
    copied = stack + slots * stride
    array = np.searchsorted(starts, first, side="right") - 1
    statistics = table[len(starts) - 1, 0]
    while first < last:
        begin, piece = starts[array], first // PIECE
        end = min(last, starts[array + 1], (piece + 1) * PIECE)
        size = starts[array + 1] - begin
        cells = statistics + 8 * FIELDS * (piece + array)
        index = (first - begin + STORED - 1) // STORED * STORED
        stop = min(size, (end - begin + STORED - 1) // STORED * STORED)
        for column in range(width):
            put(copied, column, table[array, column])
        is_last = index >= stop and not in_pieces
        while not is_last:
            until = stop if in_pieces else min(index + STORED, stop)
            for slot in range(slots):
                codes, place = table[array, 2 + slot], stack + slot * stride
                kind = peek(peek(form + 8 * KINDS) + 8 * slot)
                invoke(peek(form + 8 * DECODE), kind, codes, size, place, (index, until, 0))
                put(copied, 2 + slot, place - 4 * index)
            parameter, block = table[array, 0], (index, until, size)
            if peek(form) != PLAIN and not in_pieces:
                parameter = invoke(peek(form + 8 * OPEN), peek(form), home, table[array, 0], 4, block)
            call(kernel, copied, table[array, -1], parameter, cells, form, index, until)
            if peek(form) != PLAIN and not in_pieces:
                invoke(peek(form + 8 * CLOSE), peek(form), home, table[array, 0], 4, block)
            for slot in range(slots):
                codes, place = table[array, 2 + slot], stack + slot * stride
                kind, key = (
                    peek(peek(form + 8 * KINDS) + 8 * slot),
                    peek(peek(form + 8 * KEYS) + 8 * (array * slots + slot)),
                )
                if peek(form + 8 * ENCODE):
                    invoke(peek(form + 8 * ENCODE), kind, codes, size, place, (index, until, key))
            index = until
            is_last = index >= stop
        first = end
        if end == starts[array + 1]:
            array += 1
    if peek(form) == NONTEMPORAL:
        fence()


def run(kernel, form, table, starts, first, last):
    """`walk`, `walk_pieces` or `walk_stored`, as the form says."""
    if peek(form + 8 * SLOTS):
        walk_stored(kernel, form, table, starts, first, last)
    elif peek(form + 8 * IN_PIECES):
        walk_pieces(kernel, form, table, starts, first, last)
    else:
        walk(kernel, form, table, starts, first, last)


def serial(address, form, table, starts, threads):
    """Applies a rule to every element of every array.

    address : of the rule's compiled `step_loop`: this function and `parallel` are compiled once for all rules
    form : how parameters are stored: an address that `stores.py` explains
    table : int64[arrays + 1, 8 + state slots], the addresses of parameter, gradient, state, averages, arrays of bounds
        and mask (0 where there are none) and the array's scalars: float64, those of the rule in the order of the
        formula, then those of the transforms. Of the last row the first element is the address of the statistics, if
        there are any. With `centralize` the means of gradients have a column more, before the scalars
    starts : int64[arrays + 1], the running sum of the array sizes
    threads : 1
    """
    run(address, form, table, starts, 0, starts[-1])


def parallel(address, form, table, starts, threads):
    """The same on several threads.

    The elements are cut into as many equal stretches as threads. A thread works through its own, the same at every
    step, so that it stays in its core's cache; then it helps with the others'. A core that BLAS's
    threads still hold, spinning, therefore delays a step by one piece and not by a whole stretch.
    """
    total = starts[-1]
    pieces = (total + PIECE - 1) // PIECE
    taken = np.zeros(threads * APART, dtype=np.int64)
    for thread in prange(threads):
        for turn in range(threads):
            owner = (thread + turn) % threads
            begin, end = pieces * owner // threads, pieces * (owner + 1) // threads
            piece = begin + fetch_add(taken, owner * APART)
            while piece < end:
                run(address, form, table, starts, piece * PIECE, min(piece * PIECE + PIECE, total))
                piece = begin + fetch_add(taken, owner * APART)
