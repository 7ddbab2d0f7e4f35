"""The state of an optimizer: aligned buffers, one per dtype and slot for leaves that began together; views by key."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

from fastopt import checks
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


Slots = Mapping[str, float | None]
"""The value of each slot at the start, or PARAMETER."""


class Piece:
    """The state of leaves that began together: one buffer per dtype and slot, arrays of a dtype one after the other."""

    def __init__(self, slots: Slots, layouts: Mapping[Hashable, Layout]) -> None:
        self.layouts = layouts
        self.blocks: list[Array] = []
        self.views: dict[str, dict[Hashable, Array]] = {slot: {} for slot in slots}
        by_dtype: dict[np.dtype[Any], list[Hashable]] = {}
        for key, layout in layouts.items():
            by_dtype.setdefault(layout.dtype, []).append(key)
        for dtype, keys in by_dtype.items():
            blocks = array_scan.arena(sum(layouts[key].size for key in keys), dtype, len(slots))
            for (slot, start_value), block in zip(slots.items(), blocks, strict=True):
                if start_value is not PARAMETER and start_value != 0.0:
                    block[...] = start_value
                start = 0
                for key in keys:
                    layout = layouts[key]
                    view = block[start : start + layout.size]
                    self.views[slot][key] = view.reshape(layout.shape, order=layout.order)
                    start += layout.size
            self.blocks += blocks

    def begin(self, slots: Slots, parameters: Mapping[Hashable, Array]) -> None:
        """Copies parameters to where state begins as they are."""
        for slot, start_value in slots.items():
            if start_value is PARAMETER:
                for key, parameter in parameters.items():
                    self.views[slot][key][...] = parameter


class State:
    """State for a set of parameters, allocated when they are first there.

    slots : {slot name: value at the start, or PARAMETER}
    layouts : {key: Layout}, in the order in which the parameters came
    views : {slot name: ViewDict of arrays by key}, what users see as `optimizer.m`
    blocks : the 1-D buffers behind the views
    """

    def __init__(
        self, slots: Slots, layouts: Mapping[Hashable, Layout], parameters: Mapping[Hashable, Array] | None = None
    ) -> None:
        piece = Piece(slots, layouts)
        piece.begin(slots, parameters or {})
        self._put_together(slots, [piece], layouts)

    def _put_together(self, slots: Slots, pieces: list[Piece], keys: Iterable[Hashable]) -> State:
        layouts = {key: layout for piece in pieces for key, layout in piece.layouts.items()}
        self.slots, self._pieces, self.layouts = slots, pieces, {key: layouts[key] for key in keys}
        self.blocks = [block for piece in pieces for block in piece.blocks]
        self.views = {}
        for slot in slots:
            views = {key: view for piece in pieces for key, view in piece.views[slot].items()}
            self.views[slot] = ViewDict({key: views[key] for key in self.layouts})
        return self

    def _of(self, pieces: list[Piece], keys: Iterable[Hashable]) -> State:
        """Another state with these slots."""
        other: State = object.__new__(State)
        return other._put_together(self.slots, pieces, keys)

    @property
    def is_one_run(self) -> bool:
        """Whether each slot of all arrays lies in one piece, in the order of the keys and in C order."""
        dtypes = {layout.dtype for layout in self.layouts.values()}
        return len(self._pieces) == len(dtypes) == 1 and all(at.order == "C" for at in self.layouts.values())

    def with_slots(self, slots: Slots, parameters: Mapping[Hashable, Array]) -> State:
        """Return a copy with more slots."""
        more = State({**self.slots, **slots}, self.layouts)
        more._pieces[0].begin(slots, parameters)
        more._copy(self)
        return more

    def with_leaves(self, slots: Slots, parameters: Mapping[Hashable, Array]) -> State:
        """Return a state with more parameters, which has the memory of this one for all others."""
        starts = {slot: slots.get(slot, start_value) for slot, start_value in self.slots.items()}
        piece = Piece(starts, {key: layout_of(array) for key, array in parameters.items()})
        piece.begin(starts, parameters)
        return self._of([*self._pieces, piece], [*self.layouts, *parameters])

    def without(self, keys: Iterable[Hashable]) -> State:
        """Return a state without some parameters, whose memory is free unless somebody holds an array of it."""
        gone = set(keys)
        return self._of(self._pieces_without(gone), [key for key in self.layouts if key not in gone])

    def _pieces_without(self, gone: set[Hashable]) -> list[Piece]:
        pieces = []
        for piece in self._pieces:
            kept = {key: layout for key, layout in piece.layouts.items() if key not in gone}
            if len(kept) == len(piece.layouts):
                pieces.append(piece)
            elif kept:
                smaller = Piece(self.slots, kept)
                _copy_views(smaller.views, piece.views, kept)
                pieces.append(smaller)
        return pieces

    def reindexed(self, key: Hashable, index: Array, slots: Slots, parameter: Array | None) -> State:
        """Return a state in which one parameter has the rows `index` of its old ones; those of -1 begin.

        slots : the values with which rows begin
        parameter : the new one, with which averages begin
        """
        layout, starts = self.layouts[key], {slot: slots.get(slot, value) for slot, value in self.slots.items()}
        piece = Piece(starts, {key: layout._replace(shape=(len(index), *layout.shape[1:]))})
        kept = index >= 0
        for slot, views in piece.views.items():
            if parameter is not None and slot not in slots:
                views[key][...] = parameter
            views[key][kept] = self.views[slot][key][index[kept]]
        return self._of([*self._pieces_without({key}), piece], self.layouts)

    def _copy(self, other: State) -> None:
        _copy_views(self.views, other.views, other.layouts)

    def __getstate__(self) -> Any:
        whole = self
        if len(self._pieces) > 1:
            whole = State(self.slots, self.layouts)
            whole._copy(self)
        return dict(self.slots), self.layouts, whole.blocks

    def __setstate__(self, saved: Any) -> None:
        """After pickle or deepcopy: buffers of its own, with the values copied in."""
        slots, layouts, blocks = saved
        self.__init__(slots, layouts)  # type: ignore[misc]
        for mine, copied in zip(self.blocks, blocks, strict=True):
            mine[...] = copied


def state_for(
    owner: str, state: State | None, slots: Slots, named: Mapping[Hashable, tuple[str, Array]]
) -> tuple[State, set[Hashable]]:
    """Return the state with what begins at this step: all of it, that of new keys, or averages; and the new keys.

    named : the parameters and their names in error texts
    """
    known: Mapping[Hashable, Layout] = {} if state is None else state.layouts
    for key, (name, array) in named.items():
        if key in known:
            checks.replaced(owner, name, array, *known[key][:2])
    arrays = {key: array for key, (_, array) in named.items()}
    begun = {key: array for key, array in arrays.items() if key not in known}
    if state is None:
        return State(slots, {key: layout_of(array) for key, array in begun.items()}, begun), set(begun)
    more = {slot: value for slot, value in slots.items() if slot not in state.slots}
    if more:  # an average that is wanted from now on
        missing = [key for key in known if key not in arrays]
        if missing and PARAMETER in more.values():
            raise ValueError(checks.first_average(owner, missing))
        state = state.with_slots(more, arrays)
    return state.with_leaves(slots, begun) if begun else state, set(begun)


def _copy_views(
    to: Mapping[str, Mapping[Hashable, Array]], of: Mapping[str, Mapping[Hashable, Array]], keys: Any
) -> None:
    for slot, views in of.items():
        for key in keys:
            to[slot][key][...] = views[key]
