"""When to stop: gradient, progress, values that are no numbers, number of steps."""

from __future__ import annotations

import math
import numbers
from dataclasses import dataclass
from typing import Any

import numpy as np

from fastopt.minimization.bounds import Limits, free_gradient
from fastopt.minimization.points import Form


@dataclass(frozen=True)
class Reason:
    """Status, success and message of a result."""

    status: int
    success: bool
    message: str


SMALL_GRADIENT = Reason(0, True, "The gradient is within gtol.")
NO_PROGRESS = Reason(0, True, "The value made no progress within patience steps.")
OUT_OF_BATCHES = Reason(0, True, "All batches were used.")
TOO_MANY_STEPS = Reason(1, False, "Maximum number of iterations has been exceeded.")
NOT_FINITE = Reason(3, False, "The value is NaN, or the gradient is NaN or infinite.")
STOPPED = Reason(99, False, "`callback` raised `StopIteration`.")


class Progress:
    """The smoothed value, the least so far, and for how many steps it has not become less by ftol."""

    def __init__(self, smoothing: float, ftol: float) -> None:
        self._smoothing, self._ftol = smoothing, ftol
        self._sum = self._weight = 0.0
        self._best = self._mark = math.inf
        self.stale = 0

    def add(self, value: float) -> bool:
        """Takes the value of a step; returns whether the smoothed value is the least so far."""
        self.stale += 1
        if not math.isfinite(value):
            return False
        self._sum = self._smoothing * self._sum + (1 - self._smoothing) * value
        self._weight = self._smoothing * self._weight + (1 - self._smoothing)
        smoothed = self._sum / self._weight
        # SciPy's ftol, relative to the larger value or to 1, but since the last progress: slow progress adds up.
        if self._mark == math.inf or self._mark - smoothed > self._ftol * max(abs(smoothed), abs(self._mark), 1.0):
            self._mark, self.stale = smoothed, 0
        is_best = smoothed < self._best
        self._best = min(smoothed, self._best)
        return is_best


def gradient_norm(form: Form, x: Any, gradient: Any, limits: Limits) -> float:
    """The largest magnitude in the gradient, without what the limits hold; NaN if an element is NaN or infinite."""
    leaves = form.leaves(x)
    parts = [
        free_gradient(key, leaves[key], part, limits) for key, part in form.gradients(gradient, x).items() if part.size
    ]
    # Of real numbers without an array of magnitudes.
    norms = [
        float(np.abs(part).max()) if part.dtype.kind == "c" else max(float(part.max()), -float(part.min()))
        for part in parts
    ]
    # NumPy's largest of NaN and others is NaN, Python's is not.
    return max(norms, default=0.0) if all(map(math.isfinite, norms)) else math.nan


def number(name: str, value: Any, lowest: float, highest: float = math.inf) -> float:
    """An option as a float in [lowest, highest), or an error."""
    words = f"minimize: options[{name!r}] must be a number in [{lowest:g}, {highest:g}), got {value!r:.100}"
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(words)
    if not lowest <= float(value) < highest:
        raise ValueError(words)
    return float(value)


def count(name: str, value: Any, least: int) -> int:
    """An option as a whole number of at least `least`, or an error."""
    words = f"minimize: options[{name!r}] must be a whole number, {least} or more, got {value!r:.100}"
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise TypeError(words)
    if value < least:
        raise ValueError(words)
    return int(value)
