"""Muon (Jordan et al., 2024, https://kellerjordan.github.io/posts/muon/): momentum, made orthogonal, for matrices.

    m_t = momentum m_{t-1} + g_t
    u_t = g_t + momentum m_t
    o_t = u_t made nearly orthogonal, by five steps of Newton and Schulz
    p_t = p_{t-1} - step_size o_t

State: m, and o, which is what the last step was made along. step_size is lr by what its shape makes of it.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from fastopt.kernels.rule import Rule

# Of the polynomial a x + b x^3 + c x^5, which brings singular values in (0, 1] to about 1 in five steps.
A, B, C = 3.4445, -4.775, 2.0315
STEPS = 5
SMALLEST_NORM = 1e-7
DOWN = 2.0**-600  # of numbers whose squares overflow


def muon_direction(p, g, m, o, momentum, step_size):
    return g + momentum * (momentum * m + g)  # u_t


def muon(p, g, m, o, momentum, step_size):
    return p - step_size * o, momentum * m + g, o


def matrix_shape(shape: tuple[int, ...]) -> tuple[int, int]:
    """Rows and columns of an array as a matrix: its first dimension by the others; a vector is one row."""
    return (shape[0], math.prod(shape[1:])) if len(shape) > 1 else (1, math.prod(shape))


def orthogonalise(u: Any) -> None:
    """Makes an array, as a matrix, nearly orthogonal, in place."""
    rows, columns = matrix_shape(u.shape)
    x = np.ascontiguousarray(u).reshape(rows, columns)
    x = x.T if rows > columns else x
    with np.errstate(all="ignore"):  # NaN and infinity go through
        squares = np.square(x, dtype=np.float64).sum()
        if squares == np.inf and np.isfinite(x).all():
            x = x * DOWN
            squares = np.square(x).sum()
        x = x / max(math.sqrt(squares), SMALLEST_NORM)
        for _ in range(STEPS):
            square = x @ x.T
            x = A * x + (B * square + C * (square @ square)) @ x
    u[...] = (x.T if rows > columns else x).reshape(u.shape)


MUON = Rule(muon, state=("m", "o"), prepare=muon_direction)
