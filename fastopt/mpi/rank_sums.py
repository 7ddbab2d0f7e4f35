"""Results of the passes before a step, added up over the processes."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
from mpi4py import MPI

from fastopt.engine.norms import Name, OneProcess, exact_pair
from fastopt.flat import Array
from fastopt.mpi.layout import LeafSlice, Shards


class AllProcesses(OneProcess):
    """Sums over all processes of a communicator, with the same bits on each, and those of one process.

    A sum is an exact pair; the pairs of all are gathered and added up exactly, so that no order of addition shows.
    """

    def __init__(self, shards: Shards, comm: MPI.Comm) -> None:
        self.shards, self.comm = shards, comm
        self._paths = [
            list(dict.fromkeys(leaf_slice.path for leaf_slice in shards.slices(rank))) for rank in range(comm.size)
        ]
        self._has_float64 = any(leaf.dtype == np.float64 for leaf in shards.leaves.values())

    def leaf(self, key: Hashable) -> Hashable:
        """The path of the leaf that a piece is of."""
        assert isinstance(key, LeafSlice)
        return key.path

    def size(self, key: Hashable, size: int) -> int:
        """The number of elements of the leaf that a piece is of."""
        return self.shards.leaves[self.leaf(key)].size

    def has_float64(self, value: bool) -> bool:
        """Whether any process steps float64 numbers."""
        return self._has_float64

    def any(self, value: bool) -> bool:
        """Whether something is so on any process."""
        flag = np.array([value])
        self.comm.Allreduce(MPI.IN_PLACE, flag, MPI.LOR)
        return bool(flag[0])

    def first(self, text: str | None) -> str | None:
        """The text of the first process that has one."""
        return next((found for found in self.comm.allgather(text) if found is not None), None)

    def add_up(self, sums: Mapping[Name, Sequence[Array]], each: int) -> dict[Name, list[float]]:
        """The exact pairs of all processes by name; gathers 24 bytes for each name of a process."""
        names = [self._names(paths, each) for paths in self._paths]
        table = np.zeros((len(names[self.comm.rank]), 3))  # whether there is a sum, the sum, what rounding took from it
        for row, name in zip(table, names[self.comm.rank], strict=True):
            if name in sums:
                row[:] = 1.0, *exact_pair([number for part in sums[name] for number in part.ravel().tolist()])
        counts = np.array([3 * len(of_rank) for of_rank in names])
        pairs = np.empty((counts.sum() // 3, 3))
        self.comm.Allgatherv(table, [pairs, (counts, np.cumsum(counts) - counts)])
        pairs_by_name: dict[Any, list[float]] = {}
        for name, (is_there, *pair) in zip(
            (name for of_rank in names for name in of_rank), pairs.tolist(), strict=True
        ):
            if is_there:
                pairs_by_name.setdefault(name, []).extend(pair)
        return pairs_by_name

    @staticmethod
    def _names(paths: list[Hashable], each: int) -> list[Any]:
        if each < 2:
            return paths if each else [None]
        return [(path, number) for path in paths for number in range(each)]
