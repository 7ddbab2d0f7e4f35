"""Checks of gradients, with their error texts."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from fastopt.array_checks import conversion, is_number, masked
from fastopt.flat import Array


def gradient(owner: str, name: str, value: Any, parameter_name: str, target: Array) -> Array:
    """A gradient as a base-class array of the parameter's shape, in whatever dtype and layout it has."""
    if isinstance(value, np.ndarray):
        if masked(value):
            raise TypeError(
                f"{owner}: {name} is a masked array, expected a plain one, as a step would ignore the mask; hand in "
                f"{name}.filled(0) for a gradient of zero where it is masked, or {name}.data for what lies beneath"
            )
        values = np.asarray(value)
    elif is_number(value) or isinstance(value, np.number | np.bool_):
        values = np.array(value)
    else:
        raise TypeError(
            f"{owner}: {name} is of type {type(value).__name__}, expected an array of dtype {target.dtype}, or None "
            f"in a dict for no update; {conversion(name, value) or f'convert it: np.asarray({name})'}"
        )
    if not np.can_cast(values.dtype, target.dtype, casting="same_kind"):
        cure = "hand in real numbers"
        if values.dtype.kind == "c":
            cure = (
                f"take its real part, {name}.real, or make {parameter_name} complex: "
                f"{parameter_name}.astype(np.complex{128 if target.dtype.itemsize == 8 else 64})"
            )
        raise TypeError(
            f"{owner}: {name} has dtype {values.dtype}, which does not convert to {target.dtype}, the dtype of "
            f"{parameter_name}; {cure}"
        )
    if values.shape == target.shape:
        return values
    if not same_but_for_ones(values.shape, target.shape):
        raise ValueError(
            f"{owner}: {name} has shape {values.shape}, {parameter_name} has {target.shape}; "
            f"{_advice(name, values.shape, parameter_name, target.shape)}"
        )
    return values.reshape(target.shape)


def same_but_for_ones(one: tuple[int, ...], other: tuple[int, ...]) -> bool:
    """Whether two shapes are the same without axes of length one, so that elements correspond."""
    return [length for length in one if length != 1] == [length for length in other if length != 1]


def _advice(name: str, shape: tuple[int, ...], parameter_name: str, expected: tuple[int, ...]) -> str:
    """Advice on a gradient of another shape; names the sum that is missing where there is one."""
    try:
        together = np.broadcast_shapes(shape, expected)
    except ValueError:
        together = None
    aligned = (*[1] * (len(shape) - len(expected)), *expected)
    if together == shape:
        axes = [axis for axis, length in enumerate(aligned) if length == 1 and shape[axis] != 1]
        where = axes[0] if len(axes) == 1 else tuple(axes)
        plural = "axis" if len(axes) == 1 else "axes"
        return (
            f"{parameter_name} is broadcast along {plural} {where}, over which its gradient must be summed: "
            f"{name}.sum(axis={where})"
        )
    if together == expected:
        return (
            f"it has been summed (or averaged) over axes that {parameter_name} has: leave that out, or repeat it where "
            f"all these elements have one gradient: np.broadcast_to({name}, {expected})"
        )
    return "compute the gradient of the parameter as it is, without broadcasting"


def nonfinite(owner: str, name: str, values: Array, bad: Array) -> str:
    return (
        f"{owner}: {name} has {np.count_nonzero(bad)} of {values.size} values that are not finite, the first, "
        f"{_first(values, bad)}; nothing was written. Lower lr or clip the gradient, or choose on_nonfinite='skip'"
    )


def nonfinite_squares(owner: str, name: str, values: Array, bad: Array, bound: float) -> str:
    return (
        f"{owner}: {name} has {np.count_nonzero(bad)} of {values.size} values whose squares, which the rule needs, are "
        f"not finite, the first, {_first(values, bad)}; in {values.dtype} they must not be beyond {bound:.3g}; nothing "
        "was written. Clip the gradient (clip_norm, clip_value), use float64, or choose on_nonfinite='skip'"
    )


def nonfinite_squared_norm(owner: str, name: str, norm: float, dtype: Any, bound: float) -> str:
    return (
        f"{owner}: {name} has the norm {norm:.3g}, whose square, which the rule needs, is not finite; in {dtype} it "
        f"must not be beyond {bound:.3g}; nothing was written. Clip the gradient (clip_array_norm), use float64, or "
        "choose on_nonfinite='skip'"
    )


def nonfinite_estimates(owner: str, estimates: Mapping[str, float]) -> str:
    name, value = next((name, value) for name, value in estimates.items() if not math.isfinite(value))
    return (
        f"{owner}: grads are finite, but sums over all parameters of products of them, or of the parameters, are not: "
        f"they would make estimates[{name!r}] {value}; nothing was written. Clip the gradients (clip_norm), use "
        "float64 or smaller parameters, or choose on_nonfinite='skip'"
    )


def nonfinite_sums(owner: str, name: str, dtype: Any) -> str:
    return (
        f"{owner}: {name} is finite, but sums of its squares, which the rule needs, are not in {dtype}; nothing was "
        "written. Clip the gradient (clip_array_norm), use float64, or choose on_nonfinite='skip'"
    )


def _first(values: Array, bad: Array) -> str:
    """The first of the elements that are bad, and where it is."""
    first = tuple(int(index) for index in np.unravel_index(int(np.argmax(bad)), values.shape))
    where = f", at {first if len(first) > 1 else first[0]}" if first else ""
    return f"{values[first]}{where}"


def gradient_in_written_memory(owner: str, name: str, other: str) -> str:
    return f"{owner}: {name} shares memory with {other}, which this step writes; hand in a copy: {name}.copy()"
