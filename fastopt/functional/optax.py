"""Optimizers in the shape of optax, on NumPy: `init(params)`, `update(grads, state, params) -> updates, state`.

Code that was written for `optax.GradientTransformation` and holds NumPy arrays can hold any optimizer of fastopt:

>>> import numpy as np
>>> import fastopt
>>> from fastopt.functional import optax
>>> optimizer = optax.transformation(fastopt.Adam(lr=0.5, form="paper"))  # was: optax.adam(0.5)
>>> params = {"W": np.ones(2)}
>>> state = optimizer.init(params)
>>> updates, state = optimizer.update({"W": np.array([1.0, -1.0])}, state, params)
>>> optax.apply_updates(params, updates)["W"].round(6)
array([0.5, 1.5])

As in optax nothing is written in place: parameters, gradients and states stay as they are, and a state may be used
again. That costs copies of parameters and state; your own loop is faster with the optimizer's `update`. Within
`jax.jit` there are no numbers yet, so it cannot be used there.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, NamedTuple

from fastopt import checks
from fastopt.minimization.points import Form
from fastopt.optimizer import Optimizer

__all__ = ["GradientTransformation", "State", "apply_updates", "transformation"]


class State(NamedTuple):
    """Settings, step count and state, as an optimizer that is never stepped itself; `update` steps copies."""

    optimizer: Optimizer


class GradientTransformation(NamedTuple):
    """A pair of functions, as optax's.

    `init(params) -> State`; `update(grads, state, params) -> (updates, State)`, where params + updates are the new
    parameters, to one rounding. All rules of fastopt need `params`, which without them raises ValueError.
    """

    init: Callable[[Any], State]
    update: Callable[..., tuple[Any, State]]


def transformation(optimizer: Optimizer) -> GradientTransformation:
    """An optimizer in the shape of optax.

    Parameters
    ----------
    optimizer : Optimizer
        It is copied by `init`, with the state that it has then, and never stepped itself.

    Raises
    ------
    TypeError
        if it is no optimizer.

    `update` raises what `Optimizer.update` does.
    """
    if not isinstance(optimizer, Optimizer):
        raise TypeError(checks.no_optimizer("transformation", optimizer))

    def init(params: Any) -> State:
        return State(copy.deepcopy(optimizer))

    def update(grads: Any, state: State, params: Any = None) -> tuple[Any, State]:
        if params is None:
            raise ValueError(
                f"{type(optimizer).__name__}: the update needs the parameters: update(grads, state, params)"
            )
        stepped, form = copy.deepcopy(state.optimizer), Form(type(optimizer).__name__, params, "params")
        old, updates = form.leaves(form.start()), form.start()
        stepped.update(updates, grads)
        for key, array in form.leaves(updates).items():
            array -= old[key]
        return updates, State(stepped)

    return GradientTransformation(init, update)


def apply_updates(params: Any, updates: Any) -> Any:
    """`params + updates`, leaf by leaf, as new arrays in the form of `params`."""
    form = Form("apply_updates", params, "params")
    new = form.start()
    steps = form.gradients(updates, new)
    for key, array in form.leaves(new).items():
        array += steps[key]
    return new
