"""Norms and largest magnitudes of the gradients of many problems, and the factors that clip each by its own norm."""

from __future__ import annotations

import math

import numpy as np

from fastopt.kernels.intrinsics import load, peek, plus, plus_square, put
from fastopt.kernels.problems import CLIPPING, SHARED, TOGETHER, at, walk_problems

# What `clip_problems` takes, numbers of 8 bytes: how many problems there are; the addresses of int64 numbers, how many
# elements of each array a problem has, and of the factors, float64; then float64 numbers: the factor of what is not
# clipped; the largest norm; and a bound on the relative error of a factor by a plain sum of squares.
PROBLEMS, WIDTHS, FACTORS, FACTOR, MOST_NORM, ERROR = range(6)
CLIPPING_WORDS = 6


def clip_problems(clipping, table, arrays):
    """Writes the factor of each problem's gradient in all arrays of the table, float32, which clips it by its norm.

    Squares of float32 numbers are exact as float64, and no sum of them overflows or vanishes. LLVM adds them up in
    whatever order it likes; where that leaves in doubt which float32 the factor is, they are added up exactly.
    """
    problems, widths, factors = peek(clipping + 8 * PROBLEMS), peek(clipping + 8 * WIDTHS), peek(clipping + 8 * FACTORS)
    factor, most, error = at(clipping, FACTOR), at(clipping, MOST_NORM), at(clipping, ERROR)
    for first in range(0, problems, TOGETHER):
        count = min(TOGETHER, problems - first)
        chunk = factors + 8 * first
        for problem in range(count):
            put(chunk, problem, 0.0)
        for array in range(arrays):
            gradient, width = table[array, 1], peek(widths + 8 * array)
            for problem in range(count):
                start, total = (first + problem) * width, 0.0
                for element in range(start, start + width):
                    total = plus_square(total, np.float64(load((gradient,), element, np.float32)[0]))
                put(chunk, problem, at(chunk, problem) + total)
        doubt = np.float32(0)
        for problem in range(count):
            value = factor_of(math.sqrt(at(chunk, problem)), factor, most)
            low, high = np.float32(value * (1 - error)), np.float32(value * (1 + error))
            put(chunk, problem, value)
            doubt = plus(doubt, abs(high - low))
        if doubt != 0:  # NaN where a factor is
            for problem in range(count):
                value = at(chunk, problem)
                if np.float32(value * (1 - error)) != np.float32(value * (1 + error)):
                    norm = exact_norm(table, widths, arrays, first + problem)
                    put(chunk, problem, factor_of(norm, factor, most))


def factor_of(norm, factor, most):
    """The factor of a gradient of a norm, made smaller where it would leave it with a norm above `most`."""
    scaled = norm * abs(factor)
    return factor if scaled <= most else factor * (most / scaled)


def exact_norm(table, widths, arrays, problem):
    """The root of the sum of the squares of a problem's gradient, rounded once."""
    total, lost = 0.0, 0.0
    for array in range(arrays):
        width = peek(widths + 8 * array)
        for element in range(problem * width, (problem + 1) * width):
            number = np.float64(load((table[array, 1],), element, np.float32)[0])
            square, before = number * number, total
            total = before + square
            back = total - before
            lost += (before - (total - back)) + (square - back)
    return math.sqrt(total + lost)


def clipped_problems(kernel, form, table, starts, threads):
    """`problems.serial_problems` where problems are clipped by their norm."""
    clip_problems(peek(peek(table[0, -1] + 8 * SHARED) + 8 * CLIPPING), table, len(starts) - 1)
    walk_problems(kernel, form, table, starts, 0, starts[-1])


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
    """The factor of each problem's gradient by the norm of which it has most; returns how many are odd.

    totals, rests : sums of squares; those beyond float64, or below `least`, make a problem odd, and its factor NaN
    factor, most : of each problem what multiplies it unless it is clipped, and the largest norm
    """
    odd = 0
    for problem in range(len(totals)):
        total = totals[problem]
        is_odd = not (least <= total < np.inf)
        norm = math.sqrt(total + rests[problem])
        own, scaled = factor[problem], norm * abs(factor[problem])
        is_clipped = not scaled <= most[problem]
        factors[problem] = np.nan if is_odd else own * (most[problem] / scaled) if is_clipped else own
        odd += is_odd
    return odd
