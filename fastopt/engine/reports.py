"""Reports of steps, from the statistics of the launches."""

from __future__ import annotations

from collections.abc import Hashable

import numpy as np

from fastopt.engine.address_table import Table
from fastopt.engine.containers import BARE
from fastopt.engine.gradients import as_read
from fastopt.kernels.passes import DOWN, FIELDS, UP
from fastopt.pairs import pairs
from fastopt.report import Report


def of_last_step(table: Table) -> Report:
    """Return the report of the last step, which kept statistics."""
    statistics = [(launch.statistics.copy(), launch.rows) for launch in table.launches if launch.statistics is not None]
    return Report(*_updated(table), statistics, table.order, skipped=False)


def of_skipped_step(table: Table) -> Report:
    """The report of a step that is not made, in NumPy."""
    rows = []
    with np.errstate(all="ignore"):
        for leaf, given in zip(table.leaves, table.gradients, strict=True):
            if leaf.row < 0:
                continue
            if leaf.sparse is None:
                gradient, parameter = pairs(as_read(given, leaf.layout)), pairs(leaf.array)
            else:
                gradient, parameter = leaf.sparse.sums, leaf.array[leaf.sparse.distinct]
            plain, large, small = (
                [np.square(array.astype(np.float64) * factor).sum() for array in (gradient, parameter)]
                for factor in (1.0, DOWN, UP)
            )
            counts = np.sum(gradient == 0), np.sum(~np.isfinite(gradient))
            rows.append([*plain, 0.0, *counts, *large, 0.0, *small, 0.0])
    in_order = np.arange(len(rows))
    statistics = [(np.array(rows, np.float64).reshape(-1, FIELDS), in_order)] if rows else []
    return Report(*_updated(table), statistics, in_order, skipped=True)


def _updated(table: Table) -> tuple[list[Hashable], list[int]]:
    """The keys of what is updated, and their numbers of elements."""
    keys = [None if leaf.key is BARE else leaf.key for leaf in table.active]
    return keys, [leaf.size for leaf in table.active]
