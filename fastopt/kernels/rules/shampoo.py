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

import math
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

    renew : whether the roots of matrices are computed anew, as those of diagonals always are; so they are too where the
        update by those of earlier sums is longer than any by those of today's
    """
    x, new = u.reshape(u.shape or (1,)), {}
    weight = 1.0 if decay_rate == 1 else 1 - decay_rate
    for axis, length in enumerate(x.shape):
        sums = modes.products(x, axis)
        start = eps * (np.eye(length, dtype=u.dtype) if sums.ndim == 2 else np.ones(length, u.dtype))
        before = factors.get(f"sums_{axis}", start)
        new[f"sums_{axis}"] = decay_rate * before + weight * sums
    kept = {} if renew else {name: factors[name] for name in matrix_roots(x) if name in factors}
    made = multiplied(x, new, kept, eps)
    most = math.prod(x.shape) ** (1 / x.ndim) / weight  # of updates by the roots of these sums, by Lemma 8
    if kept and not np.square(np.ascontiguousarray(made), dtype=np.float64).sum() <= most:
        made = multiplied(x, new, {}, eps)
    x = made
    u[...] = x.reshape(u.shape)
    return new


def matrix_roots(x: Any) -> list[str]:
    """The names of the roots that are not computed anew at each step: those of matrices."""
    return [f"root_{axis}" for axis in range(x.ndim) if modes.has_matrix(x.shape, axis)]


def multiplied(x: Any, new: dict[str, Any], kept: dict[str, Any], eps: float) -> Any:
    """A gradient times the roots of the sums among the new factors, which gain them, or those that are kept."""
    order = x.ndim
    for axis in range(order):
        name, sums = f"root_{axis}", new[f"sums_{axis}"]
        new[name] = root = kept[name] if name in kept else modes.inverse_root(sums, 2 * order, eps)
        x = modes.along(x, axis, root) if root.ndim == 2 else np.moveaxis(np.moveaxis(x, axis, -1) * root, -1, axis)
    return x


def shampoo_factors(shape: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
    shape = shape or (1,)
    shapes = [(length, length) if modes.has_matrix(shape, axis) else (length,) for axis, length in enumerate(shape)]
    return {f"{name}_{axis}": of_axis for name in ("sums", "root") for axis, of_axis in enumerate(shapes)}


SHAMPOO = Rule(shampoo, state=("m", "u"), prepare=shampoo_direction, factors=shampoo_factors)
