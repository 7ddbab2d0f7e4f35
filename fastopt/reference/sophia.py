"""Sophia, in plain NumPy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from fastopt.pairs import pairs
from fastopt.reference.base import Array, Reference
from fastopt.reference.constraints import Masked

__all__ = ["Sophia"]


@dataclass(eq=False)
class Sophia(Reference):
    lr: float = 0.0001
    beta1: float = 0.96
    beta2: float = 0.99
    gamma: float = 0.01
    eps: float = 1e-12
    slots = ("m", "h")

    def step(self, p: Array, g: Array, m: Array, h: Array) -> None:  # type: ignore[override]
        m += (1 - self.beta1) * (g - m)
        p -= self.lr * np.clip(m / np.maximum(self.gamma * h, self.eps), -1, 1)

    def update_hessian(self, params: Any, estimates: Any) -> None:
        """Takes estimates of the Hessian's diagonal into h; params are as in `update`, and are not written."""
        if isinstance(params, np.ndarray):
            params, estimates = {None: params}, {None: estimates}
        self._begin(params)
        h: dict[Any, Array] = vars(self)["h"]
        for key, p in params.items():
            part: Any = self._part(key, np.asarray(p))
            if not getattr(part, "frozen", False) and estimates[key] is not None:
                estimate = np.asarray(estimates[key]).astype(h[key].dtype, copy=False).reshape(h[key].shape)
                kept = Masked(self.mask, key, h[key])
                parts = pairs(h[key])  # in which a factor does not make NaN of infinities, as of complex ones
                parts += (1 - part.beta2) * (pairs(estimate) - parts)
                self._flush(parts)
                kept.put_back(h[key])
                self._store(key, np.asarray(p), [getattr(self, slot)[key] for slot in self.slots], part, -self.iter - 1)
