"""Error texts of containers: what may hold parameters and gradients, and how both must match."""

from __future__ import annotations

from collections.abc import Hashable, ItemsView, Iterable, Iterator, KeysView, Mapping, Set, ValuesView
from dataclasses import is_dataclass
from typing import Any

import numpy as np

from fastopt import checks
from fastopt.rows import Rows


def no_container(owner: str, name: str, value: Any) -> str:
    if isinstance(value, Iterator):
        return (
            f"{owner}: {name} is an iterator ({type(value).__name__}), which has nothing left after one step; expected "
            f"a list, a dict or an array: make {name} = list({name}) once"
        )
    if isinstance(value, KeysView | ValuesView | ItemsView | Set):
        return (
            f"{owner}: {name} is of type {type(value).__name__}, in which no array has a name; hand in the dict "
            "itself, or a list"
        )
    return (
        f"{owner}: {name} must be a dict or a list of arrays, nested if you like, or one NumPy array, got "
        f"{type(value).__name__}; put several arrays in a dict such as {{'W1': W1, 'b1': b1}}"
    )


def pair(owner: str, params: Any, grads: Any) -> str:
    """Parameters and gradients in different containers."""
    if not isinstance(grads, Mapping | np.ndarray | Rows | list | tuple) and not is_dataclass(grads):
        return no_container(owner, "grads", grads)
    expected = "both must be dicts with the same keys, or both arrays of the same shape"
    if not isinstance(params, Mapping | np.ndarray):
        expected = "both must be alike, with an array in grads where there is one in params"
    return f"{owner}: params is of type {type(params).__name__} and grads of type {type(grads).__name__}; {expected}"


def no_objects(owner: str, given: Any, thing: Any = None) -> str:
    """A single argument that does not hold objects with data and gradients."""
    text = f"{owner}: update() got one argument, of type {type(given).__name__}"
    if isinstance(given, zip) or (isinstance(thing, tuple) and len(thing) == 2):
        return (
            f"{text}, which gives pairs; expected parameters and gradients apart: "
            "params, grads = map(list, zip(*pairs)), then update(params, grads)"
        )
    inside = "" if thing is None else f", in which there is one of type {type(thing).__name__}"
    return (
        f"{text}{inside}; expected update(params, grads), or objects that have .data and .grad, or what returns them "
        "by .params() or .parameters()"
    )


def no_array_in(owner: str, name: Hashable, which: str, value: Any) -> str:
    kind = "a method" if callable(value) else f"of type {type(value).__name__}"
    return (
        f"{owner}: .{which} of parameter {name!r} is {kind}, expected an array; hand in arrays by name: "
        "update(params, grads)"
    )


def not_rebindable(owner: str, params: Any) -> str:
    return (
        f"{owner}: params of type {type(params).__name__} holds plain numbers, which a step replaces, but it "
        "cannot be assigned to; hand in a dict, or 0-d arrays"
    )


def number_in(owner: str, name: str, kind: type) -> str:
    held = "namedtuple" if hasattr(kind, "_fields") else "dataclass" if is_dataclass(kind) else kind.__name__
    text = f"{owner}: {name} is a plain number, which a step replaces, but a {held} holds it"
    if held == "dataclass":
        return (
            f"{text}, where a number may be a setting; make a parameter of it, np.array({name}), or a setting: "
            "field(metadata={'static': True})"
        )
    return f"{text}, which cannot be assigned to; make a 0-d array of it, np.array({name}), or hold it in a list"


def same_name(owner: str, one: str, other: str, name: str) -> str:
    return f"{owner}: {one} and {other} both have the name {name!r}; rename a key, so that each array has its own"


def no_gradient(owner: str, name: str) -> str:
    return (
        f"{owner}: grads has nothing for {name}. Add the gradient, or None to leave the parameter, or a whole branch, "
        "alone"
    )


def extra_gradient(owner: str, place: str, extra: list[Hashable], keys: Iterable[Hashable]) -> str:
    return (
        f"{owner}: grads{place} has {checks.names_of(extra)}, which params{place} does not have; "
        f"it has {checks.names_of(keys)}. Leave it out, or correct the name"
    )


def other_length(owner: str, place: str, found: int, expected: int) -> str:
    return (
        f"{owner}: grads{place} has {found} elements, params{place} has {expected}; hand in one for each, None to "
        "leave a parameter as it is"
    )


def other_form(owner: str, place: str, found: Any, expected: type) -> str:
    return (
        f"{owner}: grads{place} is of type {type(found).__name__}, but params{place} is of type {expected.__name__}; "
        "both must be alike, with an array in grads where there is one in params, or None for a whole branch"
    )


def gradient_of_nothing(owner: str, place: str) -> str:
    return (
        f"{owner}: params{place} is None, but grads{place} is not; hand in None there too, or the parameter that the "
        "gradient is of"
    )


def hands_out_copies(owner: str, name: str) -> str:
    return (
        f"{owner}: {name} is another array at each access, so a step in place would be lost; expected containers that "
        "keep their arrays: make dicts of them once, dict(...), and hand those in"
    )


def missing_gradient(owner: str, key: Hashable, grads: Iterable[Hashable]) -> str:
    return (
        f"{owner}: grads has no entry for params[{key!r}]; it has {checks.names_of(grads)}. "
        "Add the gradient, or None to leave the parameter as it is"
    )
