"""Shampoo (Gupta, Koren and Singer, ICML 2018, arXiv:1802.09568, Algorithms 1 and 2): a preconditioner by dimension.

    L_t = L_{t-1} + g_t g_t^T,  L_0 = eps I
    R_t = R_{t-1} + g_t^T g_t,  R_0 = eps I
    u_t = L_t^(-1/4) g_t R_t^(-1/4)
    m_t = momentum m_{t-1} + u_t
    p_t = p_{t-1} - lr m_t

An array of k dimensions has k matrices, each to the power -1 / 2k; of vectors and of dimensions beyond
`modes.LARGEST` the diagonal.

State: m, and u, what the last gradient was made into; of each array the matrices and their roots.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from fastopt.kernels import modes
from fastopt.kernels.rule import Factors, Rule


def shampoo_direction(p, g, m, u, momentum, step_size):
    return g


def shampoo(p, g, m, u, momentum, step_size):
    m = momentum * m + u
    return p - step_size * m, m, u


def precondition(u: Any, factors: Factors, decay_rate: float, eps: float, renew: bool) -> Factors:
    """Makes the update of a gradient, in place; returns the new factors.

    renew : whether the roots of matrices are computed anew, as those of diagonals always are
    """
    x, new = u.reshape(u.shape or (1,)), {}
    for axis, length in enumerate(x.shape):
        sums = modes.products(x, axis)
        start = eps * (np.eye(length, dtype=u.dtype) if sums.ndim == 2 else np.ones(length, u.dtype))
        before = factors.get(f"sums_{axis}", start)
        weight = 1.0 if decay_rate == 1 else 1 - decay_rate
        new[f"sums_{axis}"] = decay_rate * before + weight * sums
    for axis in range(x.ndim):
        name = f"root_{axis}"
        sums = new[f"sums_{axis}"]
        anew = renew or sums.ndim == 1 or name not in factors
        new[name] = modes.inverse_root(sums, 2 * x.ndim, eps) if anew else factors[name]
        root = new[name]
        x = modes.along(x, axis, root) if root.ndim == 2 else np.moveaxis(np.moveaxis(x, axis, -1) * root, -1, axis)
    u[...] = x.reshape(u.shape)
    return new


def shampoo_factors(shape: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
    shape = shape or (1,)
    shapes = [(length, length) if modes.has_matrix(shape, axis) else (length,) for axis, length in enumerate(shape)]
    return {f"{name}_{axis}": of_axis for name in ("sums", "root") for axis, of_axis in enumerate(shapes)}


SHAMPOO = Rule(shampoo, state=("m", "u"), prepare=shampoo_direction, factors=shampoo_factors)
