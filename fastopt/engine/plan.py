"""Steps of a set of arrays: whether what was worked out for them still fits, at every step, and then the step.

As long as the parameters are the same arrays, a step costs one compiled check of both lists (`array_scan.scan`), which
also takes up the gradients' new addresses.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, MutableMapping
from functools import cached_property
from itertools import chain
from types import MappingProxyType
from typing import Any

import numpy as np

from fastopt import tuning
from fastopt.engine import containers
from fastopt.engine.address_checks import check_addresses
from fastopt.engine.address_table import Table, arrangement
from fastopt.engine.containers import Buffers
from fastopt.engine.execute import NOTHING, assignments, consume, fetch_values, kernels
from fastopt.engine.norms import ONE_PROCESS, OneProcess
from fastopt.engine.passes import Passes
from fastopt.engine.projections import Projections
from fastopt.engine.state import State
from fastopt.flat import Array
from fastopt.groups import Groups
from fastopt.kernels import array_scan, flags
from fastopt.kernels.rule import Factors
from fastopt.kernels.stores import PLAIN
from fastopt.rows import Rows
from fastopt.settings import PlanSettings
from fastopt.tuning import AS_THEY_COME, Choice, Tuner


class Plan:
    """Steps of the arrays of an address table.

    table : where everything lies
    processes : adds up the results of several processes
    """

    again: Any = None
    """The result of `again.again` for the last step."""

    settings: PlanSettings | None = None
    """Those of each row of scalars, as `settings.StepSettings` keeps them."""

    moved = False
    """Whether parameters turned out to be other arrays than before."""

    stepped = False
    """Whether `run` has begun to write."""

    summed: int
    """Of how many gradients those of this step are the sums."""

    projections: Projections | None = None
    """The constraints on rows, columns or whole arrays, after the kernels."""

    tuner: Tuner | None = None
    """Where it may choose how steps run."""

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

    def __init__(self, table: Table, processes: OneProcess = ONE_PROCESS) -> None:
        self.table, self.processes = table, processes
        self.passes = Passes(table, processes)

    # -- does it fit? --------------------------------------------------------------------------------------------------

    @cached_property
    def of_problems(self) -> dict[str, Any]:
        """Kept by steps of many problems at once for the next one."""
        return {}

    def accepts(self, params: Any, grads: Any, groups: Groups | None = None, by_array: bool = False) -> bool:
        """Whether the plan fits these arguments; if so, it has taken up the gradients. Errors are raised."""
        table = self.table
        scan, container = table.scan, table.container
        if scan is None or containers.form_of(params, grads) != table.form:
            return False
        if (groups is not None or by_array or table.divided) and table.arrangement != arrangement(groups, by_array):
            return False
        if self.check is not None and self.finds_all_as_before(params, grads):
            return True
        if isinstance(container, Buffers) and not all(view.flags.writeable for view in container.views(params)):
            return False
        lists = container.lists(params, grads, table.frozen)
        if lists is None or not self._can_write(params, lists[0]):
            return False
        parameters, gradients = lists
        for number in table.special_numbers:
            if not table.leaves[number].fits(parameters[number]):
                return False
        addresses = id(parameters), id(gradients)
        number = scan(*addresses, 0, *table.scan_arguments)
        if number < 0 and not container.copied_keys(params, parameters) and self._take_over(parameters):
            if isinstance(container, Buffers):
                table.views = container.views(params)
            number = scan(*addresses, 0, *table.scan_arguments)
        while number != len(table.leaves):
            if number < 0 or gradients[number] is None:
                return False
            if isinstance(gradients[number], Rows) != (table.leaves[number].sparse is not None):
                return False
            table.place_gradient(number, gradients[number])
            number = scan(*addresses, number + 1, *table.scan_arguments)
        if table.rows_launches:
            table.arrange()
        table.gradients = gradients
        return True

    def finds_all_as_before(self, params: Any, grads: Any) -> bool:
        """Whether the compiled check is enough for these arguments; if so, the plan has taken up the gradients."""
        gradients, table = self.check(params, grads), self.table
        self.checked = bool(gradients)
        if gradients:
            bare = table.container.is_bare
            table.gradients = [grads if table.form == "arrays" else grads.buffer] if bare else gradients
        return self.checked

    def _can_write(self, params: Any, parameters: list[Any]) -> bool:
        """Whether a step gets into a mapping in the same way as when the plan was made: in place, or by assignment."""
        table = self.table
        if not table.special_numbers:
            return True
        if table.copied and table.container.copied_keys(params, parameters) != table.copied:
            return False
        return not isinstance(params, Mapping) or isinstance(params, dict | MutableMapping)

    def follows(self, cohorts: Any, state: State | None) -> bool:
        """Whether the leaves are still counted as the plan has it, by the cohorts and with the state of today."""
        table = self.table
        if state is not None and table.counted.are_counted:
            table.state = state  # more leaves may have some than before; those of the plan lie where they lay
        return table.counted.follow(cohorts)

    def takes_over(self, params: Any) -> bool:
        """Whether parameters are other arrays than before but alike, which the plan has then taken up."""
        container = self.table.container
        values = None if isinstance(container, Buffers) else container.values(params)
        return values is not None and not container.copied_keys(params, values) and self._take_over(values)

    def _take_over(self, parameters: list[Any]) -> bool:
        """Takes up parameters that are other arrays alike, as of `x = np.clip(x, -1, 1)`; False if that cannot be."""
        table = self.table
        if not table.is_plain or table.tied:
            return False
        others = [
            (number, leaf, value, array_scan.address_of(value))
            for number, (leaf, value) in enumerate(zip(table.leaves, parameters, strict=True))
            if value is not leaf.value and leaf.row >= 0 and leaf.staged is None and leaf.is_like(value)
        ]
        if not others:
            return False
        moved = [(leaf.header[0], address, leaf.nbytes) for _, leaf, _, address in others if leaf.nbytes]
        written = table.written.moved(moved)
        if written is None:
            return False
        scan, table.scan = table.scan, None  # a plan that Ctrl-C leaves half changed fits nothing
        table.written.take(written)
        table.addresses[:, 1] = 0  # gradients that were checked lay beside what was written then
        for number, leaf, value, address in others:
            leaf.value = leaf.array = value
            leaf.header = address, value.shape, value.strides, value.dtype
            table.addresses[leaf.row, 0], table.expected[number, array_scan.PARAMETER] = address, id(value)
        table.scan, self.moved = scan, True
        return True

    def has_the_arrays_of(self, other: Plan) -> bool:
        """Whether its parameters are those of another plan, as far as they have the same keys."""
        arrays = {leaf.key: leaf.array for leaf in other.table.leaves if isinstance(leaf.value, np.ndarray)}
        return type(self.table.container) is type(other.table.container) and all(
            arrays.get(leaf.key, leaf.array) is leaf.array
            for leaf in self.table.leaves
            if isinstance(leaf.value, np.ndarray)
        )

    estimates: Mapping[str, float] = MappingProxyType({})
    """The optimizer's estimates from totals, of a step on its way: before it, then after it."""

    factors: Mapping[Any, Factors] = MappingProxyType({})
    """Its factors by key, likewise."""

    # -- the step ------------------------------------------------------------------------------------------------------

    def run(
        self,
        params: Any,
        scalars: list[tuple[float, ...]],
        report: bool,
        transforms: tuple[str, ...] = (),
        after: Iterator[None] = NOTHING,
    ) -> None:
        """Updates everything. Only the arrays that `accepts` or the table checked are written.

        scalars : for each row those of the formula, then those of the transforms
        after : calls of C that write what else there is

        `stepped`, which the caller has set to False, stays so as long as nothing was written. After that the step is
        finished whatever comes: see `fastopt.engine.execute`.
        """
        which, table = "report" if report else "step", self.table
        table.write_scalars(scalars)
        choice, tuner = tuning.fixed(), None
        if choice is None:
            choice = AS_THEY_COME if self.tuner is None else self.tuner.choice
            tuner = None if report else self.tuner
        # Compiles before anything of the user's is written.
        calls = [launch.call(table.rule, which, transforms, choice) for launch in table.launches]
        if flags.CHECK:
            check_addresses(table)
        begin = 0 if tuner is None else tuner.begin()
        if len(calls) == 1 and not table.launches[0].staged and after is NOTHING and self.projections is None:
            self._run_one(*calls[0])
        else:
            projections = self.projections.calls([threads for *_, threads in calls]) if self.projections else []
            self._run_all(params, calls, projections, after)
        if begin and tuner is not None:
            tuner.end(begin)

    def _run_all(
        self,
        params: Any,
        calls: list[tuple[Any, ...]],
        projections: list[list[tuple[Any, ...]]],
        after: Iterator[None],
    ) -> None:
        table = self.table
        leaves = table.container.leaves(params)
        fetch_values(table.launches, leaves)
        work = chain(kernels(table.launches, calls, projections), after, assignments(table.launches, leaves))
        try:
            self.stepped = True  # between this and what is consumed no KeyboardInterrupt comes
            consume(work)
        except BaseException:  # of a mapping's own methods, or of kernels in pure Python
            consume(work)
            consume(assignments(table.launches, leaves))
            raise
        finally:
            table.gradients = []

    def _run_one(self, kernel: Any, addresses: Array, starts: Array, threads: int) -> None:
        """`_run_all` where there is nothing to be done but to call one kernel."""
        try:
            self.stepped = True
            kernel(addresses, starts, threads)
        finally:
            self.table.gradients = []

    def form_of(self, choice: Choice) -> int:
        """The form in which parameters are stored."""
        return max((launch.form_of(choice) for launch in self.table.launches), default=PLAIN)

    def tuned_by(self, tuners: dict[Any, Tuner]) -> None:
        """Takes the tuner for arrays of these sizes out of those of an optimizer, or puts one there."""
        if tuning.why_not(self.parameter_bytes) is None and flags.compiles():
            moved_bytes = [launch.moved_bytes for launch in self.table.launches if launch.parameter_bytes]
            waits = any(launch.outgrows_caches for launch in self.table.launches)
            self.tuner = tuners.setdefault(tuple(moved_bytes), Tuner(moved_bytes, waits))

    @property
    def parameter_bytes(self) -> int:
        """The bytes of the parameters whose own memory a step writes."""
        return sum(launch.parameter_bytes for launch in self.table.launches)
