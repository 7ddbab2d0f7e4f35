"""The loops over the elements of an array, one for each kind of pass.

A formula is put into them before they are compiled; `loops.py` goes over arrays, blocks, pieces and threads.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from fastopt.kernels.exact_sum import add_squares
from fastopt.kernels.intrinsics import (
    addresses,
    ask_for,
    load,
    numbers,
    part,
    peek,
    plus,
    plus_square,
    put,
    store,
)
from fastopt.kernels.stores import CLOSE, NONTEMPORAL, OPEN, PLAIN, STRIP, fence, invoke, stack_block

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

# Elements whose sums for a report are added up before they go to those of the piece: the same in every form.
SUMMED = 1024

# The processor's own prefetching ends at the borders of pages of 4 kB, so a loop over several arrays in memory waits at
# each of them. The form `stores.AHEAD` therefore asks for the lines of a strip a page ahead: Adam on 30 million numbers
# takes 1.00 of the same traffic without arithmetic, and 0.87 of its time without this (`alone` in `bench.loop_gate`).
# In the caches it costs 2 to 22 %.
STRIP_BYTES, DISTANCE = 512, 4096

# Elements whose measures wait in a block on the stack to be added up.
BLOCK = 512

# What the functions below find under these names in their globals; every compiled clone of them has its own.
rule: Any = None  # the formula, compiled, with the transforms that are bound
DTYPE: Any = None  # np.float32 or np.float64
SIZE: Any = None  # the bytes of a number
ELEMENT: Any = None  # DTYPE, or np.complex64 or np.complex128 where the rule takes pairs of numbers
LANES: Any = None  # how many numbers the rule takes at a time, 1 or 2; what is counted are numbers
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
    strip = first
    while strip < last:
        until = min(strip + peek(form + 8 * STRIP), last)
        if until < last:
            ask_for((parameter, *where[1:]), strip * SIZE + DISTANCE, STRIP_BYTES)
        for element in range(strip // LANES, until // LANES):
            values = rule(*(load((parameter, *where[1:]), element, ELEMENT) + constants))
            store((parameter, *written[1:]), element, values, SMALL, ELEMENT)
        strip = until


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
        for element in range(index // LANES, until // LANES):
            before = load((home, *where[1:]), element, ELEMENT)
            after = rule(*(before + constants))
            store((home, *written[1:]), element, after, SMALL, ELEMENT)
            for lane in range(LANES):
                g = part(before[1], lane)
                gradient, new = np.float64(g), np.float64(part(after[0], lane))
                change = new - np.float64(part(before[0], lane))
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
                zeros = plus(zeros, one if g == zero else zero)
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
    for element in range(first // LANES, last // LANES):
        g, square = load(gradient, element, ELEMENT)[0], zero
        for lane in range(LANES):
            square += part(g, lane) * part(g, lane)
        total = plus(total, square * zero)
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
        for place in range(size // LANES):
            first_measure, second_measure = rule(*(load(where, block // LANES + place, ELEMENT) + constants))
            for lane in range(LANES):
                put(one, LANES * place + lane, SCALED(part(first_measure, lane) * FACTOR))
                put(other, LANES * place + lane, SCALED(part(second_measure, lane) * FACTOR))
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
