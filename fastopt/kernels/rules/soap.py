"""SOAP (Vyas et al., ICLR 2025, arXiv:2409.11321, Algorithm 3): Adam in the eigenbasis of Shampoo's preconditioner.

    m_t = beta1 m_{t-1} + (1 - beta1) g_t
    v_t = beta2 v_{t-1} + (1 - beta2) (Q_L^T g_t Q_R)^2
    u_t = Q_L (Q_L^T m_t Q_R / (sqrt(v_t) + eps)) Q_R^T sqrt(1 - beta2^t) / (1 - beta1^t)
    p_t = p_{t-1} - lr u_t
    L_t = beta2 L_{t-1} + (1 - beta2) g_t g_t^T,  R_t = beta2 R_{t-1} + (1 - beta2) g_t^T g_t

Every some steps Q_L and Q_R follow the eigenvectors of L and R, by a step of power iteration and QR. The first gradient
makes L, R, Q_L and Q_R only.

State: u, which the last step was made along; of each array m, v, and of its dimensions the matrices and bases.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from fastopt.kernels import modes
from fastopt.kernels.rule import Factors, Rule


def soap_direction(p, g, u, step_size):
    return g


def soap(p, g, u, step_size):
    return p - step_size * u, u


def rotated(x: Any, factors: Any, back: bool = False) -> Any:
    """An array in the bases of its dimensions, or from these back."""
    for axis in range(x.ndim):
        if modes.has_matrix(x.shape, axis):
            basis = factors[f"basis_{axis}"]
            x = modes.along(x, axis, basis if back else basis.T)
    return x


def adam_in_eigenbasis(
    u: Any, factors: Factors, step: int, beta1: float, beta2: float, eps: float, every: int
) -> Factors:
    """Makes the update of a gradient, in place; returns the new factors."""
    g, new = u.copy().reshape(u.shape or (1,)), dict(factors)
    axes = [axis for axis in range(g.ndim) if modes.has_matrix(g.shape, axis)]
    if not factors:
        new |= {"m": np.zeros_like(g), "v": np.zeros_like(g)}
        for axis in axes:
            new[f"sums_{axis}"] = (1 - beta2) * modes.products(g, axis)
            new[f"basis_{axis}"] = modes.first_basis(new[f"sums_{axis}"])
        u *= 0  # NaN stays
        return new
    steps = max(1, step - 1)
    new["m"] = factors["m"] + (1 - beta1) * (g - factors["m"])
    new["v"] = factors["v"] + (1 - beta2) * (np.square(rotated(g, factors)) - factors["v"])
    scaled = rotated(new["m"], factors) / (np.sqrt(new["v"]) + eps)
    u[...] = rotated(scaled, factors, back=True).reshape(u.shape)
    u *= math.sqrt(1 - beta2**steps) / (1 - beta1**steps)
    for axis in axes:
        before = factors[f"sums_{axis}"]
        new[f"sums_{axis}"] = sums = before + (1 - beta2) * (modes.products(g, axis) - before)
        if steps % every == 0:
            new[f"basis_{axis}"], order = modes.next_basis(sums, factors[f"basis_{axis}"])
            new["v"] = np.take(new["v"], order, axis=axis)
    return new


def soap_factors(shape: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
    shape = shape or (1,)
    axes = [axis for axis in range(len(shape)) if modes.has_matrix(shape, axis)]
    matrices = {f"{name}_{axis}": (shape[axis], shape[axis]) for name in ("sums", "basis") for axis in axes}
    return {"m": shape, "v": shape, **matrices}


SOAP = Rule(soap, state=("u",), prepare=soap_direction, factors=soap_factors)
