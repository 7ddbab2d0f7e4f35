"""Gradients by finite differences, with SciPy's steps: for functions without a gradient and few parameters."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from fastopt.flat import Array
from fastopt.minimization.bounds import Limits
from fastopt.minimization.points import Form
from fastopt.pairs import joined, pairs

SCHEMES = {"2-point": 1 / 2, "3-point": 1 / 3}
"""The power of the machine epsilon that balances rounding and truncation (Nocedal and Wright, chapter 8)."""


def gradient(fun: Callable[[Any], float], form: Form, x: Any, value: float, scheme: str, limits: Limits) -> Any:
    """The gradient of `fun` at x, whose value there is `value`, in the form of x.

    The step of an element is that of SciPy's `approx_derivative`, `eps^(1/2) max(1, |x|)` forward or `eps^(1/3)
    max(1, |x|)` to both sides, so 1 or 2 values for each element. No point is beyond the limits: differences turn round
    there, or become one-sided. Complex numbers are pairs of elements.
    """
    gradients = []
    for key, leaf in form.leaves(x).items():
        array = pairs(leaf)
        low, high = limits.get(key, (-np.inf, np.inf))
        lows, highs = np.broadcast_to(low, array.shape), np.broadcast_to(high, array.shape)
        step = float(np.finfo(array.dtype).eps) ** SCHEMES[scheme]
        derivatives = np.zeros_like(array)
        for index in np.ndindex(array.shape):
            derivatives[index] = _derivative(
                _Line(fun, x, array, index),
                value,
                step * max(1.0, abs(float(array[index]))),
                (float(array[index] - lows[index]), float(highs[index] - array[index])),
                scheme,
            )
        gradients.append(derivatives if array is leaf else joined(derivatives))
    return form.like(gradients)


class _Line:
    """The function along one element of x."""

    def __init__(self, fun: Callable[[Any], float], x: Any, array: Array, index: tuple[int, ...]) -> None:
        self.fun, self.x, self.array, self.index = fun, x, array, index

    def __call__(self, step: float) -> tuple[float, float]:
        """The value a step away, and the step that rounding made of it."""
        kept = self.array[self.index]
        self.array[self.index] = kept + step
        try:
            return self.fun(self.x), float(self.array[self.index] - kept)
        finally:
            self.array[self.index] = kept


def _derivative(line: _Line, value: float, step: float, room: tuple[float, float], scheme: str) -> float:
    below, above = room
    if max(room) <= 0:  # held by its bounds
        return 0.0
    if scheme == "2-point":
        forward = line.array[line.index] >= 0 if min(room) >= step else above >= below
        changed, taken = line(min(step, above) if forward else -min(step, below))
        return (changed - value) / taken
    if min(room) >= step:
        (upper, up), (lower, down) = line(step), line(-step)
        return (upper - lower) / (up - down)
    step = min(step, max(room) / 2) * (1 if above >= below else -1)
    (near, _), (far, taken) = line(step), line(2 * step)
    return (4 * near - 3 * value - far) / taken
