"""The state of an optimizer: one aligned buffer per dtype and slot, and views of it by key."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

from fastopt import array_checks, checks
from fastopt.engine.columns import Codes, Column, StoredSlot
from fastopt.flat import Array, ViewDict
from fastopt.kernels import arena, codecs
from fastopt.kernels.averages import SLOTS
from fastopt.kernels.codecs import FLOAT32
from fastopt.kernels.rule import Rule
from fastopt.pairs import is_complex, pairs, part_dtype

AVERAGED = frozenset(SLOTS.values())
"""The slots of averages of the weights, which are never stored in fewer bits."""


class Layout(NamedTuple):
    """How the state of one parameter lies, which the parameter must match."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    order: str  # "C" or "F", taken from the parameter at the first step, so that both are walked in one direction
    storage: str = FLOAT32  # of the rule's slots; "float32" is that of the parameter, which may be float64

    def empty(self) -> Array:
        """An uninitialised array that lies so."""
        return np.empty(self.shape, self.dtype, self.order)  # type: ignore[call-overload,no-any-return]

    @property
    def size(self) -> int:
        """The number of elements."""
        return math.prod(self.shape)

    @property
    def is_complex(self) -> bool:
        return is_complex(self.dtype)

    @property
    def numbers(self) -> int:
        """The number of real numbers that kernels see: complex elements have two."""
        return self.size * (1 + self.is_complex)

    @property
    def part_dtype(self) -> np.dtype[Any]:
        """Their dtype."""
        return part_dtype(self.dtype)

    @property
    def nbytes(self) -> int:
        return self.size * self.dtype.itemsize


def layout_of(array: Array | Codes) -> Layout:
    """How an array lies, or would if it were contiguous."""
    order = "F" if array.flags.f_contiguous and not array.flags.c_contiguous else "C"
    return Layout(array.shape, array.dtype, order, array.storage if isinstance(array, Codes) else FLOAT32)


def lies_in(array: Array, order: str) -> bool:
    flags = array.flags
    return flags.aligned and (flags.f_contiguous if order == "F" else flags.c_contiguous)


PARAMETER = None
"""The start of a state slot that begins as the parameter itself."""


Slots = Mapping[str, float | None]
"""The value of each slot at the start, or PARAMETER."""


class Allocation:
    """The state of leaves that began together.

    arrays : {slot: {key: array, or its `Column`}}
    blocks : the 1-D buffers behind them, one per dtype and slot, arrays of one dtype one after the other
    """

    def __init__(
        self,
        slots: Slots,
        layouts: Mapping[Hashable, Layout],
        nonnegative: tuple[str, ...],
        parameters: Mapping[Hashable, Array] | None = None,
    ) -> None:
        self.slots = slots
        self.layouts = layouts
        self.nonnegative = nonnegative
        self.blocks: list[Array] = []
        self.arrays: dict[str, dict[Hashable, Any]] = {slot: {} for slot in slots}
        for dtype, storage in dict.fromkeys((layout.dtype, layout.storage) for layout in layouts.values()):
            alike = {
                key: layout for key, layout in layouts.items() if (layout.dtype, layout.storage) == (dtype, storage)
            }
            stored = [] if storage == FLOAT32 else [slot for slot in slots if slot not in AVERAGED]
            if stored:
                self._store(stored, storage, alike)
            whole = [slot for slot in slots if slot not in stored]
            blocks = arena.blocks(sum(layout.size for layout in alike.values()), dtype, len(whole)) if whole else []
            for slot, block in zip(whole, blocks, strict=True):
                start_value = slots[slot]
                if start_value is not PARAMETER and start_value != 0.0:
                    pairs(block)[...] = start_value
                start = 0
                for key, layout in alike.items():
                    view = block[start : start + layout.size]
                    self.arrays[slot][key] = view.reshape(layout.shape, order=layout.order)
                    start += layout.size
            self.blocks += blocks
        self.begin(slots, parameters or {})

    def _store(self, slots: list[str], storage: str, layouts: Mapping[Hashable, Layout]) -> None:
        """Makes the columns of slots that are stored in fewer bits."""
        sizes = {key: Column.bytes_for(storage, layout.size) for key, layout in layouts.items()}
        blocks = arena.blocks(sum(sizes.values()), np.uint8, len(slots))
        for number, (slot, block) in enumerate(zip(slots, blocks, strict=True)):
            start, start_value = 0, self.slots[slot]
            for key, layout in layouts.items():
                run, nonnegative = block[start : start + sizes[key]], slot in self.nonnegative
                column = Column(storage, nonnegative, number, key, layout.shape, layout.order, run)
                if start_value:
                    column.assign(start_value)
                self.arrays[slot][key] = column
                start += sizes[key]
        self.blocks += blocks

    def begin(self, slots: Slots, parameters: Mapping[Hashable, Array]) -> None:
        """Copies parameters to where state begins as they are."""
        for slot, start_value in slots.items():
            if start_value is PARAMETER:
                for key, parameter in parameters.items():
                    self.arrays[slot][key][...] = parameter


class State:
    """State for a set of parameters, allocated when they are first there.

    slots : {slot name: value at the start, or PARAMETER}
    layouts : {key: Layout}, in the order in which the parameters came
    nonnegative : the slots that are never negative
    views : {slot name: ViewDict of arrays by key}, what users see as `optimizer.m`; a `StoredSlot` where some are
        stored in fewer bits
    blocks : the 1-D buffers behind the views
    """

    def __init__(
        self,
        slots: Slots,
        layouts: Mapping[Hashable, Layout],
        nonnegative: tuple[str, ...] = (),
        parameters: Mapping[Hashable, Array] | None = None,
    ) -> None:
        self._put_together(slots, nonnegative, [Allocation(slots, layouts, nonnegative, parameters)], layouts)

    def _put_together(
        self, slots: Slots, nonnegative: tuple[str, ...], allocations: list[Allocation], keys: Iterable[Hashable]
    ) -> State:
        layouts = {key: layout for allocation in allocations for key, layout in allocation.layouts.items()}
        self.slots, self.nonnegative, self._allocations = slots, nonnegative, allocations
        self.layouts = {key: layouts[key] for key in keys}
        self.blocks = [block for allocation in allocations for block in allocation.blocks]
        self.views: dict[str, Any] = {}
        for slot in slots:
            arrays = {key: array for allocation in allocations for key, array in allocation.arrays[slot].items()}
            in_order = {key: arrays[key] for key in self.layouts}
            is_stored = any(isinstance(array, Column) for array in arrays.values())
            self.views[slot] = StoredSlot(in_order, slot) if is_stored else ViewDict(in_order)
        return self

    def _of(self, allocations: list[Allocation], keys: Iterable[Hashable]) -> State:
        """Another state with these slots."""
        other: State = object.__new__(State)
        return other._put_together(self.slots, self.nonnegative, allocations, keys)

    @property
    def is_one_run(self) -> bool:
        """Whether each slot of all arrays lies in one piece, in the order of the keys, in C order and as float32 is."""
        layouts = self.layouts.values()
        return len(self._allocations) == len({layout.dtype for layout in layouts}) == 1 and all(
            layout.order == "C" and layout.storage == FLOAT32 for layout in layouts
        )

    def address_of(self, slot: str, key: Hashable) -> int:
        """Where an array of a slot begins, as it is stored; 0 where there is no such slot."""
        if slot not in self.views:
            return 0
        array = self.array_of(slot, key)
        return array.address if isinstance(array, Column) else int(array.ctypes.data)

    def array_of(self, slot: str, key: Hashable) -> Any:
        """An array of a slot, or its `Column`."""
        views = self.views[slot]
        return views.column(key) if isinstance(views, StoredSlot) else views[key]

    def bytes_of(self, key: Hashable, otherwise: int) -> int:
        """The bytes of an array of a slot of the rule where it is stored in fewer bits."""
        layout = self.layouts.get(key)
        stored = layout is not None and layout.storage != FLOAT32
        return int(codecs.run_bytes(layout.storage, layout.size)) if layout is not None and stored else otherwise

    def with_slots(self, slots: Slots, parameters: Mapping[Hashable, Array]) -> State:
        """Return a copy with more slots."""
        more = State({**self.slots, **slots}, self.layouts, self.nonnegative)
        more._allocations[0].begin(slots, parameters)
        return more._with_arrays_of(self)

    def with_leaves(
        self, slots: Slots, layouts: Mapping[Hashable, Layout], parameters: Mapping[Hashable, Array]
    ) -> State:
        """Return a state with more parameters, which has the memory of this one for all others."""
        starts = {slot: slots.get(slot, start_value) for slot, start_value in self.slots.items()}
        allocation = Allocation(starts, layouts, self.nonnegative, parameters)
        return self._of([*self._allocations, allocation], [*self.layouts, *layouts])

    def without(self, keys: Iterable[Hashable]) -> State:
        """Return a state without some parameters, whose memory is free unless somebody holds an array of it."""
        gone = set(keys)
        kept = [key for key in self.layouts if key not in gone]
        return self._of(self._allocations_without(gone), kept)

    def _allocations_without(self, gone: set[Hashable]) -> list[Allocation]:
        allocations = []
        for allocation in self._allocations:
            if allocation.layouts.keys().isdisjoint(gone):
                allocations.append(allocation)
            elif kept := {key: layout for key, layout in allocation.layouts.items() if key not in gone}:
                allocations += State(self.slots, kept, self.nonnegative)._with_arrays_of(self)._allocations
        return allocations

    def reindexed(self, key: Hashable, index: Array, slots: Slots, parameter: Array | None) -> State:
        """Return a state in which one parameter has the rows `index` of its old ones; those of -1 begin.

        slots : the values with which rows begin
        parameter : the new one, with which averages begin, and as which the state lies
        """
        layout, kept = self.layouts[key], index >= 0
        layout = layout._replace(shape=(len(index), *layout.shape[1:]))
        if parameter is not None:
            layout = layout._replace(order=layout_of(parameter).order)
        starts = {slot: slots.get(slot, value) for slot, value in self.slots.items()}
        other = self._of(
            [*self._allocations_without({key}), Allocation(starts, {key: layout}, self.nonnegative)], self.layouts
        )
        for slot, views in other.views.items():
            rows = np.array(views[key])
            if parameter is not None and slots.get(slot) is PARAMETER:
                rows[...] = parameter
            rows[kept] = self.views[slot][key][index[kept]]
            other.take(slot, key, rows)
        return other

    def take(self, slot: str, key: Hashable, array: Any) -> None:
        """Copies an array, a `Column` or `Codes` to one of a slot: as it is where both are stored alike."""
        target = self.array_of(slot, key)
        if isinstance(target, Column):
            alike = isinstance(array, Column) and (array.storage, array.nonnegative) == (
                target.storage,
                target.nonnegative,
            )
            if alike and array.order == target.order:
                target.run[...] = array.run
            elif isinstance(array, Codes) and array.storage == target.storage:
                target.take(array)
            else:
                target.assign(array.decoded() if isinstance(array, Column | Codes) else array)
        else:
            target[...] = array.decoded() if isinstance(array, Column | Codes) else array

    def stored_as(self, storages: dict[Hashable, str]) -> State:
        """A copy in which some arrays are stored otherwise, in the rule's slots; itself where none are."""
        if all(self.layouts[key].storage == storage for key, storage in storages.items()):
            return self
        layouts = {
            key: layout._replace(storage=storages.get(key, layout.storage)) for key, layout in self.layouts.items()
        }
        other = State(self.slots, layouts, self.nonnegative)
        return other._with_arrays_of(self)

    def _with_arrays_of(self, other: State) -> State:
        """Itself, after it has taken what another has of its keys."""
        for slot in other.views:
            for key in self.layouts:
                self.take(slot, key, other.array_of(slot, key))
        return self

    def __getstate__(self) -> Any:
        whole = self
        if len(self._allocations) > 1:
            whole = State(self.slots, self.layouts, self.nonnegative)._with_arrays_of(self)
        return dict(self.slots), self.layouts, self.nonnegative, whole.blocks

    def __setstate__(self, saved: Any) -> None:
        """After pickle or deepcopy: buffers of its own, with the values copied in."""
        slots, layouts, nonnegative, blocks = saved
        self.__init__(slots, layouts, nonnegative)  # type: ignore[misc]
        for block, copied in zip(self.blocks, blocks, strict=True):
            block[...] = copied


def state_for(
    owner: str,
    rule: Rule,
    state: State | None,
    slots: Slots,
    named: Mapping[Hashable, tuple[str, Array]],
    storages: dict[Hashable, str],
) -> tuple[State, set[Hashable]]:
    """Return the state with what begins at this step: all of it, that of new keys, or averages; and the new keys.

    named : the parameters and their names in error texts
    storages : how the state of each is to be stored
    """
    layouts_before: Mapping[Hashable, Layout] = {} if state is None else state.layouts
    for key, (name, array) in named.items():
        if key in layouts_before:
            array_checks.replaced(owner, name, array, *layouts_before[key][:2])
    arrays = {key: array for key, (_, array) in named.items()}
    begun = {key: array for key, array in arrays.items() if key not in layouts_before}
    layouts = {key: layout_of(array)._replace(storage=storages.get(key, FLOAT32)) for key, array in begun.items()}
    if state is None:
        return State(slots, layouts, rule.nonnegative, begun), set(begun)
    more = {slot: value for slot, value in slots.items() if slot not in state.slots}
    if more:  # an average that is wanted from now on
        missing = [key for key in layouts_before if key not in arrays]
        if missing and PARAMETER in more.values():
            raise ValueError(checks.first_average(owner, missing))
        state = state.with_slots(more, arrays)
    if begun:
        state = state.with_leaves(slots, layouts, begun)
    return state.stored_as(storages), set(begun)
