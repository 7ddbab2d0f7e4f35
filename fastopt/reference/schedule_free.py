"""Schedule-free optimizers, in plain NumPy."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from fastopt.reference.base import Array, Reference

__all__ = ["ScheduleFreeAdamW", "ScheduleFreeSGD"]


@dataclass(eq=False)
class ScheduleFreeSGD(Reference):
    lr: float = 1.0
    beta1: float = 0.9
    warmup: float = 0.0
    slots = ("offset",)

    def step(self, p: Array, g: Array, offset: Array) -> None:  # type: ignore[override]
        lr_t, share = averaging(self.iter, self.lr, self.warmup)
        move(p, g, offset, lr_t, share, self.beta1)

    def _decayed(self, p: Array, g: Array) -> Array:
        return g + self.weight_decay * p


@dataclass(eq=False)
class ScheduleFreeAdamW(Reference):
    lr: float = 0.0025
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8
    warmup: float = 0.0
    decoupled: bool = field(default=True, kw_only=True, repr=False)
    slots = ("v", "offset")
    unsigned = ("v",)
    decays_itself = True

    def step(self, p: Array, g: Array, v: Array, offset: Array) -> None:  # type: ignore[override]
        lr_t, share = averaging(self.iter, self.lr, self.warmup)
        correction = math.sqrt(1.0 - self.beta2**self.iter)
        v += (1 - self.beta2) * (self.squared(g) - v)
        decay = self.weight_decay if self.decoupled else 0.0
        direction = correction * g / (np.sqrt(v) + self.eps * correction) + decay * p
        move(p, direction, offset, lr_t, share, self.beta1)


def averaging(t: int, lr: float, warmup: float) -> tuple[float, float]:
    """lr_t = lr min(1, t / warmup), and lr_t^2 over the sum of the squares of lr_1 to lr_t."""
    if t <= warmup:
        return lr * (t / warmup), 6 * t / ((t + 1) * (2 * t + 1))
    rising = math.floor(warmup)
    squares = rising * (rising + 1) * (2 * rising + 1) / (6 * max(warmup, 1.0) ** 2)
    return lr, 1 / (squares + (t - rising))


def move(p: Array, direction: Array, offset: Array, lr_t: float, share: float, beta1: float) -> None:
    """Takes z along the direction, x towards z, and p between the two; offset is x - p."""
    p -= share * beta1 / (1 - beta1) * offset + lr_t * (1 - beta1 * (1 - share)) * direction
    offset += (1 - beta1) * lr_t * direction
    offset *= 1 - share
