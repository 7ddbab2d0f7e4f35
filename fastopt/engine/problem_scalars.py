"""The scalars of many problems from step to step: numbers, and what the kernel works out for each problem."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple, NoReturn

import numpy as np

from fastopt.engine.execute import packing
from fastopt.engine.problem_counts import ProblemCounts
from fastopt.engine.transform_scalars import NEUTRAL, SCALARS
from fastopt.flat import Array
from fastopt.kernels.array_scan import address_of
from fastopt.kernels.problems import (
    ADD,
    BEFORE,
    CLIPPING,
    COUNT,
    DIVIDE,
    EACH,
    FIRST_OPERATION,
    INDEX,
    MOST_OPERATIONS,
    MOVED,
    MULTIPLY,
    OPERATIONS,
    PRODUCT,
    SCALARS_AT,
    SOURCE,
    TAKE,
    WHICH,
)

SMALLEST, LARGEST = 2.0**-400, 2.0**400
"""Between these learning rates, and products of the numbers that they are multiplied by, nothing overflows."""

AT_ONCE = 16
"""Steps whose scalars are worked out at a time, where each is like the one before."""

MOST_KEPT = 10_000
"""Step counts whose scalars are remembered."""


class Rates:
    """The learning rates of problems in a formula: arithmetic with numbers is kept; TypeError for all else.

    kinds, numbers : what is done to them, one operation of `kernels.problems` after another, to the bit
    """

    __slots__ = ("kinds", "numbers")
    __array_ufunc__ = None  # so that NumPy's numbers leave it to the methods below
    __hash__ = None  # type: ignore[assignment]

    def __init__(self, kinds: tuple[int, ...] = (), numbers: tuple[float, ...] = ()) -> None:
        self.kinds, self.numbers = kinds, numbers

    def _then(self, kind: int, number: Any) -> Rates:
        if not isinstance(number, float | int) or len(self.kinds) == MOST_OPERATIONS:
            raise TypeError(f"learning rates and {number!r:.100}")
        return Rates((*self.kinds, kind), (*self.numbers, float(number)))

    def __mul__(self, number: Any) -> Rates:
        return self._then(MULTIPLY, number)

    def __truediv__(self, number: Any) -> Rates:
        if number == 0:
            raise ZeroDivisionError("float division by zero")
        return self._then(DIVIDE, number)

    def __add__(self, number: Any) -> Rates:
        return self._then(ADD, number)

    def __sub__(self, number: Any) -> Rates:
        return self._then(ADD, -number)

    def __rsub__(self, number: Any) -> Rates:
        return self._then(MULTIPLY, -1.0)._then(ADD, number)

    def __neg__(self) -> Rates:
        return self._then(MULTIPLY, -1.0)

    def _refuse(self, *others: Any) -> NoReturn:
        raise TypeError("learning rates of many problems are compared")

    __rmul__, __radd__ = __mul__, __add__
    __bool__ = __eq__ = __ne__ = __lt__ = __le__ = __gt__ = __ge__ = _refuse

    def product(self) -> float:
        """The product that all operations come to; NaN where rounding may make more of a difference than `DOUBT`."""
        product = 1.0
        for kind, number in zip(self.kinds, self.numbers, strict=True):
            product = product * number if kind == MULTIPLY else product / number if kind == DIVIDE else math.nan
            if not SMALLEST < abs(product) < LARGEST:
                return math.nan
        return product


class Prepared(NamedTuple):
    """The scalars of a step that are the same for all problems, 0.0 in place of others."""

    rows: list[list[float]]
    """For each row those of the rule, then those of transforms."""
    of_rule: tuple[float, ...]
    """Those of the rule alone, row after row."""


class ProblemScalars:
    """The scalars of the steps of a plan: numbers for each row, and what the kernel finds for those that differ.

    settings : those of each row, of which the lr may be an array
    transforms : without the scale
    factors : float64[problems], the scale of gradients, the last scalar, where each problem has its own
    number : the step
    differing : numbers of scalars for which there are kernels, to which those that differ are added
    kept : scalars by step count, for these settings
    schedule : puts those of a step count into the settings, where they depend on it
    """

    def __init__(
        self,
        problems: ProblemCounts,
        settings: list[Any],
        transforms: list[str],
        factors: Array | None,
        number: int,
        differing: set[int],
        kept: dict[int, Any],
        schedule: Callable[[int], Any] | None,
    ) -> None:
        self.problems, self._first = problems, number
        self.kept, self.kernels = kept, differing
        self._stepping: Array | None = None
        self._distinct = list({id(of_row): of_row for of_row in settings}.values())
        places = {id(of_row): place for place, of_row in enumerate(self._distinct)}
        self._places = [places[id(of_row)] for of_row in settings]
        self._rates, self._transforms = [of_row.__dict__.get("lr") for of_row in self._distinct], transforms
        if len(kept) > MOST_KEPT:
            kept.clear()
        self._schedule, slots = schedule, problems.slots
        index, self._ends, self._room = slots.of_problems, slots.ends, slots.room
        try:
            entries = [(place, self._at(number + problems.base + offset)) for offset, place in slots.offsets]
            if not _are_alike([scalars for _, scalars in entries]):
                raise TypeError("other arithmetic at another step count")
        except (TypeError, ValueError):  # a power, or a case by case
            if not any(isinstance(rates, np.ndarray) for rates in self._rates):
                raise
            index, entries = self._by_pair()
            self._ends, self._room = [], 0
        one = entries[0][1]
        for settings_place, scalars in enumerate(one):
            for scalar, value in enumerate(scalars):
                if type(value) is Rates or any(other[settings_place][scalar] != value for _, other in entries):
                    differing.add(scalar)
        if factors is not None:
            differing.add(len(one[0]))
        self.differing = sorted(differing)
        self._taken = [scalar for scalar in self.differing if scalar < len(one[0])]
        self._kinds = [[_kinds(scalars[scalar]) for scalar in self._taken] for scalars in one]
        self._constants = [scalar for scalar in range(len(one[0])) if scalar not in differing]
        columns = len(self._operands(one))
        self._numbers = np.zeros((entries[-1][0] + self._room + 1, columns))
        self._memory, self._pack, self._stride = self._numbers.data, packing(columns), 8 * columns
        for place, scalars in entries:
            self._write(place, scalars)
        self._index = None if index is None else index * (8 * columns)
        self._moved, self._one = np.zeros(1, np.int64), one
        self._write_shared(factors)
        self._prepared: list[Prepared] = []
        self._keep(one)

    def _by_pair(self) -> tuple[Array, list[tuple[int, list[list[Any]]]]]:
        """The scalars of each pair of step count and learning rate, and which pair each problem has."""
        slots, rates = self.problems.slots, next(rates for rates in self._rates if isinstance(rates, np.ndarray))
        _, codes = np.unique(rates, return_inverse=True)
        if slots.of_problems is not None:
            codes = codes + slots.of_problems * len(rates)
        _, members, index = np.unique(codes, return_index=True, return_inverse=True)
        offset_at = {place: offset for offset, place in slots.offsets}
        entries = []
        for place, problem in enumerate(members.tolist()):
            offset = offset_at[0 if slots.of_problems is None else int(slots.of_problems[problem])]
            entries.append((place, self._scalars(self._first + self.problems.base + offset, problem)))
        return index, entries

    def _scalars(self, count: int, rates: Rates | int) -> list[list[Any]]:
        """The scalars at a step count, by different settings: with `Rates`, or those of a problem."""
        if self._schedule:
            self._schedule(count)
        return [
            [*one.scalars(count), *[_of_transform(name, one) for name in self._transforms]]
            for one in [_with_rates(of_row, rates) for of_row in self._distinct]
        ]

    def _at(self, count: int) -> list[list[Any]]:
        """The same, kept."""
        scalars: list[list[Any]] | None = self.kept.get(count)
        if scalars is None:
            scalars = self.kept[count] = self._scalars(count, Rates())
        return scalars

    def _operands(self, by_settings: list[list[Any]]) -> list[float]:
        """The numbers of a step count that the kernel reads."""
        numbers = []
        for scalars in by_settings:
            for scalar in self._taken:
                value = scalars[scalar]
                if type(value) is Rates:
                    numbers += [value.product(), *value.numbers]
                else:
                    numbers.append(value)
        return numbers

    def _write_shared(self, factors: Array | None) -> None:
        """Writes down for the kernel how to find the scalars that differ."""
        self.shared = np.zeros((len(self._distinct), SCALARS_AT + EACH * (len(self.differing) + 1)), np.int64)
        self.shared[:, INDEX] = 0 if self._index is None else self._index.ctypes.data
        self.shared[:, MOVED] = self._moved.ctypes.data
        self._factors, column = factors, self._numbers.ctypes.data
        for row, (kinds_of, rates) in enumerate(zip(self._kinds, self._rates, strict=True)):
            for place, kinds in enumerate(kinds_of):
                words = self.shared[row, SCALARS_AT + EACH * place :]
                if kinds is None:
                    words[OPERATIONS], kinds = 1, (TAKE,)
                else:
                    words[SOURCE], words[OPERATIONS] = rates.ctypes.data, len(kinds)
                    words[PRODUCT] = column if kinds and _are_ordinary(rates) else 0
                    column += 8
                for operation, kind in enumerate(kinds):
                    words[FIRST_OPERATION + 2 * operation :][:2] = kind, column
                    column += 8
            if factors is not None:
                self.shared[row, SCALARS_AT + EACH * (len(self.differing) - 1) + SOURCE] = factors.ctypes.data

    def mark(self, stepping: Array) -> None:
        """Says to the kernel which problems step, bool[problems]."""
        if self._stepping is not stepping:
            before = np.concatenate([[0], np.cumsum(stepping, dtype=np.int64)])
            self._marks = stepping.astype(np.float64), before, np.flatnonzero(stepping).astype(np.int64)
            self._stepping = stepping
        marks, before, which = self._marks
        self.shared[:, SCALARS_AT + EACH * len(self.differing) + SOURCE] = marks.ctypes.data
        self.shared[:, BEFORE], self.shared[:, WHICH] = before.ctypes.data, which.ctypes.data

    def clip(self, words: Array) -> None:
        """Has the kernel write the factors first, from what `clip_problems` takes."""
        self._clipping = words  # which must live as long
        self.shared[:, CLIPPING] = words.ctypes.data

    def places(self, count: int, are_marked: bool) -> tuple[int, ...]:
        """For each of so many scalars its place among those that differ, -1 elsewhere; then the same for the marks."""
        place_of = {scalar: place for place, scalar in enumerate(self.differing)}
        self.shared[:, COUNT] = len(self.differing) + are_marked
        if not are_marked:
            self.shared[:, BEFORE] = 0
        return *[place_of.get(scalar, -1) for scalar in range(count)], len(self.differing) if are_marked else -1

    def shared_of(self, row: int) -> int:
        """The address of what the kernel reads for the arrays of a row."""
        return address_of(self.shared) + self.shared.strides[0] * self._places[row]

    def at(self, number: int, problems: ProblemCounts) -> Prepared | None:
        """Has the kernel take the scalars of a step; None where another object must be made for it."""
        moved, prepared = number - self._first, self._prepared
        if problems is not self.problems or moved < 0:
            return None
        if moved >= len(prepared):
            # Several at a time, as Python's code has left the caches after each step.
            for _ in range(min(len(prepared), AT_ONCE)):
                if not self._prepare(len(prepared)):
                    break
            if moved >= len(prepared):
                return None
        self._moved[0] = moved * self._stride
        return prepared[moved]

    def _prepare(self, moved: int) -> bool:
        """Works out the scalars of the step that is so many behind the first; False where that cannot be."""
        if moved > self._room:
            return False
        offset = self._first + self.problems.base + moved
        try:
            entries = [(place, self._at(offset + end)) for end, place in self._ends]
        except (ArithmeticError, TypeError, ValueError):  # to be raised at that step
            return False
        if not all(self._fits(by_settings) for _, by_settings in entries):
            return False
        for place, by_settings in entries:
            self._write(place + moved, by_settings)
        self._keep(by_settings)
        return True

    def _write(self, place: int, by_settings: list[list[Any]]) -> None:
        if self._stride:
            self._pack(self._memory, place * self._stride, *self._operands(by_settings))

    def _keep(self, by_settings: list[list[Any]]) -> None:
        """Keeps the numbers that are the same for all problems."""
        values = [
            [0.0 if scalar in self._taken else value for scalar, value in enumerate(scalars)] for scalars in by_settings
        ]
        rows = [values[place] for place in self._places]
        of_rule = tuple([value for row in rows for value in row[: len(row) - len(self._transforms)]])
        self._prepared.append(Prepared(rows, of_rule))

    def _fits(self, by_settings: list[list[Any]]) -> bool:
        """Whether the kernel does with these scalars what it does with those of the first step."""
        for scalars, before, kinds_of in zip(by_settings, self._one, self._kinds, strict=True):
            for scalar, kinds in zip(self._taken, kinds_of, strict=True):
                if _kinds(scalars[scalar]) != kinds:
                    return False
            for scalar in self._constants:
                value = scalars[scalar]
                if type(value) is Rates or (self._index is not None and value != before[scalar]):
                    return False
        return True


def _of_transform(name: str, settings: Any) -> Any:
    return SCALARS[name](settings) if name in settings._transforms else NEUTRAL[name]


def _with_rates(settings: Any, rates: Rates | int) -> Any:
    """The settings, with `rates`, or that of a problem, in place of the learning rates of problems."""
    lr = settings.__dict__.get("lr")
    if not isinstance(lr, np.ndarray):
        return settings
    one = object.__new__(type(settings))
    one.__dict__.update(settings.__dict__)
    one.__dict__["lr"] = rates if isinstance(rates, Rates) else float(lr[rates])
    return one


def _are_alike(entries: list[list[list[Any]]]) -> bool:
    """Whether the scalars of different step counts take the same operations."""
    kinds = [[[_kinds(value) for value in scalars] for scalars in by_settings] for by_settings in entries]
    return all(each == kinds[0] for each in kinds)


def _kinds(value: Any) -> tuple[int, ...] | None:
    """The operations of a scalar; None of a number."""
    return value.kinds if type(value) is Rates else None


def _are_ordinary(rates: Array) -> bool:
    """Whether products of learning rates are far from what float64 cannot hold."""
    return bool(((rates == 0) | ((rates > SMALLEST) & (rates < LARGEST))).all())
