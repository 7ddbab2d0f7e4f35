"""Adam and its kin, in plain NumPy."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from fastopt.reference.base import Array, Reference

__all__ = ["Adam"]


@dataclass(eq=False)
class Adam(Reference):
    lr: float = 0.001
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = None  # type: ignore[assignment]
    eps_root: float = 0.0
    form: str = "textbook"
    slots = ("m", "v")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.eps is None:
            self.eps = 0.0 if self.eps_root else 1e-8 if self.form == "paper" else 1e-7

    def step(self, p: Array, g: Array, m: Array, v: Array) -> None:  # type: ignore[override]
        t = self.iter
        lr_t = self.lr * math.sqrt(1.0 - self.beta2**t) / (1.0 - self.beta1**t)
        m += (1 - self.beta1) * (g - m)
        v += (1 - self.beta2) * (g**2 - v)
        if self.form == "textbook" and not self.eps_root:
            p -= lr_t * m / (np.sqrt(v) + self.eps)
        else:
            # lr m_hat / (sqrt(v_hat + eps_root) + eps) with both sides of the fraction times sqrt(1 - beta2^t), which
            # leaves one division per element instead of three
            eps = self.eps * math.sqrt(1.0 - self.beta2**t) if self.form == "paper" else self.eps
            p -= lr_t * m / (np.sqrt(v + self.eps_root * (1.0 - self.beta2**t)) + eps)
