"""The table of addresses that the kernels walk, and how it is made and checked."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable
from functools import cache
from typing import Any

import numpy as np
from numba import types

from fastopt import array_checks, checks, combinations, container_checks, rows
from fastopt.constraints import Columns
from fastopt.engine import arguments, columns, containers
from fastopt.engine.centralized_launch import CentralizedLaunch
from fastopt.engine.containers import BARE, Buffers
from fastopt.engine.execute import packing
from fastopt.engine.launch import Launch, Leaf
from fastopt.engine.sparse_launch import RowsLaunch, SparseGradient
from fastopt.engine.state import Layout, State, lies_in, state_for
from fastopt.engine.step_counts import CountedLeaves, StepCounts
from fastopt.engine.stored_launch import StoredLaunch
from fastopt.engine.written_memory import WrittenMemory
from fastopt.flat import Array
from fastopt.groups import NO_GROUPS, GroupNumbers, Groups, selects
from fastopt.kernels import RULES, array_scan, averages
from fastopt.kernels.codecs import FLOAT32
from fastopt.kernels.compile import compiled
from fastopt.kernels.constraints import COLUMNS
from fastopt.kernels.rule import Rule
from fastopt.kernels.transforms import TRANSFORMS
from fastopt.rows import Rows


class Table:
    """The checked addresses for `update(params, grads)`; making one writes nothing of the user's.

    owner : class name of the optimizer, for error texts
    rule : the rule
    start_values : {state slot: value at the start, or PARAMETER}
    state : the optimizer's state, None before the first step or where the rule has none
    by_key : whether the arrays of a FlatDict are walked one by one, for a report on each
    groups : the groups that the parameters are divided by
    by_array : whether each array has a row of scalars of its own, for norms by array
    centralize : whether gradients are centralized where no group says otherwise; None: nowhere, whatever groups say
    storage : how state is stored where no group says otherwise
    counts : the step counts of the leaves; None where leaves are not known, and not counted
    constraints : what makes arrays of bounds and masks; None where there are none
    modulus : whether complex parameters have second moments by |g|^2 where no group says otherwise
    """

    def __init__(
        self,
        owner: str,
        rule: Rule,
        params: Any,
        grads: Any,
        start_values: dict[str, float | None],
        state: State | None,
        by_key: bool = False,
        groups: Groups | None = None,
        by_array: bool = False,
        centralize: bool | None = None,
        storage: str = FLOAT32,
        counts: StepCounts | None = None,
        constraints: Columns | None = None,
        modulus: bool = False,
    ) -> None:
        self.owner = owner
        self.averaging_weights = np.zeros(0)  # of `averaging.of_left_out`, whose address kernels have
        self.rule = rule
        self.by_array, self.arrangement = by_array, arrangement(groups, by_array)
        self.divided = bool(groups) or by_array
        by_key = by_key or self.divided or bool(centralize) or constraints is not None
        self.form = containers.form_of(params, grads)
        self.container = container = containers.pair(owner, params, grads)
        if isinstance(container, Buffers):
            container = container.by_leaf
        self.keys = container.keys
        values = container.values(params)
        assert values is not None
        arrays = [
            array_checks.parameter(owner, self.name(key), value) for key, value in zip(self.keys, values, strict=True)
        ]

        copied = container.copied(owner, params, values)
        by_name = dict(zip(self.keys, arrays, strict=True))
        if state is not None and by_name and (BARE in state.layouts) != (BARE in by_name):
            raise KeyError(checks.array_or_dict(owner, self.keys[0], state.layouts))
        storages = columns.storages(owner, rule, by_name, container, grads, groups, centralize, storage, constraints)
        named = {key: (self.name(key), array) for key, array in by_name.items()}
        state, self.begun = state_for(owner, rule, state, start_values, named, storages)
        self.state = state

        self.leaves = [
            Leaf(key, value, array, state.layouts[key])
            for key, value, array in zip(self.keys, values, arrays, strict=True)
        ]
        self.copied = copied
        for leaf in self.leaves:
            leaf.copied = leaf.key in copied
        numbers = [leaf.key for leaf in self.leaves if not isinstance(leaf.value, np.ndarray)]
        container.check_rebindable(owner, params, numbers)
        is_one_run = self._state_is_one_run() and self._count_alike(counts)
        if self.form == "buffers" and self.keys and not by_key and is_one_run:
            self.flat_layout, self.views = params.layout, values
            layout = Layout(params.buffer.shape, params.buffer.dtype, "C")
            self.leaves = [Leaf(BARE, params.buffer, params.buffer, layout)]
        else:
            self.container = container

        self.frozen: set[Hashable] = set()
        if self.divided or centralize:
            self._divide(groups or Groups(object), centralize)
        for leaf in self.leaves:
            of_groups = groups.settings_of(leaf.groups) if groups else {}
            leaf.modulus = leaf.layout.is_complex and bool(of_groups.get("modulus", modulus))
        _, gradients = self.container.lists(params, grads, self.frozen) or self._missing(grads)
        active = [leaf for leaf, gradient in zip(self.leaves, gradients, strict=True) if gradient is not None]
        self._count(active, counts)
        self._number_scalars(active, by_array)
        for leaf, gradient in zip(self.leaves, gradients, strict=True):
            if isinstance(gradient, Rows):
                leaf.sparse = self._sparse_gradient(leaf)
        if constraints is not None:
            self._add_columns(active, constraints, groups or Groups(object))
        self.written = WrittenMemory(owner, active, self.state, self.container)
        self._tabulate(active)
        self._expect()
        for number, leaf in enumerate(self.leaves):
            if leaf.row >= 0:
                self.place_gradient(number, gradients[number])
        self.arrange()
        self.gradients = gradients  # alive until the launch is over
        self.scan = compiled_scan() if array_scan.layout_is_known() else None

    def _divide(self, groups: Groups, centralize: bool | None) -> None:
        """Finds the groups that each parameter belongs to, which are frozen, and which are centralized."""
        for leaf in self.leaves:
            leaf.groups = groups.matching(None if leaf.key is BARE else leaf.key, leaf.array)
            settings = groups.settings_of(leaf.groups)
            if settings.get("frozen"):
                self.frozen.add(leaf.key)
            if centralize is not None and leaf.array.ndim > 1 and leaf.array.size:
                leaf.centralized = settings.get("centralize", centralize)
                there = {"complex parameters": leaf.layout.is_complex, "centralize": leaf.centralized}
                combinations.check_step(self.owner, there)
        used = {number for numbers in {leaf.groups for leaf in self.leaves} for number in numbers}
        for number, selector in enumerate(groups):
            if callable(selector):
                continue
            if number in used:
                groups.matched.add(selector)
            elif selector not in groups.matched and not self._is_of_old(selector):
                raise ValueError(checks.empty_group(self.owner, selector, self.state.layouts))

    def _add_columns(self, active: list[Leaf], constraints: Columns, groups: Groups) -> None:
        """Makes the arrays of bounds and masks of what is updated."""
        constraints.check_keys(None if key is BARE else key for key in self.state.layouts)
        for leaf in active:
            key, settings = None if leaf.key is BARE else leaf.key, groups.settings_of(leaf.groups)
            leaf.columns = constraints.of(self.name(leaf.key), key, leaf.layout.empty(), settings)
            if "mask" in leaf.columns:
                there = {"centralize": leaf.centralized, "gradients that are Rows": leaf.sparse is not None}
                combinations.check_step(self.owner, {"mask": True} | there)

    def _count(self, active: list[Leaf], counts: StepCounts | None) -> None:
        """Finds the cohort of each leaf."""
        flat = isinstance(self.container, containers.Buffers)
        updated = self.keys if flat else [leaf.key for leaf in active]
        there = set(updated)
        self.counted = CountedLeaves(counts, updated, [key for key in self.keys if key not in there])
        for leaf in self.leaves:
            leaf.cohort = self.counted.cohort_of[self.keys[0] if flat else leaf.key]

    def _count_alike(self, counts: StepCounts | None) -> bool:
        return counts is None or len({counts.cohorts.get(key) for key in self.keys}) == 1

    def _number_scalars(self, active: list[Leaf], by_array: bool) -> None:
        """Gives each array its row of scalars: one for each combination of groups and cohort, or for each array."""
        rows: dict[tuple[GroupNumbers, int, Hashable], int] = {}
        for leaf in active:
            leaf.scalar_row = rows.setdefault((leaf.groups, leaf.cohort, leaf.key if by_array else None), len(rows))
        # The groups and the cohort of each row.
        self.row_groups: list[GroupNumbers] = [groups for groups, _, _ in rows] or [NO_GROUPS]
        self.cohorts = [cohort for _, cohort, _ in rows] or [0]

    def _is_of_old(self, selector: Any) -> bool:
        """Whether a key or pattern selects an array that has state, which this step need not have."""
        nothing = np.empty(0)  # at which keys and patterns do not look
        return any(selects(selector, None if key is BARE else key, nothing) for key in self.state.layouts)

    def _missing(self, grads: Any) -> Any:
        key = next(key for key in self.keys if key not in grads and key not in self.frozen)
        raise KeyError(container_checks.missing_gradient(self.owner, key, grads))

    def name(self, key: Hashable, which: str = "params") -> str:
        """How an array is called in an error text."""
        return self.container.name(key, which)

    def _state_is_one_run(self) -> bool:
        """Whether the state of all keys lies in one piece, in the order of the keys, as the flat buffer does."""
        return list(self.state.layouts) == self.keys and self.state.is_one_run

    def _sparse_gradient(self, leaf: Leaf) -> SparseGradient:
        name = self.name(leaf.key)
        there = {"complex parameters": leaf.layout.is_complex, "gradients that are Rows": True}
        combinations.check_step(self.owner, there)
        if not self.rule.rows:
            raise TypeError(rows.unknown_form(self.owner, name, (name for name in RULES if RULES[name].rows)))
        if leaf.copied:
            raise TypeError(rows.copied(self.owner, name))
        rows.table(self.owner, name, leaf.value, _is_direct(leaf) and leaf.layout.order == "C")
        if leaf.centralized:
            raise ValueError(rows.centralized(self.owner, name))
        return SparseGradient(leaf.layout)

    def _tabulate(self, active: list[Leaf]) -> None:
        """The table of addresses, a row per array that is updated, rows of one launch next to one another."""
        slots = len(self.state.slots)
        launched: Counter[tuple[Any, ...]] = Counter()
        members: dict[tuple[int, np.dtype[Any], str, bool, tuple[str, ...], bool], list[Leaf]] = {}
        for leaf in active:
            # The same array under several keys is updated once per key: in as many launches, in the keys' order.
            stored = leaf.layout.storage
            launch_key = (
                launched[leaf.identity],
                leaf.layout.part_dtype,
                stored,
                leaf.sparse is not None,
                tuple(leaf.columns),
                leaf.modulus,
            )
            members.setdefault(launch_key, []).append(leaf)
            launched[leaf.identity] += 1
            if self.rule.is_by_array and launched[leaf.identity] > 1 and leaf.layout.size:
                raise ValueError(checks.same_array(self.owner, self.name(leaf.key)))
            if not _is_direct(leaf):
                leaf.staged = leaf.layout.empty()
        width = 3 + len(self.rule.state) + len(averages.SLOTS) + len(COLUMNS)
        self.addresses = np.zeros((len(active) + len(members), width), dtype=np.int64)
        self.scalars = np.zeros((len(self.row_groups), len(self.rule.scalars) + len(TRANSFORMS) + len(averages.SLOTS)))
        self.scalars_memory, self.scalars_stride = self.scalars.data, self.scalars.strides[0]
        self.launches: list[Launch] = []
        row = 0
        self.rows_launches: list[RowsLaunch] = []
        self.stored_launches: list[StoredLaunch] = []
        for launch_key in sorted(members, key=lambda launch_key: launch_key[0]):
            _, dtype, stored, by_rows, more_columns, modulus = launch_key
            leaves, first = members[launch_key], row
            for leaf in leaves:
                leaf.row = row
                self.addresses[row, 0] = (leaf.array if leaf.staged is None else leaf.staged).ctypes.data
                self.addresses[row, 2:] = *self._state_addresses(leaf), self.scalars[leaf.scalar_row :].ctypes.data
                row += 1
            sizes = [leaf.layout.numbers for leaf in leaves]
            centralized = any(leaf.centralized for leaf in leaves)
            plain = Launch if stored == FLOAT32 else StoredLaunch
            each = columns.moved_bytes(stored, dtype.itemsize, len(self.rule.state), slots - len(self.rule.state))
            each += len(more_columns) * dtype.itemsize
            launch = (RowsLaunch if by_rows else CentralizedLaunch if centralized else plain)(
                table=self.addresses[first : row + 1],
                starts=np.cumsum([0, *sizes], dtype=np.int64),
                dtype=dtype.name,
                moved_bytes=int(sum(sizes) * each),
                staged=[leaf for leaf in leaves if leaf.staged is not None],
                scalar_rows=[leaf.scalar_row for leaf in leaves],
                columns=more_columns,
                modulus=modulus,
            )
            self.launches.append(launch)
            if isinstance(launch, RowsLaunch):
                launch.begin(leaves)
                self.rows_launches.append(launch)
            elif isinstance(launch, CentralizedLaunch):
                launch.begin(leaves, self.scalars)
            elif isinstance(launch, StoredLaunch):
                launch.begin(leaves, self.rule)
                self.stored_launches.append(launch)
            row += 1  # for the statistics
        self.active = active
        self.complex_rows = {leaf.scalar_row for leaf in active if leaf.layout.is_complex}
        """The rows of scalars of complex parameters."""
        self.tied = len(active) > len(launched)
        self.is_plain = all(type(launch) in (Launch, StoredLaunch) for launch in self.launches)
        # From the order of the launches to that of the keys.
        self.order = np.argsort(np.argsort([leaf.row for leaf in active]))

    def _expect(self) -> None:
        """Write down what `array_scan.scan` compares the arrays of a step with."""
        self.scratch: dict[int, Array] = {}
        self.stand_ins: dict[Hashable, Array] = {}
        """In place of arrays of the last state slot, for the length of a step."""
        # Those that Python looks after. Of a gradient that is to be Rows no array has -1 dimensions.
        special = [leaf.staged is not None or leaf.sparse is not None for leaf in self.leaves]
        self.special_numbers = np.flatnonzero(special).tolist()
        self.expected = np.zeros((len(self.leaves), array_scan.LEAF_FIELDS), dtype=np.int64)
        shapes: list[int] = []
        for number, leaf in enumerate(self.leaves):
            expected, layout = self.expected[number], leaf.layout
            expected[array_scan.ROW] = leaf.row
            expected[array_scan.PARAMETER] = 0 if special[number] else id(leaf.value)
            expected[array_scan.DTYPE] = array_scan.dtype_word(layout.dtype)
            expected[array_scan.ORDER] = array_scan.ALIGNED | (
                array_scan.F_ORDER if layout.order == "F" else array_scan.C_ORDER
            )
            seen_to = leaf.sparse is not None or type(leaf.value) is float
            expected[array_scan.DIMENSION] = -1 if seen_to else len(layout.shape)
            expected[array_scan.SHAPE] = len(shapes)
            expected[array_scan.BYTES] = leaf.nbytes
            shapes += layout.shape
        self.shapes = np.array(shapes, dtype=np.int64)
        # The arguments of a scan that are the same at every step.
        self.scan_arguments = (
            array_scan.NDARRAY,
            array_scan.NONE,
            self.expected,
            self.shapes,
            self.written.blocks,
            self.addresses,
        )

    def _state_addresses(self, leaf: Leaf) -> list[int]:
        key = self.keys[0] if leaf.key is BARE else leaf.key
        slots = (*self.rule.state, *averages.SLOTS.values())
        behind = [leaf.columns[name].ctypes.data if name in leaf.columns else 0 for name in COLUMNS]
        return [self.state.address_of(slot, key) for slot in slots] + behind

    def place_gradient(self, number: int, value: Any) -> None:
        """Checks a gradient and puts its address, or that of a converted copy, into the table."""
        leaf = self.leaves[number]
        name, layout = self.name(leaf.key, "grads"), leaf.layout
        if leaf.sparse is not None:
            if value.exact and self.rule.skipped is None:
                supported = (name for name in RULES if RULES[name].skipped)
                raise TypeError(rows.no_closed_form(self.owner, name, supported))
            leaf.sparse.take(self.owner, name, value, self.name(leaf.key), leaf.array)
            return
        gradient = arguments.gradient(self.owner, name, value, self.name(leaf.key), leaf.array)
        if (
            # A number has memory of its own.
            (not isinstance(value, float) and self.written.holds(name, leaf, gradient, self.state))
            or not isinstance(value, np.ndarray)
            or gradient.dtype != layout.dtype
            or not lies_in(gradient, layout.order)
        ):
            if number not in self.scratch:
                self.scratch[number] = layout.empty()
            np.copyto(self.scratch[number], gradient, casting="same_kind")
            gradient = self.scratch[number]
        self.addresses[leaf.row, 1] = array_scan.address_of(gradient)

    def arrange(self) -> None:
        """Makes the tables of addresses of updated rows, when all gradients have been placed."""
        for launch in self.rows_launches:
            launch.arrange()

    def write_scalars(self, scalars: list[tuple[float, ...]]) -> None:
        """Writes scalars for each row: those of the formula, then those of the transforms."""
        place = 0
        for values in scalars:
            packing(len(values))(self.scalars_memory, place, *values)
            place += self.scalars_stride


def arrangement(groups: Groups | None, by_array: bool) -> tuple[Any, ...]:
    """The arrangement that a table was made for: the groups that divide it, and whether arrays are told apart."""
    return groups.arrangement() if groups else (), by_array


def _is_direct(leaf: Leaf) -> bool:
    """Whether the kernel can work on the parameter's own memory."""
    return isinstance(leaf.value, np.ndarray) and not leaf.copied and lies_in(leaf.array, leaf.layout.order)


@cache
def compiled_scan() -> Any:
    """`array_scan.scan`, compiled."""
    number, row, table = types.int64, types.Array(types.int64, 1, "C"), types.Array(types.int64, 2, "C")
    return compiled(array_scan.scan, *[number] * 5, table, row, table, table)
