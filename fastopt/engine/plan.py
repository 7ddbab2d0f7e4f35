"""Where everything lies: worked out once for a set of arrays, checked at every step.

A plan has the table of addresses that the kernels walk. As long as the parameters are the same arrays, a step costs one
compiled check of both lists (`array_scan.scan`), which also takes up the gradients' new addresses.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping, MutableMapping
from functools import cached_property
from itertools import chain
from types import MappingProxyType
from typing import Any, NoReturn, cast

import numpy as np

from fastopt import tuning
from fastopt.engine import arguments, containers, norms
from fastopt.engine.address_table import Table, arrangement
from fastopt.engine.containers import BARE, Buffers
from fastopt.engine.execute import NOTHING, assignments, consume, fetch_values, kernels, packing
from fastopt.engine.launch import check_addresses
from fastopt.engine.norms import ONE_PROCESS, Norm, OneProcess
from fastopt.engine.overlaps import moved_blocks
from fastopt.engine.state import Layout, State
from fastopt.flat import Array
from fastopt.groups import Groups
from fastopt.kernels import array_scan, flags
from fastopt.kernels.loops import COMPENSATION, DOWN, FIELDS, NONFINITE, SECOND_COMPENSATION, SECOND_TOTAL, TOTAL, UP
from fastopt.kernels.rule import GRADIENT_MEASURE, NO_RULE, Rule
from fastopt.report import Report
from fastopt.rows import Rows
from fastopt.settings import PlanSettings
from fastopt.tuning import AS_THEY_COME, Tuner

# Of statistics of norms.
SUMS, SECOND_SUMS = slice(TOTAL, COMPENSATION + 1), slice(SECOND_TOTAL, SECOND_COMPENSATION + 1)


class Plan(Table):
    """The work on an address table: passes over gradients, the step and its report."""

    def accepts(self, params: Any, grads: Any, groups: Groups | None = None, by_array: bool = False) -> bool:
        """Whether the plan fits these arguments; if so, it has taken up the gradients. Errors are raised."""
        scan = self._scan
        if scan is None or containers.form_of(params, grads) != self.form:
            return False
        if (groups is not None or by_array or self.divided) and self.arrangement != arrangement(groups, by_array):
            return False
        if self.check is not None and self.finds_all_as_before(params, grads):
            return True
        if isinstance(self.container, Buffers) and not all(
            view.flags.writeable for view in self.container.views(params)
        ):
            return False
        lists = self.container.lists(params, grads, self._frozen)
        if lists is None or not self._can_write(params, lists[0]):
            return False
        parameters, gradients = lists
        for number in self._special_numbers:
            if not self.leaves[number].fits(parameters[number]):
                return False
        addresses = id(parameters), id(gradients)
        number = scan(*addresses, 0, *self._scanned)
        if number < 0 and not self.container.copied_keys(params, parameters) and self._take_over(parameters):
            if isinstance(self.container, Buffers):
                self.views = self.container.views(params)
            number = scan(*addresses, 0, *self._scanned)
        while number != len(self.leaves):
            if number < 0 or gradients[number] is None:
                return False
            if isinstance(gradients[number], Rows) != (self.leaves[number].sparse is not None):
                return False
            self._place_gradient(number, gradients[number])
            number = scan(*addresses, number + 1, *self._scanned)
        if self.rows_launches:
            self._arrange()
        self._gradients = gradients
        return True

    def finds_all_as_before(self, params: Any, grads: Any) -> bool:
        """Whether the compiled check is enough for these arguments; if so, the plan has taken up the gradients."""
        found = self.check(params, grads)
        self.checked = bool(found)
        if found:
            bare = self.container.is_bare
            self._gradients = [grads if self.form == "arrays" else grads.buffer] if bare else found
        return self.checked

    def _can_write(self, params: Any, parameters: list[Any]) -> bool:
        """Whether a step gets into a mapping in the same way as when the plan was made: in place, or by assignment."""
        if not self._special_numbers:
            return True
        if self.copied and self.container.copied_keys(params, parameters) != self.copied:
            return False
        return not isinstance(params, Mapping) or isinstance(params, dict | MutableMapping)

    again: Any = None
    """The result of `again.again` for the last step."""

    settings: PlanSettings | None = None
    """Those of each row of scalars, as `settings.StepSettings` keeps them."""

    moved = False
    """Whether parameters turned out to be other arrays than before."""

    is_prepared = False
    check: Any = None
    """A compiled check of parameters and gradients, where `one_call.prepare` found that it is possible."""

    checked = False
    """Whether that check was enough for the arguments of the last step, as it then is for a call."""

    words: Array
    memory: Any = None
    """The memory of the check, and the same with what must live as long."""

    call: Any = None
    call_transforms: tuple[str, ...] | None = None
    """The result of `one_call.call_for`, and the transforms that it is for."""

    def follows(self, cohorts: Any, state: State | None) -> bool:
        """Whether the leaves are still counted as the plan has it, by the cohorts and with the state of today."""
        if state is not None and self.counted.are_counted:
            self.state = state  # more leaves may have some than before; those of the plan lie where they lay
        return self.counted.follow(cohorts)

    def takes_over(self, params: Any) -> bool:
        """Whether parameters are other arrays than before but alike, which the plan has then taken up."""
        values = None if isinstance(self.container, Buffers) else self.container.values(params)
        return values is not None and not self.container.copied_keys(params, values) and self._take_over(values)

    def _take_over(self, parameters: list[Any]) -> bool:
        """Takes up parameters that are other arrays alike, as of `x = np.clip(x, -1, 1)`; False if that cannot be."""
        if not self.is_plain or self.tied:
            return False
        others = [
            (number, leaf, value, array_scan.address_of(value))
            for number, (leaf, value) in enumerate(zip(self.leaves, parameters, strict=True))
            if value is not leaf.value and leaf.row >= 0 and leaf.staged is None and leaf.is_like(value)
        ]
        if not others:
            return False
        moved = [(leaf.header[0], address, leaf.nbytes) for _, leaf, _, address in others if leaf.nbytes]
        written = moved_blocks(self.written, moved)
        if written is None:
            return False
        scan, self._scan = self._scan, None  # a plan that Ctrl-C leaves half changed fits nothing
        self.written[:], self._memory = written, None
        self._table[:, 1] = 0  # gradients that were checked lay beside what was written then
        for number, leaf, value, address in others:
            leaf.value = leaf.array = value
            leaf.header = address, value.shape, value.strides, value.dtype
            self._table[leaf.row, 0], self._expected[number, array_scan.PARAMETER] = address, id(value)
        self._scan, self.moved = scan, True
        return True

    def has_the_arrays_of(self, other: Plan) -> bool:
        """Whether its parameters are those of another plan, as far as they have the same keys."""
        arrays = {leaf.key: leaf.array for leaf in other.leaves if isinstance(leaf.value, np.ndarray)}
        return type(self.container) is type(other.container) and all(
            arrays.get(leaf.key, leaf.array) is leaf.array for leaf in self.leaves if isinstance(leaf.value, np.ndarray)
        )

    estimates: Mapping[str, float] = MappingProxyType({})
    """What the optimizer estimates from totals, of a step on its way: before it, then after it."""

    processes: OneProcess = ONE_PROCESS
    """Adds up the results of several processes."""

    stepped = False
    summed = 1
    """Of how many gradients those of this step are the sums."""
    tuner: Tuner | None = None
    """Where it may choose how steps run."""
    averaging_weights: Array | None = None
    """By which `averages.of_left_out` moves averages of tables, those of each cohort."""

    def finite(self, squared: bool = False) -> bool:
        """Whether all gradients are finite, or all their squares; writes nothing."""
        which = "finite_squares" if squared else "finite"
        return not self.processes.any(any(statistics[:, NONFINITE].any() for statistics in self._pass(which)))

    def gradient_norm(self) -> Norm:
        """The norm of all gradients together; writes nothing."""

        def run_pass(kind: str | None) -> dict[None, list[Array]]:
            return {None: [statistics[:, SUMS] for statistics in self._pass(*_gradient_pass(kind))]}

        return norms.norms(run_pass, self._has_float64, 0, self.processes)[None]

    def quick_sums(self) -> list[float] | None:
        """Plain sums of the squares of all gradients, for `norms.quick_clipped`; None where some are float64."""
        if self.processes.has_float64(self._has_float64):
            return None
        return self.processes.add_up({None: [statistics[:, SUMS] for statistics in self._pass("quick_norm")]}, 0)[None]

    def gradient_norms(self) -> dict[int, Norm]:
        """The norm of the gradient of each row of scalars; writes nothing."""
        leaves = self._leaves_by_row()

        def run_pass(kind: str | None) -> dict[Hashable, list[Array]]:
            found: dict[Hashable, list[Array]] = {}
            for row, sums in self._sums_by_row(*_gradient_pass(kind)):
                found.setdefault(leaves[row], []).append(sums[:, SUMS])
            return found

        of_leaves = norms.norms(run_pass, self._has_float64, 1, self.processes)
        return {row: of_leaves[leaf] for row, leaf in leaves.items()}

    def _leaves_by_row(self) -> dict[int, Hashable]:
        """The leaf that each row of scalars is of, where arrays are told apart."""
        return {leaf.scalar_row: self.processes.leaf(leaf.key) for leaf in self._active}

    @cached_property
    def _has_float64(self) -> bool:
        return any(launch.dtype == "float64" for launch in self._launches)

    def measures(
        self, params: Any, scalars: list[tuple[float, ...]], transforms: tuple[str, ...]
    ) -> dict[int, tuple[Norm, Norm, int]]:
        """The norms of the rule's two measures and the size of the array of each row of scalars; writes nothing."""
        self._write_scalars(scalars)
        measuring = self.rule.measuring
        assert measuring is not None

        leaves = self._leaves_by_row()

        def run_pass(kind: str | None) -> dict[tuple[Hashable, int], list[Array]]:
            found: dict[tuple[Hashable, int], list[Array]] = {}
            for row, sums in self._sums_by_row(kind or "measure", measuring, transforms, params):
                for number, columns in enumerate((SUMS, SECOND_SUMS)):
                    found.setdefault((leaves[row], number), []).append(sums[:, columns])
            return found

        found = norms.norms(run_pass, self._has_float64, 2, self.processes)
        sizes = {leaf.scalar_row: self.processes.size(leaf.key, leaf.layout.size) for leaf in self._active}
        return {row: (found[leaf, 0], found[leaf, 1], sizes[row]) for row, leaf in leaves.items()}

    def aligned(
        self, params: Any, scalars: list[tuple[float, ...]], transforms: tuple[str, ...]
    ) -> dict[int, tuple[int, int]]:
        """For each row of scalars how many elements a step moves against the gradient, and of how many; no writes."""
        self._write_scalars(scalars)
        leaves, found = self._leaves_by_row(), cast("dict[Hashable, list[Array]]", {})
        for row, sums in self._sums_by_row("aligned", self.rule, transforms, params):
            found.setdefault(leaves[row], []).append(sums[:, SUMS])
        counts = self.processes.add_up(found, 1)
        sizes = {leaf.scalar_row: self.processes.size(leaf.key, leaf.size) for leaf in self._active}
        return {row: (round(sum(counts[leaf])), sizes[row]) for row, leaf in leaves.items()}

    def totals(self, params: Any, scalars: list[tuple[float, ...]], transforms: tuple[str, ...]) -> tuple[float, float]:
        """The sums over all leaves of the two numbers of the rule's totals; writes nothing."""
        self._write_scalars(scalars)
        assert self.rule.totalling is not None
        found = self._pass("totals", self.rule.totalling, transforms, params)
        one, other = (
            norms.total(self.processes.add_up({None: [statistics[:, part] for statistics in found]}, 0)[None])
            for part in (SUMS, SECOND_SUMS)
        )
        return one, other

    def prepare(
        self, params: Any, scalars: list[tuple[float, ...]], transforms: tuple[str, ...], settings_by_row: list[Any]
    ) -> None:
        """Fills the last state slot, and prepares each array of it by the settings of its row; writes no other."""
        self._write_scalars(scalars)
        assert self.rule.preparing is not None
        self._run_before("prepare", self.rule.preparing, transforms, params)
        views = self.state.views[self.rule.state[-1]]
        for leaf in self.leaves:
            if leaf.row >= 0:
                settings_by_row[leaf.scalar_row].prepared(views[leaf.key])

    def _sums_by_row(self, *call: Any) -> Iterator[tuple[int, Array]]:
        """The row of scalars of each array, and its rows of the statistics."""
        for launch, statistics in zip(self._launches, self._pass(*call), strict=True):
            ends = [*launch.rows.tolist(), len(statistics)]
            for scalar_row, first, last in zip(launch.scalar_rows, ends, ends[1:], strict=False):
                yield scalar_row, statistics[first:last]

    def _pass(self, *call: Any) -> list[Array]:
        """Runs a kernel that only reads; returns its statistics."""
        self._run_before(*call)
        return [launch.statistics for launch in self._launches if launch.statistics is not None]

    def _run_before(
        self, which: str, rule: Rule = NO_RULE, transforms: tuple[str, ...] = (), params: Any = None
    ) -> None:
        """Runs a kernel that writes no parameter; `params` are needed where it reads them."""
        calls = [launch.call(rule, which, transforms) for launch in self._launches]
        if flags.CHECK:
            check_addresses(self)
        leaves = None if params is None else self.container.leaves(params)
        for launch, (kernel, table, starts, threads) in zip(self._launches, calls, strict=True):
            if leaves is not None:
                launch.fetch(leaves)
            kernel(table, starts, threads)

    def report(self) -> Report:
        """Return the report of the last `run` that kept one."""
        statistics = [
            (launch.statistics.copy(), launch.rows) for launch in self._launches if launch.statistics is not None
        ]
        return Report(*self._reported(), statistics, self._order, skipped=False)

    def _reported(self) -> tuple[list[Hashable], list[int]]:
        """The keys of what is updated, and their numbers of elements."""
        keys = [None if leaf.key is BARE else leaf.key for leaf in self._active]
        return keys, [leaf.size for leaf in self._active]

    def report_of_nothing(self) -> Report:
        """The report of a step that is not made."""
        rows = []
        with np.errstate(all="ignore"):
            for leaf, given in zip(self.leaves, self._gradients, strict=True):
                if leaf.row < 0:
                    continue
                if leaf.sparse is None:
                    gradient, parameter = _as_seen(given, leaf.layout), leaf.array
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
        return Report(*self._reported(), statistics, in_order, skipped=True)

    def forget_gradients(self) -> None:
        """Lets go of the gradients of a step that is not made."""
        self._gradients = []

    def refuse_nonfinite(self, grads: Any) -> NoReturn:
        """Raises the error that names the first gradient with NaN or infinity."""
        self._gradients = []
        bad = self.first_gradient(grads, lambda seen, row: ~np.isfinite(seen))
        text = self.processes.first(None if bad is None else arguments.nonfinite(self.owner, *bad))
        if text is None:
            raise AssertionError("no gradient is NaN or infinite")
        raise FloatingPointError(text)

    def first_gradient(self, grads: Any, is_bad: Callable[[Array, int], Array]) -> tuple[str, Array, Array] | None:
        """Name, values and bad elements of the first gradient that has some; of Rows, those of the first sum.

        is_bad : takes values and their row of scalars
        """
        leaves = {leaf.key: leaf for leaf in self.leaves}
        gradients = self.container.gradients_by_key(grads, self._frozen)
        for key in self.keys:
            if key in self._frozen:
                continue
            gradient = gradients[key]
            name, layout, leaf = self._name(key, "grads"), self.state.layouts[key], leaves.get(key, self.leaves[0])
            if isinstance(gradient, Rows):
                sparse = leaf.sparse
                bad = is_bad(sparse.sums, leaf.scalar_row)
                for row in np.flatnonzero(bad.any(axis=1))[:1]:
                    sums, bad = (array[row].reshape(layout.shape[1:]) for array in (sparse.sums, bad))
                    return f"the sum of row {sparse.distinct[row]} of {name}", sums, bad
                continue
            seen = _as_seen(0.0 if gradient is None else gradient, layout)
            bad = is_bad(seen, leaf.scalar_row)
            if bad.any():
                return name, seen, bad
        return None

    def run(
        self,
        params: Any,
        scalars: list[tuple[float, ...]],
        report: bool,
        transforms: tuple[str, ...] = (),
        after: Iterator[None] = NOTHING,
    ) -> None:
        """Updates everything. Only the arrays that `accepts` or `__init__` checked are written.

        scalars : for each row those of the formula, then those of the transforms
        after : calls of C that write what else there is

        `stepped`, which the caller has set to False, stays so as long as nothing was written. After that the step is
        finished whatever comes: see `fastopt.engine.execute`.
        """
        which = "report" if report else "step"
        self._write_scalars(scalars)
        choice, tuner = tuning.fixed(), None
        if choice is None:
            choice = AS_THEY_COME if self.tuner is None else self.tuner.choice
            tuner = None if report else self.tuner
        # Compiles before anything of the user's is written.
        calls = [launch.call(self.rule, which, transforms, choice) for launch in self._launches]
        if flags.CHECK:
            check_addresses(self)
        begin = 0 if tuner is None else tuner.begin()
        if len(calls) == 1 and not self._launches[0].staged and after is NOTHING:
            self._run_one(*calls[0])
        else:
            self._run_all(params, calls, after)
        if begin and tuner is not None:
            tuner.end(begin)

    def _run_all(self, params: Any, calls: list[tuple[Any, ...]], after: Iterator[None]) -> None:
        leaves = self.container.leaves(params)
        fetch_values(self._launches, leaves)
        work = chain(kernels(self._launches, calls), after, assignments(self._launches, leaves))
        try:
            self.stepped = True  # between this and what is consumed no KeyboardInterrupt comes
            consume(work)
        except BaseException:  # of a mapping's own methods, or of kernels in pure Python
            consume(work)
            consume(assignments(self._launches, leaves))
            raise
        finally:
            self._gradients = []

    def tuned_by(self, tuners: dict[Any, Tuner]) -> None:
        """Takes the tuner for arrays of these sizes out of those of an optimizer, or puts one there."""
        if tuning.why_not(self.parameter_bytes) is None and flags.compiles():
            moved_bytes = [launch.moved_bytes for launch in self._launches if launch.parameter_bytes]
            self.tuner = tuners.setdefault(tuple(moved_bytes), Tuner(moved_bytes))

    @property
    def parameter_bytes(self) -> int:
        """The bytes of the parameters whose own memory a step writes."""
        return sum(launch.parameter_bytes for launch in self._launches)

    def _run_one(self, kernel: Any, table: Array, starts: Array, threads: int) -> None:
        """`_run_all` where there is nothing to be done but to call one kernel."""
        try:
            self.stepped = True
            kernel(table, starts, threads)
        finally:
            self._gradients = []

    def _write_scalars(self, scalars: list[tuple[float, ...]]) -> None:
        place = 0
        for values in scalars:
            packing(len(values))(self._scalars_memory, place, *values)
            place += self._scalars_stride


def _gradient_pass(kind: str | None) -> tuple[Any, ...]:
    """Kernel and rule of a pass that adds up the squares of gradients."""
    return ("norm",) if kind is None else (kind, GRADIENT_MEASURE)


def _as_seen(gradient: Any, layout: Layout) -> Array:
    with np.errstate(over="ignore"):
        seen = np.asarray(gradient).astype(layout.dtype, copy=False)
    return seen.reshape(layout.shape) if seen.size == layout.size else seen
