"""Optimizers that take each array as a matrix, in plain NumPy."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import cast

import numpy as np

from fastopt.reference.base import Array, Reference

__all__ = ["Adafactor", "Muon"]


# Amsel et al., arXiv:2505.16932, with their margin of 1 percent.
POLAR_EXPRESS = [
    (a / 1.01, b / 1.01**3, c / 1.01**5)
    for a, b, c in [
        (8.28721201814563, -23.595886519098837, 17.300387312530933),
        (4.107059111542203, -2.9478499167379106, 0.5448431082926601),
        (3.9486908534822946, -2.908902115962949, 0.5518191394370137),
        (3.3184196573706015, -2.488488024314874, 0.51004894012372),
        (2.300652019954817, -1.6689039845747493, 0.4188073119525673),
    ]
]


@dataclass(eq=False)
class Adafactor(Reference):
    lr: float = 0.01
    decay_exponent: float = 0.8
    clip_threshold: float = 1.0
    eps: float = 1e-30
    min_scale: float = 0.001
    relative: bool = True
    beta1: float = 0.0
    decoupled: bool = field(default=True, kw_only=True, repr=False)
    slots = ("u",)
    by_array = True
    size = cast("float | None", None)  # that of the parameters before decay

    def step(self, p: Array, g: Array, u: Array) -> None:  # type: ignore[override]
        rows, columns = (len(p), math.prod(p.shape[1:])) if p.ndim > 1 else (1, p.size)
        x = np.ascontiguousarray(g).reshape(rows, columns)
        squares = np.square(x, dtype=np.float64)
        if p.ndim > 1:
            r = self.moved("row_squares", squares.sum(axis=1) / max(columns, 1) + self.eps, p)
            c = self.moved("column_squares", squares.sum(axis=0) / max(rows, 1) + self.eps, p)
            mean = p.dtype.type(r.sum(dtype=np.float64) / max(rows, 1))
            x = x * (1 / np.sqrt(r / mean))[:, None] * (1 / np.sqrt(c))
        else:
            x = x / np.sqrt(self.moved("squares", squares[0] + self.eps, p))
        x = x / max(1.0, root_mean_square(x) / self.clip_threshold)
        if self.relative:
            x *= max(self.min_scale, root_mean_square(p) if self.size is None else self.size)
        update = x.reshape(u.shape)
        u[...] = u + (1 - self.beta1) * (update - u) if self.beta1 else update
        p -= self.lr * u
        if not self.beta1:
            u[...] = 0

    def _decayed(self, p: Array, g: Array) -> Array:
        self.size = root_mean_square(p)
        return super()._decayed(p, g)

    def moved(self, name: str, mean: Array, p: Array) -> Array:
        """A factor, after it has moved towards a mean."""
        v = self.factors.setdefault(name, np.zeros(mean.shape, p.dtype))
        v += self.iter**-self.decay_exponent * (mean.astype(p.dtype) - v)
        return v


def root_mean_square(x: Array) -> float:
    """By the sums of squares of rows, which are added up."""
    rows = np.ascontiguousarray(x).reshape((len(x), math.prod(x.shape[1:])) if x.ndim > 1 else (1, x.size))
    return math.sqrt(np.square(rows, dtype=np.float64).sum(axis=1).sum() / max(x.size, 1))


@dataclass(eq=False)
class Muon(Reference):
    lr: float = 0.001
    momentum: float = 0.95
    adjust: str = "original"
    coefficients: str = field(default="original", kw_only=True, repr=False)
    normalize_rows: bool = field(default=False, kw_only=True, repr=False)
    beta2: float = field(default=0.95, kw_only=True, repr=False)
    weight_decay: float = field(default=0.1, kw_only=True, repr=False)
    decoupled: bool = field(default=True, kw_only=True, repr=False)
    slots = ("m", "o")
    by_array = True

    def step(self, p: Array, g: Array, m: Array, o: Array) -> None:  # type: ignore[override]
        m *= self.momentum
        m += g
        rows, columns = (len(p), math.prod(p.shape[1:])) if p.ndim > 1 else (1, p.size)
        x = np.ascontiguousarray(g + self.momentum * m).reshape(rows, columns)
        x = x.T if rows > columns else x
        if np.isinf(np.square(x, dtype=np.float64).sum()) and np.isfinite(x).all():
            x = x * 2.0**-600
        is_polar = self.coefficients == "polar_express"
        x = x / (max(math.sqrt(np.square(x, dtype=np.float64).sum()), 1e-7) * (1.01 if is_polar else 1.0))
        for a, b, c in POLAR_EXPRESS if is_polar else [(3.4445, -4.775, 2.0315)] * 5:
            square = x @ x.T
            x = a * x + (b * square + c * (square @ square)) @ x
        x = np.ascontiguousarray(x.T if rows > columns else x)
        if self.normalize_rows:
            squares = np.square(x, dtype=np.float64)
            v = self.factors.setdefault("row_squares", np.zeros(rows, o.dtype))
            v += (1 - self.beta2) * ((squares.sum(axis=1) / max(columns, 1)).astype(o.dtype) - v)
            x = x / (np.sqrt(v)[:, None] + 1e-10)
            x *= math.sqrt(squares.sum()) / (math.sqrt(np.square(x, dtype=np.float64).sum()) + 1e-10)
        o[...] = x.reshape(o.shape)
        o *= (
            math.sqrt(max(1.0, rows / max(columns, 1)))
            if self.adjust == "original"
            else 0.2 * math.sqrt(max(rows, columns))
        )
        p -= self.lr * o
