"""Averages of the weights: `EMA` and `SWA`, which are evaluated, and `Lookahead`, which training goes back to.

They are settings of every optimizer, `averaging` and `lookahead`, and kept in the step's own pass over memory. A step
whose amount is zero runs as if there were none.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from fastopt import array_checks, checks, hyperparameters
from fastopt.engine import containers, objects
from fastopt.engine.execute import writing
from fastopt.engine.launch import as_number
from fastopt.engine.state import PARAMETER, State
from fastopt.flat import Array
from fastopt.kernels.averages import SLOTS
from fastopt.typed import Number, number

_DECAY, _ALPHA = (0.0, 1.0, False), (0.0, 1.0, True)


@dataclass(frozen=True)
class EMA:
    """The exponential moving average of the weights: `average = average + (1 - decay)(p - average)` after each step.

    After the first step it is p itself.

    Parameters
    ----------
    decay : float, default 0.999
        Decay rate of the average, in [0, 1). It may be a schedule or any function of the step,
        counted from 1: `EMA(decay=lambda step: min(0.999, (1 + step) / (10 + step)))` follows faster at the start.

    Raises
    ------
    TypeError, ValueError
        if `decay` is out of range; of a function, at the step, before anything is written.

    Examples
    --------
    >>> import numpy as np
    >>> import fastopt
    >>> params, optimizer = {"W": np.zeros(1)}, fastopt.SGD(lr=1.0, averaging=fastopt.EMA(decay=0.75))
    >>> for _ in range(2):
    ...     optimizer.update(params, {"W": -np.ones(1)})
    >>> params["W"], optimizer.weight_average["W"]
    (array([2.]), array([1.25]))

    References
    ----------
    Polyak and Juditsky, Acceleration of stochastic approximation by averaging, SIAM Journal on Control and Optimization
    30, 1992; the moving form is that of PyTorch's `swa_utils.get_ema_multi_avg_fn`.
    """

    decay: Number = number(0.999)

    def __post_init__(self) -> None:
        object.__setattr__(self, "decay", hyperparameters.number_or_schedule("EMA", "decay", self.decay, _DECAY))

    def amount(self, step: int, averaged: int) -> float:
        """How far the average moves at a step, counted from 1, after `averaged` earlier moves."""
        decay = hyperparameters.number_at("EMA", "decay", self.decay, step, _DECAY)
        return 1 - decay if averaged else 1.0


@dataclass(frozen=True)
class SWA:
    """Stochastic weight averaging: the mean of the weights after the steps `start`, `start + every`, and so on.

    `average = average + (p - average) / (n + 1)` at the n-th of them, counted from 0. All other steps cost nothing.

    Parameters
    ----------
    start : int
        The first step whose weights enter the average, counted from 1.
    every : int, default 1
        The number of steps between weights that enter it, 1 or more.

    Raises
    ------
    TypeError, ValueError
        if one of them is not a whole number, or less than 1.

    Examples
    --------
    >>> import numpy as np
    >>> import fastopt
    >>> params, optimizer = {"W": np.zeros(1)}, fastopt.SGD(lr=1.0, averaging=fastopt.SWA(start=2, every=3))
    >>> for _ in range(6):
    ...     optimizer.update(params, {"W": -np.ones(1)})
    >>> params["W"], optimizer.weight_average["W"]  # of 2 and 5
    (array([6.]), array([3.5]))

    References
    ----------
    Izmailov et al., Averaging weights leads to wider optima and better generalization, UAI 2018, arXiv:1803.05407.
    """

    start: int
    every: int = 1

    def __post_init__(self) -> None:
        for name in ("start", "every"):
            object.__setattr__(self, name, checks.positive("SWA", name, getattr(self, name)))

    def amount(self, step: int, averaged: int) -> float:
        """How far the average moves at a step, counted from 1, after `averaged` earlier moves."""
        number, remainder = divmod(step - self.start, self.every)
        # An average that was begun later than at `start` knows of fewer weights.
        return 0.0 if remainder or number < 0 else 1 / (min(number, averaged) + 1)


@dataclass(frozen=True)
class Lookahead:
    """Slow weights that every few steps move part of the way to p, from where p continues.

    `slow = slow + alpha (p - slow)` and `p = slow` after each step that `every` divides; slow begins as the parameters
    before the first step. All other steps cost nothing.

    Parameters
    ----------
    every : int, default 5
        The number of steps between two moves of the slow weights, 1 or more (k in the paper).
    alpha : float, default 0.5
        The share of the way to p that slow weights move, in [0, 1]; may be a schedule or any function of the step,
        counted from 1.

    Raises
    ------
    TypeError, ValueError
        if one of them is not such a number; of a function at the step, before anything is written.

    Examples
    --------
    >>> import numpy as np
    >>> import fastopt
    >>> params, optimizer = {"W": np.zeros(1)}, fastopt.SGD(lr=1.0, lookahead=fastopt.Lookahead(every=4))
    >>> for _ in range(5):
    ...     optimizer.update(params, {"W": -np.ones(1)})
    >>> params["W"], optimizer.slow_weights["W"]  # 1, 2, 3, half of 4, 3
    (array([3.]), array([2.]))

    References
    ----------
    Zhang, Lucas, Hinton and Ba, Lookahead optimizer: k steps forward, 1 step back, NeurIPS 2019, arXiv:1907.08610,
    Algorithm 1.
    """

    every: int = 5
    alpha: Number = number(0.5)

    def __post_init__(self) -> None:
        object.__setattr__(self, "every", checks.positive("Lookahead", "every", self.every))
        object.__setattr__(self, "alpha", hyperparameters.number_or_schedule("Lookahead", "alpha", self.alpha, _ALPHA))

    def amount(self, step: int, averaged: int) -> float:
        """How far the slow weights move at a step, counted from 1."""
        alpha = hyperparameters.number_at("Lookahead", "alpha", self.alpha, step, _ALPHA)
        return 0.0 if step % self.every else alpha


KINDS: dict[str, tuple[type[Any], ...]] = {"lookahead": (Lookahead,), "averaging": (EMA, SWA)}
"""The types that each setting takes, besides None."""

# Zero with an amount of 1 gives the weights themselves, and an array that is never averaged costs no memory.
_START: dict[str, float | None] = {"slow_weights": PARAMETER, "weight_average": 0.0}


def setting(owner: str, name: str, value: Any) -> Any:
    """The value of `averaging` or `lookahead`, or an error."""
    if value is not None and not isinstance(value, KINDS[name]):
        raise TypeError(checks.no_average(owner, name, value, KINDS[name]))
    return value


def to_dict(value: Any) -> dict[str, Any]:
    """The settings of an `EMA`, `SWA` or `Lookahead` by name, and what it is."""
    return {"average": type(value).__name__} | {field.name: getattr(value, field.name) for field in fields(value)}


def from_dict(name: str, plain: Any) -> Any:
    """That of which `to_dict` made these values; ValueError or TypeError if it was not that."""
    kinds = {kind.__name__: kind for kind in KINDS[name]}
    if not isinstance(plain, Mapping) or plain.get("average") not in kinds:
        raise ValueError(f"{name} is {plain!r:.200}, expected a dict that names {' or '.join(kinds)} under 'average'")
    kind, given = kinds[plain["average"]], {key: value for key, value in plain.items() if key != "average"}
    if set(given) != {field.name for field in fields(kind)}:
        raise ValueError(f"{kind.__name__} has the settings {', '.join(given)}")
    return kind(**given)


def start_values(settings: Any) -> dict[str, float | None]:
    """The slots that the settings call for, and what they begin with."""
    return {slot: _START[slot] for name, slot in SLOTS.items() if getattr(settings, name) is not None}


def copies(owner: str, state: State | None, params: Any, look_up: Callable[[Hashable, Array], Array]) -> Any:
    """New values for parameters: arrays that `look_up` finds by key and parameter, in the form of `params`."""
    container = containers.container_of(owner, params)

    def of(key: Hashable, name: str, value: Any) -> Any:
        array = array_checks.parameter(owner, name, value)
        if state is not None:
            if key not in state.layouts:
                raise KeyError(checks.no_state(owner, key, state.layouts, containers.naming(container.node)))
            array_checks.replaced(owner, name, array, *state.layouts[key][:2])
        new = np.array(look_up(key, array))
        return new if isinstance(value, np.ndarray) else as_number(new, value)

    leaves = zip(container.keys, container.values(params) or [], strict=True)
    return container.like(params, [of(key, container.name(key), value) for key, value in leaves])


@contextmanager
def swapped(owner: str, params: Any, new: Any) -> Iterator[None]:
    """Has the values `new` in `params` until it is left."""
    container = containers.container_of(owner, params)
    values, mutable = container.values(params) or [], container.leaves(params)
    copied, new = container.copied(owner, params, values), container.leaves(new)
    leaves = dict(zip(container.keys, values, strict=True))
    arrays = {key: value for key, value in leaves.items() if isinstance(value, np.ndarray) and key not in copied}
    others = {key: value for key, value in leaves.items() if key not in arrays}
    container.check_rebindable(owner, params, list(others))
    targets = [np.asarray(value) for value in arrays.values()]
    there = writing(targets, [new[key] for key in arrays])
    back = writing(targets, [target.copy(order="K") for target in targets])
    try:
        list(there)
        for key in others:
            mutable[key] = new[key]
        yield
    finally:
        list(back)
        for key, value in others.items():
            mutable[key] = value


class AveragedWeights:
    """The methods of an optimizer that has averages of the weights."""

    def averaged(self: Any, params: Any) -> Any:
        """The averaged weights, which `averaging` keeps, as copies in the form of `params`.

        Parameters
        ----------
        params : as in `update`
            The parameters that are trained, or some of them: containers, a model, or objects with `.data`.

        Returns
        -------
        as `params`
            Of a model or objects, a dict of arrays by name.

        Raises
        ------
        TypeError, ValueError, KeyError
            as `update` does of its parameters.
        RuntimeError
            if there is no average yet; in the middle of a step.
        """
        with self._not_stepping():
            return self._copies_of_average(objects.by_name(self, params)[0])

    @contextmanager
    def averaged_weights(self: Any, params: Any) -> Iterator[Any]:
        """Has the averaged weights in `params`, in place, as long as a `with` block lasts; then again what was there.

        They are those that `averaged` returns. Steps, saving and copying of the optimizer are refused meanwhile.
        Afterwards, also after an exception, every bit of `params` is what it was before. Costs the memory of `params`
        twice.

        Parameters
        ----------
        params : as in `update`
            The parameters that are trained, or some of them: containers, a model, or objects with `.data`.

        Raises
        ------
        TypeError, ValueError, KeyError, RuntimeError
            as `averaged` does, before anything is written.

        Examples
        --------
        >>> import numpy as np
        >>> import fastopt
        >>> params, optimizer = {"W": np.zeros(1)}, fastopt.SGD(lr=1.0, averaging=fastopt.EMA(decay=0.75))
        >>> for _ in range(2):
        ...     optimizer.update(params, {"W": -np.ones(1)})
        >>> with optimizer.averaged_weights(params):
        ...     print(params["W"])
        [1.25]
        >>> params["W"]
        array([2.])
        """
        with self._not_stepping(checks.SWAPPED):
            arrays, _ = objects.by_name(self, params)
            with swapped(type(self).__name__, arrays, self._copies_of_average(arrays)):
                yield params

    def _copies_of_average(self: Any, params: Any) -> Any:
        state, slot, owner = self._state, SLOTS["averaging"], type(self).__name__
        if not self._averaged:
            raise RuntimeError(checks.nothing_averaged(owner, self.averaging, self._steps))

        def average(key: Hashable, _: Array) -> Array:
            if not self._averages[self._cohorts[key]]:
                name = containers.naming(self._node)(key)
                raise RuntimeError(checks.nothing_averaged(owner, self.averaging, self._steps, name))
            values: Array = state.views[slot][key]
            return values

        return copies(owner, state, params, average)
