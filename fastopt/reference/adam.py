"""Adam and its kin, in plain NumPy."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from fastopt.reference.base import Array, Reference

__all__ = ["AMSGrad", "Adam", "AdamW", "Adamax", "NAdam", "RAdam"]


@dataclass(eq=False)
class Adam(Reference):
    lr: float = 0.001
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = None  # type: ignore[assignment]
    eps_root: float = 0.0
    form: str = "textbook"
    slots = ("m", "v")
    unsigned = ("v",)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.eps is None:
            self.eps = 0.0 if self.eps_root else 1e-8 if self.form == "paper" else 1e-7

    def effective_lr(self) -> float:
        return self.lr * math.sqrt(1.0 - self.beta2**self.iter)

    def metric(self, m: Array, v: Array) -> Array:  # type: ignore[override]
        return np.sqrt(v + self.eps_root * (1.0 - self.beta2**self.iter)) + self._eps()

    def step(self, p: Array, g: Array, m: Array, v: Array) -> None:  # type: ignore[override]
        t = self.iter
        lr_t = self.lr * math.sqrt(1.0 - self.beta2**t) / (1.0 - self.beta1**t)
        m += (1 - self.beta1) * (g - m)
        v += (1 - self.beta2) * (self.squared(g) - v)
        if self.form == "textbook" and not self.eps_root:
            p -= lr_t * m / (np.sqrt(v) + self.eps)
        else:
            # lr m_hat / (sqrt(v_hat + eps_root) + eps) with both sides of the fraction times sqrt(1 - beta2^t), which
            # leaves one division per element instead of three
            p -= lr_t * m / (np.sqrt(v + self.eps_root * (1.0 - self.beta2**t)) + self._eps())

    def _eps(self) -> float:
        return self.eps * math.sqrt(1.0 - self.beta2**self.iter) if self.form == "paper" else self.eps


@dataclass(eq=False)
class AdamW(Adam):
    form: str = "paper"
    weight_decay: float = field(default=0.01, kw_only=True)
    decoupled: bool = field(default=True, kw_only=True, repr=False)


@dataclass(eq=False)
class AMSGrad(Reference):
    lr: float = 0.001
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8
    slots = ("m", "v", "v_max")
    unsigned = ("v", "v_max")

    def effective_lr(self) -> float:
        return self.lr * math.sqrt(1.0 - self.beta2**self.iter)

    def metric(self, m: Array, v: Array, v_max: Array) -> Array:  # type: ignore[override]
        return np.sqrt(v_max) + self.eps * math.sqrt(1.0 - self.beta2**self.iter)

    def step(self, p: Array, g: Array, m: Array, v: Array, v_max: Array) -> None:  # type: ignore[override]
        correction = math.sqrt(1.0 - self.beta2**self.iter)
        m += (1 - self.beta1) * (g - m)
        v += (1 - self.beta2) * (self.squared(g) - v)
        np.maximum(v_max, v, out=v_max)
        lr_t = self.lr * correction / (1.0 - self.beta1**self.iter)
        p -= lr_t * m / (np.sqrt(v_max) + self.eps * correction)


@dataclass(eq=False)
class Adamax(Reference):
    lr: float = 0.002
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8
    slots = ("m", "u")
    unsigned = ("u",)

    def effective_lr(self) -> float:
        return self.lr

    def metric(self, m: Array, u: Array) -> Array:  # type: ignore[override]
        return u

    def step(self, p: Array, g: Array, m: Array, u: Array) -> None:  # type: ignore[override]
        m += (1 - self.beta1) * (g - m)
        u *= self.beta2
        np.maximum(u, self.magnitude(g) + self.eps, out=u)
        p -= self.lr / (1.0 - self.beta1**self.iter) * m / u


@dataclass(eq=False)
class NAdam(Reference):
    lr: float = 0.002
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8
    momentum_decay: float = 0.004
    slots = ("m", "v")
    unsigned = ("v",)

    def mu(self, step: int) -> float:
        return self.beta1 * (1.0 - 0.5 * math.pow(0.96, step * self.momentum_decay))

    def mu_product(self) -> float:
        return math.prod(self.mu(step) for step in range(1, self.iter + 1))

    def effective_lr(self) -> float:
        return self.lr * math.sqrt(1.0 - self.beta2**self.iter)

    def metric(self, m: Array, v: Array) -> Array:  # type: ignore[override]
        return np.sqrt(v) + self.eps * math.sqrt(1.0 - self.beta2**self.iter)

    def step(self, p: Array, g: Array, m: Array, v: Array) -> None:  # type: ignore[override]
        t = self.iter
        correction = math.sqrt(1.0 - self.beta2**t)
        product, mu, next_mu = self.mu_product(), self.mu(t), self.mu(t + 1)
        m += (1 - self.beta1) * (g - m)
        v += (1 - self.beta2) * (self.squared(g) - v)
        gradient_step = self.lr * correction * (1.0 - mu) / (1.0 - product)
        mean_step = self.lr * correction * next_mu / (1.0 - product * next_mu)
        p -= (gradient_step * g + mean_step * m) / (np.sqrt(v) + self.eps * correction)


@dataclass(eq=False)
class RAdam(Reference):
    lr: float = 0.001
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8
    slots = ("m", "v")
    unsigned = ("v",)

    def rectification(self) -> float | None:
        """The factor of a step that is divided by the root of v; None where it is not divided yet."""
        t = self.iter
        rho_inf = 2.0 / (1.0 - self.beta2) - 1.0
        rho = rho_inf - 2.0 * t * self.beta2**t / (1.0 - self.beta2**t)
        if rho <= 5.0:
            return None
        shape = (rho - 4.0) * (rho - 2.0) * rho_inf / ((rho_inf - 4.0) * (rho_inf - 2.0) * rho)
        return math.sqrt(shape * (1.0 - self.beta2**t))

    def effective_lr(self) -> float:
        return self.lr * (self.rectification() or 1.0)

    def metric(self, m: Array, v: Array) -> Array:  # type: ignore[override]
        return np.ones_like(v) if self.rectification() is None else np.sqrt(v) + self.eps

    def step(self, p: Array, g: Array, m: Array, v: Array) -> None:  # type: ignore[override]
        m += (1 - self.beta1) * (g - m)
        v += (1 - self.beta2) * (self.squared(g) - v)
        lr_t, rectification = self.lr / (1.0 - self.beta1**self.iter), self.rectification()
        if rectification is None:
            p -= lr_t * m
        else:
            p -= lr_t * rectification * m / (np.sqrt(v) + self.eps)
