"""Optimizers of Stanford's course cs231n: `new_w, config = adam(w, dw, config)`.

A script moves over by `from fastopt.functional import cs231n as optim`; a `Solver` that looks its rule up by
`getattr(optim, "adam")` stays as it is. Names, defaults and counting are those of the course. SGD and momentum have its
bits in float64; RMSProp and Adam are the same formulas with other parentheses, equal within rounding.

Each function takes

- `w` : float32 or float64 array, the parameter;
- `dw` : array of the shape of `w`, the gradient;
- `config` : dict of settings and state, optional. What is missing gets its default; it is written to and returned, as
  in the course. Its state may be replaced, and the step count `t` set, between calls;
- `inplace` : whether `w` and the arrays in `config` are written in place, which is fastest. Otherwise they are new
  arrays, and old ones stay as they are. The course's `sgd` works in place, and the others do not: so it is by default.

and returns the new parameter and `config`. The errors are those of `Optimizer.update`.

>>> import numpy as np
>>> w, config = np.array([1.0, 2.0]), {"learning_rate": 0.5}
>>> for _ in range(2):
...     w, config = adam(w, np.array([1.0, -1.0]), config)
>>> w.round(6), config["t"]
(array([0., 3.]), 2)
"""

from __future__ import annotations

from typing import Any

import numpy as np

from fastopt import array_checks
from fastopt.flat import Array
from fastopt.optimizer import Optimizer
from fastopt.optimizers import SGD, Adam, Momentum, RMSProp

__all__ = ["adam", "rmsprop", "sgd", "sgd_momentum"]

Config = dict[str, Any]

_OPTIMIZER = "fastopt optimizer"
"""The key in a config of what makes the steps, so that its buffers are made once."""


def sgd(w: Array, dw: Array, config: Config | None = None, *, inplace: bool = True) -> tuple[Array, Config]:
    """`w = w - learning_rate dw`; learning_rate 1e-2. In place by default. See the module for arguments and results."""
    defaults = {"learning_rate": 1e-2}
    return _step(SGD, w, dw, config, inplace, defaults, {"learning_rate": "lr"}, {})


def sgd_momentum(w: Array, dw: Array, config: Config | None = None, *, inplace: bool = False) -> tuple[Array, Config]:
    """`velocity = momentum velocity - learning_rate dw`, `w = w + velocity`; learning_rate 1e-2, momentum 0.9."""
    defaults = {"learning_rate": 1e-2, "momentum": 0.9}
    settings = {"learning_rate": "lr", "momentum": "momentum"}
    return _step(Momentum, w, dw, config, inplace, defaults, settings, {"velocity": "v"})


def rmsprop(w: Array, dw: Array, config: Config | None = None, *, inplace: bool = False) -> tuple[Array, Config]:
    """`cache = decay_rate cache + (1 - decay_rate) dw^2`, `w = w - learning_rate dw / (sqrt(cache) + epsilon)`.

    learning_rate 1e-2, decay_rate 0.99, epsilon 1e-8.
    """
    defaults = {"learning_rate": 1e-2, "decay_rate": 0.99, "epsilon": 1e-8}
    settings = {"learning_rate": "lr", "decay_rate": "decay_rate", "epsilon": "eps"}
    return _step(RMSProp, w, dw, config, inplace, defaults, settings, {"cache": "h"})


def adam(w: Array, dw: Array, config: Config | None = None, *, inplace: bool = False) -> tuple[Array, Config]:
    """Adam as in its paper, with `t` counted up before it is used.

    learning_rate 1e-3, beta1 0.9, beta2 0.999, epsilon 1e-8, t 0; state `m` and `v`.
    """
    defaults = {"learning_rate": 1e-3, "beta1": 0.9, "beta2": 0.999, "epsilon": 1e-8, "t": 0}
    settings = {"learning_rate": "lr", "beta1": "beta1", "beta2": "beta2", "epsilon": "eps"}
    return _step(Adam, w, dw, config, inplace, defaults, settings, {"m": "m", "v": "v"}, form="paper")


class _Stepper:
    """An optimizer and its state by the names of the course, kept in a config so that buffers are made once."""

    def __init__(self, optimizer: Optimizer, like: Array, slots: dict[str, str]) -> None:
        fits = like.dtype in array_checks.PARAMETER_DTYPES
        if slots and fits:  # otherwise the step says what is wrong
            # Buffers for what stands in the config, whose values are copied into them before each step.
            empty = {slot: np.zeros_like(like) for slot in slots.values()}
            optimizer.load_state_dict({**optimizer.state_dict(), "state": empty})
        self.optimizer, self.fits = optimizer, (type(optimizer), like.shape, like.dtype)
        self.state: dict[str, Array] = {name: getattr(optimizer, slot) for name, slot in slots.items() if fits}

    def __reduce__(self) -> Any:
        return _nothing, ()  # copies of a config get buffers of their own


def _nothing() -> None:
    """Stands in a copied config in place of its optimizer."""


def _step(
    kind: type[Optimizer],
    w: Array,
    dw: Array,
    config: Config | None,
    inplace: bool,
    defaults: Config,
    settings: dict[str, str],
    slots: dict[str, str],
    **fixed: Any,
) -> tuple[Array, Config]:
    """A step of `kind`, whose settings and state stand in `config` by the names of the course."""
    config = {} if config is None else config
    for name, value in defaults.items():
        config.setdefault(name, value)
    params = w if inplace else np.array(w)
    like = np.asarray(params)
    stepper: _Stepper | None = config.get(_OPTIMIZER)
    if stepper is None or stepper.fits != (kind, like.shape, like.dtype):
        stepper = _Stepper(kind(**fixed), like, slots)
    optimizer = stepper.optimizer
    for name, setting in settings.items():
        if config[name] != getattr(optimizer, setting):  # an assignment has the next step look at everything anew
            setattr(optimizer, setting, config[name])
    if "t" in config and config["t"] != optimizer.iter:
        optimizer.iter = config["t"]
    for name, state in stepper.state.items():
        given = config.get(name)
        if given is None:
            state[...] = 0.0
        elif given is not state:
            if np.shape(given) != state.shape:
                raise ValueError(
                    f"{kind.__name__}: config[{name!r}] has shape {np.shape(given)}, expected {state.shape}, that of w"
                )
            state[...] = given
    optimizer.update(params, dw)
    config[_OPTIMIZER] = stepper
    for name, state in stepper.state.items():
        config[name] = state if inplace else state.copy()
    if "t" in config:
        config["t"] = optimizer.iter
    return params, config
