"""Bounds of parameters, and the projection onto them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from fastopt.flat import Array
from fastopt.minimization.points import leaves

Limits = dict[Any, tuple[Array, Array]]
"""{path: (lowest, highest)}, arrays that broadcast to the parameter's shape; no entry where there is no bound."""


def limits_of(bounds: Any, x: Any) -> Limits:
    """SciPy's `Bounds`, SciPy's pairs, or for a container {key: (low, high)}, as limits by path; or an error."""
    if bounds is None:
        return {}
    arrays = leaves(x)
    if isinstance(x, Mapping):
        if not isinstance(bounds, Mapping):
            raise TypeError(
                "minimize: x0 is a dict, so bounds must be one too, such as {'W': (0.0, None)}, got "
                f"{type(bounds).__name__}"
            )
        unknown = [key for key in bounds if key not in x]
        if unknown:
            raise KeyError(f"minimize: bounds has {unknown[0]!r}, but x0 has {', '.join(map(repr, x))}")
        pairs = {key: pair for key, pair in bounds.items() if pair is not None}
    elif hasattr(bounds, "lb") and hasattr(bounds, "ub"):
        pairs = {"x": (bounds.lb, bounds.ub)}
    else:
        pairs = {"x": _columns(bounds, x)}
    return {path: _checked(path, pair, arrays[path]) for path, pair in pairs.items()}


def project(x: Any, limits: Limits) -> None:
    """Moves each element of x to the nearest value within its limits, in place."""
    if limits:
        arrays = leaves(x)
        for path, (low, high) in limits.items():
            np.clip(arrays[path], low, high, out=arrays[path])


def is_within(x: Any, limits: Limits) -> bool:
    """Whether no element of x is beyond its limits."""
    arrays = leaves(x)
    return all(bool(np.all((low <= arrays[path]) & (arrays[path] <= high))) for path, (low, high) in limits.items())


def free_gradient(path: Any, x: Array, gradient: Array, limits: Limits) -> Array:
    """How far a step along the negative gradient gets before it is at a limit: zero where the limit holds x."""
    if path not in limits:
        return gradient
    low, high = limits[path]
    return np.asarray(x - np.clip(x - gradient, low, high))


def _columns(bounds: Any, x: Array) -> tuple[Array, Array]:
    pairs = [tuple(pair) for pair in bounds]
    if len(pairs) != x.size or any(len(pair) != 2 for pair in pairs):
        raise ValueError(
            f"minimize: bounds must be a pair (low, high) for each of the {x.size} elements of x0, or scipy.optimize."
            f"Bounds(low, high), got {len(pairs)} entries"
        )
    low = [-np.inf if pair[0] is None else pair[0] for pair in pairs]
    high = [np.inf if pair[1] is None else pair[1] for pair in pairs]
    return np.reshape(low, x.shape), np.reshape(high, x.shape)


def _checked(path: Any, pair: Any, array: Array) -> tuple[Array, Array]:
    low, high = (
        np.asarray(missing if limit is None else limit, dtype=array.dtype)
        for limit, missing in zip(pair, (-np.inf, np.inf), strict=True)
    )
    for limit in (low, high):
        try:
            np.broadcast_to(limit, array.shape)
        except ValueError:
            raise ValueError(
                f"minimize: the bounds of {path} have shape {limit.shape}, which does not fit that of the parameter, "
                f"{array.shape}"
            ) from None
    if not np.all(low <= high):  # NaN too
        raise ValueError(f"minimize: each lower bound of {path} must be at most the upper one, got {low} and {high}")
    return low, high
