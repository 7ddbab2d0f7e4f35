"""The best fair NumPy: in place with `out=`, no temporaries, in blocks that stay in the cache between operations.

The same bits as the textbook's expressions, with twice to five times as many lines. A function per rule updates one
block; `s` and `t` are scratch.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from fastopt.optimizers import OPTIMIZERS

BLOCK = 262_144  # elements; of 2048 and up the fastest here for Adam, from 100 thousand elements to 30 million


def sgd(p, g, s, t, lr):
    np.multiply(g, lr, out=s)
    p -= s


def momentum(p, g, v, s, t, lr, momentum):
    v *= momentum
    np.multiply(g, lr, out=s)
    v -= s
    p += v


def nesterov(p, g, v, s, t, momentum_squared, gradient_step, momentum, lr):
    np.multiply(v, momentum_squared, out=s)
    p += s
    np.multiply(g, gradient_step, out=s)
    p -= s
    v *= momentum
    np.multiply(g, lr, out=s)
    v -= s


def adagrad(p, g, h, s, t, lr, eps, _eps_root):  # which is 0 here
    np.multiply(g, g, out=s)
    h += s
    np.sqrt(h, out=s)
    s += eps
    np.multiply(g, lr, out=t)
    t /= s
    p -= t


def rmsprop(p, g, h, s, t, lr, decay_rate, one_minus_beta1, eps, eps_root):
    h *= decay_rate
    np.multiply(g, one_minus_beta1, out=s)
    s *= g
    h += s
    np.sqrt(h, out=s)
    s += eps
    np.multiply(g, lr, out=t)
    t /= s
    p -= t


def adam(p, g, m, v, s, t, step_size, one_minus_beta1, one_minus_beta2, eps, eps_root):
    np.subtract(g, m, out=s)
    s *= one_minus_beta1
    m += s
    np.multiply(g, g, out=s)
    s -= v
    s *= one_minus_beta2
    v += s
    np.sqrt(v, out=s)
    s += eps
    np.multiply(m, step_size, out=t)
    t /= s
    p -= t


RULES: dict[str, Callable[..., None]] = {
    function.__name__: function for function in (sgd, momentum, nesterov, adagrad, rmsprop, adam)
}


class InPlace:
    """A rule at its defaults over a dict of contiguous arrays."""

    def __init__(self, rule: str) -> None:
        self.rule = RULES[rule]
        self.settings = OPTIMIZERS[rule]()
        self.state: dict[Any, list[list[np.ndarray]]] | None = None
        self.steps = 0

    def update(self, params: dict[Any, Any], grads: dict[Any, Any]) -> None:
        if self.state is None:
            slots = self.settings.start_values()
            self.state = {key: [np.full(p.size, x, p.dtype) for x in slots.values()] for key, p in params.items()}
            self.scratch = {p.dtype: [np.empty(BLOCK, p.dtype) for _ in "st"] for p in params.values()}
        self.steps += 1
        scalars = self.settings.scalars(self.steps)
        assert all(math.isfinite(scalar) for scalar in scalars)
        for key, p in params.items():
            columns = [p.reshape(-1), grads[key].reshape(-1), *self.state[key]]
            for start in range(0, p.size, BLOCK):
                blocks = [column[start : start + BLOCK] for column in columns]
                self.rule(*blocks, *(x[: blocks[0].size] for x in self.scratch[p.dtype]), *scalars)
