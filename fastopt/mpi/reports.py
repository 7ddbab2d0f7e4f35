"""Reports over all processes."""

from __future__ import annotations

from collections.abc import Hashable

import numpy as np
from mpi4py import MPI

from fastopt.engine.containers import BARE
from fastopt.kernels.passes import FIELDS
from fastopt.mpi.layout import LeafSlice, Shards
from fastopt.report import Report


def over_all(report: Report, shards: Shards, comm: MPI.Comm) -> Report:
    """The report on whole leaves, the same on all processes, from each one's report on its slices.

    Sums are added in the order of the ranks. They are float64, of other parts than on one process, so norms may differ
    from its in their last digits.
    """
    number = {path: row for row, path in enumerate(shards.leaves)}
    table = np.zeros((len(number), 2 + FIELDS))  # whether it was updated, its number of elements, its sums
    for key, size, sums in zip(report._keys, report._sizes, report._sums_by_key, strict=True):
        assert isinstance(key, LeafSlice)
        row = table[number[key.path]]
        row[0] = 1.0
        row[1] += size
        row[2:] += sums
    of_all = np.empty((comm.size, *table.shape))
    comm.Allgather(table, of_all)
    total = np.add.accumulate(of_all, axis=0)[-1]
    updated = np.flatnonzero(total[:, 0]).tolist()
    paths = list(shards.leaves)
    keys: list[Hashable] = [None if paths[row] is BARE else paths[row] for row in updated]
    sizes = [int(total[row, 1]) for row in updated]
    in_order = np.arange(len(updated))
    statistics = [(total[updated, 2:], in_order)] if updated else []
    return Report(keys, sizes, statistics, in_order, report.skipped)
