"""Parameters that are objects with `.data` and `.grad`, as those of DeZero and PyTorch: their arrays by name."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Mapping, Set
from types import FunctionType, ModuleType
from typing import Any

import numpy as np

from fastopt import container_checks
from fastopt.foreign import is_array
from fastopt.structure import is_container

METHODS = ("named_parameters", "params", "parameters")
"""Names that a model may give the method that returns its parameters."""

OWN: Any = object()
"""Stands for gradients that the parameters have themselves."""

Names = dict[int, tuple[Any, Hashable]]
"""By `id` the object, which it keeps alive, and its name."""


def arrays_of(owner: str, given: Any, names: Names) -> tuple[dict[Hashable, Any], dict[Hashable, Any]]:
    """Arrays and gradients by name, without objects whose data is None; `names` takes up those of new objects.

    given : objects by name, several of them, one, or something with `params()` or `parameters()` that returns them
    """
    params: dict[Hashable, Any] = {}
    grads: dict[Hashable, Any] = {}
    things = list(_named(owner, given))
    if any(id(thing) not in names for _, thing in things):
        has_names = isinstance(given, Mapping) or hasattr(given, "named_parameters")
        paths = {} if has_names else _attributes(given, "", {}, set())
        for name, thing in things:
            if id(thing) not in names:
                names[id(thing)] = thing, _free(paths.get(id(thing), name), names)
    for name, thing in things:
        data, gradient = _content(owner, thing, "data", name), _content(owner, thing, "grad", name)
        if data is not None:
            key = names[id(thing)][1]
            params[key], grads[key] = data, gradient
    return params, grads


def by_name(optimizer: Any, given: Any) -> tuple[Any, Names]:
    """Objects as arrays by name, and the names that they then have; anything else as it is, and none.

    Arrays of a library that have `.data` and `.grad` are objects to an optimizer that stepped objects before.
    """
    names: Names = dict(optimizer.__dict__.get("_objects", {}))
    if isinstance(given, Iterator) and not isinstance(given, zip):
        things = list(given)
        given = things if _are_objects(things, bool(names)) else given
    if not _are_objects(given, bool(names)):
        return given, {}
    owner = type(optimizer).__name__
    if not any(id(thing) in names for _, thing in _named(owner, given)):
        names = {}  # those of another model, as of one that a checkpoint is loaded into
    return arrays_of(owner, given, names)[0], names


def _are_objects(given: Any, stepped: bool) -> bool:
    if isinstance(given, np.ndarray) or given is None:
        return False
    if is_parameter(given):
        return stepped or not is_array(given)
    if isinstance(given, list | tuple | Mapping | Set):
        held = list(given.values() if isinstance(given, Mapping) else given)
        return bool(held) and all(is_parameter(thing) and (stepped or not is_array(thing)) for thing in held)
    has_them = any(callable(getattr(given, name, None)) for name in METHODS)
    return has_them and (stepped or not is_container(given))


def _free(name: Hashable, names: Names) -> Hashable:
    """A name, or the first number where another object has it."""
    taken = {used for _, used in names.values()}
    return name if name not in taken else next(text for text in map(str, range(len(taken) + 1)) if text not in taken)


def _named(owner: str, given: Any) -> Iterator[tuple[Hashable, Any]]:
    """Objects with the key of a dict, or the name that their model has for them, or their number."""
    things = [given] if is_parameter(given) else given
    for method in METHODS:
        if callable(getattr(things, method, None)):
            things = getattr(things, method)()
            things = dict(things) if method == "named_parameters" else things
            break
    if isinstance(things, np.ndarray | zip) or not isinstance(things, Iterable):
        raise TypeError(container_checks.no_objects(owner, given))
    for name, thing in things.items() if isinstance(things, Mapping) else enumerate(things):
        if not is_parameter(thing):
            raise TypeError(container_checks.no_objects(owner, given, thing))
        yield name if isinstance(things, Mapping) else str(name), thing


def is_parameter(thing: Any) -> bool:
    """Whether something has data and a gradient of its own."""
    return hasattr(thing, "data") and hasattr(thing, "grad") and not isinstance(thing, np.ndarray | np.generic)


def _attributes(thing: Any, prefix: str, names: dict[int, str], seen: set[int]) -> dict[int, str]:
    """The names of attributes that lead to parameters, by the `id` of these: "l1.W" of `model.l1.W`."""
    if id(thing) in seen or isinstance(thing, ModuleType | FunctionType | type):
        return names
    seen.add(id(thing))
    held: Iterable[tuple[Any, Any]] = ()
    if is_parameter(thing):
        names[id(thing)] = prefix.removesuffix(".")
    elif isinstance(thing, list | tuple):
        held = enumerate(thing)
    else:
        held = (thing if isinstance(thing, Mapping) else getattr(thing, "__dict__", {})).items()
    for key, inner in held:
        _attributes(inner, f"{prefix}{key}.", names, seen)
    return names


def _content(owner: str, thing: Any, which: str, name: Hashable) -> Any:
    """The array of an object's data or gradient, which may have `.data` in turn."""
    value = getattr(thing, which)
    if is_array(value) or isinstance(value, np.ndarray) or value is None:
        return value
    inner = getattr(value, "data", None)
    if isinstance(inner, np.ndarray) or is_array(inner):
        return inner
    raise TypeError(container_checks.no_array_in(owner, name, which, value))
