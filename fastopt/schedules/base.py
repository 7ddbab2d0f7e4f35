"""The base class of schedules, and schedules put together from others."""

from __future__ import annotations

import math
import numbers
import operator
from bisect import bisect_right
from dataclasses import dataclass, fields
from inspect import signature
from itertools import accumulate
from typing import Any, Self

from fastopt import names
from fastopt.schedules import checks


class Schedule:
    """A function of the step, counted from 1, that returns a Python float: the base class of all schedules.

    `schedule * 0.5` and `schedule * other` multiply, `schedule.then(other, after=100)` continues with another.
    """

    def __new__(cls, *values: Any, **settings: Any) -> Self:
        """Refuses unknown settings, with the name that they have here."""
        parameters = signature(cls.__init__).parameters if settings else {}
        if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
            for name in settings:
                if name not in parameters:
                    raise TypeError(names.unknown_setting(cls.__name__, name, [*parameters][1:]))
        return super().__new__(cls)

    def __post_init__(self) -> None:
        owner = type(self).__name__
        for setting in fields(self):  # type: ignore[arg-type]  # the subclasses are dataclasses
            value = getattr(self, setting.name)
            if value is not None or setting.default is not None:
                object.__setattr__(self, setting.name, checks.setting(owner, setting.name, value, Schedule))

    def __call__(self, step: int) -> float:
        """The value at a step, counted from 1."""
        try:
            taken = operator.index(step) - 1
        except TypeError:
            taken = -1
        if taken < 0:
            raise ValueError(f"{type(self).__name__}: steps are whole numbers counted from 1, got {step!r}")
        return self._after(taken)

    def _after(self, taken: int) -> float:
        """The value when so many steps have been taken."""
        raise NotImplementedError

    def _length(self) -> int | None:
        """After how many steps it stays at its end; None where it never ends."""
        return getattr(self, "steps", None)

    def then(self, other: Schedule, after: int | None = None) -> Sequence:
        """The schedule for `after` steps (by default its length), then another, which counts its steps from 1 again.

        >>> from fastopt.schedules import Exponential, Warmup
        >>> Warmup(0.1, steps=2).then(Exponential(0.1, gamma=0.5))
        Sequence(pieces=(Warmup(peak=0.1, steps=2), Exponential(start=0.1, gamma=0.5)), lengths=(2,))
        """
        length = self._length() if after is None else after
        if length is None:
            raise ValueError(f"{type(self).__name__}: it has no end; say after how many steps: then(other, after=100)")
        if isinstance(self, Sequence) and sum(self.lengths) < length:
            return Sequence((*self.pieces, other), (*self.lengths, length - sum(self.lengths)))
        return Sequence((self, other), (length,))

    def __mul__(self, other: Any) -> Product:
        if isinstance(other, numbers.Real) and not isinstance(other, bool):
            other = Constant(float(other))
        if not isinstance(other, Schedule):
            return NotImplemented
        first, second = (part.factors if isinstance(part, Product) else (part,) for part in (self, other))
        return Product(first + second)

    __rmul__ = __mul__


@dataclass(frozen=True)
class Constant(Schedule):
    """The same value at every step.

    >>> Constant(0.1)(1_000)
    0.1
    """

    value: float

    def _after(self, taken: int) -> float:
        return self.value


@dataclass(frozen=True)
class Sequence(Schedule):
    """Schedules one after the other: each but the last for its length; each counts its steps from 1.

    >>> from fastopt.schedules import Linear
    >>> schedule = Sequence((Constant(1.0), Linear(0.5, 0.0, steps=2)), lengths=(3,))
    >>> [schedule(step) for step in range(1, 7)]
    [1.0, 1.0, 1.0, 0.5, 0.25, 0.0]
    """

    pieces: tuple[Schedule, ...]
    lengths: tuple[int, ...]

    def __post_init__(self) -> None:
        super().__post_init__()
        words = f"lengths must be one for each of pieces but the last, got {len(self.lengths)} and {len(self.pieces)}"
        checks.fits("Sequence", len(self.lengths) + 1 == len(self.pieces), words)

    def _after(self, taken: int) -> float:
        starts = [0, *accumulate(self.lengths)]
        number = bisect_right(starts, taken) - 1
        return self.pieces[number](taken - starts[number] + 1)

    def _length(self) -> int | None:
        last = self.pieces[-1]._length()
        return None if last is None else sum(self.lengths) + last


@dataclass(frozen=True)
class Product(Schedule):
    """The product of schedules; what `schedule * 0.5` and `schedule * other` make.

    >>> from fastopt.schedules import Exponential
    >>> (0.5 * Exponential(1.0, gamma=0.5))(2)
    0.25
    """

    factors: tuple[Schedule, ...]

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.fits("Product", len(self.factors) > 0, "factors must be at least one schedule, got none")

    def _after(self, taken: int) -> float:
        return math.prod((factor(taken + 1) for factor in self.factors), start=1.0)

    def _length(self) -> int | None:
        lengths = [factor._length() for factor in self.factors if not isinstance(factor, Constant)]
        finite = [length for length in lengths if length is not None]
        return max(finite) if finite and len(finite) == len(lengths) else None
