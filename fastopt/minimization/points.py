"""Points that a function is minimized over: one array, or a container of arrays."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from fastopt import checks
from fastopt.flat import Array


def start(x0: Any) -> Any:
    """A copy of x0 to step in: SciPy's vector of numbers as one float array, other containers as they are."""
    if isinstance(x0, Mapping):
        return {key: _float(value, f"x0[{key!r}]") for key, value in x0.items()}
    return np.atleast_1d(_float(x0, "x0"))


def leaves(x: Any) -> dict[Any, Array]:
    """{path: array}, where one array has the path "x"."""
    return dict(x) if isinstance(x, Mapping) else {"x": x}


def gradient_leaves(gradient: Any, x: Any) -> dict[Any, Array]:
    """The arrays of a gradient, with the paths and the shapes of those of x; without those that are None."""
    if isinstance(x, Mapping):
        if not isinstance(gradient, Mapping):
            raise TypeError(
                f"minimize: x0 is a dict, so the gradient must be one with the same keys, got {type(gradient).__name__}"
            )
        given = {key: gradient.get(key) for key in x}
    else:
        given = {"x": gradient}
    arrays = {path: np.asarray(value) for path, value in given.items() if value is not None}
    for path, array in arrays.items():
        expected = leaves(x)[path].shape
        if array.shape != expected and not (array.ndim == 0 and expected == (1,)):
            raise ValueError(
                f"minimize: the gradient of {path} has shape {array.shape}, expected {expected}, that of the parameter"
            )
    return arrays


def _float(value: Any, name: str) -> Array:
    array = np.array(value)
    if array.dtype.kind in "iu":
        return array.astype(np.float64)
    if array.dtype not in checks.DTYPES:
        raise TypeError(
            f"minimize: {name} has dtype {array.dtype}, expected numbers or float32 or float64 arrays; convert it: "
            f"np.asarray({name}, dtype=np.float64)"
        )
    return array
