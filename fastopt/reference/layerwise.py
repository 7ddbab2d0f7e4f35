"""Optimizers whose steps depend on norms of each array, in plain NumPy."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from fastopt.reference.base import Array, Reference

__all__ = ["LAMB", "LARS", "MARS", "Muon", "NovoGrad", "StableAdamW"]


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
class LARS(Reference):
    lr: float = 0.1
    momentum: float = 0.9
    trust_coefficient: float = 0.001
    eps: float = 0.0
    slots = ("v",)
    by_array = True

    def step(self, p: Array, g: Array, v: Array) -> None:  # type: ignore[override]
        ratio, p_norm, g_norm = self.lr, self.norm(p), self.norm(g)
        if p_norm and g_norm:
            ratio = self.lr * self.trust_coefficient * p_norm / (g_norm + self.eps)
        v *= self.momentum
        v += ratio * g
        p -= v


@dataclass(eq=False)
class LAMB(Reference):
    lr: float = 0.001
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-6
    decoupled: bool = field(default=True, kw_only=True, repr=False)
    slots = ("m", "v")
    by_array = True
    decays_itself = True

    def step(self, p: Array, g: Array, m: Array, v: Array) -> None:  # type: ignore[override]
        root = math.sqrt(1.0 - self.beta2**self.iter)
        m += (1 - self.beta1) * (g - m)
        v += (1 - self.beta2) * (g * g - v)
        decay = self.weight_decay if self.decoupled else 0.0
        u = root / (1.0 - self.beta1**self.iter) * m / (np.sqrt(v) + self.eps * root) + decay * p
        p_norm, u_norm = self.norm(p), self.norm(u)
        p -= (self.lr * p_norm / u_norm if p_norm and u_norm else self.lr) * u


@dataclass(eq=False)
class StableAdamW(Reference):
    lr: float = 0.001
    beta1: float = 0.9
    beta2: float = 0.99
    eps: float = 1e-6
    weight_decay: float = field(default=0.01, kw_only=True, repr=False)
    decoupled: bool = field(default=True, kw_only=True, repr=False)
    slots = ("m", "v")
    by_array = True
    decays_itself = True

    def step(self, p: Array, g: Array, m: Array, v: Array) -> None:  # type: ignore[override]
        root = math.sqrt(1.0 - self.beta2**self.iter)
        eps = self.eps * root
        m += (1 - self.beta1) * (g - m)
        v += (1 - self.beta2) * (g * g - v)
        spread = np.sqrt(v)
        ratio = root * g / np.where(spread > eps, spread, np.asarray(eps, p.dtype))
        mean = self.norm(ratio) / math.sqrt(max(p.size, 1))
        decay = self.weight_decay if self.decoupled else 0.0
        update = root / (1.0 - self.beta1**self.iter) * m / (spread + eps) + decay * p
        p -= (self.lr / mean if mean > 1 else self.lr) * update


@dataclass(eq=False)
class MARS(Reference):
    lr: float = 0.003
    beta1: float = 0.95
    beta2: float = 0.99
    gamma: float = 0.025
    eps: float = 1e-8
    decoupled: bool = field(default=True, kw_only=True, repr=False)
    slots = ("m", "v", "previous")
    by_array = True

    def step(self, p: Array, g: Array, m: Array, v: Array, previous: Array) -> None:  # type: ignore[override]
        root = math.sqrt(1.0 - self.beta2**self.iter)
        gain = self.gamma * self.beta1 / (1 - self.beta1) if self.iter > 1 else 0.0
        c = g + gain * (g - previous)
        norm = self.norm(c)
        c = (1 / norm if norm > 1 else 1.0) * c
        m += (1 - self.beta1) * (c - m)
        v += (1 - self.beta2) * (c * c - v)
        p -= self.lr * root / (1.0 - self.beta1**self.iter) * m / (np.sqrt(v) + self.eps * root)
        previous[...] = g


@dataclass(eq=False)
class NovoGrad(Reference):
    lr: float = 0.001
    beta1: float = 0.9
    beta2: float = 0.25
    eps: float = 1e-6
    decoupled: bool = field(default=True, kw_only=True, repr=False)
    slots = ("m", "v")
    by_array = True
    decays_itself = True

    def step(self, p: Array, g: Array, m: Array, v: Array) -> None:  # type: ignore[override]
        g_norm = self.norm(g)
        v += (1.0 if self.iter == 1 else 1 - self.beta2) * (np.asarray(g_norm * g_norm, p.dtype) - v)
        m *= self.beta1
        m += g / (np.sqrt(v) + self.eps) + (self.weight_decay if self.decoupled else 0.0) * p
        p -= self.lr * m


@dataclass(eq=False)
class Muon(Reference):
    lr: float = 0.001
    momentum: float = 0.95
    adjust: str = "original"
    coefficients: str = field(default="original", kw_only=True, repr=False)
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
        o[...] = (x.T if rows > columns else x).reshape(o.shape)
        o *= (
            math.sqrt(max(1.0, rows / max(columns, 1)))
            if self.adjust == "original"
            else 0.2 * math.sqrt(max(rows, columns))
        )
        p -= self.lr * o
