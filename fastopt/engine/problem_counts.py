"""Step counts of many independent problems, and which of them are active."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from fastopt.flat import Array

MOST_APART = 1 << 20
"""Step counts further apart are sorted; others are counted."""

ROOM, MOST_ROOM = 1000, 1 << 16
"""For how many steps to come there is room behind numbers by step count, and how much in all."""


class Slots(NamedTuple):
    """Where numbers by step count are in an array, in which those of successive counts follow one another.

    The number of a count moves on by one place at each step; only at some places it is then another than was there.
    """

    of_problems: Array | None
    """int64[problems], the place of each problem's count, some place where it is not active; None where all have the
    same, at place 0."""
    offsets: list[tuple[int, int]]
    """The different offsets, and the place of each."""
    ends: list[tuple[int, int]]
    """Those of them behind which there is room for as many steps as `room` says."""
    room: int

    @property
    def length(self) -> int:
        """The size of the array."""
        return self.offsets[-1][1] + self.room + 1


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
    def slots(self) -> Slots:
        """Where numbers by step count are in an array."""
        offsets = self.offsets
        seen = np.zeros(1, np.int64) if offsets is None else offsets if self.active is None else offsets[self.active]
        low, high = (int(seen.min()), int(seen.max())) if seen.size else (0, 0)
        if offsets is None or low == high:
            return Slots(None, [(low, 0)], [(low, 0)], ROOM)
        near = high - low <= MOST_APART
        different = np.flatnonzero(np.bincount(seen - low)) + low if near else np.unique(seen)
        ends = np.flatnonzero(np.diff(different, append=high + 2) != 1)
        room = max(1, min(ROOM, MOST_ROOM // len(ends)))
        places = np.arange(len(different))
        places += np.searchsorted(ends, places) * room
        if near:
            lookup = np.zeros(high - low + 1, np.int64)
            lookup[different - low] = places
            index = lookup[np.clip(offsets - low, 0, high - low)]
        else:
            index = places[np.searchsorted(different, np.clip(offsets, low, high))]
        pairs = list(zip(different.tolist(), places.tolist(), strict=True))
        return Slots(index, pairs, [pairs[end] for end in ends], room)

    def after_step(self, skipped: Array | None) -> ProblemCounts:
        """Those after a step that some active problems skip."""
        if skipped is None and self.skips_in_a_row is None:
            return self
        new = ProblemCounts(self.size, self.base, self.active, self.offsets, self.inactive_steps, self.skips)
        if skipped is None:
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
