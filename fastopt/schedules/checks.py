"""Checks of the settings of schedules, by their names, in the manner of `fastopt.checks`."""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np

from fastopt import names
from fastopt.hyperparameters import rounded

# (lowest, whether it is allowed, highest, which never is) by the name of the setting
NUMBERS: dict[str, tuple[float, bool, float]] = {
    **dict.fromkeys(("value", "start", "peak", "end", "lowest", "current"), (0.0, True, math.inf)),
    **dict.fromkeys(("gamma", "power", "start_divisor", "end_divisor"), (0.0, False, math.inf)),
    "best": (-math.inf, False, math.inf),
    "factor": (0.0, False, 1.0),
    "rise": (0.0, True, 1.0),
    "threshold": (0.0, True, 1.0),
}

NUMBERS_OF: dict[str, dict[str, tuple[float, bool, float]]] = {"InverseTime": {"decay": (0.0, True, math.inf)}}
"""By class, where a name is another's count of steps."""

COUNTS: dict[str, int] = {
    **dict.fromkeys(("steps", "every", "period", "growth", "at", "lengths"), 1),
    **dict.fromkeys(("warmup", "decay", "patience", "cooldown", "bad", "waiting"), 0),
}

CHOICES: dict[str, tuple[str, ...]] = {
    "shape": ("linear", "cosine", "square-root"),
    "better": ("lower", "higher"),
}


def setting(owner: str, name: str, value: Any, schedule: type) -> Any:
    """The value as a plain Python number, word or tuple, or an error; `schedule` is the base class of schedules."""
    if name in ("pieces", "factors"):
        return _all(owner, name, value, lambda part: _part(owner, name, part, schedule))
    if name in ("at", "lengths"):
        return _all(owner, name, value, lambda part: _count(owner, f"each of {name}", part, COUNTS[name]))
    if name in NUMBERS_OF.get(owner, ()):
        return _number(owner, name, value, NUMBERS_OF[owner][name])
    if name in COUNTS:
        return _count(owner, name, value, COUNTS[name])
    if name in CHOICES:
        if not isinstance(value, str) or value not in CHOICES[name]:
            kind = ValueError if isinstance(value, str) else TypeError
            suggestion = names.did_you_mean(value, CHOICES[name])
            raise kind(f"{owner}: {name} must be {' or '.join(map(repr, CHOICES[name]))}, got {value!r}{suggestion}")
        return value
    return (
        _number(owner, name, value, NUMBERS[name]) if name in NUMBERS else value
    )  # a user's own class may have other settings


def observed(owner: str, value: Any) -> float:
    """A value to observe, which may be NaN or infinite."""
    if isinstance(value, bool | np.bool_) or not isinstance(value, numbers.Real):
        raise TypeError(f"{owner}: expected a number to observe, got {value!r} of type {type(value).__name__}")
    return float(value)


def fits(owner: str, good: bool, words: str) -> None:
    """Settings fit one another."""
    if not good:
        raise ValueError(f"{owner}: {words}")


def increasing(values: tuple[int, ...]) -> bool:
    return all(first < second for first, second in pairwise(values))


def _number(owner: str, name: str, value: Any, allowed: tuple[float, bool, float]) -> float:
    lowest, closed, highest = allowed
    interval = f"{'[' if closed else '('}{lowest:g}, {highest:g})"
    if isinstance(value, bool | np.bool_) or not isinstance(value, numbers.Real):
        raise TypeError(f"{owner}: {name} must be a number in {interval}, got {value!r} of type {type(value).__name__}")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    number = rounded(number, lowest, highest)
    if not (lowest < number < highest or (closed and number == lowest)):
        raise ValueError(f"{owner}: {name} must be in {interval}, got {number!r}")
    return number


def _count(owner: str, name: str, value: Any, least: int) -> int:
    words = f"{owner}: {name} must be a whole number of at least {least} and at most 2**53, got {value!r}"
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise TypeError(words)
    if not least <= int(value) <= 2**53:
        raise ValueError(words)
    return int(value)


def _part(owner: str, name: str, value: Any, schedule: type) -> Any:
    if not isinstance(value, schedule):
        raise TypeError(f"{owner}: each of {name} must be a schedule, got {value!r} of type {type(value).__name__}")
    return value


def _all(owner: str, name: str, values: Any, check: Callable[[Any], Any]) -> tuple[Any, ...]:
    if not isinstance(values, list | tuple):
        raise TypeError(f"{owner}: {name} must be a tuple, got {values!r} of type {type(values).__name__}")
    return tuple(check(value) for value in values)
