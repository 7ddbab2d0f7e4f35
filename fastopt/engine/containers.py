"""Containers of parameters and gradients: the only place that knows them.

A container is described by a `Container`: the names of its leaves in their order, where each is found and how an error
text calls it. All else asks for leaves by name: state, reports, groups and checkpoints.
"""

from __future__ import annotations

from collections import OrderedDict, defaultdict
from collections.abc import Callable, Hashable, Iterator, Mapping, MutableMapping
from dataclasses import is_dataclass
from enum import Enum
from typing import Any, ClassVar

import numpy as np

from fastopt import array_checks, checks, container_checks, structure
from fastopt.engine import mappings
from fastopt.flat import FlatDict, ViewDict
from fastopt.flat_nested import FlatNested, FlatTree
from fastopt.foreign import is_array, shared
from fastopt.rows import Rows
from fastopt.structure import LEAF, Node
from fastopt.views import ViewFields, ViewList


class Bare(Enum):
    """The key under which a bare array's state is kept; an enum member, so that it stays itself when pickled."""

    KEY = "bare array"


BARE = Bare.KEY

FLAT = (FlatDict, FlatNested)
READ_BY_C = (dict, FlatDict, FlatTree, ViewDict, OrderedDict, defaultdict)
"""Mappings whose values are where a dict has them, whatever their methods do."""

MISSING: Any = object()


class Container:
    """The form of parameters without the arrays: names of the leaves, and where each is."""

    keys: list[Hashable]
    node: Node | None = None
    """The structure of nested containers; None for one array or a flat dict."""

    is_bare: ClassVar[bool] = False
    """Whether there is nothing to walk: parameters and gradients are two arrays."""

    def values(self, params: Any) -> list[Any] | None:
        """The leaves of parameters, in the order of the keys; None if they are not of this container's kind."""
        raise NotImplementedError

    def lists(self, params: Any, grads: Any, frozen: Any = ()) -> tuple[list[Any], list[Any]] | None:
        """Leaves of parameters and gradients, None for those of `frozen` keys; None if names do not fit."""
        raise NotImplementedError

    def gradients_by_key(self, grads: Any, frozen: Any = ()) -> Any:
        """The gradients as a mapping by key."""
        return grads

    def name(self, key: Hashable, which: str = "params") -> str:
        """Return the name of a leaf in error texts."""
        raise NotImplementedError

    def leaves(self, params: Any) -> Any:
        """The leaves of parameters as a mapping by key; to assign to a key replaces the leaf."""
        raise NotImplementedError

    def like(self, params: Any, values: list[Any]) -> Any:
        """A container like `params` of other leaves."""
        raise NotImplementedError

    def copied(self, owner: str, params: Any, values: list[Any]) -> set[Hashable]:
        """The keys of leaves that are another array at each access; an error if a step would be lost in them."""
        return set()

    def copied_keys(self, params: Any, values: list[Any]) -> set[Hashable]:
        """The same, whether or not they can be assigned to."""
        return set()

    def check_rebindable(self, owner: str, params: Any, keys: list[Hashable]) -> None:
        """Raises where plain numbers cannot be replaced."""

    def walk(self) -> Node | None:
        """The structure that compiled code can read; None where Python has to."""
        return Node(list, (), ())


class OneArray(Container):
    """One array."""

    is_bare = True

    def __init__(self) -> None:
        self.keys = [BARE]

    def values(self, params: Any) -> list[Any] | None:
        array = shared(params)
        return [array] if isinstance(array, np.ndarray) else None

    def lists(self, params: Any, grads: Any, frozen: Any = ()) -> tuple[list[Any], list[Any]] | None:
        return [shared(params)], [None if frozen else shared(grads)]

    def gradients_by_key(self, grads: Any, frozen: Any = ()) -> Any:
        return {BARE: grads}

    def name(self, key: Hashable, which: str = "params") -> str:
        return which

    def leaves(self, params: Any) -> Any:
        return {BARE: params}

    def like(self, params: Any, values: list[Any]) -> Any:
        return values[0]


class Buffers(Container):
    """Two flat containers of one layout, as two arrays."""

    is_bare = True

    def __init__(self, leaves: Container) -> None:
        self.by_leaf, self.keys, self.node = leaves, leaves.keys, leaves.node
        """The container leaf by leaf."""

    def values(self, params: Any) -> list[Any] | None:
        return [params.buffer]

    def views(self, params: Any) -> list[Any]:
        """The arrays whose memory is the buffer's."""
        return self.by_leaf.values(params) or []

    def gradients_by_key(self, grads: Any, frozen: Any = ()) -> Any:
        return self.by_leaf.gradients_by_key(grads, frozen)

    def lists(self, params: Any, grads: Any, frozen: Any = ()) -> tuple[list[Any], list[Any]] | None:
        return [params.buffer], [grads.buffer]

    def name(self, key: Hashable, which: str = "params") -> str:
        return f"{which}.buffer" if key is BARE else self.by_leaf.name(key, which)

    def leaves(self, params: Any) -> Any:
        return {BARE: params.buffer, **self.by_leaf.leaves(params)}


class Dict(Container):
    """A mapping of arrays by key."""

    def __init__(self, params: Mapping[Any, Any]) -> None:
        self.keys = list(params)
        self._kind = type(params)

    def values(self, params: Any) -> list[Any] | None:
        return list(map(shared, params.values())) if isinstance(params, Mapping) and list(params) == self.keys else None

    def lists(self, params: Any, grads: Any, frozen: Any = ()) -> tuple[list[Any], list[Any]] | None:
        if not isinstance(grads, Mapping) or list(params) != self.keys:
            return None
        if frozen:
            grads = {**grads, **dict.fromkeys(frozen)}
        values = list(map(shared, params.values()))
        if list(grads) == self.keys:
            return values, list(map(shared, grads.values()))
        try:
            return values, [shared(grads[key]) for key in self.keys]
        except KeyError:
            return None

    def name(self, key: Hashable, which: str = "params") -> str:
        return f"{which}[{key!r}]"

    def leaves(self, params: Any) -> Any:
        return params

    def like(self, params: Any, values: list[Any]) -> Any:
        return dict(zip(self.keys, values, strict=True))

    def copied(self, owner: str, params: Any, values: list[Any]) -> set[Hashable]:
        return mappings.copied(owner, params, values)

    def copied_keys(self, params: Any, values: list[Any]) -> set[Hashable]:
        return mappings.copied_keys(params, values)

    def check_rebindable(self, owner: str, params: Any, keys: list[Hashable]) -> None:
        if keys and not isinstance(params, MutableMapping):
            raise TypeError(container_checks.not_rebindable(owner, params))

    def walk(self) -> Node | None:
        return Node(self._kind, tuple(self.keys), (LEAF,) * len(self.keys)) if self._kind in READ_BY_C else None


class Nested(Container):
    """Lists, tuples, dicts, namedtuples and dataclasses in one another."""

    def __init__(self, owner: str, node: Node) -> None:
        self._owner = owner
        self.node: Node = node
        self._leaves = {leaf.name: leaf for leaf in structure.leaves_of(node)}
        self.keys = list(self._leaves)
        kinds = {inner.kind for inner in _nodes(node)}
        self._keeps_arrays = all(kind in READ_BY_C or issubclass(kind, list | tuple) for kind in kinds)

    def values(self, params: Any) -> list[Any] | None:
        values: list[Any] = []
        return list(map(shared, values)) if structure.values_of(self.node, params, values) else None

    def lists(self, params: Any, grads: Any, frozen: Any = ()) -> tuple[list[Any], list[Any]] | None:
        values = self.values(params)
        return None if values is None else (values, self.gradients(grads, frozen))

    def gradients(self, grads: Any, frozen: Any = ()) -> list[Any]:
        """The gradients in the order of the keys; an error names the branch that does not fit."""
        gradients: list[Any] = []
        _gather(self._owner, self.node, grads, "", gradients)
        for number, key in enumerate(self.keys):
            if key in frozen:
                gradients[number] = None
            elif gradients[number] is MISSING:
                raise KeyError(container_checks.no_gradient(self._owner, self.name(key)))
        return list(map(shared, gradients))

    def gradients_by_key(self, grads: Any, frozen: Any = ()) -> Any:
        return dict(zip(self.keys, self.gradients(grads, frozen), strict=True))

    def name(self, key: Hashable, which: str = "params") -> str:
        return which + self._leaves[key].place if key in self._leaves else f"{which}[{key!r}]"

    def leaves(self, params: Any) -> Any:
        return structure.ByName(self._leaves, params)

    def like(self, params: Any, values: list[Any]) -> Any:
        return structure.like(self.node, params, iter(values))

    def copied_keys(self, params: Any, values: list[Any]) -> set[Hashable]:
        if self._keeps_arrays:
            return set()
        again = self.values(params) or []
        return {key for key, *pair in zip(self.keys, values, again, strict=True) if not mappings.same(*pair)}

    def copied(self, owner: str, params: Any, values: list[Any]) -> set[Hashable]:
        for key in self.copied_keys(params, values):
            raise TypeError(container_checks.hands_out_copies(owner, self.name(key)))
        return set()

    def check_rebindable(self, owner: str, params: Any, keys: list[Hashable]) -> None:
        for key in keys:
            kind = self._parent(key).kind
            if not issubclass(kind, list | MutableMapping):
                raise TypeError(container_checks.number_in(owner, self.name(key), kind))

    def _parent(self, key: Hashable) -> Node:
        node = self.node
        for _, step in self._leaves[key].path[:-1]:
            node = node.children[node.keys.index(step)]
        return node

    def walk(self) -> Node | None:
        return self.node if self._keeps_arrays else None


ONE_ARRAY = OneArray()


def container_of(owner: str, params: Any, name: str = "params") -> Container:
    """The container that parameters are; TypeError or ValueError if they are none."""
    if isinstance(params, np.ndarray) or is_array(params):
        return ONE_ARRAY
    if not structure.is_container(params):
        raise TypeError(container_checks.no_container(owner, name, params))
    if isinstance(params, Mapping) and not any(map(structure.is_inner, params.values())):
        return Dict(params)
    try:
        node = structure.node_of(params)
    except ValueError as error:
        raise ValueError(f"{owner}: {name} cannot be walked: {error}; hand in containers that do not") from None
    nested = Nested(owner, node)
    if len(nested.keys) < structure.count(node):
        raise ValueError(container_checks.same_name(owner, *_namesakes(node)))
    return nested


def form_of(params: Any, grads: Any) -> str | None:
    """How a pair of arguments can be walked: as two "arrays", two "buffers" of one layout, or by their "leaves"."""
    if type(params) is dict and type(grads) is dict:  # what it is nearly always; the rest is slower to tell
        return "leaves"
    if isinstance(params, np.ndarray):
        ok = isinstance(grads, np.ndarray | Rows) or array_checks.is_number(grads) or is_array(grads)
        return "arrays" if ok else None
    if isinstance(params, FLAT) and isinstance(grads, FLAT) and grads.layout is params.layout:
        return "buffers"
    if is_array(params):
        return "arrays" if isinstance(grads, np.ndarray | Rows) or is_array(grads) else None
    return "leaves" if structure.is_container(params) and structure.is_container(grads) else None


def pair(owner: str, params: Any, grads: Any) -> Container:
    """The container of parameters, which gradients are alike; TypeError if they are not."""
    form = form_of(params, grads)
    container = container_of(owner, params)
    if form == "buffers":
        return Buffers(container)
    if form is None or (isinstance(params, Mapping) and not isinstance(grads, Mapping)):
        raise TypeError(container_checks.pair(owner, params, grads))
    if isinstance(container, Nested):
        container.gradients(grads, container.keys)  # are they held alike? What is missing may be frozen
    return container


def joined(one: Node | None, other: Node | None) -> Node | None:
    """The structure of leaves of two steps."""
    return one if other is None or other is one else other if one is None else structure.merged(one, other)


def naming(node: Node | None) -> Callable[[Hashable], str]:
    """How error texts call leaves that may be gone: as Python writes the path where the structure has them."""
    places = {} if node is None else {leaf.name: leaf.place for leaf in structure.leaves_of(node)}
    return lambda key: f"params{places[key]}" if key in places else checks.name_of(key)


def presented(views: Mapping[Hashable, Any], node: Node | None) -> Any:
    """State as users see it: one array, arrays by key, or in the structure of the parameters."""
    if list(views) == [BARE]:
        return views[BARE]
    if node is None or {leaf.name for leaf in structure.leaves_of(node)} != set(views):
        return views
    return _views(node, iter([views[leaf.name] for leaf in structure.leaves_of(node)]))


def _nodes(node: Node) -> list[Node]:
    """A node and all within it."""
    return [node, *(inner for held in node.children if isinstance(held, Node) for inner in _nodes(held))]


def _namesakes(node: Node) -> list[str]:
    """Two leaves of one name."""
    places: dict[Hashable, str] = {}
    for leaf in structure.leaves_of(node):
        if leaf.name in places:
            return [f"params{places[leaf.name]}", f"params{leaf.place}", str(leaf.name)]
        places[leaf.name] = leaf.place
    raise AssertionError("all names differ")


def _gather(owner: str, node: Node, grads: Any, place: str, gradients: list[Any]) -> None:
    """Appends the gradients of a node's leaves: None for all of a branch that is None, MISSING for what is missing."""
    if grads is None or grads is MISSING:
        gradients.extend([grads] * structure.count(node))
        return
    for (_, _, text), part, item in zip(
        structure.steps(node), node.children, _held(owner, node, grads, place), strict=True
    ):
        if part is LEAF:
            gradients.append(item)
        elif isinstance(part, Node):
            _gather(owner, part, item, place + text, gradients)
        elif item is not None and item is not MISSING:
            raise ValueError(container_checks.gradient_of_nothing(owner, place + text))


def _held(owner: str, node: Node, grads: Any, place: str) -> list[Any]:
    """Return the gradients of each child of a node; an error if they are of another form."""
    kind, keys = type(grads), node.keys
    if structure.is_mapping(node.kind):
        if isinstance(grads, Mapping):
            extra = [key for key in grads if key not in keys]
            if extra:
                raise KeyError(container_checks.extra_gradient(owner, place, extra, keys))
            return [grads[key] if key in grads else MISSING for key in keys]
    elif is_dataclass(node.kind):
        if is_dataclass(kind):
            return [getattr(grads, str(key), MISSING) for key in keys]
    elif isinstance(grads, list | tuple) and _same_fields(kind, node.kind):
        if len(grads) != len(keys):
            raise ValueError(container_checks.other_length(owner, place, len(grads), len(keys)))
        return list(grads)
    raise TypeError(container_checks.other_form(owner, place, grads, node.kind))


def _same_fields(one: type, other: type) -> bool:
    """Whether two types of tuples, or lists, do not call their places otherwise."""
    return getattr(one, "_fields", None) in (None, getattr(other, "_fields", None)) or not hasattr(other, "_fields")


def _views(node: Any, views: Iterator[Any]) -> Any:
    """Views of memory in a structure."""
    if not isinstance(node, Node):
        return next(views) if node is LEAF else None
    kind: Any = node.kind
    children = [_views(held, views) for held in node.children]
    if structure.is_mapping(kind):
        return ViewDict(zip(node.keys, children, strict=True))
    if hasattr(kind, "_fields"):
        return kind._make(children)
    if is_dataclass(kind):
        return ViewFields(node.kind.__name__, dict(zip(map(str, node.keys), children, strict=True)))
    return tuple(children) if issubclass(kind, tuple) else ViewList(children)
