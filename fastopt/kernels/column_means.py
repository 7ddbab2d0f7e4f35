"""Means of gradients, for `centralize`: of exact sums, so that they are the same in whatever order they are added up.

A sum is a float64, beside a bound on what rounding took from it. Of float32 that nearly always settles which float32 is
nearest to the mean. Of float64 what rounding took is added up too (Knuth's two-sum), and the bound is one on what it
took there. Where a bound leaves the mean open, `exact_mean` finds it in Python.

Arrays are looked at as matrices in C order, one or several behind one another, of whose columns the means are.
"""

from __future__ import annotations

import ctypes
import math
from typing import Any

import numpy as np
from numba import prange

from fastopt.kernels.intrinsics import fetch_add, load
from fastopt.kernels.transforms import clip, scale

# Columns of `jobs`: parts of matrices, each added up by one thread.
JOB_ROW = 0  # its array's row in the table of addresses
JOB_PART = 1  # that of its scalars
OFFSET = 2  # its first element
STRIDE = 3  # from one run of elements to the next
RUNS = 4  # how many there are
WIDTH = 5  # elements in a run; one or more rows of the matrix, or a part of one
COMPENSATION = 6  # elements in one more run at the end, which is shorter
KEPT = 7  # columns; WIDTH is that times a power of two
OUT = 8  # where their sums begin in `sums`
JOB_FIELDS = 9

# Columns of `matrices`.
ROW, PART = 0, 1  # as above
BEGIN = 2  # first element
COUNT = 3  # rows
COLUMNS = 4
FIRST = 5  # where its sums begin in `sums`: those of all columns, as many times as there are
CHUNKS = 6
MEANS = 7  # where its means begin in `means`: those of all columns, as many times as there are
COPIES = 8
FIELDS = 9

# Sums of so many columns stay in the first cache. Fewer lanes than this would not fill the vectors.
BLOCK, LANES = 1024, 128
# A job has about so many elements.
JOB = 1 << 18


def find_means(jobs, matrices, table, scalars, places, sums, means, doubtful, threads):
    """Means of the columns of matrices of gradients, after scale and clipping.

    jobs : int64[jobs, JOB_FIELDS]
    matrices : int64[matrices, FIELDS]
    table : int64[rows, columns], the addresses of the gradients in column 1
    scalars : float64[parts, columns]
    places : int64[2], the columns of scale and of the largest value; -1 where there is none
    sums : float64[3, sums]
    means : [...], is filled
    doubtful : int64[columns of all matrices, 2], is filled with matrix and column of means that are not certain

    Returns the number of these.
    """
    taken = np.zeros(1, dtype=np.int64)
    for _ in prange(threads):
        cells = np.empty((3, BLOCK))
        job = fetch_add(taken, 0)
        while job < len(jobs):
            add_columns(jobs[job], table, scalars, places, cells, sums, means)
            job = fetch_add(taken, 0)
    count = 0
    for number in range(len(matrices)):
        count = divide(number, matrices[number], sums, means, doubtful, count)
    return count


def add_columns(job, table, scalars, places, cells, sums, like):
    """Adds up the columns of a part of a matrix; `cells` is a thread's own memory, `like` of the arrays' dtype."""
    address, stride, width, kept = table[job[JOB_ROW], 1], job[STRIDE], job[WIDTH], job[KEPT]
    factor = like.dtype.type(1.0 if places[0] < 0 else scalars[job[JOB_PART], places[0]])
    most = like.dtype.type(np.inf if places[1] < 0 else scalars[job[JOB_PART], places[1]])
    total, compensation, lost = cells[0], cells[1], cells[2]
    for k in range(width):  # written out, here and below: numba takes a second to compile an assignment to a slice
        total[k] = compensation[k] = lost[k] = 0.0
    first = job[OFFSET]
    end, last = first + job[RUNS] * stride, first + (job[RUNS] - 3) * stride
    while first < last:  # four at a time, as the sums are read and written less often so
        second, third, fourth = first + stride, first + 2 * stride, first + 3 * stride
        for k in range(width):
            one = processed(address, first + k, factor, most, like.dtype)
            two = processed(address, second + k, factor, most, like.dtype)
            three = processed(address, third + k, factor, most, like.dtype)
            four = processed(address, fourth + k, factor, most, like.dtype)
            total[k], compensation[k], lost[k] = plus_four(
                (total[k], compensation[k], lost[k]), one, two, three, four, like.dtype
            )
        first += 4 * stride
    while first <= end:
        for k in range(width if first < end else job[COMPENSATION]):
            cell = total[k], compensation[k], lost[k]
            value = processed(address, first + k, factor, most, like.dtype)
            total[k], compensation[k], lost[k] = plus(cell, value, like.dtype)
        first += stride
    while width > kept:
        width //= 2
        for k in range(width):
            total[k], compensation[k], lost[k] = together(
                (total[k], compensation[k], lost[k]), (total[width + k], compensation[width + k], lost[width + k])
            )
    for k in range(kept):
        sums[0, job[OUT] + k], sums[1, job[OUT] + k], sums[2, job[OUT] + k] = total[k], compensation[k], lost[k]


def processed(address, index, factor, most, dtype):
    """An element of a gradient after scale and clipping, which do nothing by 1 and infinity."""
    g = load((address,), index, dtype)[0]
    g = scale(g, g, factor)[1]
    return np.float64(clip(g, g, most)[1])


def plus(cell, value, dtype):
    """A sum of elements with one more."""
    if np.finfo(dtype).bits == 32:  # decided when it is compiled
        total, compensation, lost = cell
        return total + value, compensation, lost + abs(value)
    return plus_exactly(cell, value)


def plus_four(cell, one, two, three, four, dtype):
    """A sum of elements with four more; together first, so that fewer are added one after the other."""
    if np.finfo(dtype).bits == 32:
        total, compensation, lost = cell
        more = (abs(one) + abs(two)) + (abs(three) + abs(four))
        return total + ((one + two) + (three + four)), compensation, lost + more
    return plus_exactly(plus_exactly(plus_exactly(plus_exactly(cell, one), two), three), four)


def plus_exactly(cell, value):
    """A sum with one number more, and with what rounding takes from it."""
    total, compensation, lost = cell
    new = total + value
    part = new - total
    error = (total - (new - part)) + (value - part)
    return new, compensation + error, lost + abs(error)


def together(one, other):
    """The sum of two sums."""
    total, compensation, lost = plus_exactly(one, other[0])
    return total, compensation + other[1], lost + other[2]


def divide(number, matrix, sums, means, doubtful, count):
    """Writes the means of a matrix; notes those that are not certain behind the `count` that there are, and counts."""
    columns, rows, first, at = matrix[COLUMNS], matrix[COUNT], matrix[FIRST], matrix[MEANS]
    total, compensation, lost = sums[0], sums[1], sums[2]
    chunks = matrix[CHUNKS]
    # Of fewer than so many additions one after the other each takes at most half of eps of what was added up.
    additions = (rows // (chunks - 1) if chunks > 1 else rows) // (4 if means.itemsize == 4 else 1) + chunks + 64
    for begin in range(first + columns, first + columns * matrix[CHUNKS], columns):
        for k in range(columns):
            one, other = first + k, begin + k
            total[one], compensation[one], lost[one] = together(
                (total[one], compensation[one], lost[one]), (total[other], compensation[other], lost[other])
            )
    for k in range(columns):
        error = lost[first + k] * additions * (np.finfo(np.float64).eps / 2)
        mean = means.dtype.type((total[first + k] + (compensation[first + k] - error)) / rows)
        if mean != means.dtype.type((total[first + k] + (compensation[first + k] + error)) / rows):  # also after NaN
            if means.itemsize == 4 and not abs(total[first + k]) < np.inf:
                mean = means.dtype.type(total[first + k])  # no sum of float32 is too large for a float64
            else:
                doubtful[count, 0], doubtful[count, 1] = number, k
                count += 1
        for copy in range(matrix[COPIES]):
            means[at + copy * columns + k] = mean
    return count


def write_exactly(matrix: Any, column: int, table: Any, scalars: Any, places: Any, means: Any) -> None:
    """The mean of one column, in Python."""
    rows, columns, size = (int(matrix[field]) for field in (COUNT, COLUMNS, COPIES))
    memory = ctypes.c_float if means.dtype == np.float32 else ctypes.c_double
    address = int(table[matrix[ROW], 1]) + means.itemsize * int(matrix[BEGIN])
    gradient = np.ctypeslib.as_array((memory * (rows * columns)).from_address(address))[column::columns]
    factor, most = (
        means.dtype.type(without if place < 0 else scalars[matrix[PART], place])
        for place, without in zip(places, (1.0, math.inf), strict=True)
    )
    with np.errstate(all="ignore"):
        g = scale(None, gradient, factor)[1]
        g = np.where(g < -most, -most, np.where(g > most, most, g))  # `clip`
        means[matrix[MEANS] : matrix[MEANS] + size * columns][column::columns] = exact_mean(g.astype(np.float64))


def exact_mean(values: Any) -> float:
    """The float64 nearest to the sum, by the count; infinite or NaN where values are."""
    nonfinite = values[~np.isfinite(values)]
    if len(nonfinite):
        return float(nonfinite.sum())
    try:
        total = math.fsum(values)
    except OverflowError:  # of a partial sum
        total = math.fsum(values * 2.0**-64) * 2.0**64
    return total / len(values)
