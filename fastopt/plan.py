"""Where everything lies: worked out once for a set of arrays, checked at every step.

A plan is the table of addresses that the kernels walk. As long as the parameters are the same arrays, a step costs one
compiled look at both lists (`memory.scan`), which also takes up the gradients' new addresses.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np
from numba import types
from numpy.lib.array_utils import byte_bounds

from fastopt import checks
from fastopt.flat import Array, FlatDict
from fastopt.kernels import build, memory
from fastopt.kernels.build import Rule
from fastopt.state import Layout, State
from fastopt.threads import threads_for

BARE = None  # the key under which a bare array's state is kept


@dataclass
class Launch:
    """Arrays of one dtype that one kernel call updates."""

    table: Array  # int64[arrays, 2 + state slots]
    starts: Array  # int64[arrays + 1]
    dtype: str
    size: int  # elements
    moved_bytes: int
    kernels: dict[bool, Any] = field(default_factory=dict)

    def run(self, rule: Rule, scalars: tuple[float, ...]) -> None:
        threads = threads_for(self.moved_bytes)
        parallel = threads > 1
        kernel = self.kernels.get(parallel)
        if kernel is None:
            kernel = self.kernels[parallel] = rule.kernel(self.dtype, parallel)
        kernel(self.table, self.starts, threads, scalars)


@dataclass
class Entry:
    """A parameter of the plan."""

    key: Hashable
    value: Any  # as it stands in params
    array: Array  # as an array
    layout: Layout
    row: int = -1  # its row in the table, -1 if its gradient is None
    staged: Array | None = None  # a contiguous copy to work on where the parameter itself cannot be

    @property
    def identity(self) -> tuple[Any, ...]:
        """Equal for the same memory seen in the same way; numbers are never the same."""
        if not isinstance(self.value, np.ndarray):
            return (id(self.array),)
        return self.array.ctypes.data, self.array.shape, self.array.strides, self.array.dtype

    @property
    def is_unchanged(self) -> bool:
        """For a staged array, whether its header is still what it was (the scan sees to all others)."""
        value: Array = self.value
        return (
            value.shape == self.array.shape
            and value.strides == self.array.strides
            and value.dtype == self.array.dtype
            and value.flags.writeable
            and value.ctypes.data == self.array.ctypes.data
        )


def mode_of(params: Any, grads: Any) -> str:
    """How a pair of arguments can be walked: as one "flat" buffer each, as one bare "array" each, or as a "dict"."""
    if isinstance(params, FlatDict):
        return "flat" if isinstance(grads, FlatDict) and grads.layout == params.layout else "dict"
    return "array" if isinstance(params, np.ndarray) else "dict"


class Plan:
    """The checked addresses for `update(params, grads)`; making one writes nothing of the user's.

    owner : class name of the optimizer, for error texts
    rule : the rule
    start_values : {state slot: value at the start}
    state : the optimizer's state, None before the first step or where the rule has none
    """

    def __init__(
        self, owner: str, rule: Rule, params: Any, grads: Any, start_values: dict[str, float], state: State | None
    ) -> None:
        checks.container(owner, params, grads)
        self.owner = owner
        self.rule = rule
        self.wanted_mode = self.mode = mode_of(params, grads)
        self.keys: list[Hashable] = [BARE] if self.mode == "array" else list(params)
        values = [params] if self.mode == "array" else list(params.values())
        arrays = [checks.parameter(owner, self._name(key), value) for key, value in zip(self.keys, values, strict=True)]

        if state is None:
            layouts = {key: layout_of(array) for key, array in zip(self.keys, arrays, strict=True)}
            state = State(start_values, layouts)
        self.state = state
        for key, array in zip(self.keys, arrays, strict=True):
            if key not in state.layouts:
                raise KeyError(checks.no_state(owner, key, state.layouts))
            checks.replaced(owner, self._name(key), array, *state.layouts[key][:2])

        self.entries = [
            Entry(key, value, array, state.layouts[key])
            for key, value, array in zip(self.keys, values, arrays, strict=True)
        ]
        if any(not isinstance(entry.value, np.ndarray) for entry in self.entries):
            checks.rebindable(owner, params)
        if self.mode == "flat" and self._state_is_one_run():
            layout = Layout(params.buffer.shape, params.buffer.dtype, "C")
            self.entries = [Entry(BARE, params.buffer, params.buffer, layout)]
        elif self.mode == "flat":
            self.mode = "dict"

        _, gradients = self._lists(params, grads) or self._missing(grads)
        self.written = self._written_memory()
        self._tabulate(gradients)
        for number, entry in enumerate(self.entries):
            if entry.row >= 0:
                self._place_gradient(number, gradients[number])
        self._gradients = gradients  # alive until the launch is over
        # What only a copy can stand in for.
        self.staged = list({id(e.staged): e for e in self.entries if e.staged is not None and e.row >= 0}.values())

    # -- every step ---------------------------------------------------------------------------------------------------

    def accepts(self, params: Any, grads: Any) -> bool:
        """Whether the plan fits these arguments; if so, it has taken up the gradients. Errors are raised."""
        if not memory.layout_is_known() or mode_of(params, grads) != self.wanted_mode:
            return False
        lists = self._lists(params, grads)
        if lists is None:
            return False
        parameters, gradients = lists
        for entry in self.staged:
            value = params[entry.key] if self.mode == "dict" else params
            if isinstance(entry.value, np.ndarray):
                if value is not entry.value or not entry.is_unchanged:
                    return False
            elif type(value) is not type(entry.value):
                return False
        scan, count = _scan(), len(self.entries)
        where = (memory.NDARRAY, memory.NONE, self._expected, self._shapes, self.written, self._table)
        number = scan(id(parameters), id(gradients), 0, *where)
        while number != count:
            if number < 0 or gradients[number] is None:
                return False
            self._place_gradient(number, gradients[number])
            number = scan(id(parameters), id(gradients), number + 1, *where)
        self._gradients = gradients
        return True

    def run(self, params: Any, scalars: tuple[float, ...]) -> None:
        """Updates everything. Only the arrays that `accepts` or `__init__` checked are touched."""
        for entry in self.staged:
            assert entry.staged is not None
            entry.staged[...] = params if self.mode == "array" else params[entry.key]
        for launch in self._launches:
            launch.run(self.rule, scalars)
        for entry in self.staged:
            assert entry.staged is not None
            if isinstance(entry.value, np.ndarray):
                entry.value[...] = entry.staged
            else:
                params[entry.key] = _as_number(entry.staged, entry.value)
        self._gradients = []

    def _lists(self, params: Any, grads: Any) -> tuple[list[Any], list[Any]] | None:
        """Parameters and gradients in the order of the entries, None if the names do not fit."""
        if self.mode == "flat":
            return [params.buffer], [grads.buffer]
        if self.mode == "array":
            return [params], [grads]
        if list(params) != self.keys:
            return None
        if list(grads) == self.keys:
            return list(params.values()), list(grads.values())
        try:
            return list(params.values()), [grads[key] for key in self.keys]
        except KeyError:
            return None

    # -- making the plan ----------------------------------------------------------------------------------------------

    def _missing(self, grads: Any) -> Any:
        key = next(key for key in self.keys if key not in grads)
        raise KeyError(checks.missing_gradient(self.owner, key, grads))

    def _name(self, key: Hashable, which: str = "params") -> str:
        """How an array is called in an error text."""
        if self.mode == "array":
            return which
        return f"{which}.buffer" if self.mode == "flat" and key is BARE else f"{which}[{key!r}]"

    def _state_is_one_run(self) -> bool:
        """Whether the state of all keys lies in one piece, in the order of the keys, as the flat buffer does."""
        layouts = self.state.layouts
        return list(layouts) == self.keys and all(
            layout.order == "C" and layout.dtype == self.entries[0].layout.dtype for layout in layouts.values()
        )

    def _written_memory(self) -> Array:
        """int64[2, n], the starts and ends of the blocks that a step writes; raises where parameters overlap."""
        different = {entry.identity: entry for entry in self.entries}.values()
        blocks = sorted((*byte_bounds(entry.array), number) for number, entry in enumerate(different))
        entries = list(different)
        merged: list[list[int]] = []
        for start, end, number in blocks:
            if merged and start < merged[-1][1] and start < end:
                self._refuse_overlap(entries[number], [e for e in entries if e is not entries[number]])
                merged[-1][1] = max(merged[-1][1], end)
            else:
                merged.append([start, end])
        for block in self.state.blocks:
            start, end = byte_bounds(block)
            for entry in entries:
                low, high = byte_bounds(entry.array)
                if low < end and start < high and entry.array.size:
                    raise ValueError(checks.overlapping_state(self.owner, self._name(entry.key)))
            merged.append([start, end])
        return np.array(sorted(merged), dtype=np.int64).reshape(-1, 2).T.copy()

    def _refuse_overlap(self, entry: Entry, others: list[Entry]) -> None:
        for other in others:
            if share_memory(entry.array, other.array):
                first, second = sorted((self._name(entry.key), self._name(other.key)))
                raise ValueError(checks.overlapping(self.owner, first, second))

    def _tabulate(self, gradients: list[Any]) -> None:
        """The table of addresses, a row per array, rows of one launch next to one another."""
        slots = self.state.slots
        waves: dict[tuple[Any, ...], int] = {}
        staged: dict[tuple[Any, ...], Array] = {}
        groups: dict[tuple[int, np.dtype[Any]], list[Entry]] = {}
        for entry, gradient in zip(self.entries, gradients, strict=True):
            identity = entry.identity
            if not _is_direct(entry):
                if identity not in staged:
                    staged[identity] = np.empty(entry.layout.shape, entry.layout.dtype, entry.layout.order)  # type: ignore[call-overload]
                entry.staged = staged[identity]
            if gradient is not None:
                # The same array under several keys is updated once per key: in as many launches, in the keys' order.
                wave = waves[identity] = waves.get(identity, -1) + 1
                groups.setdefault((wave, entry.layout.dtype), []).append(entry)

        self._table = np.zeros((sum(map(len, groups.values())), 2 + len(slots)), dtype=np.int64)
        self._launches: list[Launch] = []
        row = 0
        for _wave, dtype in sorted(groups, key=lambda group: group[0]):
            group = groups[_wave, dtype]
            for entry in group:
                entry.row = row
                self._table[row, 0] = (entry.array if entry.staged is None else entry.staged).ctypes.data
                self._table[row, 2:] = self._state_addresses(entry)
                row += 1
            sizes = [entry.layout.size for entry in group]
            size, columns = sum(sizes), 3 + 2 * len(slots)
            self._launches.append(
                Launch(
                    table=self._table[row - len(group) : row],
                    starts=np.concatenate(([0], np.cumsum(sizes, dtype=np.int64))).astype(np.int64),
                    dtype=dtype.name,
                    size=size,
                    moved_bytes=size * columns * dtype.itemsize,
                )
            )

        self._scratch: dict[int, Array] = {}
        self._expected = np.zeros((len(self.entries), memory.ENTRY_FIELDS), dtype=np.int64)
        shapes: list[int] = []
        for number, entry in enumerate(self.entries):
            expected, layout = self._expected[number], entry.layout
            expected[memory.ROW] = entry.row
            expected[memory.PARAMETER] = id(entry.value) if entry.staged is None else 0
            expected[memory.DTYPE] = memory.dtype_word(layout.dtype)
            expected[memory.ORDER] = memory.ALIGNED | (memory.F_ORDER if layout.order == "F" else memory.C_ORDER)
            expected[memory.DIMENSION] = len(layout.shape)
            expected[memory.SHAPE] = len(shapes)
            expected[memory.BYTES] = layout.size * layout.dtype.itemsize
            shapes += layout.shape
        self._shapes = np.array(shapes, dtype=np.int64)

    def _state_addresses(self, entry: Entry) -> list[int]:
        key = self.keys[0] if self.mode == "flat" else entry.key
        return [views[key].ctypes.data for views in self.state.views.values()] if self.keys else []

    def _place_gradient(self, number: int, value: Any) -> None:
        """Checks a gradient and puts its address, or that of a converted copy, into the table."""
        entry = self.entries[number]
        name, layout = self._name(entry.key, "grads"), entry.layout
        found = checks.gradient(self.owner, name, value, self._name(entry.key), entry.array)
        if (
            self._is_written(name, entry, found)
            or not isinstance(value, np.ndarray)
            or found.dtype != layout.dtype
            or not _lies_in(found, layout.order)
        ):
            if number not in self._scratch:
                self._scratch[number] = np.empty(layout.shape, layout.dtype, layout.order)  # type: ignore[call-overload]
            np.copyto(self._scratch[number], found, casting="same_kind")
            found = self._scratch[number]
        self._table[entry.row, 1] = found.ctypes.data

    def _is_written(self, name: str, entry: Entry, found: Array) -> bool:
        """Whether a gradient lies in its own parameter's memory; in any other that the step writes it is refused."""
        start, end = byte_bounds(found)
        block = int(np.searchsorted(self.written[1], start, side="right"))
        if block == self.written.shape[1] or self.written[0, block] >= end or found.size == 0:
            return False
        for other in self.entries:
            if other.identity != entry.identity and share_memory(other.array, found):
                raise ValueError(checks.gradient_in_written_memory(self.owner, name, self._name(other.key)))
        if any(share_memory(block, found) for block in self.state.blocks):
            raise ValueError(checks.gradient_in_written_memory(self.owner, name, "the optimizer's state"))
        return True


def layout_of(array: Array) -> Layout:
    order = "F" if array.flags.f_contiguous and not array.flags.c_contiguous else "C"
    return Layout(array.shape, array.dtype, order)


def share_memory(a: Array, b: Array) -> bool:
    """Whether two arrays have an element in common; taken for yes where that is too hard to find out."""
    try:
        return np.shares_memory(a, b, max_work=100_000)  # type: ignore[arg-type]  # NumPy's stub knows 0 and -1 only
    except np.exceptions.TooHardError:
        return True


def _lies_in(array: Array, order: str) -> bool:
    flags = array.flags
    return flags.aligned and (flags.f_contiguous if order == "F" else flags.c_contiguous)


def _is_direct(entry: Entry) -> bool:
    """Whether the kernel can work on the parameter's own memory."""
    return isinstance(entry.value, np.ndarray) and _lies_in(entry.array, entry.layout.order)


def _as_number(staged: Array, before: Any) -> Any:
    """The new value of a parameter that is a plain number, of the type it had (an int becomes a float)."""
    return type(before)(staged[()]) if isinstance(before, np.floating) else staged.item()


@cache
def _scan() -> Any:
    number, row, table = types.int64, types.Array(types.int64, 1, "C"), types.Array(types.int64, 2, "C")
    return build.compiled(memory.scan, *[number] * 5, table, row, table, table)
