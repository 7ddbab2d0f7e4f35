"""Mappings that hand out another array at each access, into which a step in place would be lost."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, MutableMapping
from typing import Any

import numpy as np

from fastopt.flat import FlatDict


def copied(owner: str, params: Any, values: list[Any]) -> set[Hashable]:
    """The keys of parameters that are copies at each access, as of an npz file, a shelf, or a dict that copies.

    values : those of the parameters, in their order, of an earlier access

    What is there is assigned to these keys once, to find out whether that can be done; an error otherwise.
    """
    keys = copied_keys(params, values)
    for key in keys:
        if not isinstance(params, MutableMapping):
            raise TypeError(hands_out_copies(owner, params, key))
        try:
            params[key] = params[key]
        except Exception as error:
            raise TypeError(hands_out_copies(owner, params, key)) from error
    return keys


def copied_keys(params: Any, values: list[Any]) -> set[Hashable]:
    """The same, without the assignment."""
    if type(params) in (dict, FlatDict) or not isinstance(params, Mapping):
        return set()
    return {key for key, value in zip(params, values, strict=True) if not same(params[key], value)}


def same(one: Any, other: Any) -> bool:
    """Whether two accesses found the same memory; numbers are replaced anyhow."""
    if one is other or not isinstance(one, np.ndarray) or not isinstance(other, np.ndarray):
        return True
    return (one.ctypes.data, one.shape, one.strides, one.dtype) == (
        other.ctypes.data,
        other.shape,
        other.strides,
        other.dtype,
    )


def hands_out_copies(owner: str, params: Any, key: Hashable) -> str:
    kind = type(params).__name__
    return (
        f"{owner}: params, of type {kind}, hands out another array for {key!r} at each access, so a step in place "
        f"would be lost, and it cannot be assigned to; expected one that keeps its arrays: make a dict of it once, "
        "params = dict(params), and hand that in"
    )
