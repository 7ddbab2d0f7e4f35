"""Plain descent and momentum, in plain NumPy."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fastopt.reference.base import Array, Reference

__all__ = ["SGD", "Lion", "Momentum", "Nesterov", "SGDMomentum", "SGDNesterov", "Signum"]


@dataclass(eq=False)
class SGD(Reference):
    lr: float = 0.01

    def step(self, p: Array, g: Array) -> None:  # type: ignore[override]
        p -= self.lr * g


@dataclass(eq=False)
class Momentum(Reference):
    lr: float = 0.01
    momentum: float = 0.9
    slots = ("v",)

    def step(self, p: Array, g: Array, v: Array) -> None:  # type: ignore[override]
        v *= self.momentum
        v -= self.lr * g
        p += v


@dataclass(eq=False)
class Nesterov(Reference):
    lr: float = 0.01
    momentum: float = 0.9
    slots = ("v",)

    def step(self, p: Array, g: Array, v: Array) -> None:  # type: ignore[override]
        p += self.momentum * self.momentum * v
        p -= (1 + self.momentum) * self.lr * g
        v *= self.momentum
        v -= self.lr * g


@dataclass(eq=False)
class SGDMomentum(Reference):
    lr: float = 0.01
    momentum: float = 0.9
    dampening: float = 0.0
    slots = ("v",)

    def step(self, p: Array, g: Array, v: Array) -> None:  # type: ignore[override]
        v *= self.momentum
        v += g if self.iter == 1 else (1 - self.dampening) * g
        p -= self.lr * v


@dataclass(eq=False)
class SGDNesterov(Reference):
    lr: float = 0.01
    momentum: float = 0.9
    slots = ("v",)

    def step(self, p: Array, g: Array, v: Array) -> None:  # type: ignore[override]
        v *= self.momentum
        v += g
        p -= self.lr * (g + self.momentum * v)


@dataclass(eq=False)
class Signum(Reference):
    lr: float = 0.001
    beta1: float = 0.9
    slots = ("m",)

    def step(self, p: Array, g: Array, m: Array) -> None:  # type: ignore[override]
        m += (1 - self.beta1) * (g - m)
        p -= self.lr * np.sign(m)


@dataclass(eq=False)
class Lion(Reference):
    lr: float = 0.0001
    beta1: float = 0.9
    beta2: float = 0.99
    slots = ("m",)

    def step(self, p: Array, g: Array, m: Array) -> None:  # type: ignore[override]
        p -= self.lr * np.sign(m + (1 - self.beta1) * (g - m))
        m += (1 - self.beta2) * (g - m)
