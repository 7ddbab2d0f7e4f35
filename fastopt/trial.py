"""Steps that can be undone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain, repeat
from operator import setitem
from typing import Any

import numpy as np

from fastopt import array_checks
from fastopt.engine import containers, objects
from fastopt.engine.execute import consume, writing
from fastopt.flat import Array
from fastopt.schedules import Schedule

_KEPT = (
    *("_steps", "_skipped", "_skips_in_a_row", "_state", "_node", "_cohorts", "_counts", "_averages", "_skipped_rows"),
    *("_accumulated", "_sums", "_problems", "_wanted_active", "_estimates", "_factors"),
)
"""The attributes of an optimizer that steps change; arrays among them are copied."""


class Trial:
    """A step on trial, from `with optimizer.trial(params) as step`: parameters and optimizer as they were."""

    def __init__(self, optimizer: Any, params: Any, used: list[Array]) -> None:
        """Copy all that steps write; `used` is memory of an earlier trial, which is reused where it fits."""
        owner = type(optimizer).__name__
        self._optimizer: Any = optimizer
        self._params = objects.by_name(optimizer, params)[0]
        container = containers.container_of(owner, self._params)
        values = container.values(self._params) or []
        for key, value in zip(container.keys, values, strict=True):
            array_checks.parameter(owner, container.name(key), value)
        copied = container.copied(owner, self._params, values)
        self._leaves, self._container = dict(zip(container.keys, values, strict=True)), container
        others = [key for key, v in self._leaves.items() if not isinstance(v, np.ndarray) or key in copied]
        container.check_rebindable(owner, self._params, others)
        self._others = {key: np.array(self._leaves[key]) if key in copied else self._leaves[key] for key in others}
        attributes = optimizer.__dict__
        self._attributes = {name: getattr(optimizer, name) for name in _KEPT}
        state, sums = optimizer._state, optimizer._sums
        targets = [np.asarray(value) for key, value in self._leaves.items() if key not in self._others]
        targets += [] if state is None else state.blocks
        targets += [rows.last for rows in optimizer._skipped_rows.values()]
        targets += sums.blocks if optimizer._accumulated else []
        self._targets = targets
        self.memory = [_copy(target, used) for target in targets]
        settings = [attributes, *(group.data for group in optimizer.groups.values())]
        self._schedules = [
            (vars(schedule), dict(vars(schedule)))
            for each in settings
            for name, value in each.items()
            if not name.startswith("_")
            for schedule in _schedules(value)
        ]

    def reject(self) -> None:
        """Restore parameters and optimizer, bit for bit, to where the trial began; another step may follow.

        Raises
        ------
        RuntimeError
            in the middle of a step, or if the trial was accepted.
        ValueError
            if an array has been made read-only meanwhile; nothing is restored then.
        """
        optimizer = self._optimizer
        if optimizer is None:
            raise RuntimeError("this trial was accepted and its copy is gone; begin another: optimizer.trial(params)")
        for key, value in self._leaves.items():
            if isinstance(value, np.ndarray) and key not in self._others and not value.flags.writeable:
                raise ValueError(
                    f"{type(optimizer).__name__}: {self._container.name(key)} has become read-only since the trial "
                    "began, so it cannot be restored; call its setflags(write=True) and reject() again"
                )
        with optimizer._not_stepping():
            attributes, saved = optimizer.__dict__, dict(self._attributes)
            if saved["_state"] is not attributes.get("_state") or saved["_cohorts"] is not attributes.get("_cohorts"):
                saved |= {"_plan": None, "_report_plan": None, "_others": ()}
            saved["_calls"] = ()
            leaves = self._container.leaves(self._params)
            moved = {key: value for key, value in self._leaves.items() if key not in self._others}
            moved = {key: value for key, value in moved.items() if not _is_there(leaves, key, value)}
            back = {**moved, **{key: np.copy(v) if isinstance(v, np.ndarray) else v for key, v in self._others.items()}}
            # All at once: Ctrl-C comes before or after.
            consume(
                chain(
                    writing(self._targets, self.memory),
                    map(setitem, repeat(leaves), back.keys(), back.values()),
                    map(dict.update, *zip(*self._schedules, strict=True)) if self._schedules else (),
                    map(attributes.update, [saved]),
                )
            )

    def accept(self) -> None:
        """Keep the steps for good and free the copy, which otherwise stays for `optimizer.undo`."""
        optimizer, self._optimizer = self._optimizer, None
        if optimizer is not None and optimizer.__dict__.get("_trial") is self:
            optimizer.__dict__["_trial"] = None
        self._params = self._leaves = self._others = self._targets = None  # type: ignore[assignment]
        self.memory = []


class Trials:
    """The methods of an optimizer that undo steps."""

    @contextmanager
    def trial(self: Any, params: Any) -> Iterator[Trial]:
        """Steps on trial: within a `with` block, `step.reject()` or an exception undoes all of them, bit for bit.

        Restored is all that steps write: parameters, state, averages, step counts, skipped steps of sparse rows,
        accumulated gradients, and what a `ReduceOnPlateau` has observed. Settings that are assigned meanwhile stay, so
        a step may be tried again with another `lr`; so do the measurements of `tuning`.

        Costs one copy of parameters and state; steps cost what they always do. The copy stays for `undo`, until the
        next trial reuses its memory or `step.accept()` frees it.

        Parameters
        ----------
        params : as in `update`
            All parameters that are stepped in the block.

        Raises
        ------
        TypeError, ValueError
            as `update` does of its parameters.
        RuntimeError
            in the middle of a step, or within another trial of this optimizer.

        Examples
        --------
        >>> import numpy as np
        >>> from fastopt import SGD
        >>> params, optimizer = {"x": np.array([3.0])}, SGD(lr=1.5)
        >>> before = params["x"].item() ** 2
        >>> with optimizer.trial(params) as step:
        ...     optimizer.update(params, {"x": 2 * params["x"]})
        ...     while params["x"].item() ** 2 > before:
        ...         step.reject()
        ...         optimizer.lr /= 2
        ...         optimizer.update(params, {"x": 2 * params["x"]})
        >>> params["x"], optimizer.lr, optimizer.iter
        (array([-1.5]), 0.75, 1)
        """
        attributes = self.__dict__
        with self._not_stepping():
            if attributes.get("_in_trial"):
                raise RuntimeError(
                    f"{type(self).__name__}: this optimizer is in a trial already; leave that one first, or undo its "
                    "step by reject() and step again"
                )
            before = attributes.get("_trial")
            trial = Trial(self, params, [] if before is None else before.memory)
        attributes.update(_trial=trial, _in_trial=True)
        try:
            yield trial
        except BaseException:
            if trial._optimizer is not None:
                trial.reject()
            raise
        finally:
            attributes["_in_trial"] = False

    def undo(self: Any) -> None:
        """Undo, bit for bit, all steps since the last `trial` began: for a loss that is known only later.

        Raises
        ------
        RuntimeError
            if there was no trial, or it was accepted; in the middle of a step.

        Examples
        --------
        >>> import numpy as np
        >>> from fastopt import Adam
        >>> params, optimizer = {"x": np.array([3.0])}, Adam(lr=1.0)
        >>> with optimizer.trial(params):
        ...     optimizer.update(params, {"x": np.array([1.0])})
        >>> optimizer.undo()
        >>> params["x"], optimizer.iter
        (array([3.]), 0)
        """
        trial = self.__dict__.get("_trial")
        if trial is None:
            raise RuntimeError(
                f"{type(self).__name__}: there is nothing to undo: only a trial that was not accepted can be undone; "
                "make the step within `with optimizer.trial(params)`, and do not accept() it"
            )
        trial.reject()


def _is_there(leaves: Any, key: Any, value: Any) -> bool:
    """Whether a leaf is still the same array; one of another library is a new object at each access."""
    try:
        return leaves[key] is value or not isinstance(leaves[key], np.ndarray)
    except (KeyError, IndexError):
        return False


def _copy(target: Array, used: list[Array]) -> Array:
    """A copy, in used memory where some fits."""
    for number, array in enumerate(used):
        if array.shape == target.shape and array.dtype == target.dtype and array.strides == target.strides:
            del used[number]
            np.copyto(array, target)
            return array
    return target.copy(order="K")


def _schedules(value: Any) -> Iterator[Schedule]:
    """A schedule and its parts."""
    if isinstance(value, Schedule):
        yield value
        for inner in vars(value).values():
            for held in inner if isinstance(inner, list | tuple) else (inner,):
                yield from _schedules(held)
