"""The state of an optimizer: one aligned buffer per dtype and slot, and views of it by key."""

from __future__ import annotations

import math
from collections.abc import Hashable
from typing import Any, NamedTuple

import numpy as np

from fastopt.engine.columns import Codes, Column, StoredSlot
from fastopt.flat import Array, ViewDict
from fastopt.kernels import array_scan, codecs
from fastopt.kernels.averages import SLOTS
from fastopt.kernels.codecs import FLOAT32

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
        return math.prod(self.shape)


def layout_of(array: Array | Codes) -> Layout:
    """How an array lies, or would if it were contiguous."""
    order = "F" if array.flags.f_contiguous and not array.flags.c_contiguous else "C"
    return Layout(array.shape, array.dtype, order, array.storage if isinstance(array, Codes) else FLOAT32)


def lies_in(array: Array, order: str) -> bool:
    flags = array.flags
    return flags.aligned and (flags.f_contiguous if order == "F" else flags.c_contiguous)


PARAMETER = None
"""The start of a state slot that begins as the parameter itself."""


class State:
    """State for a set of parameters, allocated at the first step.

    slots : {slot name: value at the start, or PARAMETER}
    layouts : {key: Layout}, in the order of the parameters
    nonnegative : the slots that are never negative
    views : {slot name: ViewDict of arrays by key}, what users see as `optimizer.m`; a `StoredSlot` where some are
        stored in fewer bits
    blocks : the 1-D buffers behind the views, one per dtype and slot, arrays of one dtype one after the other
    """

    def __init__(
        self,
        slots: dict[str, float | None],
        layouts: dict[Hashable, Layout],
        nonnegative: tuple[str, ...] = (),
    ) -> None:
        self.slots = slots
        self.layouts = layouts
        self.nonnegative = nonnegative
        self.blocks: list[Array] = []
        views: dict[str, dict[Hashable, Any]] = {slot: {} for slot in slots}
        for dtype, storage in dict.fromkeys((layout.dtype, layout.storage) for layout in layouts.values()):
            mine = {
                key: layout for key, layout in layouts.items() if (layout.dtype, layout.storage) == (dtype, storage)
            }
            stored = [] if storage == FLOAT32 else [slot for slot in slots if slot not in AVERAGED]
            if stored:
                self._store(stored, storage, mine, views)
            whole = [slot for slot in slots if slot not in stored]
            blocks = array_scan.arena(sum(layout.size for layout in mine.values()), dtype, len(whole)) if whole else []
            for slot, block in zip(whole, blocks, strict=True):
                start_value = slots[slot]
                if start_value is not PARAMETER and start_value != 0.0:
                    block[...] = start_value
                start = 0
                for key, layout in mine.items():
                    view = block[start : start + layout.size]
                    views[slot][key] = view.reshape(layout.shape, order=layout.order)
                    start += layout.size
            self.blocks += blocks
        self.views: dict[str, Any] = {}
        for slot, arrays in views.items():
            in_order = {key: arrays[key] for key in layouts}
            is_stored = any(isinstance(array, Column) for array in arrays.values())
            self.views[slot] = StoredSlot(in_order, slot) if is_stored else ViewDict(in_order)

    def _store(
        self, slots: list[str], storage: str, layouts: dict[Hashable, Layout], views: dict[str, dict[Hashable, Any]]
    ) -> None:
        """Makes the columns of slots that are stored in fewer bits."""
        sizes = {key: Column.bytes_for(storage, layout.size) for key, layout in layouts.items()}
        blocks = array_scan.arena(sum(sizes.values()), np.uint8, len(slots))
        for number, (slot, block) in enumerate(zip(slots, blocks, strict=True)):
            start, start_value = 0, self.slots[slot]
            for key, layout in layouts.items():
                run, nonnegative = block[start : start + sizes[key]], slot in self.nonnegative
                column = Column(storage, nonnegative, number, key, layout.shape, layout.order, run)
                if start_value:
                    column.assign(start_value)
                views[slot][key] = column
                start += sizes[key]
        self.blocks += blocks

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

    def begin(self, parameters: dict[Hashable, Array]) -> None:
        """Copies parameters to where state begins as they are."""
        for slot, start_value in self.slots.items():
            if start_value is PARAMETER:
                for key, parameter in parameters.items():
                    self.views[slot][key][...] = parameter

    def with_slots(self, slots: dict[str, float | None], parameters: dict[Hashable, Array]) -> State:
        """A copy with more slots."""
        more = State({**self.slots, **slots}, self.layouts, self.nonnegative)
        more.begin(parameters)
        for slot in self.views:
            for key in self.layouts:
                more.take(slot, key, self.array_of(slot, key))
        return more

    def take(self, slot: str, key: Hashable, array: Any) -> None:
        """Copies an array, a `Column` or `Codes` to one of a slot: as it is where both are stored alike."""
        own = self.array_of(slot, key)
        if isinstance(own, Column):
            alike = isinstance(array, Column) and (array.storage, array.nonnegative) == (own.storage, own.nonnegative)
            if alike and array.order == own.order:
                own.run[...] = array.run
            elif isinstance(array, Codes) and array.storage == own.storage:
                own.take(array)
            else:
                own.assign(array.decoded() if isinstance(array, Column | Codes) else array)
        else:
            own[...] = array.decoded() if isinstance(array, Column | Codes) else array

    def stored_as(self, storages: dict[Hashable, str]) -> State:
        """A copy in which some arrays are stored otherwise, in the rule's slots; itself where none are."""
        if all(self.layouts[key].storage == storage for key, storage in storages.items()):
            return self
        layouts = {
            key: layout._replace(storage=storages.get(key, layout.storage)) for key, layout in self.layouts.items()
        }
        other = State(self.slots, layouts, self.nonnegative)
        for slot in self.views:
            for key in self.layouts:
                other.take(slot, key, self.array_of(slot, key))
        return other

    def __getstate__(self) -> Any:
        return self.slots, self.layouts, self.nonnegative, self.blocks

    def __setstate__(self, saved: Any) -> None:
        """After pickle or deepcopy: an arena of its own, with the values copied in."""
        slots, layouts, nonnegative, blocks = saved
        self.__init__(slots, layouts, nonnegative)  # type: ignore[misc]
        for mine, copied in zip(self.blocks, blocks, strict=True):
            mine[...] = copied
