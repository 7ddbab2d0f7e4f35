"""The arrays that a sharded step works on: views of the user's parameters, by shard."""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from functools import cached_property
from operator import is_
from typing import Any

import numpy as np

from fastopt import array_checks, combinations
from fastopt.engine import containers, mappings
from fastopt.engine.containers import BARE
from fastopt.engine.launch import as_number
from fastopt.engine.overlaps import Memory
from fastopt.engine.state import Layout, layout_of, lies_in
from fastopt.flat import Array, FlatDict
from fastopt.mpi.agreement import digest_of
from fastopt.mpi.layout import LeafSlice, Line, Shards, flat
from fastopt.pairs import is_complex


def name_of(path: Hashable, which: str = "params") -> str:
    """How an array is called in an error text."""
    return which if path is BARE else f"{which}[{path!r}]"


class Binding:
    """Parameters as one step finds them: checked, nothing written.

    arrays : {path: parameter as an array}
    leaves : {path: how it lies}
    flats : {path: its elements as a vector}, a copy where the array is not contiguous or a number
    slices : {LeafSlice: view of the elements that this process steps}
    """

    def __init__(self, owner: str, params: Any) -> None:
        self.container = containers.container_of(owner, params)
        self.params, keys = params, self.container.keys
        self.values = dict(zip(keys, self.container.values(params) or [], strict=True))
        self.arrays = {
            path: array_checks.parameter(owner, self.name(path), value) for path, value in self.values.items()
        }
        for array in self.arrays.values():
            combinations.check_step(owner, {"complex parameters": is_complex(array.dtype), "Sharded": True})
        for path in self.container.copied_keys(params, list(self.values.values())):
            raise TypeError(mappings.hands_out_copies(owner, params, path))
        numbers = [path for path, value in self.values.items() if not isinstance(value, np.ndarray)]
        self.container.check_rebindable(owner, params, numbers)
        overlapping = Memory([array for array in self.arrays.values() if array.size]).overlapping
        if overlapping:
            paths = [path for path, array in self.arrays.items() if array.size]
            names = sorted(self.name(paths[number]) for number in overlapping)
            raise ValueError(
                f"{owner}: {names[0]} and {names[1]} share memory, so that two processes would step it; hand in a "
                "copy of one, or leave one out"
            )
        self.leaves: dict[Hashable, Layout] = {path: layout_of(array) for path, array in self.arrays.items()}
        self.flats: dict[Hashable, Array] = {}
        self.slices: dict[LeafSlice, Array] = {}

    def name(self, path: Hashable, which: str = "params") -> str:
        """How an array is called in an error text: as Python writes its path."""
        return self.container.name(path, which) if path in self.values else name_of(path, which)

    def fits(self, params: Any) -> bool:
        """Whether the parameters of another step are the same arrays."""
        if isinstance(params, np.ndarray) or isinstance(self.params, np.ndarray):
            return params is self.params
        values = self.container.values(params)
        return (
            values is not None
            and all(map(is_, values, self.values.values()))
            and all(isinstance(value, np.ndarray) and value.flags.writeable for value in values)
        )

    def cut(self, shards: Shards, rank: int) -> None:
        """Makes the views of what a process steps."""
        self.flats = {
            path: flat(array, self.leaves[path].order)
            if lies_in(array, self.leaves[path].order) and isinstance(self.values[path], np.ndarray)
            else np.empty(array.size, array.dtype)
            for path, array in self.arrays.items()
        }
        self.staged = [path for path, vector in self.flats.items() if vector.base is None and vector.size]
        self.slices = {
            leaf_slice: shards.shaped(leaf_slice, self.flats[leaf_slice.path][leaf_slice.start : leaf_slice.stop])
            for leaf_slice in shards.slices(rank)
        }

    def fetch(self) -> None:
        """Copies in what is not contiguous."""
        for path in self.staged:
            self._shaped(path)[...] = self.arrays[path]

    def put_back(self) -> None:
        """Copies out what is not contiguous, and makes new numbers of what are numbers."""
        for path in self.staged:
            if isinstance(self.values[path], np.ndarray):
                self.arrays[path][...] = self._shaped(path)
            else:
                self.container.leaves(self.params)[path] = as_number(self._shaped(path), self.values[path])

    def _shaped(self, path: Hashable) -> Array:
        """The vector of a leaf in the leaf's shape."""
        leaf = self.leaves[path]
        return self.flats[path].reshape(leaf.shape, order=leaf.order)  # type: ignore[call-overload,no-any-return]

    @cached_property
    def digest(self) -> bytes:
        """Equal on all processes whose leaves are alike and in the same order."""
        return digest_of(self.as_text())

    def as_text(self) -> dict[str, str]:
        """The leaves in words."""
        leaves = {
            self.name(path): f"{leaf.dtype} of shape {leaf.shape} in {leaf.order} order"
            for path, leaf in self.leaves.items()
        }
        return leaves | {"the order of params": ", ".join(map(repr, self.values))}

    def as_line(self, line: Line) -> Array | None:
        """The memory of all leaves of a line, where they lie in it as on the line."""
        return buffer_of(self.params, line)

    def read(self, line: Line, shard: slice, target: Array) -> None:
        """Copies the elements of a shard to where they lie on the line."""
        for vector, start, stop, place in self._ranges_on(line, shard):
            target[place : place + stop - start] = vector[start:stop]

    def write(self, line: Line, shard: slice, source: Array) -> None:
        """Copies all elements but those of a shard from the line."""
        for part in (slice(0, shard.start), slice(shard.stop, line.size)):
            for vector, start, stop, place in self._ranges_on(line, part):
                vector[start:stop] = source[place : place + stop - start]

    def _ranges_on(self, line: Line, part: slice) -> Iterator[tuple[Array, int, int, int]]:
        """Of each leaf in a part of the line: its vector, the range of its elements there, and where they lie on it."""
        for path, offset in line.offsets.items():
            vector = self.flats[path]
            start, stop = max(part.start - offset, 0), min(part.stop - offset, vector.size)
            if start < stop:
                yield vector, start, stop, offset + start


def buffer_of(container: Any, line: Line) -> Array | None:
    """The buffer of a FlatDict whose leaves lie as on a line, or a vector that is the only leaf."""
    if isinstance(container, FlatDict) and container.buffer.dtype == line.dtype:
        if container.buffer.size == line.size and list(container) == list(line.offsets):
            return container.buffer
    elif isinstance(container, np.ndarray) and container.dtype == line.dtype and lies_in(container, "C"):
        return container.reshape(-1)
    return None
