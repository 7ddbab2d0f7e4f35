"""Bounds and masks as a file has them: their arrays beside those of the state, the rest in JSON."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any

import numpy as np

from fastopt.constraints import Bounds, Mask
from fastopt.flat import Array

PREFIX = "settings/"
"""The prefix of the names of these arrays."""


def plain(value: Bounds | Mask, tensors: dict[str, Array], encoded: Callable[[Hashable], Any]) -> dict[str, Any]:
    """A setting as JSON can write it, in which arrays are names of tensors, which it adds.

    encoded : a key as JSON can write it
    """

    def put(array: Any) -> Any:
        if not isinstance(array, np.ndarray):
            return array
        name = f"{PREFIX}{len(tensors)}"
        tensors[name] = array.view(np.uint8) if array.dtype == np.bool_ else array
        return name

    if isinstance(value, Bounds):
        return {"bounds": [put(bound) for bound in value]}
    return {"mask": [[encoded(key), put(array)] for key, array in value.items()]}


def is_plain(value: Any) -> bool:
    """Whether something in JSON is such a setting."""
    return isinstance(value, dict) and value.keys() in ({"bounds"}, {"mask"})


def restored(value: dict[str, Any], tensors: dict[str, Array], decoded: Callable[[Any], Hashable]) -> Any:
    """Undo `plain`; takes its arrays out of the tensors."""
    if "bounds" in value:
        low, high = (tensors.pop(bound) if isinstance(bound, str) else bound for bound in value["bounds"])
        return low, high
    arrays = {decoded(key): tensors.pop(name) for key, name in value["mask"]}
    for array in arrays.values():
        if array.dtype != np.uint8 or (array > 1).any():
            raise ValueError("a mask is not of zeros and ones")
    masks = {key: array.astype(np.bool_) for key, array in arrays.items()}
    return masks[None] if list(masks) == [None] else masks
