"""Steps by the sign of a gradient or of its running mean, in plain NumPy."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fastopt.reference.base import Array, Reference

__all__ = ["Lion", "Rprop", "Signum"]


@dataclass(eq=False)
class Rprop(Reference):
    lr: float = 0.01
    eta_minus: float = 0.5
    eta_plus: float = 1.2
    min_step_size: float = 1e-6
    max_step_size: float = 50.0
    slots = ("previous", "step_size")
    unsigned = ("step_size",)
    exact = ("previous",)

    def start_values(self) -> dict[str, float]:
        return {"step_size": self.lr}

    def step(self, p: Array, g: Array, previous: Array, step_size: Array) -> None:  # type: ignore[override]
        product = g * previous
        step_size[product > 0] *= self.eta_plus
        step_size[product < 0] *= self.eta_minus
        np.maximum(step_size, self.min_step_size, out=step_size)
        np.minimum(step_size, self.max_step_size, out=step_size)
        previous[...] = np.where(product < 0, 0, g)
        p -= np.sign(previous) * step_size


@dataclass(eq=False)
class Signum(Reference):
    lr: float = 0.001
    beta1: float = 0.9
    slots = ("m",)
    signed = ("m",)

    def step(self, p: Array, g: Array, m: Array) -> None:  # type: ignore[override]
        m += (1 - self.beta1) * (g - m)
        p -= self.lr * np.sign(m)


@dataclass(eq=False)
class Lion(Reference):
    lr: float = 0.0001
    beta1: float = 0.9
    beta2: float = 0.99
    slots = ("m",)
    signed = ("m",)

    def step(self, p: Array, g: Array, m: Array) -> None:  # type: ignore[override]
        p -= self.lr * np.sign(m + (1 - self.beta1) * (g - m))
        m += (1 - self.beta2) * (g - m)
