"""Passes over memory before a step: whether gradients are finite, their norms, and what a rule measures or prepares."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping
from functools import cached_property
from typing import Any, cast

import numpy as np

from fastopt.engine import norms
from fastopt.engine.address_checks import check_addresses
from fastopt.engine.address_table import Table
from fastopt.engine.execute import writing
from fastopt.engine.norms import Norm, OneProcess
from fastopt.flat import Array
from fastopt.kernels import array_scan, flags
from fastopt.kernels.intrinsics import smallest_state
from fastopt.kernels.passes import COMPENSATION, NONFINITE, SECOND_COMPENSATION, SECOND_TOTAL, TOTAL
from fastopt.kernels.rule import GRADIENT_MEASURE, NO_RULE, Factors, Rule

# Of statistics of norms.
SUMS, SECOND_SUMS = slice(TOTAL, COMPENSATION + 1), slice(SECOND_TOTAL, SECOND_COMPENSATION + 1)


class Passes:
    """The passes over what an address table has. All but `prepare` write nothing.

    processes : adds up the results of several processes
    """

    def __init__(self, table: Table, processes: OneProcess) -> None:
        self.table, self.processes = table, processes
        self.unused: list[Array] = []
        """The arrays that `prepare` wrote and nobody needs after the step."""

    def finite(self, squared: bool = False) -> bool:
        """Whether all gradients are finite, or all their squares."""
        which = "finite_squares" if squared else "finite"
        return not self.processes.any(any(statistics[:, NONFINITE].any() for statistics in self._pass(which)))

    def gradient_norm(self) -> Norm:
        """The norm of all gradients together."""

        def run_pass(kind: str | None) -> dict[None, list[Array]]:
            return {None: [statistics[:, SUMS] for statistics in self._pass(*_gradient_pass(kind))]}

        return norms.norms(run_pass, self._has_float64, 0, self.processes)[None]

    def quick_sums(self) -> list[float] | None:
        """Plain sums of the squares of all gradients, for `norms.quick_clipped`; None where some are float64."""
        if self.processes.has_float64(self._has_float64):
            return None
        return self.processes.add_up({None: [statistics[:, SUMS] for statistics in self._pass("quick_norm")]}, 0)[None]

    def gradient_norms(self) -> dict[int, Norm]:
        """The norm of the gradient of each row of scalars."""
        leaves = self._leaves_by_row()

        def run_pass(kind: str | None) -> dict[Hashable, list[Array]]:
            sums_of_leaves: dict[Hashable, list[Array]] = {}
            for row, sums in self._sums_by_row(*_gradient_pass(kind)):
                sums_of_leaves.setdefault(leaves[row], []).append(sums[:, SUMS])
            return sums_of_leaves

        of_leaves = norms.norms(run_pass, self._has_float64, 1, self.processes)
        return {row: of_leaves[leaf] for row, leaf in leaves.items()}

    def _leaves_by_row(self) -> dict[int, Hashable]:
        """The leaf that each row of scalars is of, where arrays are told apart."""
        return {leaf.scalar_row: self.processes.leaf(leaf.key) for leaf in self.table.active}

    @cached_property
    def _has_float64(self) -> bool:
        return any(launch.dtype == "float64" for launch in self.table.launches)

    def measures(
        self, params: Any, scalars: list[tuple[float, ...]], transforms: tuple[str, ...]
    ) -> dict[int, tuple[Norm, Norm, int]]:
        """The norms of the rule's two measures and the size of the array of each row of scalars."""
        self.table.write_scalars(scalars)
        measuring = self.table.rule.measuring
        assert measuring is not None

        leaves = self._leaves_by_row()

        def run_pass(kind: str | None) -> dict[tuple[Hashable, int], list[Array]]:
            of_leaves: dict[tuple[Hashable, int], list[Array]] = {}
            for row, sums in self._sums_by_row(kind or "measure", measuring, transforms, params):
                for number, columns in enumerate((SUMS, SECOND_SUMS)):
                    of_leaves.setdefault((leaves[row], number), []).append(sums[:, columns])
            return of_leaves

        of_leaves = norms.norms(run_pass, self._has_float64, 2, self.processes)
        sizes = {leaf.scalar_row: self.processes.size(leaf.key, leaf.layout.numbers) for leaf in self.table.active}
        return {row: (of_leaves[leaf, 0], of_leaves[leaf, 1], sizes[row]) for row, leaf in leaves.items()}

    def aligned(
        self, params: Any, scalars: list[tuple[float, ...]], transforms: tuple[str, ...]
    ) -> dict[int, tuple[int, int]]:
        """For each row of scalars how many elements a step moves against the gradient, and of how many."""
        self.table.write_scalars(scalars)
        leaves, sums_of_leaves = self._leaves_by_row(), cast("dict[Hashable, list[Array]]", {})
        for row, sums in self._sums_by_row("aligned", self.table.rule, transforms, params):
            sums_of_leaves.setdefault(leaves[row], []).append(sums[:, SUMS])
        counts = self.processes.add_up(sums_of_leaves, 1)
        sizes = {leaf.scalar_row: self.processes.size(leaf.key, leaf.size) for leaf in self.table.active}
        return {row: (round(sum(counts[leaf])), sizes[row]) for row, leaf in leaves.items()}

    def none_aligned(self) -> None:
        """`aligned` of a process that has no array that is cautious, where another may have some."""
        self.processes.add_up({}, 1)

    def totals(self, params: Any, scalars: list[tuple[float, ...]], transforms: tuple[str, ...]) -> tuple[float, float]:
        """The sums over all leaves of the two numbers of the rule's totals."""
        self.table.write_scalars(scalars)
        assert self.table.rule.totalling is not None
        parts = self._pass("totals", self.table.rule.totalling, transforms, params)
        one, other = (
            norms.total(self.processes.add_up({None: [statistics[:, part] for statistics in parts]}, 0)[None])
            for part in (SUMS, SECOND_SUMS)
        )
        return one, other

    def prepare(
        self,
        params: Any,
        scalars: list[tuple[float, ...]],
        transforms: tuple[str, ...],
        settings_by_row: list[Any],
        steps: list[int],
        factors: Mapping[Hashable, Factors],
    ) -> dict[Hashable, Factors]:
        """Fills the last state slot, and prepares each array of it by the settings of its row; writes no other.

        Where the slot has a running mean, memory of a step takes its place, from which `means` copy it when the step is
        made; if it is not, the mean is as it was. Returns the new factors of the arrays that have some.
        """
        self.table.write_scalars(scalars)
        assert self.table.rule.preparing is not None
        views, prepared = self.table.state.views[self.table.rule.state[-1]], {}
        self.let_go_of_means()
        decay_rates = {leaf.key: settings_by_row[leaf.scalar_row].kept_direction() for leaf in self.table.active}
        self.table.stand_ins.update({key: np.empty_like(views[key]) for key, rate in decay_rates.items() if rate})
        directions = {**views, **self.table.stand_ins}
        self._point_to(directions)
        self.unused = [views[key] for key, rate in decay_rates.items() if rate is None]
        self._run_before("prepare", self.table.rule.preparing, transforms, params)
        with np.errstate(all="ignore"):  # NaN and infinity go through
            for leaf in self.table.active:
                row, parameter = leaf.scalar_row, leaf.array if leaf.staged is None else leaf.staged
                before = factors.get(leaf.key, {})
                direction = directions[leaf.key]
                new = settings_by_row[row].prepared(direction, parameter, steps[row], before)
                for name, array in new.items():
                    if array is not before.get(name):  # small values become zero, as in all state
                        array[np.abs(array) < smallest_state(array.dtype)] *= 0
                if new:
                    prepared[leaf.key] = new
                if leaf.key in self.table.stand_ins:
                    mean = views[leaf.key]
                    direction[...] = mean + (1 - (decay_rates[leaf.key] or 0.0)) * (direction - mean)
        return prepared

    def means(self) -> Iterator[None]:
        """Calls of C that write the running means of the last state slot."""
        stand_ins, slot = self.table.stand_ins, self.table.rule.state[-1:]
        return writing([self.table.state.views[slot[0]][key] for key in stand_ins], list(stand_ins.values()))

    def let_go_of_means(self) -> None:
        """Has kernels find the last state slot in its own memory again."""
        if self.table.stand_ins:
            self._point_to(self.table.state.views[self.table.rule.state[-1]])
            self.table.stand_ins.clear()

    def _point_to(self, directions: Mapping[Hashable, Array]) -> None:
        column = 1 + len(self.table.rule.state)
        for leaf in self.table.active:
            self.table.addresses[leaf.row, column] = array_scan.address_of(directions[leaf.key])

    def _sums_by_row(self, *call: Any) -> Iterator[tuple[int, Array]]:
        """The row of scalars of each array, and its rows of the statistics."""
        for launch, statistics in zip(self.table.launches, self._pass(*call), strict=True):
            ends = [*launch.rows.tolist(), len(statistics)]
            for scalar_row, first, last in zip(launch.scalar_rows, ends, ends[1:], strict=False):
                yield scalar_row, statistics[first:last]

    def _pass(self, *call: Any) -> list[Array]:
        """Runs a kernel that only reads; returns its statistics."""
        self._run_before(*call)
        return [launch.statistics for launch in self.table.launches if launch.statistics is not None]

    def _run_before(
        self, which: str, rule: Rule = NO_RULE, transforms: tuple[str, ...] = (), params: Any = None
    ) -> None:
        """Runs a kernel that writes no parameter; `params` are needed where it reads them."""
        calls = [launch.call(rule, which, transforms) for launch in self.table.launches]
        if flags.CHECK:
            check_addresses(self.table)
        leaves = None if params is None else self.table.container.leaves(params)
        for launch, (kernel, table, starts, threads) in zip(self.table.launches, calls, strict=True):
            if leaves is not None:
                launch.fetch(leaves)
            kernel(table, starts, threads)


def _gradient_pass(kind: str | None) -> tuple[Any, ...]:
    """Kernel and rule of a pass that adds up the squares of gradients."""
    return ("norm",) if kind is None else (kind, GRADIENT_MEASURE)
