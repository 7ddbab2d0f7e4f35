"""Which elements of the parameters each process steps.

All arrays of a dtype are one line of elements, one array after the other, which is cut into a shard for each process.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from fastopt.engine.containers import BARE
from fastopt.engine.state import Layout
from fastopt.flat import Array

CACHE_LINE = 64
"""Bytes; shards begin at multiples of it, so that no two processes of a machine write to one."""


class LeafSlice(NamedTuple):
    """A slice of one leaf: its elements from `start` to `stop` in the order of memory."""

    path: Hashable
    start: int
    stop: int

    def __repr__(self) -> str:
        """As error texts call it, in brackets behind "params" or "grads"."""
        of_leaf = "" if self.path is BARE else f"{self.path!r}, "
        return f"{of_leaf}elements {self.start} to {self.stop - 1}"


@dataclass
class Line:
    """The leaves of one dtype, one after the other, and where they are cut.

    offsets : {path: its first element on the line}
    cuts : the first element of each shard, and the end of the last one
    """

    dtype: np.dtype[Any]
    offsets: dict[Hashable, int]
    cuts: list[int]

    @property
    def size(self) -> int:
        """The number of elements."""
        return self.cuts[-1]

    def shard(self, rank: int) -> slice:
        """The elements that a process steps."""
        return slice(self.cuts[rank], self.cuts[rank + 1])

    @cached_property
    def counts(self) -> Array:
        """The number of elements of each shard."""
        return np.diff(self.cuts)


class Shards:
    """The shards of all processes.

    leaves : {path: how the array lies}
    ranks : the number of processes
    whole : whether arrays are not cut, for rules that step whole matrices
    """

    def __init__(self, leaves: dict[Hashable, Layout], ranks: int, whole: bool) -> None:
        self.leaves, self.ranks, self.whole = leaves, ranks, whole
        self.lines: list[Line] = []
        for dtype in dict.fromkeys(leaf.dtype for leaf in leaves.values()):
            sizes = {path: leaf.size for path, leaf in leaves.items() if leaf.dtype == dtype}
            self.lines.append(_by_owner(dtype, sizes, ranks) if whole else _cut(dtype, sizes, ranks))

    def slices(self, rank: int) -> list[LeafSlice]:
        """The parts of the leaves that a process steps, in the order of its shards."""
        cut: list[LeafSlice] = []
        for line in self.lines:
            shard = line.shard(rank)
            for path, offset in line.offsets.items():
                start, stop = max(shard.start - offset, 0), min(shard.stop - offset, self.leaves[path].size)
                if start < stop:
                    points = _row_borders(self.leaves[path], start, stop)
                    cut += [LeafSlice(path, *ends) for ends in pairwise(points)]
        return cut

    def shape(self, leaf_slice: LeafSlice) -> tuple[int, ...]:
        """The shape in which a piece is stepped: that of its leaf, whole rows of it, a part of a row, or a vector."""
        leaf = self.leaves[leaf_slice.path]
        count = leaf_slice.stop - leaf_slice.start
        if count == leaf.size:
            return leaf.shape
        width = _row_width(leaf)
        if width and leaf_slice.start % width == 0 and count % width == 0:
            return (count // width, *leaf.shape[1:])
        return (1, count) if width else (count,)

    def ranges(self, path: Hashable) -> tuple[Array, Array]:
        """Of each process the first element of a leaf that it steps, and how many."""
        (line,) = [line for line in self.lines if path in line.offsets]
        cuts = np.clip(np.array(line.cuts) - line.offsets[path], 0, self.leaves[path].size)
        return cuts[:-1], np.diff(cuts)

    def rows(self, leaf_slice: LeafSlice) -> tuple[int, int]:
        """The first row of a table that a piece has elements of, and the one behind the last."""
        width = _row_width(self.leaves[leaf_slice.path])
        return leaf_slice.start // width, -(-leaf_slice.stop // width)

    def shaped(self, leaf_slice: LeafSlice, vector: Array) -> Array:
        """The elements of a piece in the shape in which it is stepped, without a copy."""
        shape = self.shape(leaf_slice)
        order = self.leaves[leaf_slice.path].order if len(shape) > 1 else "C"
        return vector.reshape(shape, order=order)  # type: ignore[call-overload,no-any-return]


def flat(array: Array, order: str) -> Array:
    """A contiguous array as a vector in the order of memory, without a copy."""
    return array.reshape(-1) if order == "C" else array.T.reshape(-1)


def _cut(dtype: np.dtype[Any], sizes: dict[Hashable, int], ranks: int) -> Line:
    """Equal shards, in the middle of an array where the borders fall."""
    total = sum(sizes.values())
    step = CACHE_LINE // dtype.itemsize
    shard = math.ceil(total / ranks / step) * step
    return Line(dtype, _offsets(sizes), [min(rank * shard, total) for rank in range(ranks + 1)])


def _by_owner(dtype: np.dtype[Any], sizes: dict[Hashable, int], ranks: int) -> Line:
    """Whole arrays, the largest first, each to whoever has least."""
    owned: list[dict[Hashable, int]] = [{} for _ in range(ranks)]
    loads = [0] * ranks
    for path, size in sorted(sizes.items(), key=lambda leaf: -leaf[1]):
        owner = loads.index(min(loads))
        owned[owner][path] = size
        loads[owner] += size
    in_order = {path: size for leaves in owned for path, size in leaves.items()}
    return Line(dtype, _offsets(in_order), [sum(loads[:rank]) for rank in range(ranks + 1)])


def _offsets(sizes: dict[Hashable, int]) -> dict[Hashable, int]:
    offsets, offset = {}, 0
    for path, size in sizes.items():
        offsets[path] = offset
        offset += size
    return offsets


def _row_width(leaf: Layout) -> int:
    """The number of elements of a row, by which a table may be stepped; 0 where there are none."""
    return math.prod(leaf.shape[1:]) if len(leaf.shape) > 1 and leaf.order == "C" else 0


def _row_borders(leaf: Layout, start: int, stop: int) -> Iterable[int]:
    """Where a part of a leaf is cut once more, so that it is whole rows and at most two parts of rows."""
    width = _row_width(leaf)
    borders = [-(-start // width) * width, stop // width * width] if width else []
    return sorted({start, stop, *(border for border in borders if start < border < stop)})
