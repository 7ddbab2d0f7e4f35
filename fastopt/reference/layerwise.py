"""Optimizers whose steps depend on norms of each array, in plain NumPy."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from fastopt.reference.base import Array, Reference

__all__ = ["LAMB", "LARS", "MARS", "NovoGrad", "StableAdamW"]


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
        v += (1 - self.beta2) * (self.squared(g) - v)
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
        v += (1 - self.beta2) * (self.squared(g) - v)
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
        v += (1 - self.beta2) * (self.squared(c) - v)
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
