"""The table of addresses that the kernels walk, and how it is made and checked."""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Hashable
from functools import cache
from operator import itemgetter
from typing import Any

import numpy as np
from numba import types
from numpy.lib.array_utils import byte_bounds

from fastopt import array_checks, checks, combinations, rows
from fastopt.constraints import Columns
from fastopt.engine import arguments, columns, containers
from fastopt.engine.centralized_launch import CentralizedLaunch
from fastopt.engine.containers import BARE, Buffers
from fastopt.engine.launch import Entry, Launch
from fastopt.engine.overlaps import Memory, share_memory
from fastopt.engine.sparse_launch import RowsLaunch, Touched
from fastopt.engine.state import Layout, State, lies_in, state_for
from fastopt.engine.step_counts import CountedLeaves, StepCounts
from fastopt.engine.stored_launch import StoredLaunch
from fastopt.flat import Array
from fastopt.groups import NO_GROUPS, Groups, Part, selects
from fastopt.kernels import RULES, array_scan, averages
from fastopt.kernels.codecs import FLOAT32
from fastopt.kernels.compile import compiled
from fastopt.kernels.constraints import COLUMNS, CONSTRAINTS
from fastopt.kernels.rule import Rule
from fastopt.kernels.transforms import OPTIONS
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
    ) -> None:
        self.owner = owner
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
            array_checks.parameter(owner, self._name(key), value) for key, value in zip(self.keys, values, strict=True)
        ]

        copied = container.copied(owner, params, values)
        by_name = dict(zip(self.keys, arrays, strict=True))
        if state is not None and by_name and (BARE in state.layouts) != (BARE in by_name):
            raise KeyError(checks.array_or_dict(owner, self.keys[0], state.layouts))
        storages = columns.storages(owner, rule, by_name, container, grads, groups, centralize, storage, constraints)
        named = {key: (self._name(key), array) for key, array in by_name.items()}
        state, self.begun = state_for(owner, rule, state, start_values, named, storages)
        self.state = state

        self.entries = [
            Entry(key, value, array, state.layouts[key])
            for key, value, array in zip(self.keys, values, arrays, strict=True)
        ]
        self.copied = copied
        for entry in self.entries:
            entry.copied = entry.key in copied
        numbers = [entry.key for entry in self.entries if not isinstance(entry.value, np.ndarray)]
        container.check_rebindable(owner, params, numbers)
        is_one_run = self._state_is_one_run() and self._count_alike(counts)
        if self.form == "buffers" and self.keys and not by_key and is_one_run:
            self.flat_layout, self.views = params.layout, values
            layout = Layout(params.buffer.shape, params.buffer.dtype, "C")
            self.entries = [Entry(BARE, params.buffer, params.buffer, layout)]
        else:
            self.container = container

        self._frozen: set[Hashable] = set()
        if self.divided or centralize:
            self._divide(groups or Groups(object), centralize)
        _, gradients = self.container.lists(params, grads, self._frozen) or self._missing(grads)
        active = [entry for entry, gradient in zip(self.entries, gradients, strict=True) if gradient is not None]
        self._count(active, counts)
        self._number_scalars(active, by_array)
        for entry, gradient in zip(self.entries, gradients, strict=True):
            if isinstance(gradient, Rows):
                entry.touched = self._touched(entry)
        if constraints is not None:
            self._add_columns(active, constraints, groups or Groups(object))
        self.written = self._written_memory(active)
        self._tabulate(active)
        self._expect()
        for number, entry in enumerate(self.entries):
            if entry.row >= 0:
                self._place_gradient(number, gradients[number])
        self._arrange()
        self._gradients = gradients  # alive until the launch is over
        self._scan = compiled_scan() if array_scan.layout_is_known() else None

    def _divide(self, groups: Groups, centralize: bool | None) -> None:
        """Finds the groups that each parameter belongs to, which are frozen, and which are centralized."""
        for entry in self.entries:
            entry.groups = groups.part_of(None if entry.key is BARE else entry.key, entry.array)
            own = groups.settings_of(entry.groups)
            if own.get("frozen"):
                self._frozen.add(entry.key)
            if centralize is not None and entry.array.ndim > 1 and entry.array.size:
                entry.centralized = own.get("centralize", centralize)
        used = {number for part in {entry.groups for entry in self.entries} for number in part}
        for number, selector in enumerate(groups):
            if callable(selector):
                continue
            if number in used:
                groups.matched.add(selector)
            elif selector not in groups.matched and not self._is_of_old(selector):
                raise ValueError(checks.empty_group(self.owner, selector, self.state.layouts))

    def _add_columns(self, active: list[Entry], constraints: Columns, groups: Groups) -> None:
        """Makes the arrays of bounds and masks of what is updated."""
        constraints.check_keys(None if key is BARE else key for key in self.state.layouts)
        for entry in active:
            key, own = None if entry.key is BARE else entry.key, groups.settings_of(entry.groups)
            entry.columns = constraints.of(self._name(entry.key), key, entry.layout.empty(), own)
            if "mask" in entry.columns:
                there = {"centralize": entry.centralized, "gradients that are Rows": entry.touched is not None}
                combinations.check_step(self.owner, {"mask": True} | there)

    def _count(self, active: list[Entry], counts: StepCounts | None) -> None:
        """Finds the cohort of each leaf."""
        flat = isinstance(self.container, containers.Buffers)
        updated = self.keys if flat else [entry.key for entry in active]
        there = set(updated)
        self.leaves = CountedLeaves(counts, updated, [key for key in self.keys if key not in there])
        for entry in self.entries:
            entry.cohort = self.leaves.cohort_of[self.keys[0] if flat else entry.key]

    def _count_alike(self, counts: StepCounts | None) -> bool:
        return counts is None or len({counts.cohorts.get(key) for key in self.keys}) == 1

    def _number_scalars(self, active: list[Entry], by_array: bool) -> None:
        """Gives each array its row of scalars: one for each part and cohort, or array."""
        rows: dict[tuple[Part, int, Hashable], int] = {}
        for entry in active:
            entry.part = rows.setdefault((entry.groups, entry.cohort, entry.key if by_array else None), len(rows))
        # The part and the cohort of each row.
        self.parts: list[Part] = [part for part, _, _ in rows] or [NO_GROUPS]
        self.cohorts = [cohort for _, cohort, _ in rows] or [0]

    def _is_of_old(self, selector: Any) -> bool:
        """Whether a key or pattern selects an array that has state, which this step need not have."""
        return any(selects(selector, None if key is BARE else key, self.entries[0].array) for key in self.state.layouts)

    def _missing(self, grads: Any) -> Any:
        key = next(key for key in self.keys if key not in grads and key not in self._frozen)
        raise KeyError(checks.missing_gradient(self.owner, key, grads))

    def _name(self, key: Hashable, which: str = "params") -> str:
        """How an array is called in an error text."""
        return self.container.name(key, which)

    def _state_is_one_run(self) -> bool:
        """Whether the state of all keys lies in one piece, in the order of the keys, as the flat buffer does."""
        return list(self.state.layouts) == self.keys and self.state.is_one_run

    def _touched(self, entry: Entry) -> Touched:
        name = self._name(entry.key)
        if not self.rule.rows:
            raise TypeError(rows.unknown_form(self.owner, name, (name for name in RULES if RULES[name].rows)))
        if entry.copied:
            raise TypeError(rows.copied(self.owner, name))
        rows.table(self.owner, name, entry.value, _is_direct(entry) and entry.layout.order == "C")
        if entry.centralized:
            raise ValueError(rows.centralized(self.owner, name))
        return Touched(entry.layout)

    def _written_memory(self, active: list[Entry]) -> Array:
        """int64[2, n], starts and ends of the blocks that a step writes, ascending; raises where parameters overlap."""
        self._memory: Memory | None = None
        memory = self._memory_of(active)
        if memory.overlapping:
            names = sorted(self._name(self._writing[number].key) for number in memory.overlapping)
            raise ValueError(array_checks.overlapping(self.owner, *names))
        merged = [[block.start, block.end] for block in memory.blocks]
        for block in self.state.blocks:
            low, high = byte_bounds(block)
            number = bisect_right(merged, low, key=itemgetter(1))
            if number < len(memory.blocks) and merged[number][0] < high and low < high:
                members = [self._writing[member] for member in memory.blocks[number].members]
                entry = next(entry for entry in members if byte_bounds(entry.array)[0] < high)
                raise ValueError(array_checks.overlapping_state(self.owner, self._name(entry.key)))
        merged += [[low, high] for low, high in map(byte_bounds, self.state.blocks) if low < high]
        return np.array(sorted(merged), dtype=np.int64).reshape(-1, 2).T.copy()

    def _memory_of(self, active: list[Entry]) -> Memory:
        """The memory of the parameters that a step writes; worked out anew where some have become other arrays."""
        if self._memory is None:
            self._writing = list(
                {entry.identity: entry for entry in active if entry.array.size and not entry.copied}.values()
            )
            self._memory = Memory([entry.array for entry in self._writing])
        return self._memory

    def _tabulate(self, active: list[Entry]) -> None:
        """The table of addresses, a row per array that is updated, rows of one launch next to one another."""
        slots = len(self.state.slots)
        waves: Counter[tuple[Any, ...]] = Counter()
        groups: dict[tuple[int, np.dtype[Any], str, bool, tuple[str, ...]], list[Entry]] = {}
        for entry in active:
            # The same array under several keys is updated once per key: in as many launches, in the keys' order.
            stored = entry.layout.storage
            wave = waves[entry.identity], entry.layout.dtype, stored, entry.touched is not None, tuple(entry.columns)
            groups.setdefault(wave, []).append(entry)
            waves[entry.identity] += 1
            if self.rule.is_by_array and waves[entry.identity] > 1 and entry.layout.size:
                raise ValueError(checks.same_array(self.owner, self._name(entry.key)))
            if not _is_direct(entry):
                entry.staged = entry.layout.empty()
        width = 3 + len(self.rule.state) + len(averages.SLOTS) + len(COLUMNS)
        self._table = np.zeros((len(active) + len(groups), width), dtype=np.int64)
        self._scalars = np.zeros(
            (len(self.parts), len(self.rule.scalars) + len(OPTIONS) + len(CONSTRAINTS) + len(averages.SLOTS))
        )
        self._scalars_memory, self._scalars_stride = self._scalars.data, self._scalars.strides[0]
        self._launches: list[Launch] = []
        row = 0
        self.rows_launches: list[RowsLaunch] = []
        self.stored_launches: list[StoredLaunch] = []
        for wave in sorted(groups, key=lambda wave: wave[0]):
            _, dtype, stored, by_rows, more_columns = wave
            group, first = groups[wave], row
            for entry in group:
                entry.row = row
                self._table[row, 0] = (entry.array if entry.staged is None else entry.staged).ctypes.data
                self._table[row, 2:] = *self._state_addresses(entry), self._scalars[entry.part :].ctypes.data
                row += 1
            sizes = [entry.layout.size for entry in group]
            centralized = any(entry.centralized for entry in group)
            plain = Launch if stored == FLOAT32 else StoredLaunch
            each = columns.moved_bytes(stored, dtype.itemsize, len(self.rule.state), slots - len(self.rule.state))
            each += len(more_columns) * dtype.itemsize
            launch = (RowsLaunch if by_rows else CentralizedLaunch if centralized else plain)(
                table=self._table[first : row + 1],
                starts=np.cumsum([0, *sizes], dtype=np.int64),
                dtype=dtype.name,
                moved_bytes=int(sum(sizes) * each),
                staged=[entry for entry in group if entry.staged is not None],
                parts=[entry.part for entry in group],
                columns=more_columns,
            )
            self._launches.append(launch)
            if isinstance(launch, RowsLaunch):
                launch.begin(group)
                self.rows_launches.append(launch)
            elif isinstance(launch, CentralizedLaunch):
                launch.begin(group, self._scalars)
            elif isinstance(launch, StoredLaunch):
                launch.begin(group, self.rule)
                self.stored_launches.append(launch)
            row += 1  # for the tally
        self._active = active
        self.tied = len(active) > len(waves)
        self.is_plain = all(type(launch) in (Launch, StoredLaunch) for launch in self._launches)
        # From the order of the launches to that of the keys.
        self._order = np.argsort(np.argsort([entry.row for entry in active]))

    def _expect(self) -> None:
        """Write down what `array_scan.scan` compares the arrays of a step with."""
        self._scratch: dict[int, Array] = {}
        # Those that Python looks after. Of a gradient that is to be Rows no array has -1 dimensions.
        special = [entry.staged is not None or entry.touched is not None for entry in self.entries]
        self._special_numbers = np.flatnonzero(special).tolist()
        self._expected = np.zeros((len(self.entries), array_scan.ENTRY_FIELDS), dtype=np.int64)
        shapes: list[int] = []
        for number, entry in enumerate(self.entries):
            expected, layout = self._expected[number], entry.layout
            expected[array_scan.ROW] = entry.row
            expected[array_scan.PARAMETER] = 0 if special[number] else id(entry.value)
            expected[array_scan.DTYPE] = array_scan.dtype_word(layout.dtype)
            expected[array_scan.ORDER] = array_scan.ALIGNED | (
                array_scan.F_ORDER if layout.order == "F" else array_scan.C_ORDER
            )
            seen_to = entry.touched is not None or type(entry.value) is float
            expected[array_scan.DIMENSION] = -1 if seen_to else len(layout.shape)
            expected[array_scan.SHAPE] = len(shapes)
            expected[array_scan.BYTES] = entry.nbytes
            shapes += layout.shape
        self._shapes = np.array(shapes, dtype=np.int64)
        # The arguments of a scan that are the same at every step.
        self._scanned = (array_scan.NDARRAY, array_scan.NONE, self._expected, self._shapes, self.written, self._table)

    def _state_addresses(self, entry: Entry) -> list[int]:
        key = self.keys[0] if entry.key is BARE else entry.key
        slots = (*self.rule.state, *averages.SLOTS.values())
        behind = [entry.columns[name].ctypes.data if name in entry.columns else 0 for name in COLUMNS]
        return [self.state.address_of(slot, key) for slot in slots] + behind

    def _place_gradient(self, number: int, value: Any) -> None:
        """Checks a gradient and puts its address, or that of a converted copy, into the table."""
        entry = self.entries[number]
        name, layout = self._name(entry.key, "grads"), entry.layout
        if entry.touched is not None:
            if value.exact and self.rule.idle is None:
                known = (name for name in RULES if RULES[name].idle)
                raise TypeError(rows.no_closed_form(self.owner, name, known))
            entry.touched.take(self.owner, name, value, self._name(entry.key), entry.array)
            return
        found = arguments.gradient(self.owner, name, value, self._name(entry.key), entry.array)
        if (
            # A number has memory of its own.
            (not isinstance(value, float) and self._is_written(name, entry, found))
            or not isinstance(value, np.ndarray)
            or found.dtype != layout.dtype
            or found.shape != value.shape
            or not lies_in(found, layout.order)
        ):
            if number not in self._scratch:
                self._scratch[number] = layout.empty()
            np.copyto(self._scratch[number], found, casting="same_kind")
            found = self._scratch[number]
        self._table[entry.row, 1] = array_scan.address_of(found)

    def _arrange(self) -> None:
        """Makes the tables of addresses of touched rows, when all gradients have been placed."""
        for launch in self.rows_launches:
            launch.arrange()

    def _is_written(self, name: str, entry: Entry, found: Array) -> bool:
        """Whether a gradient lies in its own parameter's memory; in any other that the step writes it is refused."""
        if found.size == 0:
            return False
        start, end = byte_bounds(found)
        block = int(self.written[1].searchsorted(start, side="right"))
        if block == self.written.shape[1] or self.written[0, block] >= end:
            return False
        sharing = [self._writing[number] for number in self._memory_of(self._active).sharing(found)]
        for other in sharing:
            if other.identity != entry.identity:
                raise ValueError(arguments.gradient_in_written_memory(self.owner, name, self._name(other.key)))
        if any(share_memory(block, found) for block in self.state.blocks):
            raise ValueError(arguments.gradient_in_written_memory(self.owner, name, "the optimizer's state"))
        return bool(sharing)


def arrangement(groups: Groups | None, by_array: bool) -> tuple[Any, ...]:
    """The arrangement that a table was made for: the groups that divide it, and whether arrays are told apart."""
    return groups.arrangement() if groups else (), by_array


def _is_direct(entry: Entry) -> bool:
    """Whether the kernel can work on the parameter's own memory."""
    return isinstance(entry.value, np.ndarray) and not entry.copied and lies_in(entry.array, entry.layout.order)


@cache
def compiled_scan() -> Any:
    """`array_scan.scan`, compiled."""
    number, row, table = types.int64, types.Array(types.int64, 1, "C"), types.Array(types.int64, 2, "C")
    return compiled(array_scan.scan, *[number] * 5, table, row, table, table)
