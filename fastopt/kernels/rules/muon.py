"""Muon (Jordan et al., 2024, https://kellerjordan.github.io/posts/muon/): momentum, made orthogonal, for matrices.

    m_t = momentum m_{t-1} + g_t
    u_t = g_t + momentum m_t
    o_t = u_t made nearly orthogonal, by five steps of Newton and Schulz
    p_t = p_{t-1} - step_size o_t

With normalize_rows o goes through NorMuon (Li et al., 2025, arXiv:2510.05491), for each row i of k columns:

    v_i = v_i + (1 - beta2) (sum_j o_ij^2 / k - v_i)
    o_ij = o_ij / sqrt(v_i) |o| / |o / sqrt(v)|

State: m, and o, which is what the last step was made along. step_size is lr by what its shape makes of it.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from fastopt.kernels.rule import Factors, Rule

SAFETY = 1.01
"""Of the Polar Express: what rounding may make of a singular value of 1."""

_POLAR_EXPRESS = (
    (8.28721201814563, -23.595886519098837, 17.300387312530933),
    (4.107059111542203, -2.9478499167379106, 0.5448431082926601),
    (3.9486908534822946, -2.908902115962949, 0.5518191394370137),
    (3.3184196573706015, -2.488488024314874, 0.51004894012372),
    (2.300652019954817, -1.6689039845747493, 0.4188073119525673),
)

COEFFICIENTS: dict[str, tuple[tuple[float, float, float], ...]] = {
    "original": ((3.4445, -4.775, 2.0315),) * 5,
    "polar_express": tuple([(a / SAFETY, b / SAFETY**3, c / SAFETY**5) for a, b, c in _POLAR_EXPRESS]),
}
"""Of the polynomials a x + b x^3 + c x^5, which bring singular values in (0, 1] to about 1 in five steps. Those of the
Polar Express (Amsel et al., 2025, arXiv:2505.16932, Algorithm 2) are each the best for what the one before makes of
values from 0.001 on."""

SMALLEST_NORM = 1e-7
SMALLEST_ROOT = 1e-10  # of NorMuon, added to what it divides by
DOWN = 2.0**-600  # of numbers whose squares overflow


def muon_direction(p, g, m, o, momentum, step_size):
    return g + momentum * (momentum * m + g)  # u_t


def muon(p, g, m, o, momentum, step_size):
    return p - step_size * o, momentum * m + g, o


def matrix_shape(shape: tuple[int, ...]) -> tuple[int, int]:
    """Rows and columns of an array as a matrix: its first dimension by the others; a vector is one row."""
    return (shape[0], math.prod(shape[1:])) if len(shape) > 1 else (1, math.prod(shape))


def orthogonalise(u: Any, coefficients: str = "original") -> None:
    """Makes an array, as a matrix, nearly orthogonal, in place; by which of `COEFFICIENTS`."""
    rows, columns = matrix_shape(u.shape)
    x = np.ascontiguousarray(u).reshape(rows, columns)
    x = x.T if rows > columns else x
    with np.errstate(all="ignore"):  # NaN and infinity go through
        squares = np.square(x, dtype=np.float64).sum()
        if squares == np.inf and np.isfinite(x).all():
            x = x * DOWN
            squares = np.square(x).sum()
        largest = max(math.sqrt(squares), SMALLEST_NORM)
        x = x / (largest * SAFETY if coefficients == "polar_express" else largest)
        for a, b, c in COEFFICIENTS[coefficients]:
            square = x @ x.T
            x = a * x + (b * square + c * (square @ square)) @ x
    u[...] = (x.T if rows > columns else x).reshape(u.shape)


def normalise_rows(o: Any, factors: Factors, beta2: float) -> Factors:
    """Divides the rows of an array, as a matrix, by the root of a running mean of their squares, in place (NorMuon).

    The norm of the whole stays. Returns the new factors.
    """
    rows, columns = matrix_shape(o.shape)
    before = factors["row_squares"] if "row_squares" in factors else np.zeros(rows, o.dtype)
    x = np.ascontiguousarray(o).reshape(rows, columns)
    squares = np.square(x, dtype=np.float64)
    v = before + (1 - beta2) * ((squares.sum(axis=1) / max(columns, 1)).astype(o.dtype) - before)
    x = x / (np.sqrt(v)[:, None] + SMALLEST_ROOT)
    x *= math.sqrt(squares.sum()) / (math.sqrt(np.square(x, dtype=np.float64).sum()) + SMALLEST_ROOT)
    o[...] = x.reshape(o.shape)
    return {"row_squares": v}


def muon_factors(shape: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
    return {"row_squares": matrix_shape(shape)[:1]}


MUON = Rule(muon, state=("m", "o"), prepare=muon_direction, factors=muon_factors)
