"""Plain descent and momentum, in plain NumPy."""

from __future__ import annotations

from dataclasses import dataclass

from fastopt.reference.base import Array, Reference

__all__ = ["SGD", "Momentum", "Nesterov"]


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
