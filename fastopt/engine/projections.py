"""Constraints on rows, columns or whole arrays: launches of their own, which come after the kernels of a step."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import numpy as np

from fastopt import combinations, constraints
from fastopt.engine.address_table import Table
from fastopt.engine.launch import Leaf
from fastopt.kernels.projections import AMOUNT, COUNT, FIELDS, PROJECTIONS, STRIDE, groups_of, projection
from fastopt.pairs import widened


class _Launch:
    """One constraint on some arrays of a launch of the step."""

    def __init__(self, kind: str, leaves: list[Leaf], axes: list[int | None], number: int) -> None:
        self.kind, self.number, self.dtype = kind, number, leaves[0].layout.part_dtype.name
        self.rows = np.array([leaf.row for leaf in leaves])
        self.leaves, sizes = leaves, [leaf.layout.numbers for leaf in leaves]
        self.starts = np.cumsum([0, *sizes], dtype=np.int64)
        self.table, self.amounts = np.zeros((len(leaves) + 1, FIELDS), np.int64), np.zeros(len(leaves))
        for row, (leaf, axis) in enumerate(zip(leaves, axes, strict=True)):
            self.table[row, COUNT], self.table[row, STRIDE] = groups_of(_shape(leaf), leaf.layout.order, axis)
        self.table[:-1, AMOUNT] = self.amounts.ctypes.data + 8 * np.arange(len(leaves))


def _shape(leaf: Leaf) -> tuple[int, ...]:
    """The shape in real numbers."""
    layout = leaf.layout
    return widened(layout.shape, layout.order) if layout.is_complex else layout.shape


class Projections:
    """The constraints of a plan.

    settings : of all parameters; those of groups go before them
    """

    def __init__(self, table: Table, settings: Any) -> None:
        self._table = table
        leaves_by_kind: dict[tuple[int, str], list[tuple[Leaf, int | None]]] = defaultdict(list)
        launches = [number for number, launch in enumerate(table.launches) for _ in launch.scalar_rows]
        in_order = sorted(table.active, key=lambda leaf: leaf.row)
        for leaf, number in zip(in_order, launches, strict=True):
            of_group = settings.groups.settings_of(leaf.groups)
            for kind in PROJECTIONS:
                if not leaf.layout.size or not constraints.is_wanted(kind, of_group.get(kind, getattr(settings, kind))):
                    continue
                there = {constraints.ON_GROUPS: True, "gradients that are Rows": leaf.sparse is not None}
                combinations.check_step(table.owner, there)
                axis = of_group.get("constraint_axis", settings.constraint_axis)
                layout, name = leaf.layout, table.name(leaf.key)
                constraints.check_axis(table.owner, name, layout.shape, axis)
                if layout.is_complex:
                    constraints.check_complex_axis(table.owner, name, layout.shape, layout.order, axis)
                leaves_by_kind[number, kind].append((leaf, axis))
        self._launches = [
            _Launch(kind, [leaf for leaf, _ in some], [axis for _, axis in some], number)
            for (number, kind), some in sorted(
                leaves_by_kind.items(), key=lambda item: list(PROJECTIONS).index(item[0][1])
            )
        ]

    def write_amounts(self, settings_by_row: list[Any], steps: list[int]) -> None:
        """Finds the weights and norms of a step; `steps` are the step counts of each row of scalars."""
        for launch in self._launches:
            for place, leaf in enumerate(launch.leaves):
                settings = settings_by_row[leaf.scalar_row]
                amount = float(getattr(settings, launch.kind))
                if launch.kind == "group_lasso" and amount:
                    amount *= settings.effective_lr(steps[leaf.scalar_row])
                launch.amounts[place] = amount

    def calls(self, threads: list[int]) -> list[list[tuple[Any, ...]]]:
        """Kernels and arguments, for each launch of the step; `threads` are those of each."""
        calls: list[list[tuple[Any, ...]]] = [[] for _ in threads]
        for launch in self._launches:
            launch.table[:-1, 0] = self._table.addresses[launch.rows, 0]
            count = threads[launch.number]
            kernel = projection(launch.kind, launch.dtype, count > 1)
            calls[launch.number].append((kernel, launch.table, launch.starts, count))
        return calls
