"""Step counts of many independent problems, and which of them are active."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any

import numpy as np

from fastopt.flat import Array

MOST_APART = 1 << 20
"""Step counts further apart are sorted; others are counted."""


class ProblemCounts:
    """How many steps each problem has made and skipped. Never changed in place: a step puts another in its place.

    The steps of active problems are counted from those of the optimizer, its `iter`, so a step in which all of them
    take part changes nothing here.

    size : the number of problems
    base : how many more than `iter` active problems have made, besides their offset
    active : bool[size], or None where all are
    offsets : int64[size], or None where all active problems have made as many steps
    inactive_steps : int64[size], the steps of those that are not active
    skips, skips_in_a_row : int64[size], or None where there were none
    """

    def __init__(
        self,
        size: int,
        base: int = 0,
        active: Array | None = None,
        offsets: Array | None = None,
        inactive_steps: Array | None = None,
        skips: Array | None = None,
        skips_in_a_row: Array | None = None,
    ) -> None:
        self.size, self.base, self.active, self.offsets, self.inactive_steps = (
            size,
            base,
            active,
            offsets,
            inactive_steps,
        )
        self.skips, self.skips_in_a_row = skips, skips_in_a_row

    def steps(self, step: int) -> Array:
        """int64[size], the number of steps of each problem after so many steps of the optimizer."""
        base = step + self.base
        steps = np.full(self.size, base) if self.offsets is None else base + self.offsets
        return (
            steps
            if self.active is None or self.inactive_steps is None
            else np.where(self.active, steps, self.inactive_steps)
        )

    def with_steps(self, steps: Array, active: Array | None, step: int) -> ProblemCounts:
        """The same with other step counts, or other active problems, after so many steps of the optimizer."""
        active = None if active is None or active.all() else active
        seen = steps if active is None else steps[active]
        base = int(seen.min()) if seen.size else 0
        offsets = None if (seen == base).all() else steps - base
        inactive_steps = None if active is None else steps
        return ProblemCounts(self.size, base - step, active, offsets, inactive_steps, self.skips, self.skips_in_a_row)

    def all_at(self, steps: int) -> ProblemCounts:
        """The same where all problems, and the optimizer, have made so many steps."""
        return self.with_steps(np.full(self.size, steps), self.active, steps)

    @cached_property
    def distinct(self) -> tuple[list[int], Array | None]:
        """Different offsets of active problems, and which of them each problem has; None where there is one."""
        offsets = self.offsets
        if offsets is None:
            return [0], None
        seen = offsets if self.active is None else offsets[self.active]
        low = int(seen.min()) if seen.size else 0
        high = int(seen.max()) if seen.size else 0
        if high - low > MOST_APART:
            values, places = np.unique(offsets, return_inverse=True)
            return values.tolist(), places
        present = np.flatnonzero(np.bincount(seen - low))
        if len(present) < 2:
            return [low], None
        lookup = np.zeros(high - low + 1, np.int64)
        lookup[present] = np.arange(len(present))
        return (present + low).tolist(), lookup[np.clip(offsets - low, 0, high - low)]

    @cached_property
    def members(self) -> list[Array]:
        """The problems of each of the different offsets, where there are several."""
        offsets, places = self.distinct
        assert places is not None
        order = np.argsort(places, kind="stable")
        return np.split(order, np.searchsorted(places[order], np.arange(1, len(offsets))))

    def after_step(self, skipped: Array | None) -> ProblemCounts:
        """Those after a step that some active problems skip."""
        if skipped is None and self.skips_in_a_row is None:
            return self
        new = ProblemCounts(self.size, self.base, self.active, self.offsets, self.inactive_steps, self.skips)
        if skipped is None:
            for name in ("distinct", "members"):
                if name in vars(self):
                    vars(new)[name] = vars(self)[name]
            return new
        new.offsets = (np.zeros(self.size, np.int64) if self.offsets is None else self.offsets) - skipped
        new.skips = skipped + (0 if self.skips is None else self.skips)
        in_a_row = 0 if self.skips_in_a_row is None else self.skips_in_a_row
        still = skipped if self.active is None else skipped | ~self.active
        new.skips_in_a_row = np.where(still, in_a_row + skipped.astype(np.int64), 0)
        return new

    def saved(self, step: int) -> dict[str, Array]:
        """Arrays for a checkpoint after so many steps of the optimizer."""
        nothing, all_of_them = np.zeros(self.size, np.int64), np.ones(self.size, np.int64)
        return {
            "steps": self.steps(step),
            "active": all_of_them if self.active is None else self.active.astype(np.int64),
            "skips": nothing if self.skips is None else self.skips.astype(np.int64),
            "skips_in_a_row": nothing if self.skips_in_a_row is None else self.skips_in_a_row,
        }

    @classmethod
    def loaded(cls, owner: str, saved: Any, step: int) -> ProblemCounts | None:
        """That of which `saved` made this at that step; ValueError or TypeError where it did not."""
        if saved is None:
            return None
        names = {"steps", "active", "skips", "skips_in_a_row"}
        if not isinstance(saved, Mapping) or set(saved) != names:
            raise TypeError(f"{owner}: problems are {saved!r:.100}, expected a dict of {', '.join(sorted(names))}")
        arrays = {name: np.asarray(array) for name, array in saved.items()}
        size = len(arrays["steps"]) if arrays["steps"].ndim else 0
        for name, array in arrays.items():
            if array.dtype != np.int64 or array.shape != (size,) or not size or (array < 0).any():
                raise ValueError(f"{owner}: {name} of problems are no whole numbers, one for each problem")
        counts = cls(size, skips=arrays["skips"], skips_in_a_row=arrays["skips_in_a_row"])
        return counts.with_steps(arrays["steps"], arrays["active"] != 0, step)
