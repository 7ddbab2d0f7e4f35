"""Exact means and norms in plain NumPy."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


def means(g: Array) -> Array:
    """The means to subtract: of a matrix over axis 0, of what has more dimensions over all axes but the first."""
    if g.ndim == 2:
        return np.array([mean(column) for column in g.T], g.dtype)
    return np.array([mean(part.ravel()) for part in g], g.dtype).reshape(-1, *[1] * (g.ndim - 1))


def mean(values: Array) -> float:
    """The number nearest to the sum, by the count; so their order does not matter. NaN or infinite where values are."""
    values = values.astype(np.float64)
    nonfinite = values[~np.isfinite(values)]
    if nonfinite.size:
        return float(nonfinite.sum())
    try:
        return math.fsum(values.tolist()) / values.size
    except OverflowError:  # of a part of the sum
        return math.fsum((values * 2.0**-64).tolist()) * 2.0**64 / values.size


def total(arrays: Iterable[Array]) -> float:
    """The number nearest to the sum of all elements; NaN or infinite where some are."""
    numbers = [x for array in arrays for x in array.astype(np.float64).ravel().tolist()]
    try:
        return math.fsum(numbers)
    except (OverflowError, ValueError):
        return sum(numbers)


def global_norm(grads: dict[Any, Array]) -> float:
    """The norm of all arrays together: the root of the number nearest to the sum of the float64 squares.

    `math.fsum` rounds once, so the order of the arrays and of their elements does not matter.
    """
    root, exponent = scaled_norm(grads)
    return float(np.ldexp(root, exponent))


def scaled_norm(grads: dict[Any, Array]) -> tuple[float, int]:
    """The norm as a number times two to the exponent, which is 0 unless squares overflow or vanish."""

    def squares(exponent: int) -> list[Array]:
        return [np.square(np.ldexp(g.astype(np.float64), -exponent)).ravel() for g in grads.values()]

    plain = sum(float(square.sum()) for square in squares(0))
    exponent = 0 if 2.0**-960 <= plain < math.inf else -600 if plain < 2.0**-960 else 600
    numbers = squares(exponent)
    total = sum(float(square.sum()) for square in numbers)
    if not math.isfinite(total):  # NaN or infinity
        return total, 0
    return math.sqrt(math.fsum(x for square in numbers for x in square.tolist())), exponent


def clipped(scale: float, grads: dict[Any, Array], most: float) -> float:
    """A factor of gradients, made smaller where their norm would be more than `most`."""
    root, exponent = scaled_norm(grads)
    norm = float(np.ldexp(root, exponent)) * abs(scale)
    if norm <= most:
        return scale
    if math.isinf(norm) and math.isfinite(root):  # beyond float64
        root, more = math.frexp(root)
        return float(np.ldexp(scale * (most / (root * abs(scale))), -exponent - more))
    return scale * (most / norm)
