"""Nested containers without their arrays: what is in what, and the name of each leaf.

A leaf's path is what leads to it, its name that path in text: `"enc.1.W"` of `params["enc"][1]["W"]`. What a dict holds
directly has its key as its name, of whatever type.
"""

from __future__ import annotations

import copy
from collections.abc import Hashable, Iterator, Mapping, MutableMapping
from dataclasses import fields, is_dataclass
from enum import Enum
from typing import Any, NamedTuple

from fastopt.rows import Rows


class Mark(Enum):
    """Stand-ins for an array, and for None, in a structure."""

    LEAF = "array"
    NOTHING = "None"


LEAF, NOTHING = Mark.LEAF, Mark.NOTHING


class Node(NamedTuple):
    """A container: its type, what its children are called, and they themselves: nodes or marks."""

    kind: type
    keys: tuple[Hashable, ...]
    children: tuple[Any, ...]


class Leaf(NamedTuple):
    """An array among nested containers."""

    name: Hashable
    path: tuple[tuple[Any, Hashable], ...]
    """(how its container is read, key) from the outermost container on."""
    place: str
    """The same as Python writes it, without the outermost name: `["enc"][1].W`."""


def is_container(value: Any) -> bool:
    """Whether a value holds arrays, and is none itself."""
    return isinstance(value, list | tuple | Mapping) or (
        is_dataclass(value) and not isinstance(value, type) and not isinstance(value, Rows)
    )


def is_inner(value: Any) -> bool:
    """Whether a value in a dict makes nested containers of it."""
    return value is None or is_container(value)


def is_mapping(kind: type) -> bool:
    return issubclass(kind, Mapping)


def has_fields(kind: type) -> bool:
    """Whether children are called by names after a dot."""
    return is_dataclass(kind) or hasattr(kind, "_fields")


def names_of_fields(kind: type) -> tuple[str, ...]:
    """The fields of a namedtuple, or of a dataclass without those that its author calls static."""
    if hasattr(kind, "_fields"):
        return tuple(kind._fields)
    told = {field.name: field.metadata for field in fields(kind)}
    return tuple(name for name, data in told.items() if not data.get("static") and data.get("pytree_node", True))


def children_of(value: Any) -> tuple[tuple[Hashable, ...], list[Any]]:
    """Keys and values of a container, in its order."""
    kind = type(value)
    if is_mapping(kind):
        return tuple(value), list(value.values())
    if is_dataclass(kind):
        held = [(name, getattr(value, name)) for name in names_of_fields(kind)]
        held = [(name, child) for name, child in held if not _is_setting(child)]
        return tuple(name for name, _ in held), [child for _, child in held]
    return tuple(kind._fields if hasattr(kind, "_fields") else range(len(value))), list(value)


def _is_setting(value: Any) -> bool:
    """Whether a field of a dataclass holds no array: text, a flag, a function or a class."""
    return isinstance(value, str | bool) or (callable(value) and not is_container(value))


class Reader(Enum):
    """How a child is reached."""

    ITEM = "[]"
    FIELD = "."


ITEM, FIELD = Reader.ITEM, Reader.FIELD


def steps(node: Node) -> Iterator[tuple[Reader, Hashable, str]]:
    """How each child of a node is reached, and that as Python writes it."""
    reader = FIELD if has_fields(node.kind) else ITEM
    for key in node.keys:
        yield reader, key, f".{key}" if reader is FIELD else f"[{key!r}]"


def node_of(value: Any, inside: tuple[int, ...] = ()) -> Any:
    """The node of a container, LEAF of anything else, NOTHING of None; ValueError where a container holds itself."""
    if value is None:
        return NOTHING
    if not is_container(value):
        return LEAF
    if id(value) in inside:
        raise ValueError(f"a {type(value).__name__} holds itself")
    keys, values = children_of(value)
    return Node(type(value), keys, tuple([node_of(held, (*inside, id(value))) for held in values]))


def leaves_of(node: Node) -> list[Leaf]:
    """The leaves of a structure in their order."""
    return list(_leaves(node, (), ""))


def _leaves(node: Node, path: tuple[tuple[Any, Hashable], ...], place: str) -> Iterator[Leaf]:
    for (reader, key, text), held in zip(steps(node), node.children, strict=True):
        longer = (*path, (reader, key))
        if held is LEAF:
            whole = len(longer) == 1 and is_mapping(node.kind)
            yield Leaf(key if whole else ".".join(str(key) for _, key in longer), longer, place + text)
        elif held is not NOTHING:
            yield from _leaves(held, longer, place + text)


class ByName(MutableMapping[Hashable, Any]):
    """The leaves of nested containers by name."""

    def __init__(self, leaves: dict[Hashable, Leaf], params: Any) -> None:
        self._leaves, self._params = leaves, params

    def _inside(self, path: Any) -> Any:
        value = self._params
        for reader, key in path:
            value = getattr(value, key) if reader is FIELD else value[key]
        return value

    def __getitem__(self, name: Hashable) -> Any:
        return self._inside(self._leaves[name].path)

    def __setitem__(self, name: Hashable, value: Any) -> None:
        *path, (_, key) = self._leaves[name].path
        self._inside(path)[key] = value

    def __delitem__(self, name: Hashable) -> None:
        raise TypeError("leaves of parameters are not removed")

    def __iter__(self) -> Iterator[Hashable]:
        return iter(self._leaves)

    def __len__(self) -> int:
        return len(self._leaves)


def values_of(node: Node, value: Any, values: list[Any]) -> bool:
    """Appends the leaves of a container to a list; whether it has the structure of a node."""
    if type(value) is not node.kind:
        return False
    keys, held = children_of(value)
    if keys != node.keys:
        return False
    for part, item in zip(node.children, held, strict=True):
        if part is LEAF:
            values.append(item)
        elif part is NOTHING:
            if item is not None:
                return False
        elif not values_of(part, item, values):
            return False
    return True


def count(node: Any) -> int:
    """The number of leaves."""
    return sum(map(count, node.children)) if isinstance(node, Node) else int(node is LEAF)


def merged(one: Any, other: Any) -> Any:
    """A structure with the leaves of two; where they differ in kind that of the second."""
    if not isinstance(one, Node) or not isinstance(other, Node) or one.kind is not other.kind:
        return one if other is NOTHING else other
    held, new = (dict(zip(node.keys, node.children, strict=True)) for node in (one, other))
    together = {key: merged(held.get(key, NOTHING), new.get(key, NOTHING)) for key in {**held, **new}}
    return Node(one.kind, tuple(together), tuple(together.values()))


def without(node: Node, names: set[Hashable]) -> Node:
    """A structure without the leaves of some names: mappings lose the key, all else has nothing there."""
    return _without(node, {leaf.path for leaf in leaves_of(node) if leaf.name in names}, ())


def _without(node: Node, gone: set[Any], path: tuple[Any, ...]) -> Node:
    children = {}
    for (reader, key, _), held in zip(steps(node), node.children, strict=True):
        longer = (*path, (reader, key))
        if longer not in gone:
            children[key] = _without(held, gone, longer) if isinstance(held, Node) else held
        elif not is_mapping(node.kind):
            children[key] = NOTHING
    return Node(node.kind, tuple(children), tuple(children.values()))


def like(node: Any, template: Any, values: Iterator[Any]) -> Any:
    """A container like another one, with the next of some values at each leaf, and what is no array shared."""
    if node is LEAF:
        return next(values)
    if node is NOTHING:
        return None
    kind: Any = node.kind
    held = children_of(template)[1]
    children = [like(part, item, values) for part, item in zip(node.children, held, strict=True)]
    if is_mapping(kind):
        return dict(zip(node.keys, children, strict=True))
    if hasattr(kind, "_fields"):
        return kind._make(children)
    if is_dataclass(kind):
        new = copy.copy(template)
        for key, item in zip(node.keys, children, strict=True):
            object.__setattr__(new, str(key), item)
        return new
    return tuple(children) if issubclass(kind, tuple) else children
