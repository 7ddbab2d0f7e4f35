"""Which arrays share memory, in n log n however many there are.

Two arrays are told apart by the bounds of their memory, most often. Where those overlap, as of interleaved views, they
are compared in pairs if they are few; else each is cut into runs of contiguous bytes, which are sorted.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from functools import cached_property
from itertools import accumulate
from typing import Any, NamedTuple

import numpy as np
from numpy.lib.array_utils import byte_bounds

from fastopt.flat import Array

RUNS_PER_PAIR = 25
"""Comparing two arrays takes as long as sorting so many runs."""

FEW = 16
"""So many arrays are compared one by one."""

MOST_RUNS = 20_000_000
"""Half a GB; beyond that arrays are compared in pairs."""


def share_memory(a: Array, b: Array) -> bool:
    """Whether two arrays have an element in common; taken for yes where that is too hard to find out."""
    try:
        return np.shares_memory(a, b, max_work=100_000)  # type: ignore[arg-type]  # NumPy's stub knows 0 and -1 only
    except np.exceptions.TooHardError:
        return True


class Runs(NamedTuple):
    """Runs of contiguous bytes, ascending."""

    starts: Array
    ends: Array
    owners: Array
    """The number of the array that each belongs to."""


class Block:
    """Arrays whose bounds overlap, one after the other."""

    def __init__(self, start: int, end: int, members: list[int]) -> None:
        self.start, self.end, self.members = start, end, members


class Memory:
    """The memory of arrays, which must not overlap.

    overlapping : the numbers of two arrays that have an element in common, None if there are none
    blocks : disjoint blocks of memory, ascending, that hold all of it
    """

    def __init__(self, arrays: Sequence[Array]) -> None:
        self.arrays = arrays
        self.overlapping: tuple[int, int] | None = None
        self.blocks: list[Block] = []
        bounds = [(*byte_bounds(array), number) for number, array in enumerate(arrays) if array.size]
        for start, end, number in sorted(bounds):
            if self.blocks and start < self.blocks[-1].end:
                block = self.blocks[-1]
                block.end = max(block.end, end)
                block.members.append(number)
            else:
                self.blocks.append(Block(start, end, [number]))
        self._starts = [block.start for block in self.blocks]
        self._ends = [block.end for block in self.blocks]
        self._counts = [0, *accumulate(len(block.members) for block in self.blocks)]
        for block in self.blocks:
            if len(block.members) > 1 and self.overlapping is None:
                self.overlapping = self._overlapping(block)

    def sharing(self, array: Array) -> list[int]:
        """The numbers of the arrays that have an element in common with another one."""
        if not array.size:
            return []
        start, end = byte_bounds(array)
        first, last = bisect_right(self._ends, start), bisect_left(self._starts, end)
        count = self._counts[last] - self._counts[first]
        if count > FEW and _count(array) <= min(RUNS_PER_PAIR * count, MOST_RUNS) and self._runs is not None:
            return _owners(self._runs, array)
        candidates = [member for block in self.blocks[first:last] for member in block.members]
        return [member for member in candidates if share_memory(self.arrays[member], array)]

    @cached_property
    def _runs(self) -> Runs | None:
        """Those of all arrays; None where there are too many, or where an array overlaps itself."""
        members = [member for block in self.blocks for member in block.members]
        if sum(_count(self.arrays[member]) for member in members) > MOST_RUNS:
            return None
        runs = self._sorted(members)
        return None if (runs.ends[:-1] > runs.starts[1:]).any() else runs

    def _sorted(self, members: list[int]) -> Runs:
        runs = [_runs(self.arrays[member]) for member in members]
        starts, ends = (np.concatenate([run[side] for run in runs]) for side in (0, 1))
        order = np.argsort(starts, kind="stable")
        return Runs(starts[order], ends[order], np.repeat(members, [len(run[0]) for run in runs])[order])

    def _overlapping(self, block: Block) -> tuple[int, int] | None:
        arrays = [self.arrays[member] for member in block.members]
        count = sum(map(_count, arrays))
        if count > min(RUNS_PER_PAIR * len(arrays) ** 2, MOST_RUNS):
            return self._overlapping_pair(block)
        runs = self._sorted(block.members)
        meeting = np.flatnonzero(runs.ends[:-1] > runs.starts[1:])
        if not len(meeting):
            return None
        owners = runs.owners
        for first, second in zip(owners[meeting].tolist(), owners[meeting + 1].tolist(), strict=True):
            if first != second:
                return first, second
        return self._overlapping_pair(block)  # an array that overlaps itself may hide what it shares with others

    def _overlapping_pair(self, block: Block) -> tuple[int, int] | None:
        members = block.members
        for place, second in enumerate(members):
            for first in members[:place]:
                if share_memory(self.arrays[first], self.arrays[second]):
                    return first, second
        return None


def _axes(array: Array) -> tuple[int, int, list[tuple[int, int]]]:
    """Where an array's memory starts, the bytes of a run, and the lengths and strides of the axes of runs."""
    axes = sorted(
        (abs(stride), length) for stride, length in zip(array.strides, array.shape, strict=True) if length > 1
    )
    size = array.itemsize
    outer: list[tuple[int, int]] = []
    for stride, length in axes:
        if stride == size and not outer:
            size *= length
        elif stride:
            outer.append((length, stride))
    return byte_bounds(array)[0], size, outer


def _count(array: Array) -> int:
    """The number of runs of an array."""
    count = 1
    for length, _ in _axes(array)[2]:
        count *= length
    return count


def _runs(array: Array) -> tuple[Array, Array]:
    """Starts and ends of the runs of an array."""
    start, size, outer = _axes(array)
    starts = np.array([start], dtype=np.int64)
    for length, stride in outer:
        starts = (starts + (np.arange(length, dtype=np.int64) * stride)[:, None]).ravel()
    return starts, starts + size


def _owners(runs: Runs, array: Array) -> list[int]:
    starts, ends = _runs(array)
    first = np.searchsorted(runs.ends, starts, side="right")
    last = np.searchsorted(runs.starts, ends, side="left")
    meeting = np.flatnonzero(first < last)
    return list(dict.fromkeys(number for run in meeting for number in runs.owners[first[run] : last[run]].tolist()))


def moved_blocks(written: Array, moved: list[tuple[int, int, int]]) -> tuple[Any, Any] | None:
    """Starts and ends of disjoint blocks after some have moved; None if one is none of them, or they then overlap.

    written : int64[2, n], starts and ends of blocks, ascending
    moved : of each where it began, where it begins now, and its size
    """
    if len(moved) > FEW:
        return _moved_at_once(written, np.array(moved, dtype=np.int64).T)
    starts, ends = written.tolist()
    for old, _, size in moved:
        block = bisect_left(starts, old)
        if block == len(starts) or (starts[block], ends[block]) != (old, old + size):
            return None
        del starts[block], ends[block]
    for _, new, size in moved:
        block = bisect_left(starts, new)
        if (block and ends[block - 1] > new) or (block < len(starts) and starts[block] < new + size):
            return None
        starts.insert(block, new)
        ends.insert(block, new + size)
    return starts, ends


def _moved_at_once(written: Array, moved: Array) -> tuple[Array, Array] | None:
    old, new, size = moved
    places = np.searchsorted(written[0], old)
    if (places == written.shape[1]).any() or len(np.unique(places)) < len(places):
        return None
    if (written[0, places] != old).any() or (written[1, places] != old + size).any():
        return None
    starts = np.concatenate([np.delete(written[0], places), new])
    ends = np.concatenate([np.delete(written[1], places), new + size])
    order = np.argsort(starts, kind="stable")
    starts, ends = starts[order], ends[order]
    return None if (ends[:-1] > starts[1:]).any() else (starts, ends)
