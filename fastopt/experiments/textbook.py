"""The optimizers that people have: what `fastopt train` and the benches call "textbook".

The six of *Deep Learning from Scratch* do what the book's classes do, in as few lines. For the other rules it is what a
person would write after the paper: the lines of `fastopt.reference` in a plain loop over the dict, with norms by
`np.linalg.norm`, and nothing else of what the reference can do. They check nothing and never flush.

All give the bits of `fastopt.reference` but two kinds: rules with norms, and the book's Adam in float32, whose `lr_t`
is an `np.float64`, so that NumPy computes the step of float32 arrays in float64 and rounds at the end.
"""

from __future__ import annotations

import inspect
from dataclasses import fields
from typing import Any

import numpy as np

from fastopt import reference
from fastopt.commands.explain import find
from fastopt.kernels import RULES
from fastopt.kernels.pure_python import on_arrays
from fastopt.optimizers import OPTIMIZERS
from fastopt.reference.base import Array, Reference

Arrays = dict[Any, Any]


class SGD:
    def __init__(self, lr: float = 0.01) -> None:
        self.lr = lr

    def update(self, params: Arrays, grads: Arrays) -> None:
        for key in params.keys():
            params[key] -= self.lr * grads[key]


class Momentum:
    def __init__(self, lr: float = 0.01, momentum: float = 0.9) -> None:
        self.lr, self.momentum = lr, momentum
        self.v: Arrays | None = None

    def update(self, params: Arrays, grads: Arrays) -> None:
        if self.v is None:
            self.v = {key: np.zeros_like(value) for key, value in params.items()}
        for key in params.keys():
            # Not in place in the book either, which is a fifth slower than `*=` and `-=`.
            self.v[key] = self.momentum * self.v[key] - self.lr * grads[key]
            params[key] += self.v[key]


class Nesterov:
    def __init__(self, lr: float = 0.01, momentum: float = 0.9) -> None:
        self.lr, self.momentum = lr, momentum
        self.v: Arrays | None = None

    def update(self, params: Arrays, grads: Arrays) -> None:
        if self.v is None:
            self.v = {key: np.zeros_like(value) for key, value in params.items()}
        for key in params.keys():
            params[key] += self.momentum * self.momentum * self.v[key]
            params[key] -= (1 + self.momentum) * self.lr * grads[key]
            self.v[key] *= self.momentum
            self.v[key] -= self.lr * grads[key]


class AdaGrad:
    def __init__(self, lr: float = 0.01) -> None:
        self.lr = lr
        self.h: Arrays | None = None

    def update(self, params: Arrays, grads: Arrays) -> None:
        if self.h is None:
            self.h = {key: np.zeros_like(value) for key, value in params.items()}
        for key in params.keys():
            self.h[key] += grads[key] * grads[key]
            params[key] -= self.lr * grads[key] / (np.sqrt(self.h[key]) + 1e-7)


class RMSProp:
    def __init__(self, lr: float = 0.01, decay_rate: float = 0.99) -> None:
        self.lr, self.decay_rate = lr, decay_rate
        self.h: Arrays | None = None

    def update(self, params: Arrays, grads: Arrays) -> None:
        if self.h is None:
            self.h = {key: np.zeros_like(value) for key, value in params.items()}
        for key in params.keys():
            self.h[key] *= self.decay_rate
            self.h[key] += (1 - self.decay_rate) * grads[key] * grads[key]
            params[key] -= self.lr * grads[key] / (np.sqrt(self.h[key]) + 1e-7)


class Adam:
    def __init__(self, lr: float = 0.001, beta1: float = 0.9, beta2: float = 0.999) -> None:
        self.lr, self.beta1, self.beta2 = lr, beta1, beta2
        self.iter = 0
        self.m: Arrays | None = None
        self.v: Arrays | None = None

    def update(self, params: Arrays, grads: Arrays) -> None:
        if self.m is None or self.v is None:
            self.m = {key: np.zeros_like(value) for key, value in params.items()}
            self.v = {key: np.zeros_like(value) for key, value in params.items()}
        self.iter += 1
        lr_t = self.lr * np.sqrt(1.0 - self.beta2**self.iter) / (1.0 - self.beta1**self.iter)
        for key in params.keys():
            self.m[key] += (1 - self.beta1) * (grads[key] - self.m[key])
            self.v[key] += (1 - self.beta2) * (grads[key] ** 2 - self.v[key])
            params[key] -= lr_t * self.m[key] / (np.sqrt(self.v[key]) + 1e-7)


BOOK: dict[str, type[Any]] = {
    "sgd": SGD,
    "momentum": Momentum,
    "nesterov": Nesterov,
    "adagrad": AdaGrad,
    "rmsprop": RMSProp,
    "adam": Adam,
}
"""The book's six, by rule."""


class Plain:
    """A rule of `fastopt.reference`, in a loop as short as the book's."""

    def __init__(self, rule: str, **settings: Any) -> None:
        self.name, name = rule, OPTIMIZERS[rule].__name__
        kind = type(name, (_AsWritten, getattr(reference, name)), {})
        self.rule: Any = kind(**settings)
        self.state: dict[Any, list[Array]] | None = None

    def update(self, params: Arrays, grads: Arrays) -> None:
        rule = self.rule
        if self.state is None:
            start = rule.start_values()
            values = [start.get(slot, 0.0) for slot in rule.slots]
            self.state = {
                key: [np.copy(p) if value is None else np.full_like(p, value) for value in values]
                for key, p in params.items()
            }
        rule.iter += 1
        if RULES[self.name].totals:
            rule.before = rule.estimates
            both = [rule.totals(p, grads[key], *self.state[key]) for key, p in params.items()]
            rule.estimates = rule.estimate(*(float(sum(np.sum(x) for x in xs)) for xs in zip(*both, strict=True)))
        for key, p in params.items():
            g = rule._decayed(p, grads[key]) if rule.weight_decay else grads[key]
            rule.factors = rule.kept.setdefault(key, {})
            rule.step(p, g, *self.state[key])


class Own:
    """The formula of a rule of one's own, on whole arrays; ValueError at a step where it has branches."""

    def __init__(self, optimizer: Any) -> None:
        self.optimizer, self.iter = optimizer, 0
        self.formula = on_arrays(optimizer._rule.formula)
        self.state: dict[Any, list[Array]] | None = None

    def update(self, params: Arrays, grads: Arrays) -> None:
        if self.state is None:
            values = self.optimizer.start_values().values()
            self.state = {key: [np.full_like(p, value) for value in values] for key, p in params.items()}
        self.iter += 1
        scalars = self.optimizer._at(self.iter).scalars(self.iter)
        for key, p in params.items():
            old = p, *self.state[key]
            for array, new in zip(old, self.formula(p, grads[key], *self.state[key], *scalars), strict=True):
                array[...] = new


class _AsWritten(Reference):
    """Methods for what nobody would compute as exactly, or as often, as the reference does."""

    _product = 1.0
    _multiplied = 0

    def norm(self, x: Array) -> float:
        return float(np.linalg.norm(x))

    def mu_product(self) -> float:
        """NAdam's: a factor more at each step, which all arrays share."""
        mu: Any = self.mu  # type: ignore[attr-defined]
        if self.iter != self._multiplied:
            self._product, self._multiplied = self._product * mu(self.iter), self.iter
        return self._product


IN_A_SHORT_LOOP = ("weight_decay", "decoupled")
"""Settings of every optimizer that `Plain` knows, besides those of the rule."""


def textbook(rule: str, **settings: Any) -> Any:
    """The textbook's optimizer of a rule, with the defaults of fastopt's.

    Parameters
    ----------
    rule : str
        A key of `fastopt.optimizers.OPTIMIZERS`, or `module:name` of one's own.
    **settings
        With those that the book's class has not it is the rule in plain NumPy, and with those of every optimizer, such
        as clipping, the reference.

    Returns
    -------
    object
        With `update(params, grads)` on dicts of arrays.
    """
    if rule not in OPTIMIZERS:
        return Own(find(rule)(**settings))
    if rule in BOOK and settings.keys() <= inspect.signature(BOOK[rule]).parameters.keys():
        return BOOK[rule](**settings)
    shared = [field.name for field in fields(Reference) if field.kw_only and field.name not in IN_A_SHORT_LOOP]
    if settings.keys().isdisjoint(shared):
        return Plain(rule, **settings)
    plain = getattr(reference, OPTIMIZERS[rule].__name__)(**settings)
    plain.flush = False
    return plain


def has_exact_bits(rule: str, dtype: str) -> bool:
    """Whether the textbook rounds as `fastopt.reference` does; then all bits are equal while no state is subnormal."""
    return rule in RULES and not RULES[rule].is_by_array and not (rule == "adam" and dtype == "float32")
