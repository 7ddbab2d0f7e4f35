"""Bounds of parameters, and the projection onto them."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np

from fastopt.flat import Array
from fastopt.minimization.points import Form
from fastopt.pairs import is_complex

Leaves = dict[Hashable, Array]
"""The arrays of a point by key."""

Limits = dict[Hashable, tuple[Array, Array]]
"""{key: (lowest, highest)}, arrays that broadcast to the parameter's shape; no entry where there is no bound."""


def limits_of(bounds: Any, form: Form, x: Any) -> Limits:
    """SciPy's `Bounds`, SciPy's pairs, or for a container {path: (low, high)}, as limits by key; or an error."""
    if bounds is None:
        return {}
    leaves = form.leaves(x)
    if not form.is_array:
        if not isinstance(bounds, Mapping):
            raise TypeError(
                f"minimize: x0 is a {type(x).__name__} of arrays, so bounds must be pairs by their names, such as "
                f"{{{form.keys[0]!r}: (0.0, None)}}, got {type(bounds).__name__}"
            )
        unknown = [key for key in bounds if key not in form.keys]
        if unknown:
            raise KeyError(
                f"minimize: bounds has {unknown[0]!r}, but x0 has {', '.join(map(repr, form.keys))}; correct it"
            )
        pairs = {key: pair for key, pair in bounds.items() if pair is not None}
    elif hasattr(bounds, "lb") and hasattr(bounds, "ub"):
        pairs = {form.keys[0]: (bounds.lb, bounds.ub)}
    else:
        pairs = {form.keys[0]: _columns(bounds, x)}
    return {key: _checked(form.name(key), pair, leaves[key]) for key, pair in pairs.items()}


def project(leaves: Leaves, limits: Limits) -> None:
    """Moves each element to the nearest value within its limits, in place."""
    for key, (low, high) in limits.items():
        np.clip(leaves[key], low, high, out=leaves[key])


def is_within(leaves: Leaves, limits: Limits) -> bool:
    """Whether no element is beyond its limits."""
    return all(bool(np.all((low <= leaves[key]) & (leaves[key] <= high))) for key, (low, high) in limits.items())


def free_gradient(key: Hashable, x: Array, gradient: Array, limits: Limits) -> Array:
    """The step along the negative gradient, cut at the limits: zero where a limit holds x."""
    if key not in limits:
        return gradient
    low, high = limits[key]
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


def _checked(name: str, pair: Any, array: Array) -> tuple[Array, Array]:
    if not isinstance(pair, tuple | list) or len(pair) != 2:
        raise ValueError(f"minimize: the bounds of {name} must be a pair (low, high), got {pair!r:.100}")
    if is_complex(array.dtype):
        raise ValueError(
            f"minimize: {name} is complex, and complex numbers have no order; leave its bounds out, or hand in "
            "x0.view(float), whose bounds are those of both parts"
        )
    low, high = (
        np.asarray(missing if limit is None else limit, dtype=array.dtype)
        for limit, missing in zip(pair, (-np.inf, np.inf), strict=True)
    )
    for limit in (low, high):
        try:
            np.broadcast_to(limit, array.shape)
        except ValueError:
            raise ValueError(
                f"minimize: the bounds of {name} have shape {limit.shape}, which does not fit that of the parameter, "
                f"{array.shape}; give them that shape"
            ) from None
    if not np.all(low <= high):  # NaN too
        raise ValueError(f"minimize: each lower bound of {name} must be at most the upper one, got {low} and {high}")
    return low, high
