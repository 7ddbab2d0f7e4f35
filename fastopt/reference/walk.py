"""Arrays in nested containers by name, in plain Python."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import is_dataclass
from typing import Any

import numpy as np

from fastopt.reference.norms import Array
from fastopt.rows import Rows


def items(value: Any) -> dict[str, tuple[Any, Any]] | None:
    """Return what a container holds by name: where each is looked up, under which key; None for anything else."""
    if isinstance(value, Mapping):
        return {str(key): (value, key) for key in value}
    if hasattr(value, "_fields"):
        return {name: (value, number) for number, name in enumerate(value._fields)}
    if isinstance(value, list | tuple):
        return {str(number): (value, number) for number in range(len(value))}
    if is_dataclass(value) and not isinstance(value, Rows):
        held = vars(value)
        return {name: (held, name) for name, item in held.items() if isinstance(item, np.ndarray) or items(item)}
    return None


def leaves(value: Any, prefix: str) -> Iterator[tuple[str, tuple[Any, Any]]]:
    """Names of the arrays in nested containers, and where each is looked up."""
    for name, (holder, key) in (items(value) or {}).items():
        if items(holder[key]) is not None:
            yield from leaves(holder[key], f"{prefix}{name}.")
        elif holder[key] is not None:
            yield prefix + name, (holder, key)


def at(grads: Any, path: str) -> Any:
    """The gradient under a name; None where a branch is None."""
    for name in path.split("."):
        if grads is None:
            return None
        if is_dataclass(grads):  # of which `items` leaves out what is no array, and so None
            grads = getattr(grads, name)
        else:
            holder, key = (items(grads) or {})[name]
            grads = holder[key]
    return grads


def as_array(value: Any) -> Array:
    """An array as it is, a number as a 0-d array."""
    if isinstance(value, np.ndarray):
        return value
    return np.array(value, dtype=np.float32 if isinstance(value, np.float32) else np.float64)
