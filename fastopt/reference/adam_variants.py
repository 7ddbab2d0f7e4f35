"""Optimizers that change what Adam averages, in plain NumPy."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from fastopt.reference.base import Array, Reference

__all__ = ["ADOPT", "AdEMAMix", "AdaBelief", "Adan", "LaProp", "Yogi"]


@dataclass(eq=False)
class AdaBelief(Reference):
    lr: float = 0.001
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-16
    eps_root: float = 1e-16
    slots = ("m", "s")
    unsigned = ("s",)

    def effective_lr(self) -> float:
        return self.lr * math.sqrt(1.0 - self.beta2**self.iter)

    def metric(self, m: Array, s: Array) -> Array:  # type: ignore[override]
        return np.sqrt(s) + self.eps * math.sqrt(1.0 - self.beta2**self.iter)

    def step(self, p: Array, g: Array, m: Array, s: Array) -> None:  # type: ignore[override]
        correction = math.sqrt(1.0 - self.beta2**self.iter)
        m += (1 - self.beta1) * (g - m)
        s += (1 - self.beta2) * (self.squared(g - m) - s)
        s += self.eps_root
        lr_t = self.lr * correction / (1.0 - self.beta1**self.iter)
        p -= lr_t * m / (np.sqrt(s) + self.eps * correction)


@dataclass(eq=False)
class Yogi(Reference):
    lr: float = 0.01
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-3
    initial_accumulator: float = 1e-6
    slots = ("m", "v")
    unsigned = ("v",)

    def start_values(self) -> dict[str, float]:
        return {"v": self.initial_accumulator}

    def effective_lr(self) -> float:
        return self.lr * math.sqrt(1.0 - self.beta2**self.iter)

    def metric(self, m: Array, v: Array) -> Array:  # type: ignore[override]
        return np.sqrt(v) + self.eps * math.sqrt(1.0 - self.beta2**self.iter)

    def step(self, p: Array, g: Array, m: Array, v: Array) -> None:  # type: ignore[override]
        correction = math.sqrt(1.0 - self.beta2**self.iter)
        m += (1 - self.beta1) * (g - m)
        square = self.squared(g)
        v -= (1 - self.beta2) * np.sign(v - square) * square
        lr_t = self.lr * correction / (1.0 - self.beta1**self.iter)
        p -= lr_t * m / (np.sqrt(v) + self.eps * correction)


@dataclass(eq=False)
class AdEMAMix(Reference):
    lr: float = 0.001
    beta1: float = 0.9
    beta2: float = 0.999
    beta3: float = 0.9999
    alpha: float = 5.0
    eps: float = 1e-8
    warmup: float = 0.0
    slots = ("m", "slow", "v")
    unsigned = ("v",)

    def effective_lr(self) -> float:
        alpha = self.alpha * min(1.0, self.iter / self.warmup) if self.warmup else self.alpha
        return self.lr * math.sqrt(1.0 - self.beta2**self.iter) * (1.0 + alpha)

    def metric(self, m: Array, slow: Array, v: Array) -> Array:  # type: ignore[override]
        return np.sqrt(v) + self.eps * math.sqrt(1.0 - self.beta2**self.iter)

    def step(self, p: Array, g: Array, m: Array, slow: Array, v: Array) -> None:  # type: ignore[override]
        t = self.iter
        alpha, beta3 = self.alpha, self.beta3
        if t < self.warmup:
            alpha *= t / self.warmup
            # the memory in steps, -1 / log(beta), grows linearly from that of beta1 to that of beta3
            first, last = (-1 / math.log(beta) if beta else 0.0 for beta in (self.beta1, self.beta3))
            memory = (1 - t / self.warmup) * first + t / self.warmup * last
            beta3 = min(math.exp(-1 / memory), beta3) if memory else 0.0
        correction = math.sqrt(1.0 - self.beta2**t)
        m += (1 - self.beta1) * (g - m)
        slow += (1 - beta3) * (g - slow)
        v += (1 - self.beta2) * (self.squared(g) - v)
        fast_step = self.lr * correction / (1.0 - self.beta1**t)
        p -= (fast_step * m + self.lr * correction * alpha * slow) / (np.sqrt(v) + self.eps * correction)


@dataclass(eq=False)
class Adan(Reference):
    lr: float = 0.001
    beta1: float = 0.98
    beta2: float = 0.92
    beta3: float = 0.99
    eps: float = 1e-8
    slots = ("m", "v", "n", "previous")
    unsigned = ("n",)

    def effective_lr(self) -> float:
        return self.lr * math.sqrt(1.0 - self.beta3**self.iter)

    def metric(self, m: Array, v: Array, n: Array, previous: Array) -> Array:  # type: ignore[override]
        return np.sqrt(n) + self.eps * math.sqrt(1.0 - self.beta3**self.iter)

    def step(self, p: Array, g: Array, m: Array, v: Array, n: Array, previous: Array) -> None:  # type: ignore[override]
        t = self.iter
        correction = math.sqrt(1.0 - self.beta3**t)
        change = g - previous if t > 1 else np.zeros_like(g)
        m += (1 - self.beta1) * (g - m)
        v += (1 - self.beta2) * (change - v)
        ahead = g + self.beta2 * change
        n += (1 - self.beta3) * (self.squared(ahead) - n)
        mean_step = self.lr * correction / (1.0 - self.beta1**t)
        change_step = self.lr * correction * self.beta2 / (1.0 - self.beta2**t)
        p -= (mean_step * m + change_step * v) / (np.sqrt(n) + self.eps * correction)
        previous[...] = g


@dataclass(eq=False)
class LaProp(Reference):
    lr: float = 0.0004
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-15
    slots = ("m", "v")
    unsigned = ("v",)

    def effective_lr(self) -> float:
        return self.lr * math.sqrt(1.0 - self.beta2**self.iter)

    def metric(self, m: Array, v: Array) -> Array:  # type: ignore[override]
        return np.sqrt(v) + self.eps * math.sqrt(1.0 - self.beta2**self.iter)

    def step(self, p: Array, g: Array, m: Array, v: Array) -> None:  # type: ignore[override]
        correction = math.sqrt(1.0 - self.beta2**self.iter)
        v += (1 - self.beta2) * (self.squared(g) - v)
        m += (1 - self.beta1) * (self.lr * correction * g / (np.sqrt(v) + self.eps * correction) - m)
        p -= 1.0 / (1.0 - self.beta1**self.iter) * m


@dataclass(eq=False)
class ADOPT(Reference):
    lr: float = 0.001
    beta1: float = 0.9
    beta2: float = 0.9999
    eps: float = 1e-6
    clip_exponent: float = 0.25
    slots = ("m", "v")
    unsigned = ("v",)

    def step(self, p: Array, g: Array, m: Array, v: Array) -> None:  # type: ignore[override]
        first, root, eps = self.iter == 1, np.sqrt(v), np.asarray(self.eps, p.dtype)
        clip = np.asarray(0.0 if first else (self.iter - 1) ** self.clip_exponent, p.dtype)
        n = self.clipped(g / np.where(root < eps, eps, root), clip)
        m += (1 - self.beta1) * (n - m)
        v += (1.0 if first else 1 - self.beta2) * (self.squared(g) - v)
        p -= self.lr * m
