"""Optimizers that find their learning rate from sums over all parameters, in plain NumPy."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from fastopt.reference.base import Array, Reference

__all__ = ["DAdaptAdam", "DoG", "DoWG", "Prodigy"]


@dataclass(eq=False)
class Prodigy(Reference):
    lr: float = 1.0
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8
    d0: float = 1e-6
    d_coef: float = 1.0
    growth_rate: float = math.inf
    bias_correction: bool = False
    safeguard_warmup: bool = False
    decoupled: bool = field(default=True, kw_only=True, repr=False)
    slots = ("m", "v", "s", "start")
    unsigned = ("v",)
    exact = ("start",)
    by_array = True
    decays_itself = True

    def start_values(self) -> dict[str, Any]:
        return {"start": None}

    def _weights(self) -> tuple[float, float, float, float]:
        d = self.before.get("d", self.d0)
        bias = math.sqrt(1.0 - self.beta2**self.iter) / (1.0 - self.beta1**self.iter) if self.bias_correction else 1.0
        weight = d / self.d0 * d * (self.lr * bias)
        return d, weight, d / self.d0 * d if self.safeguard_warmup else weight, d * (self.lr * bias)

    def totals(self, p: Array, g: Array, m: Array, v: Array, s: Array, start: Array) -> tuple[Array, Array]:  # type: ignore[override]
        _, weight, s_weight, _ = self._weights()
        return weight * g * (start - p), np.abs(math.sqrt(self.beta2) * s + s_weight * g)

    def estimate(self, one: float, other: float) -> dict[str, float]:
        d, d_max = self.before.get("d", self.d0), self.before.get("d_max", self.d0)
        numerator = math.sqrt(self.beta2) * self.before.get("numerator", 0.0) + one
        if other > 0 and self.lr > 0:
            d_hat = self.d_coef * numerator / other
            if d == self.d0:
                d = max(d, d_hat)
            d_max = max(d_max, d_hat)
            d = min(d_max, d * self.growth_rate)
        return {"d": d, "d_max": d_max, "numerator": numerator}

    def step(self, p: Array, g: Array, m: Array, v: Array, s: Array, start: Array) -> None:  # type: ignore[override]
        d, _, s_weight, step_size = self._weights()
        m += (1 - self.beta1) * (d * g - m)
        v += (1 - self.beta2) * (d * g * (d * g) - v)
        s *= math.sqrt(self.beta2)
        s += s_weight * g
        decay = self.weight_decay if self.decoupled else 0.0
        p -= step_size * (m / (np.sqrt(v) + self.estimates["d"] * self.eps) + decay * p)


@dataclass(eq=False)
class DAdaptAdam(Reference):
    lr: float = 1.0
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8
    d0: float = 1e-6
    growth_rate: float = math.inf
    bias_correction: bool = False
    decoupled: bool = field(default=True, kw_only=True, repr=False)
    slots = ("m", "v", "s")
    unsigned = ("v",)
    by_array = True
    decays_itself = True

    def _step_size(self) -> float:
        bias = math.sqrt(1.0 - self.beta2**self.iter) / (1.0 - self.beta1**self.iter) if self.bias_correction else 1.0
        return self.before.get("d", self.d0) * self.lr * bias

    def totals(self, p: Array, g: Array, m: Array, v: Array, s: Array) -> tuple[Array, Array]:  # type: ignore[override]
        beta3, moved = math.sqrt(self.beta2), self._step_size() * g
        return moved * (s / (np.sqrt(v) + self.eps)), np.abs(beta3 * s + (1 - beta3) * moved)

    def estimate(self, one: float, other: float) -> dict[str, float]:
        d, beta3 = self.before.get("d", self.d0), math.sqrt(self.beta2)
        numerator = beta3 * self.before.get("numerator", 0.0) + (1 - beta3) * one
        denominator = (1 - beta3) * other  # which may vanish where `other` does not
        if denominator > 0 and self.lr > 0:
            d = max(d, min(numerator / denominator, d * self.growth_rate))
        return {"d": d, "numerator": numerator}

    def step(self, p: Array, g: Array, m: Array, v: Array, s: Array) -> None:  # type: ignore[override]
        beta3, moved = math.sqrt(self.beta2), self._step_size() * g
        m += (1 - self.beta1) * (moved - m)
        v += (1 - self.beta2) * (g * g - v)
        s *= beta3
        s += (1 - beta3) * moved
        decay = self._step_size() * (self.weight_decay if self.decoupled else 0.0)
        p -= m / (np.sqrt(v) + self.eps) + decay * p


class _FromTheStart(Reference):
    """SGD whose learning rate follows the distance from the start."""

    slots = ("start",)
    exact = ("start",)
    by_array = True
    decays_itself = True
    initial_distance: float

    def start_values(self) -> dict[str, Any]:
        return {"start": None}

    def totals(self, p: Array, g: Array, start: Array) -> tuple[Array, Array]:  # type: ignore[override]
        distance = p - (1.0 if self.before else 0.0) * start
        return distance * distance, g * g

    def distance(self, square: float) -> float:
        if self.before:
            return max(self.before["r"], math.sqrt(square))
        return self.initial_distance * (1 + math.sqrt(square))

    def step(self, p: Array, g: Array, start: Array) -> None:  # type: ignore[override]
        p -= self.lr * self.estimates["eta"] * (g + (self.weight_decay if self.decoupled else 0.0) * p)


@dataclass(eq=False)
class DoG(_FromTheStart):
    lr: float = 1.0
    initial_distance: float = 1e-6
    eps: float = 1e-8

    def estimate(self, one: float, other: float) -> dict[str, float]:
        r, squares = self.distance(one), self.before.get("sum_of_squares", self.eps) + other
        return {"r": r, "sum_of_squares": squares, "eta": r / math.sqrt(squares) if squares else 0.0}


@dataclass(eq=False)
class DoWG(_FromTheStart):
    lr: float = 1.0
    initial_distance: float = 1e-4

    def estimate(self, one: float, other: float) -> dict[str, float]:
        r = self.distance(one)
        squares = self.before.get("sum_of_squares", 0.0) + r * r * other
        return {"r": r, "sum_of_squares": squares, "eta": r * r / math.sqrt(squares) if squares else 0.0}
