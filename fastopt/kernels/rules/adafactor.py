"""Adafactor (Shazeer and Stern, ICML 2018, arXiv:1804.04235, Algorithms 4 and 5): second moments by row and column.

    R_t = beta2_t R_{t-1} + (1 - beta2_t) mean over columns of (g_t^2 + eps),  beta2_t = 1 - t^-decay_exponent
    C_t = beta2_t C_{t-1} + (1 - beta2_t) mean over rows of (g_t^2 + eps)
    u_t = g_t / sqrt(R_t C_t / mean(R_t)),  divided by max(1, rms(u_t) / clip_threshold)
    p_t = p_{t-1} - lr max(min_scale, rms(p_{t-1})) u_t

State: u, which the last step was made along; of each matrix R and C, of a vector its second moments.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from fastopt.kernels.rule import Factors, Rule
from fastopt.kernels.rules.muon import matrix_shape


def adafactor_direction(p, g, u, step_size):
    return g


def adafactor(p, g, u, step_size):
    return p - step_size * u, u


def rms(x: Any) -> float:
    """The root of the mean of squares."""
    return math.sqrt(np.square(x, dtype=np.float64).sum() / max(x.size, 1))


def factored(u: Any, factors: Factors, share: float, eps: float, clip_threshold: float) -> Factors:
    """Makes the update of a gradient, in place; returns the new factors.

    share : of their new values, 1 - beta2_t
    """
    rows, columns = matrix_shape(u.shape)
    x = np.ascontiguousarray(u).reshape(rows, columns)
    squares = np.square(x, dtype=np.float64)
    if u.ndim < 2:
        means = {"squares": squares[0] + eps}
    else:
        means = {
            "row_squares": squares.sum(axis=1) / max(columns, 1) + eps,
            "column_squares": squares.sum(axis=0) / max(rows, 1) + eps,
        }
    new = {}
    for name, mean in means.items():
        before = factors.get(name, np.zeros(mean.shape, u.dtype))
        new[name] = before + share * (mean.astype(u.dtype) - before)
    if u.ndim < 2:
        x /= np.sqrt(new["squares"])
    else:
        spread = new["row_squares"].sum(dtype=np.float64) / max(rows, 1)
        x *= (1 / np.sqrt(new["row_squares"] / u.dtype.type(spread)))[:, None]
        x *= 1 / np.sqrt(new["column_squares"])
    x /= max(1.0, rms(x) / clip_threshold)
    if not np.may_share_memory(x, u):
        u[...] = x.reshape(u.shape)
    return new


def adafactor_factors(shape: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
    rows, columns = matrix_shape(shape)
    return {"squares": (columns,)} if len(shape) < 2 else {"row_squares": (rows,), "column_squares": (columns,)}


ADAFACTOR = Rule(adafactor, state=("u",), prepare=adafactor_direction, factors=adafactor_factors)
