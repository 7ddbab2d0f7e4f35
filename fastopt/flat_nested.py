"""Nested containers whose arrays are views of one buffer."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from dataclasses import is_dataclass
from functools import cache
from typing import Any

from fastopt import structure
from fastopt.structure import LEAF, NOTHING, Node
from fastopt.views import Array, ViewDict, ViewList, aligned, copy_to

Layout = tuple[Node, tuple[tuple[int, ...], ...]]
"""The structure, and the shape of each leaf."""

_LAYOUTS: dict[Layout, Layout] = {}  # one object for each, so that two can be compared by identity at every step


class FlatNested:
    """The base class of containers of views of one `buffer`; `fastopt.flatten` makes them."""

    layout: Layout
    _buffer: Array
    _bare: Any  # the same containers without arrays

    @property
    def buffer(self) -> Array:
        """All values, as one array of shape (total size,); assigning to it copies into it."""
        return self._buffer

    @buffer.setter
    def buffer(self, value: Any) -> None:
        copy_to(f"{type(self).__name__}.buffer", self._buffer, value)

    def copy(self) -> Any:
        """Containers of views of a buffer of its own."""
        return of_copy(self._bare, self.layout, self._buffer)

    __copy__ = copy

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        other = self.copy()
        memo[id(self.buffer)] = other.buffer
        return other

    def __reduce__(self) -> Any:
        return of_copy, (self._bare, self.layout, self._buffer)


class FlatTree(FlatNested, ViewDict):
    """A dict of views, and of containers of views, of one buffer."""


class FlatList(FlatNested, ViewList):
    """A list of views, and of containers of views, of one buffer."""


class FlatTuple(FlatNested, tuple[Any, ...]):
    """A tuple of views, and of containers of views, of one buffer."""


def of_copy(bare: Any, layout: Layout, values: Array) -> Any:
    """Containers like `bare` of views of a new buffer, which holds a copy of some values."""
    layout = _LAYOUTS.setdefault(layout, layout)
    node, shapes = layout
    buffer = aligned(values.size, values.dtype)
    buffer[...] = values
    views, start = [], 0
    for shape in shapes:
        views.append(buffer[start : start + math.prod(shape)].reshape(shape))
        start += math.prod(shape)
    children = _children(node, bare, iter(views))
    if structure.is_mapping(node.kind):
        whole: Any = FlatTree(zip(node.keys, children, strict=True))
    else:
        whole = FlatTuple(children) if issubclass(node.kind, tuple) else FlatList(children)
    whole.__dict__.update(layout=layout, _buffer=buffer, _bare=bare)
    return whole


def _children(node: Node, bare: Any, views: Iterator[Array]) -> list[Any]:
    held = structure.children_of(bare)[1] if is_dataclass(node.kind) else children_by_key(node, bare)
    return [_of(part, item, views) for part, item in zip(node.children, held, strict=True)]


def children_by_key(node: Node, bare: Any) -> list[Any]:
    """The children of a container, in the order of its node."""
    return [bare[key] for key in node.keys] if structure.is_mapping(node.kind) else list(bare)


def _of(node: Any, bare: Any, views: Iterator[Array]) -> Any:
    if node is LEAF:
        return next(views)
    if node is NOTHING:
        return None
    kind: Any = node.kind
    children = _children(node, bare, views)
    if structure.is_mapping(kind):
        return ViewDict(zip(node.keys, children, strict=True))
    if hasattr(kind, "_fields"):
        return kind._make(children)
    if is_dataclass(kind):
        new = copy.copy(bare)
        for key, item in zip(node.keys, children, strict=True):
            object.__setattr__(new, str(key), item)
        object.__setattr__(new, "__class__", _copying(node.kind))
        return new
    return tuple(children) if issubclass(kind, tuple) else ViewList(children)


@cache
def _copying(kind: type) -> type:
    """A dataclass in which assigning to an array copies into it; copied and pickled it is the plain one."""

    def assign(self: Any, name: str, value: Any) -> None:
        held = getattr(self, name, None)
        if structure.is_container(held) or hasattr(held, "__array_interface__"):
            copy_to(f"{kind.__name__}.{name}", held, value)
        else:
            set_plainly(self, name, value)

    def reduce(self: Any, protocol: Any) -> Any:
        make, arguments, *rest = plain.__reduce_ex__(self, protocol)
        return make, tuple([kind if argument is type(self) else argument for argument in arguments]), *rest

    plain: Any = kind
    set_plainly: Callable[..., None] = kind.__setattr__
    methods = {"__setattr__": assign, "__reduce_ex__": reduce, "__module__": kind.__module__, "__slots__": ()}
    return type(kind.__name__, (kind,), methods)
