"""Norms of exact sums of squares, and factors that clip by them.

A sum of float64 squares overflows from numbers of 1e154 on and loses numbers below 1e-154. There another pass adds up
the squares of numbers times a power of two; everywhere else the first sum is what counts.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import TypeVar

import numpy as np

from fastopt.flat import Array
from fastopt.kernels.passes import DOWN, UP

LARGE, SMALL = "large_measure", "small_measure"
"""The passes, by the names of their kernels."""

_EXPONENTS = {LARGE: -math.frexp(DOWN)[1] + 1, SMALL: -math.frexp(UP)[1] + 1}

LEAST_SUM = 2.0**-960
"""Of a smaller sum squares that are subnormal may have lost bits that count."""

_LEAST = math.sqrt(LEAST_SUM)

QUICK_ERROR = 2.0**-39
"""A bound on the relative error of a plain sum of squares of float32 numbers, with room to spare.

Their squares are float64 numbers, none of which overflows or vanishes, and no term is negative: each addition moves the
sum by at most 2**-53 of itself. A piece has 2**13 elements, so its sum, added up in any order, is wrong by less than
2**-39.9, and the sum of all pieces is rounded once.
"""

MOST_FLOAT32 = 2.0**127
"""A factor of gradients beyond it may be more than float32 holds."""

Name = TypeVar("Name", bound=Hashable)


class Norm(float):
    """A norm; beyond float64 it is infinite, but `root` times two to the `exponent` is still what it is."""

    root: float
    exponent: int

    def __new__(cls, root: float, exponent: int = 0) -> Norm:
        norm = super().__new__(cls, power(root, exponent))
        norm.root, norm.exponent = root, exponent
        return norm


def power(number: float, exponent: int) -> float:
    """A number times two to the exponent; infinite where that is too large."""
    try:
        return math.ldexp(number, exponent)
    except OverflowError:
        return math.copysign(math.inf, number)


class OneProcess:
    """Results of the passes before a step, of one process: there is nothing to add.

    Where several processes step slices of the same leaves, theirs takes its place (`fastopt.mpi`). Every method is then
    called by all of them, in the same order.
    """

    def leaf(self, key: Hashable) -> Hashable:
        """The leaf that a plan steps under a key, or a slice of which it steps."""
        return key

    def size(self, key: Hashable, size: int) -> int:
        """The number of elements of that leaf, of which `size` are stepped here."""
        return size

    def has_float64(self, value: bool) -> bool:
        """Whether any process has float64 numbers."""
        return value

    def any(self, value: bool) -> bool:
        """Whether something is so on any process."""
        return value

    def first(self, text: str | None) -> str | None:
        """The text of the first process that has one."""
        return text

    def add_up(self, sums: Mapping[Name, Sequence[Array]], each: int) -> dict[Name, list[float]]:
        """Numbers by name whose exact sum is that over all processes; a leaf has `each` names, 0 if one is of all."""
        return {name: [number for row in rows for number in row.ravel().tolist()] for name, rows in sums.items()}


ONE_PROCESS = OneProcess()


def exact_pair(numbers: list[float]) -> tuple[float, float]:
    """A float64 and what rounding took from it: together the sum of numbers, in twice the precision."""
    try:
        total = math.fsum(numbers)
    except (OverflowError, ValueError):  # of numbers or infinities of both signs
        total = math.nan
    if not math.isfinite(total):
        return sum(numbers[::2]), 0.0  # what rounding took from infinity is NaN
    return total, math.fsum([*numbers, -total])


def total(numbers: list[float]) -> float:
    """The number nearest to sums, each followed by what rounding took from it; NaN or infinite where they are."""
    return exact_pair(numbers)[0]


def norms(
    run_pass: Callable[[str | None], Mapping[Name, Sequence[Array]]],
    again: bool,
    each: int = 0,
    processes: OneProcess = ONE_PROCESS,
) -> dict[Name, Norm]:
    """Norms by name, from what a pass over all numbers adds up: rows of a sum, and what rounding took from it.

    run_pass : takes the name of another pass, LARGE or SMALL, or None for the plain one
    again : whether other passes may be needed; float32 numbers have squares that float64 holds
    each : as in `OneProcess.add_up`
    """
    by_name = {name: Norm(_root(sums)) for name, sums in processes.add_up(run_pass(None), each).items()}
    for kind in (LARGE, SMALL) if processes.has_float64(again) else ():
        inexact = [name for name, norm in by_name.items() if norm.exponent == 0 and _kind(norm) == kind]
        if inexact:
            sums = processes.add_up(run_pass(kind), each)
            by_name.update({name: Norm(_root(sums[name]), _EXPONENTS[kind]) for name in inexact})
    return by_name


def clipped(factor: float, norm: float, most: float) -> float:
    """A factor of numbers of a norm, made smaller where it would leave them with a norm above `most`.

    An infinite `most` clips nothing, NaN and infinity included.
    """
    if most == math.inf:
        return factor
    scaled = norm * abs(factor)
    if scaled <= most:
        return factor
    if scaled == math.inf and isinstance(norm, Norm) and norm.root < math.inf:  # a product beyond float64
        root, exponent = math.frexp(norm.root)
        return power(factor * (most / (root * abs(factor))), -exponent - norm.exponent)
    return factor * (most / scaled)


def quick_clipped(factor: float, sums: Sequence[float], most: float) -> float | None:
    """`clipped` as a float32, from plain sums of squares of float32 numbers; None where that leaves it in doubt.

    It is the float32 nearest to `clipped` by the exact norm, and so the same for any order of the sums. A root, a
    product, a quotient and the rounding of each never fall where their argument grows, so `clipped` never grows with
    the norm: where both ends of an interval that holds the exact sum come to the same float32, so does that sum. They
    do but for one step in some ten thousand.
    """
    total = math.fsum(sums)
    if not (total < math.inf and abs(factor) < MOST_FLOAT32):
        return None
    least, greatest = math.sqrt(total * (1 - QUICK_ERROR)), math.sqrt(total * (1 + QUICK_ERROR))
    one, other = np.float32(clipped(factor, least, most)), np.float32(clipped(factor, greatest, most))
    return float(one) if one == other else None


def norm_of_sums(plain: float, large: float, small: float) -> float:
    """The norm of numbers, from sums of squares: as they are, times DOWN and times UP."""
    if LEAST_SUM <= plain < math.inf:
        return math.sqrt(plain)
    return math.sqrt(small) / UP if plain < LEAST_SUM else power(math.sqrt(large), _EXPONENTS[LARGE])


def _kind(norm: float) -> str | None:
    return SMALL if norm < _LEAST else None if norm < math.inf else LARGE


def _root(numbers: list[float]) -> float:
    try:
        norm = math.sqrt(math.fsum(numbers))  # rounded once, so in any order
    except OverflowError:
        return math.inf
    # What rounding took from infinity is NaN.
    return norm if norm < math.inf else math.sqrt(sum(numbers[::2]))
