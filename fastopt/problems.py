"""Many independent problems in one optimizer: which are active, the steps of each, and restarts."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain, repeat
from operator import setitem
from typing import Any

import numpy as np

from fastopt.engine.execute import consume
from fastopt.engine.problem_counts import ProblemCounts
from fastopt.engine.problem_step import check_active
from fastopt.flat import Array


class Problems:
    """Attributes of an optimizer with `batch_axis=0`, whose parameters are one problem per row."""

    @property
    def active(self: Any) -> Array | None:
        """Bool of shape (problems,): which problems step; all at first. Assign a mask, or None for all.

        The others keep their parameters, state and step count, and cost little time where few active ones are near.
        """
        counts: ProblemCounts | None = self._problems
        if counts is None:
            return None if self._wanted_active is None else np.array(self._wanted_active)
        return np.ones(counts.size, bool) if counts.active is None else counts.active.copy()

    @active.setter
    def active(self: Any, value: Any) -> None:
        owner = type(self).__name__
        if self.batch_axis is None:
            raise ValueError(f"{owner}: active is for many problems at once; set batch_axis=0")
        mask = None if value is None else np.array(value)
        if mask is not None and (mask.dtype != bool or mask.ndim != 1):
            raise TypeError(
                f"{owner}: active must be None or an array of bools of shape (problems,), got {mask.dtype} of shape "
                f"{mask.shape}"
            )
        counts: ProblemCounts | None = self._problems
        with self._not_stepping():
            if counts is None:
                self.__dict__["_wanted_active"] = mask
                return
            if mask is not None:
                check_active(owner, mask, counts.size)
            self.__dict__["_problems"] = counts.with_steps(counts.steps(self._steps), mask, self._steps)

    @property
    def problem_steps(self: Any) -> Array | None:
        """int64 of shape (problems,): the step count of each problem, for its bias corrections and schedules."""
        return None if self._problems is None else self._problems.steps(self._steps)

    @property
    def problem_skips(self: Any) -> Array | None:
        """int64 of shape (problems,): the steps that each problem has skipped, by `on_nonfinite="skip"`."""
        counts: ProblemCounts | None = self._problems
        if counts is None:
            return None
        return np.zeros(counts.size, np.int64) if counts.skips is None else counts.skips.astype(np.int64)

    def restart(self: Any, problems: Any) -> None:
        """Restart some problems: their state is that before the first step, their counts are 0, and they are active.

        Their parameters stay; set them yourself.

        Parameters
        ----------
        problems : int, array of int, or bool array of shape (problems,)
            The problems to restart.

        Raises
        ------
        IndexError, TypeError
            if there are no such problems, or they are neither whole numbers nor bools; nothing is changed then.
        RuntimeError
            before the first step; in the middle of a step.

        Examples
        --------
        >>> import numpy as np
        >>> from fastopt import Adam
        >>> x, optimizer = np.zeros((3, 2)), Adam(lr=0.1, batch_axis=0)
        >>> for _ in range(5):
        ...     optimizer.update(x, np.ones((3, 2)))
        >>> optimizer.restart(1)
        >>> optimizer.problem_steps, optimizer.m[:, 0].round(2)
        (array([5, 0, 5]), array([0.41, 0.  , 0.41]))
        """
        owner = type(self).__name__
        with self._not_stepping():
            counts: ProblemCounts | None = self._problems
            if counts is None:
                raise RuntimeError(f"{owner}: no problem has made a step yet; set batch_axis=0 and make one first")
            rows = np.atleast_1d(np.asarray(problems))
            if rows.size == 0:
                rows = rows.astype(np.int64)
            if rows.dtype.kind not in "biu":
                raise TypeError(f"{owner}: problems must be whole numbers or bools, got {rows.dtype}; convert them")
            which = np.zeros(counts.size, bool)
            try:
                which[rows] = True
            except IndexError:
                raise IndexError(
                    f"{owner}: there are {counts.size} problems, got {problems!r:.100}; count from 0"
                ) from None
            steps = np.where(which, 0, counts.steps(self._steps))
            active = None if counts.active is None else counts.active | which
            new = counts.with_steps(steps, active, self._steps)
            new.skips, new.skips_in_a_row = (
                None if skips is None else np.where(which, 0, skips) for skips in (counts.skips, counts.skips_in_a_row)
            )
            consume(chain(_begin(self, which), map(self.__dict__.update, [{"_problems": new, "_calls": ()}])))


def _begin(optimizer: Any, which: Array) -> Iterator[Any]:
    """Calls of C that set the state of some problems to its start values."""
    state = optimizer._state
    if state is None:
        return iter(())
    arrays = [
        (state.array_of(slot, key), float(state.slots[slot] or 0.0)) for slot in state.slots for key in state.layouts
    ]
    return map(setitem, [array for array, _ in arrays], repeat(which), [start for _, start in arrays])
