"""Optimizers with the arguments of `autograd.misc.optimizers`: `adam(grad, x0, callback, num_iters, step_size)`.

A script moves over by `from fastopt.functional.autograd import adam`. Names, defaults, counting and starts are those of
autograd (`rmsprop` begins with a mean square of 1); its formulas are the same with other parentheses, so results agree
within rounding.

Each function takes

- `grad` : function `grad(x, i)` that returns the gradient at x in iteration i, counted from 0, in the form of x;
- `x0` : array or container of arrays, where to start; not written to;
- `callback` : function `callback(x, i, g)`, called in each iteration before its step, optional;
- `num_iters` : the number of steps;

and returns the parameters after the last step, in the form of x0. `grad` and `callback` may keep x, which is a copy.
The errors are those of `Optimizer.update`.

>>> import numpy as np
>>> adam(lambda x, i: 2 * (x - 3.0), np.zeros(2), num_iters=500, step_size=0.1).round(3)
array([3., 3.])
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

from fastopt.minimization.points import Form
from fastopt.optimizer import Optimizer
from fastopt.optimizers import Adam, Momentum, RMSProp

__all__ = ["adam", "rmsprop", "sgd"]

Gradient = Callable[[Any, int], Any]
Callback = Callable[[Any, int, Any], Any]


def sgd(
    grad: Gradient,
    x0: Any,
    callback: Callback | None = None,
    num_iters: int = 200,
    step_size: float = 0.1,
    mass: float = 0.9,
) -> Any:
    """`velocity = mass velocity - (1 - mass) g`, `x = x + step_size velocity`. See the module for the arguments."""
    return _descend(Momentum(lr=(1.0 - mass) * step_size, momentum=mass), grad, x0, callback, num_iters)


def rmsprop(
    grad: Gradient,
    x0: Any,
    callback: Callback | None = None,
    num_iters: int = 100,
    step_size: float = 0.1,
    gamma: float = 0.9,
    eps: float = 1e-8,
) -> Any:
    """`h = gamma h + (1 - gamma) g^2` from 1 on, `x = x - step_size g / (sqrt(h) + eps)`. See the module."""
    optimizer = RMSProp(lr=step_size, decay_rate=gamma, eps=eps, initial_accumulator=1.0)
    return _descend(optimizer, grad, x0, callback, num_iters)


def adam(
    grad: Gradient,
    x0: Any,
    callback: Callback | None = None,
    num_iters: int = 100,
    step_size: float = 0.001,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
) -> Any:
    """Adam as in its paper. See the module for the arguments."""
    return _descend(Adam(lr=step_size, beta1=b1, beta2=b2, eps=eps, form="paper"), grad, x0, callback, num_iters)


def _descend(optimizer: Optimizer, grad: Gradient, x0: Any, callback: Callback | None, num_iters: int) -> Any:
    x = Form(type(optimizer).__name__, x0).start()
    for i in range(num_iters):
        seen = copy.deepcopy(x)
        gradient = grad(seen, i)
        if callback:
            callback(seen, i, gradient)
        optimizer.update(x, gradient)
    return x
