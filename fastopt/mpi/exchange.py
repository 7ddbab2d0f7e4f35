"""Gradients out to the processes that step them, and parameters back to all."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import numpy as np
from mpi4py import MPI

from fastopt import container_checks, rows
from fastopt.engine import arguments
from fastopt.engine.state import lies_in
from fastopt.flat import Array
from fastopt.kernels.rank_sums import compiled_rounding, compiled_sum
from fastopt.mpi.binding import Binding, buffer_of, name_of
from fastopt.mpi.layout import LeafSlice, Line, Shards
from fastopt.rows import Rows

NONE, ARRAY, ROWS, EXACT_ROWS = "None", "an array", "Rows", "Rows with exact=True"
"""The kinds of gradients, which must be the same on all processes."""


class LineBuffers:
    """Memory for the exchange of one line, made once.

    gradients : float[size], the gradients of this process, added up
    received : [ranks, shard], those of all processes for this one's shard, as they travel
    summed : float[shard]
    """

    def __init__(self, line: Line, comm: MPI.Comm, bfloat16: bool) -> None:
        self.line, self.comm = line, comm
        self.shard = line.shard(comm.rank)
        self.count = self.shard.stop - self.shard.start
        self.bfloat16 = bfloat16 and line.dtype == np.float32
        travels = np.uint16 if self.bfloat16 else line.dtype
        self.gradients = np.zeros(line.size, line.dtype)
        self.received = np.empty((comm.size, self.count), travels)
        self.summed = np.empty(self.count, line.dtype)
        self.words = np.empty(line.size if self.bfloat16 else 0, np.uint16)
        self.residual = np.zeros(line.size if self.bfloat16 else 0, np.float32)

    @property
    def bytes_sent(self) -> int:
        """The bytes that leave this process at a step, gradients and parameters."""
        others = self.line.size - self.count
        each = self.count * self.line.dtype.itemsize
        return int(others * self.received.itemsize + each * (self.comm.size - 1))

    def exchange(self, gradients: Array, parts: list[tuple[int, int]], factor: float) -> None:
        """Adds up this process's shard of all gradients, in the order of the ranks, and multiplies it.

        parts : offset and size of each leaf that has a gradient; what lies between is not looked at
        """
        sent = gradients
        if self.bfloat16:
            for offset, size in parts:
                part = slice(offset, offset + size)
                compiled_rounding()(gradients[part], self.words[part], self.residual[part])
            sent = self.words
        counts = np.full(self.comm.size, self.count)
        self.comm.Alltoallv(
            [sent, (self.line.counts, self.line.cuts[:-1])],
            [self.received, (counts, counts * np.arange(self.comm.size))],
        )
        compiled_sum(self.line.dtype.name, self.bfloat16)(self.received, self.summed, self.line.dtype.type(factor))

    def gather(self, binding: Binding) -> None:
        """Gives all processes the parameters that each has stepped."""
        buffer = binding.as_line(self.line)
        place = self.gradients if buffer is None else buffer
        if buffer is None:
            binding.read(self.line, self.shard, place)
        self.comm.Allgatherv(MPI.IN_PLACE, [place, (self.line.counts, self.line.cuts[:-1])])
        if buffer is None:
            binding.write(self.line, self.shard, place)


class Exchange:
    """The gradients of this process until they are sent, and what comes of all.

    kinds : {path: kind of its gradient}, of those that were added since the last step
    """

    def __init__(self, owner: str, shards: Shards, comm: MPI.Comm, bfloat16: bool, mean: bool) -> None:
        self.owner, self.shards, self.comm = owner, shards, comm
        self.factor = 1 / comm.size if mean else 1.0
        self.lines = [LineBuffers(line, comm, bfloat16) for line in shards.lines]
        self.views = {
            leaf_slice: shards.shaped(leaf_slice, buffers.summed[offset + leaf_slice.start : offset + leaf_slice.stop])
            for buffers in self.lines
            for path, offset in _from_shard(buffers)
            for leaf_slice in shards.slices(comm.rank)
            if leaf_slice.path == path
        }
        self.forget()

    def forget(self) -> None:
        """Lets go of all gradients."""
        self.kinds: dict[Hashable, str] = dict.fromkeys(self.shards.leaves, NONE)
        self.rows: dict[Hashable, list[Any]] = {}
        self.calls = 0
        """How many gradients were accumulated."""

    def checked(self, grads: Any, binding: Binding) -> dict[Hashable, Any]:
        """Gradients by path, each an array, a pair of indices and values, or None; writes nothing."""
        paths = self.shards.leaves
        given = binding.container.gradients_by_key(grads)
        gradients: dict[Hashable, Any] = {}
        for path in paths:
            if path not in given:
                raise KeyError(container_checks.missing_gradient(self.owner, path, given))
            value, array, name = given[path], binding.arrays[path], binding.name(path, "grads")
            if value is None:
                gradients[path] = None
                continue
            kind = _kind(value)
            before = self.kinds[path]
            if before not in (NONE, kind):
                raise TypeError(
                    f"{self.owner}: {name} is {kind}, and what was accumulated since the last step is {before}; give "
                    "one kind of gradient between two steps"
                )
            gradients[path] = (
                arguments.gradient(self.owner, name, value, binding.name(path), array)
                if kind == ARRAY
                else self._checked_rows(path, value, array)
            )
        return gradients

    def _checked_rows(self, path: Hashable, value: Rows, array: Array) -> Any:
        name = name_of(path, "grads")
        rows.table(self.owner, name_of(path), array, lies_in(array, "C"))
        indices, values = rows.arrays(self.owner, name, value, name_of(path), array)
        bad = (indices < 0) | (indices >= len(array))
        if bad.any():
            place = int(np.argmax(bad))
            raise ValueError(rows.out_of_range(self.owner, name, value, place, name_of(path), len(array)))
        return value.exact, indices, values

    def kinds_with(self, gradients: dict[Hashable, Any]) -> dict[Hashable, str]:
        """The kinds of all gradients since the last step, those that `checked` returned included."""
        kinds = {path: _kind_of(value) for path, value in gradients.items()}
        return self.kinds | {path: kind for path, kind in kinds.items() if kind != NONE}

    def add(self, gradients: dict[Hashable, Any], grads: Any = None) -> Any:
        """Adds gradients that `checked` returned to those that are waiting.

        grads : what they were taken from, where they are the last ones before a step. Returned where nothing waits and
            they lie as on the lines, from where they can be sent as they are.
        """
        is_first = all(kind == NONE for kind in self.kinds.values())
        if is_first and self._lies_on_lines(grads):
            self.kinds = self.kinds_with(gradients)
            return grads
        for buffers in self.lines:
            for path, offset in buffers.line.offsets.items():
                value = gradients[path]
                if value is None or isinstance(value, tuple):
                    continue
                leaf = self.shards.leaves[path]
                place = buffers.gradients[offset : offset + leaf.size].reshape(leaf.shape, order=leaf.order)  # type: ignore[call-overload]
                if self.kinds[path] == NONE:
                    np.copyto(place, value, casting="same_kind")
                else:
                    np.add(place, value, out=place, casting="same_kind")
        for path, value in gradients.items():
            if isinstance(value, tuple):
                self.rows.setdefault(path, []).append(value[1:])
        self.kinds = self.kinds_with(gradients)
        return None

    def gather(self, binding: Binding) -> None:
        """Gives all processes the parameters that each has stepped."""
        for buffers in self.lines:
            buffers.gather(binding)
        binding.put_back()

    def _lies_on_lines(self, grads: Any) -> bool:
        return grads is not None and all(buffer_of(grads, buffers.line) is not None for buffers in self.lines)

    def reduce(self, direct: Any = None) -> dict[LeafSlice, Any]:
        """The sum or mean of the gradients of all processes, of what this one steps; forgets those that waited.

        direct : gradients that nothing was added to and that may be sent from where they are, if they lie so
        """
        for buffers in self.lines:
            offsets = buffers.line.offsets
            parts = [(offsets[path], self.shards.leaves[path].size) for path in offsets if self.kinds[path] == ARRAY]
            if parts:
                buffer = None if direct is None else buffer_of(direct, buffers.line)
                buffers.exchange(buffers.gradients if buffer is None else buffer, parts, self.factor)
        sums = {path: self._gathered_rows(path) for path in self.shards.leaves if path in self.rows}
        reduced: dict[LeafSlice, Any] = {}
        for leaf_slice, view in self.views.items():
            kind = self.kinds[leaf_slice.path]
            if kind in (NONE, ARRAY):
                reduced[leaf_slice] = view if kind == ARRAY else None
            else:
                reduced[leaf_slice] = self._rows_of(leaf_slice, *sums[leaf_slice.path])
        self.forget()
        return reduced

    def _gathered_rows(self, path: Hashable) -> tuple[Array, Array]:
        """The rows that any process has a gradient of, ascending, and the sum of each in the order of the ranks."""
        leaf = self.shards.leaves[path]
        indices = np.concatenate([part[0] for part in self.rows[path]])
        values = np.concatenate([part[1].reshape(len(part[0]), -1) for part in self.rows[path]])
        counts = np.empty(self.comm.size, np.int64)
        self.comm.Allgather(np.array([len(indices)], np.int64), counts)
        starts = np.cumsum(counts) - counts
        width = values.shape[1]
        all_indices = np.empty(counts.sum(), np.int64)
        all_values = np.empty((len(all_indices), width), leaf.dtype)
        self.comm.Allgatherv(indices, [all_indices, (counts, starts)])
        self.comm.Allgatherv(values, [all_values, (counts * width, starts * width)])
        distinct, places = np.unique(all_indices, return_inverse=True)
        sums = np.full((len(distinct), width), -0.0, leaf.dtype)  # to which adding any number gives that number
        np.add.at(sums, places, all_values)
        sums *= leaf.dtype.type(self.factor)
        return distinct, sums

    def _rows_of(self, leaf_slice: LeafSlice, indices: Array, sums: Array) -> Rows:
        """The part of a sum that falls into a piece, which is whole rows or a part of one."""
        shape, width = self.shards.shape(leaf_slice), sums.shape[1]
        exact = self.kinds[leaf_slice.path] == EXACT_ROWS
        first, column = divmod(leaf_slice.start, width)
        last = -(-leaf_slice.stop // width)
        low, high = np.searchsorted(indices, (first, last)).tolist()
        columns = slice(column, column + leaf_slice.stop - leaf_slice.start) if last == first + 1 else slice(None)
        return Rows(indices[low:high] - first, sums[low:high, columns].reshape(high - low, *shape[1:]), exact)


def _from_shard(buffers: LineBuffers) -> list[tuple[Hashable, int]]:
    """Where the leaves of a line begin, counted from the beginning of the shard."""
    return [(path, offset - buffers.shard.start) for path, offset in buffers.line.offsets.items()]


def _kind_of(gradients: Any) -> str:
    """The kind of a gradient as `checked` returns it."""
    if isinstance(gradients, tuple):
        return EXACT_ROWS if gradients[0] else ROWS
    return NONE if gradients is None else ARRAY


def _kind(value: Any) -> str:
    if isinstance(value, Rows):
        return EXACT_ROWS if value.exact else ROWS
    return ARRAY
