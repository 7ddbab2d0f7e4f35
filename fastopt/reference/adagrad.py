"""AdaGrad and its kin, in plain NumPy."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from fastopt.reference.base import Array, Reference

__all__ = ["AdaGrad", "Adadelta", "CentredRMSProp", "RMSProp", "RMSPropMomentum", "RMSprop"]


@dataclass(eq=False)
class AdaGrad(Reference):
    lr: float = 0.01
    eps: float = None  # type: ignore[assignment]
    initial_accumulator: float = 0.0
    lr_decay: float = 0.0
    eps_root: float = field(default=0.0, kw_only=True, repr=False)
    slots = ("h",)
    unsigned = ("h",)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.eps is None:
            self.eps = 0.0 if self.eps_root else 1e-7

    def start_values(self) -> dict[str, float]:
        return {"h": self.initial_accumulator}

    def effective_lr(self) -> float:
        return self.lr / (1 + (self.iter - 1) * self.lr_decay)

    def metric(self, h: Array) -> Array:  # type: ignore[override]
        return np.sqrt(h + self.eps_root) + self.eps

    def step(self, p: Array, g: Array, h: Array) -> None:  # type: ignore[override]
        h += self.squared(g)
        p -= self.lr / (1 + (self.iter - 1) * self.lr_decay) * g / (np.sqrt(h + self.eps_root) + self.eps)


@dataclass(eq=False)
class RMSProp(Reference):
    lr: float = 0.01
    decay_rate: float = 0.99
    eps: float = None  # type: ignore[assignment]
    eps_root: float = 0.0
    initial_accumulator: float = field(default=0.0, kw_only=True, repr=False)
    slots: ClassVar[tuple[str, ...]] = ("h",)
    unsigned: ClassVar[tuple[str, ...]] = ("h",)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.eps is None:
            self.eps = 0.0 if self.eps_root else 1e-7

    def start_values(self) -> dict[str, float]:
        return {"h": self.initial_accumulator}

    def effective_lr(self) -> float:
        return self.lr

    def metric(self, h: Array) -> Array:  # type: ignore[override]
        return np.sqrt(h + self.eps_root) + self.eps

    def step(self, p: Array, g: Array, h: Array) -> None:  # type: ignore[override]
        h *= self.decay_rate
        h += self.product((1 - self.decay_rate) * g, g)
        if self.eps_root:
            p -= self.lr * g / (np.sqrt(h + self.eps_root) + self.eps)
        else:
            p -= self.lr * g / (np.sqrt(h) + self.eps)


RMSprop = RMSProp


@dataclass(eq=False)
class RMSPropMomentum(RMSProp):
    momentum: float = 0.9
    lr_in_velocity: bool = field(default=False, kw_only=True, repr=False)
    slots = ("h", "v")

    def effective_lr(self) -> float:
        return self.lr / (1 - self.momentum)

    def metric(self, h: Array, v: Array) -> Array:  # type: ignore[override]
        return np.sqrt(h + self.eps_root) + self.eps

    def step(self, p: Array, g: Array, h: Array, v: Array) -> None:  # type: ignore[override]
        h *= self.decay_rate
        h += self.product((1 - self.decay_rate) * g, g)
        v *= self.momentum
        if self.lr_in_velocity:
            v += self.lr * g / (np.sqrt(h + self.eps_root) + self.eps)
            p -= v
        else:
            v += g / (np.sqrt(h + self.eps_root) + self.eps)
            p -= self.lr * v


@dataclass(eq=False)
class CentredRMSProp(RMSProp):
    momentum: float = 0.0
    slots = ("h", "m", "v")

    def effective_lr(self) -> float:
        return self.lr / (1 - self.momentum)

    def metric(self, h: Array, m: Array, v: Array) -> Array:  # type: ignore[override]
        return np.asarray(np.sqrt(np.maximum(h - self.squared(m), 0) + self.eps_root) + self.eps)

    def step(self, p: Array, g: Array, h: Array, m: Array, v: Array) -> None:  # type: ignore[override]
        h *= self.decay_rate
        h += self.product((1 - self.decay_rate) * g, g)
        m += (1 - self.decay_rate) * (g - m)
        variance = np.maximum(h - self.squared(m), 0)
        v *= self.momentum
        v += g / (np.sqrt(variance + self.eps_root) + self.eps)
        p -= self.lr * v


@dataclass(eq=False)
class Adadelta(Reference):
    lr: float = 1.0
    decay_rate: float = 0.9
    eps: float = 1e-6
    slots = ("h", "d")
    unsigned = ("h", "d")

    def effective_lr(self) -> float:
        return self.lr

    def metric(self, h: Array, d: Array) -> Array:  # type: ignore[override]
        return np.sqrt(h + self.eps) / np.sqrt(d + self.eps)

    def step(self, p: Array, g: Array, h: Array, d: Array) -> None:  # type: ignore[override]
        h *= self.decay_rate
        h += self.product((1 - self.decay_rate) * g, g)
        x = np.sqrt(d + self.eps) * g / np.sqrt(h + self.eps)
        d *= self.decay_rate
        d += self.product((1 - self.decay_rate) * x, x)
        p -= self.lr * x
