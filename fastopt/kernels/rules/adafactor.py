"""Adafactor (Shazeer and Stern, ICML 2018, arXiv:1804.04235, Algorithms 4 and 5): second moments by row and column.

    R_t = beta2_t R_{t-1} + (1 - beta2_t) mean over columns of (g_t^2 + eps),  beta2_t = 1 - t^-decay_exponent
    C_t = beta2_t C_{t-1} + (1 - beta2_t) mean over rows of (g_t^2 + eps)
    u_t = g_t / sqrt(R_t C_t / mean(R_t)),  divided by max(1, rms(u_t) / clip_threshold)
    p_t = p_{t-1} - lr max(min_scale, rms(p_{t-1})) u_t

State: u, room for the update, or a running mean of updates; of each matrix R and C, of a vector its second moments.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from fastopt.kernels.rule import Factors, Rule
from fastopt.kernels.rules.muon import matrix_shape


def adafactor_direction(p, g, u, step_size):
    return g


def adafactor(p, g, u, step_size):
    return p - step_size * u, u


BLOCK = 1 << 15
"""Elements that are worked on at a time, so that their squares stay in a core's cache."""


def blocks(x: Any) -> Iterator[Any]:
    """A matrix in blocks of rows; one of a single column, whose elements NumPy adds up in another order, as a whole."""
    rows, columns = x.shape
    step = max(1, BLOCK // columns) if columns > 1 else max(1, rows)
    for first in range(0, rows, step):
        yield slice(first, first + step)


def sum_of_squares(x: Any) -> float:
    """The sum of squares of a matrix: of its rows, and then of these sums."""
    sums = np.zeros(len(x))
    for block in blocks(x):
        sums[block] = np.square(x[block], dtype=np.float64).sum(axis=1)
    return float(sums.sum())


def matrix_of(x: Any) -> Any:
    """An array as a matrix whose rows lie one after the other, of an array in C order a view."""
    return np.ascontiguousarray(x).reshape(matrix_shape(x.shape))


def rms(x: Any) -> float:
    """The root of the mean of squares."""
    return math.sqrt(sum_of_squares(matrix_of(x)) / max(x.size, 1))


def means_of_squares(x: Any) -> tuple[Any, Any]:
    """The means of the squares of the rows and of the columns of a matrix, in float64."""
    (rows, columns), of_rows = x.shape, np.zeros(len(x))
    of_columns = np.zeros(columns)
    for block in blocks(x):
        squares = np.empty((len(x[block]) + 1, columns))
        squares[0] = of_columns
        np.square(x[block], dtype=np.float64, out=squares[1:])
        of_rows[block] = squares[1:].sum(axis=1)
        of_columns = squares.sum(axis=0)  # row after row, so the same as of all rows at once
    return of_rows / max(columns, 1), of_columns / max(rows, 1)


def factored(u: Any, factors: Factors, share: float, eps: float, clip_threshold: float, size: float) -> Factors:
    """Makes the update of a gradient, in place; returns the new factors.

    share : of their new values, 1 - beta2_t
    size : by which the update is multiplied
    """
    x = matrix_of(u)
    if u.ndim < 2:
        means = {"squares": np.square(x[0], dtype=np.float64) + eps}
    else:
        of_rows, of_columns = means_of_squares(x)
        means = {"row_squares": of_rows + eps, "column_squares": of_columns + eps}
    new = {}
    for name, mean in means.items():
        before = factors.get(name, np.zeros(mean.shape, u.dtype))
        new[name] = before + share * (mean.astype(u.dtype) - before)
    if u.ndim < 2:
        x /= np.sqrt(new["squares"])
    else:
        spread = new["row_squares"].sum(dtype=np.float64) / max(len(x), 1)
        by_row = (1 / np.sqrt(new["row_squares"] / u.dtype.type(spread)))[:, None]
        by_column = 1 / np.sqrt(new["column_squares"])
        for block in blocks(x):
            x[block] *= by_row[block]
            x[block] *= by_column
    divisor = max(1.0, math.sqrt(sum_of_squares(x) / max(x.size, 1)) / clip_threshold)
    for block in blocks(x):
        x[block] /= divisor
        x[block] *= size
    if not np.may_share_memory(x, u):
        u[...] = x.reshape(u.shape)
    return new


def adafactor_factors(shape: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
    rows, columns = matrix_shape(shape)
    return {"squares": (columns,)} if len(shape) < 2 else {"row_squares": (rows,), "column_squares": (columns,)}


ADAFACTOR = Rule(adafactor, state=("u",), prepare=adafactor_direction, factors=adafactor_factors)
