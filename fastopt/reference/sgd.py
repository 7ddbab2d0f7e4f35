"""Plain descent and momentum, in plain NumPy."""

from __future__ import annotations

from dataclasses import dataclass, field

from fastopt.reference.base import Array, Reference

__all__ = ["ASGD", "SGD", "Momentum", "Nesterov", "SGDMomentum", "SGDNesterov"]


@dataclass(eq=False)
class SGD(Reference):
    lr: float = 0.01

    def effective_lr(self) -> float:
        return self.lr

    def step(self, p: Array, g: Array) -> None:  # type: ignore[override]
        p -= self.lr * g


@dataclass(eq=False)
class Momentum(Reference):
    lr: float = 0.01
    momentum: float = 0.9
    slots = ("v",)

    def effective_lr(self) -> float:
        return self.lr / (1 - self.momentum)

    def step(self, p: Array, g: Array, v: Array) -> None:  # type: ignore[override]
        v *= self.momentum
        v -= self.lr * g
        p += v


@dataclass(eq=False)
class Nesterov(Reference):
    lr: float = 0.01
    momentum: float = 0.9
    slots = ("v",)

    def effective_lr(self) -> float:
        return self.lr / (1 - self.momentum)

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
    damp_first: bool = field(default=False, kw_only=True, repr=False)
    slots = ("v",)

    def effective_lr(self) -> float:
        return self.lr / (1 - self.momentum) * (1 - self.dampening)

    def step(self, p: Array, g: Array, v: Array) -> None:  # type: ignore[override]
        v *= self.momentum
        v += g if self.iter == 1 and not self.damp_first else (1 - self.dampening) * g
        p -= self.lr * v


@dataclass(eq=False)
class SGDNesterov(Reference):
    lr: float = 0.01
    momentum: float = 0.9
    slots = ("v",)

    def effective_lr(self) -> float:
        return self.lr / (1 - self.momentum)

    def step(self, p: Array, g: Array, v: Array) -> None:  # type: ignore[override]
        v *= self.momentum
        v += g
        p -= self.lr * (g + self.momentum * v)


@dataclass(eq=False)
class ASGD(Reference):
    lr: float = 0.01
    lambd: float = 1e-4
    alpha: float = 0.75
    t0: float = 1e6
    slots = ("average",)

    def step(self, p: Array, g: Array, average: Array) -> None:  # type: ignore[override]
        t = self.iter
        lr_t = self.lr * (1 + self.lambd * self.lr * (t - 1)) ** -self.alpha
        p *= 1 - self.lambd * lr_t
        p -= lr_t * g
        if t - 1 - self.t0 > 1:
            average += 1 / (t - 1 - self.t0) * (p - average)
        else:
            average[...] = p
