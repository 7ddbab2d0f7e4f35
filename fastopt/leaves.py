"""Parameters that come, go and change their size: what an optimizer does about the state of each."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from typing import Any, cast

import numpy as np

from fastopt import array_checks, checks, structure
from fastopt.engine import catch_up, objects, step_counts
from fastopt.engine.containers import BARE, naming
from fastopt.engine.state import PARAMETER, Layout
from fastopt.engine.step_counts import StepCounts
from fastopt.flat import Array
from fastopt.structure import Node


class Leaves:
    """The state of new, gone and resized parameters.

    A key that is new in a step begins with fresh state and a step count of its own; one that is gone keeps its state
    until `forget`.
    """

    def forget(self: Any, keys: Hashable | Iterable[Hashable]) -> None:
        """Drops the state, averages and step counts of parameters; if one comes again, it begins anew.

        A rule without state (SGD) has nothing to do.

        Parameters
        ----------
        keys : a key, or an iterable of keys
            A tuple that is a key is one; None is the one bare array.

        Raises
        ------
        KeyError
            if one has no state; nothing is forgotten then.
        RuntimeError
            in the middle of a step.

        Examples
        --------
        >>> import numpy as np
        >>> from fastopt import Momentum
        >>> params, optimizer = {"a": np.zeros(2), "b": np.zeros(2)}, Momentum()
        >>> optimizer.update(params, {"a": np.ones(2), "b": np.ones(2)})
        >>> del params["b"]
        >>> optimizer.update(params, {"a": np.ones(2)})
        >>> list(optimizer.v)
        ['a', 'b']
        >>> optimizer.forget("b")
        >>> list(optimizer.v)
        ['a']
        """
        with self._not_stepping():
            if self._state is None and not self._rule.state:
                return
            counts = self._leaf_counts()
            is_one = isinstance(keys, str | bytes) or not isinstance(keys, Iterable)
            if is_one or (isinstance(keys, tuple) and keys in counts):
                keys = [cast("Hashable", keys)]
            gone = {_key_of(self, key, counts) for key in cast("Iterable[Hashable]", keys)}
            node: Node | None = self._node
            state = self._state and self._state.without(gone)
            new = {
                "_node": node and structure.without(node, gone),
                "_state": state if state and state.layouts else None,
                "_skipped_rows": {key: skipped for key, skipped in self._skipped_rows.items() if key not in gone},
                "_factors": {key: factors for key, factors in self._factors.items() if key not in gone},
            }
            counts = {key: count for key, count in counts.items() if key not in gone}
            self.__dict__.update(new | with_counts(counts))

    def reset(self: Any) -> None:
        """Drops all state, averages and counts: as a new optimizer with the settings that it has now.

        Settings stay, and so does what a schedule such as `ReduceOnPlateau` remembers.

        Raises
        ------
        RuntimeError
            in the middle of a step.

        Examples
        --------
        >>> import numpy as np
        >>> from fastopt import Adam
        >>> params, optimizer = {"W": np.zeros(2)}, Adam(lr=0.1)
        >>> optimizer.update(params, {"W": np.ones(2)})
        >>> optimizer.reset()
        >>> optimizer
        Adam(lr=0.1, beta1=0.9, beta2=0.999, eps=1e-07, eps_root=0.0, form='textbook')
        >>> optimizer.iter
        0
        """
        with self._not_stepping():
            new: dict[str, Any] = {
                "_steps": 0,
                "_skipped": 0,
                "_skips_in_a_row": 0,
                "_accumulated": 0,
                "_sums": None,
                "_problems": None,
                "_wanted_active": None,
                "_trial": None,
                "_state": None,
                "_node": None,
                "_skipped_rows": {},
                "_estimates": {},
                "_factors": {},
            }
            self.__dict__.update(new | with_counts({}))

    def reindex(self: Any, key: Hashable, index: Any, parameter: Array | None = None) -> None:
        """Gives a parameter's state other rows, as after its own were pruned, cloned, sorted or added.

        Row i of each state slot, average and catch-up clock becomes the old row `index[i]`; where that is -1, it
        begins. The next step expects a parameter of `len(index)` rows. Its step count stays, that of all its rows. A
        rule without state (SGD) has nothing to do.

        Parameters
        ----------
        key : the parameter's key, None for one bare array
        index : int array of shape (new rows,)
            For each new row the number of an old one, or -1; a row may be taken more than once.
        parameter : array of shape (new rows, ...), optional
            The new parameter, with which averages of the weights begin in new rows; needed only for that. Where it is
            given the state lies in memory as it does.

        Raises
        ------
        KeyError
            if the key has no state.
        TypeError, ValueError
            if `index` or `parameter` is not as above, the parameter has no rows, or the rule keeps `factors` of it,
            which are of all rows; the state is then as it was.
        RuntimeError
            in the middle of a step.

        Examples
        --------
        >>> import numpy as np
        >>> from fastopt import Momentum
        >>> params, optimizer = {"xyz": np.zeros((3, 1))}, Momentum(lr=1.0)
        >>> optimizer.update(params, {"xyz": np.array([[1.0], [2.0], [3.0]])})
        >>> params["xyz"] = np.concatenate([params["xyz"][[2, 0]], [[0.5]]])
        >>> optimizer.reindex("xyz", [2, 0, -1])
        >>> optimizer.v["xyz"].ravel()
        array([-3., -1.,  0.])
        """
        with self._not_stepping():
            if self._state is None and not self._rule.state:
                key = BARE if key is None and BARE in self._skipped_rows else key
                if key in self._skipped_rows:  # all that there is of it
                    skipped, name = self._skipped_rows[key], naming(self._node)(key)
                    index = _row_index(type(self).__name__, name, index, skipped.last.shape)
                    new = {"_skipped_rows": {**self._skipped_rows, key: catch_up.reindexed(skipped, index)}}
                    self.__dict__.update(new | _FORGOTTEN)
                return
            owner, key = type(self).__name__, _key_of(self, key, self._leaf_counts())
            layout = self._state.layouts[key]
            name = "the bare array" if key is BARE else naming(self._node)(key)
            index = _row_index(owner, name, index, layout.shape)
            if key in self._factors:
                raise ValueError(checks.no_rows(owner, name, self._factors[key]))
            starts = self._at(self._steps + 1).start_values()
            copies = [slot for slot in self._state.slots if starts.get(slot) is PARAMETER]  # and averages
            if parameter is not None or (copies and (index < 0).any()):
                expected = layout._replace(shape=(len(index), *layout.shape[1:]))
                _check_resized(owner, key, name, parameter, expected, copies)
            new = {"_state": self._state.reindexed(key, index, starts, parameter)}
            if key in self._skipped_rows:
                new["_skipped_rows"] = {**self._skipped_rows, key: catch_up.reindexed(self._skipped_rows[key], index)}
            self.__dict__.update(new | _FORGOTTEN)

    def catch_up(self: Any, params: Any) -> None:
        """Makes the steps that rows skipped, with `Rows(..., exact=True)`: writes `params` and the state in place.

        To be called before parameters are used or saved; between steps it may be called at any time. Without such
        rows it does nothing.

        Raises
        ------
        TypeError, ValueError, KeyError, RuntimeError
            as `update` does of its parameters, before anything is written.

        Examples
        --------
        >>> import numpy as np
        >>> from fastopt import Momentum, Rows
        >>> params, optimizer = {"e": np.zeros((2, 1))}, Momentum(lr=1.0, momentum=0.5)
        >>> for row in (0, 1, 1):
        ...     optimizer.update(params, {"e": Rows(np.array([row]), np.ones((1, 1)), exact=True)})
        >>> optimizer.catch_up(params)
        >>> params["e"].ravel()  # row 0 went on by 0.5 and 0.25
        array([-1.75, -2.5 ])
        """
        with self._not_stepping():
            catch_up.catch_up_all(self, objects.by_name(self, params)[0])

    def _leaf_counts(self: Any) -> dict[Hashable, tuple[int, int]]:
        """Steps and averages of each leaf that is known."""
        counts = StepCounts(self._cohorts, self._counts, self._averages).by_leaf()
        layouts = {} if self._state is None else self._state.layouts
        # State may begin before the first step, as Sophia's does.
        return {key: counts.get(key, (0, 0)) for key in {**layouts, **counts}}


_FORGOTTEN: dict[str, Any] = {"_plan": None, "_report_plan": None, "_others": (), "_calls": ()}
"""Nothing that was worked out for the steps before."""


def with_counts(counts: dict[Hashable, tuple[int, int]]) -> dict[str, Any]:
    """Attributes of an optimizer whose leaves have these steps and averages."""
    cohorts, steps, averages = step_counts.of_leaves(counts)
    return {"_cohorts": cohorts, "_counts": steps, "_averages": averages, **_FORGOTTEN}


def _key_of(optimizer: Any, key: Hashable, counts: dict[Hashable, Any]) -> Hashable:
    if key is None and None not in counts and BARE in counts:
        return BARE
    if key not in counts:
        raise KeyError(checks.no_state(type(optimizer).__name__, key, counts, naming(optimizer._node)))
    return key


def _row_index(owner: str, name: str, index: Any, shape: tuple[int, ...]) -> Array:
    if not shape:
        raise ValueError(f"{owner}: {name} has no rows, being of shape (); `forget` it, and its state begins anew")
    rows = np.asarray(index)
    if rows.size == 0:
        rows = rows.astype(np.int64)
    if rows.dtype.kind not in "iu" or rows.ndim != 1:
        raise TypeError(
            f"{owner}: the index of rows of {name} is of dtype {rows.dtype} and shape {rows.shape}, expected whole "
            "numbers of shape (new rows,); of a mask that says which rows stay it is np.flatnonzero(mask)"
        )
    rows = rows.astype(np.int64)
    bad = np.flatnonzero((rows < -1) | (rows >= shape[0]))
    if bad.size:
        raise ValueError(
            f"{owner}: index[{bad[0]}] is {rows[bad[0]]}, but {name} had {shape[0]} rows at its last step; hand in 0 "
            f"to {shape[0] - 1}, or -1 for a new row"
        )
    return rows


def _check_resized(owner: str, key: Hashable, name: str, parameter: Any, layout: Layout, slots: list[str]) -> None:
    if parameter is None:
        raise ValueError(
            f"{owner}: {' and '.join(slots)} of new rows of {name} begin as the parameter; hand it in, as it is with "
            f"them: reindex({None if key is BARE else key!r}, index, parameter)"
        )
    array = array_checks.parameter(owner, name, parameter)
    if array.shape != layout.shape or array.dtype != layout.dtype:
        raise ValueError(
            f"{owner}: {name} is {array.dtype} of shape {array.shape}, expected {layout.dtype} of shape "
            f"{layout.shape}: a row for each number in the index"
        )
