"""Norms of exact sums of squares, and factors that clip by them.

A sum of float64 squares overflows from numbers of 1e154 on and loses numbers below 1e-154. There another pass adds up
the squares of numbers times a power of two; everywhere else the first sum is what counts.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import TypeVar

from fastopt.flat import Array
from fastopt.kernels.loops import DOWN, UP

LARGE, SMALL = "large_measure", "small_measure"
"""The passes, by the names of their kernels."""

_EXPONENTS = {LARGE: -math.frexp(DOWN)[1] + 1, SMALL: -math.frexp(UP)[1] + 1}

LEAST_SUM = 2.0**-960
"""Of a smaller sum squares that are subnormal may have lost bits that count."""

_LEAST = math.sqrt(LEAST_SUM)

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


def norms(look: Callable[[str | None], Mapping[Name, Sequence[Array]]], again: bool) -> dict[Name, Norm]:
    """Norms by name, from what a look at all numbers adds up: rows of a sum, and what rounding took from it.

    look : takes the name of another pass, LARGE or SMALL, or None for the plain one
    again : whether other passes may be needed; float32 numbers have squares that float64 holds
    """
    found = {name: Norm(_root(sums)) for name, sums in look(None).items()}
    for kind in (LARGE, SMALL) if again else ():
        wanted = [name for name, norm in found.items() if norm.exponent == 0 and _kind(norm) == kind]
        if wanted:
            sums = look(kind)
            found.update({name: Norm(_root(sums[name]), _EXPONENTS[kind]) for name in wanted})
    return found


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


def norm_of_sums(plain: float, large: float, small: float) -> float:
    """The norm of numbers, from sums of squares: as they are, times DOWN and times UP."""
    if LEAST_SUM <= plain < math.inf:
        return math.sqrt(plain)
    return math.sqrt(small) / UP if plain < LEAST_SUM else power(math.sqrt(large), _EXPONENTS[LARGE])


def _kind(norm: float) -> str | None:
    return SMALL if norm < _LEAST else None if norm < math.inf else LARGE


def _root(sums: Sequence[Array]) -> float:
    numbers: list[float] = []
    for found in sums:
        numbers += found.ravel().tolist()
    try:
        norm = math.sqrt(math.fsum(numbers))  # rounded once, so in any order
    except OverflowError:
        return math.inf
    # What rounding took from infinity is NaN.
    return norm if norm < math.inf else math.sqrt(sum(numbers[::2]))
