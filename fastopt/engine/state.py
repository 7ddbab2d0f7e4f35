"""The state of an optimizer: one aligned buffer per dtype and slot, and views of it by key."""

from __future__ import annotations

import math
from collections.abc import Hashable
from typing import Any, NamedTuple

import numpy as np

from fastopt.flat import Array, ViewDict
from fastopt.kernels import array_scan


class Layout(NamedTuple):
    """How the state of one parameter lies, which the parameter must match."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    order: str  # "C" or "F", taken from the parameter at the first step, so that both are walked in one direction

    def empty(self) -> Array:
        """An uninitialised array that lies so."""
        return np.empty(self.shape, self.dtype, self.order)  # type: ignore[call-overload,no-any-return]

    @property
    def size(self) -> int:
        return math.prod(self.shape)


def layout_of(array: Array) -> Layout:
    """How an array lies, or would if it were contiguous."""
    order = "F" if array.flags.f_contiguous and not array.flags.c_contiguous else "C"
    return Layout(array.shape, array.dtype, order)


def lies_in(array: Array, order: str) -> bool:
    flags = array.flags
    return flags.aligned and (flags.f_contiguous if order == "F" else flags.c_contiguous)


PARAMETER = None
"""The start of a state slot that begins as the parameter itself."""


class State:
    """State for a set of parameters, allocated at the first step.

    slots : {slot name: value at the start, or PARAMETER}
    layouts : {key: Layout}, in the order of the parameters
    views : {slot name: ViewDict of arrays by key}, what users see as `optimizer.m`
    blocks : the 1-D buffers behind the views, one per dtype and slot, arrays of one dtype one after the other
    """

    def __init__(self, slots: dict[str, float | None], layouts: dict[Hashable, Layout]) -> None:
        self.slots = slots
        self.layouts = layouts
        self.blocks: list[Array] = []
        views: dict[str, dict[Hashable, Array]] = {slot: {} for slot in slots}
        for dtype in dict.fromkeys(layout.dtype for layout in layouts.values()):
            mine = {key: layout for key, layout in layouts.items() if layout.dtype == dtype}
            blocks = array_scan.arena(sum(layout.size for layout in mine.values()), dtype, len(slots))
            for (slot, start_value), block in zip(slots.items(), blocks, strict=True):
                if start_value is not PARAMETER and start_value != 0.0:
                    block[...] = start_value
                start = 0
                for key, layout in mine.items():
                    view = block[start : start + layout.size]
                    views[slot][key] = view.reshape(layout.shape, order=layout.order)
                    start += layout.size
            self.blocks += blocks
        self.views = {slot: ViewDict({key: views[slot][key] for key in layouts}) for slot in slots}

    def begin(self, parameters: dict[Hashable, Array]) -> None:
        """Copies parameters to where state begins as they are."""
        for slot, start_value in self.slots.items():
            if start_value is PARAMETER:
                for key, parameter in parameters.items():
                    self.views[slot][key][...] = parameter

    def with_slots(self, slots: dict[str, float | None], parameters: dict[Hashable, Array]) -> State:
        """A copy with more slots."""
        more = State({**self.slots, **slots}, self.layouts)
        more.begin(parameters)
        for slot, views in self.views.items():
            for key, view in views.items():
                more.views[slot][key][...] = view
        return more

    def __getstate__(self) -> Any:
        return self.slots, self.layouts, self.blocks

    def __setstate__(self, saved: Any) -> None:
        """After pickle or deepcopy: an arena of its own, with the values copied in."""
        slots, layouts, blocks = saved
        self.__init__(slots, layouts)  # type: ignore[misc]
        for mine, copied in zip(self.blocks, blocks, strict=True):
            mine[...] = copied
