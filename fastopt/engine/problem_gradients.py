"""Gradients of many problems: the largest magnitude and the norm of each, and by how much it is clipped."""

from __future__ import annotations

import ctypes
import math
from functools import cache
from typing import Any

import numpy as np
from numba import types

from fastopt.engine.norms import LEAST_SUM, MOST_FLOAT32, Norm, clipped
from fastopt.engine.plan import Plan
from fastopt.flat import Array
from fastopt.kernels import flags, problem_norms
from fastopt.kernels.array_scan import address_of
from fastopt.kernels.compile import compiled
from fastopt.kernels.problem_norms import FACTOR

MOST_ADDED = 1 << 20
"""Elements of a problem of which a plain sum of squares says enough."""


def gradient(plan: Plan, number: int, size: int) -> Array:
    """The gradient of an active leaf as the kernels see it: float[problems, elements of each]."""
    leaf = plan.table.active[number]
    values = _at(int(plan.table.addresses[leaf.row, 1]), leaf.layout.nbytes, leaf.layout.dtype)
    return values.reshape(size, -1)


def peaks(plan: Plan, size: int) -> list[Array]:
    """The largest magnitude of each problem's gradient, by leaf."""
    by_leaf = []
    for number in range(len(plan.table.active)):
        values = gradient(plan, number, size)
        if flags.compiles():
            largest = np.zeros(size)
            _compiled_peaks()(*_place(values), largest)
        else:
            largest = np.abs(values).max(axis=1, initial=0).astype(np.float64)
        by_leaf.append(largest)
    return by_leaf


class Clipping:
    """How the gradients of a plan's problems are clipped, each by its norm.

    factors : float64[problems], by which each is multiplied, to be written
    factor : of those that are not clipped; a number, or float64[problems]
    most : the largest norm, likewise
    words : what `problem_norms.clip_problems` takes, whose sums are of float32 numbers; None where they are not used
    """

    def __init__(self, plan: Plan, factors: Array, factor: Any, most: Any) -> None:
        size = len(factors)
        self.factors, self._plan, self.numbers = factors, plan, (factor, most)
        self.words: Array | None = None
        leaves = sorted(plan.table.active, key=lambda leaf: leaf.row)
        widths = np.array([leaf.layout.size // size for leaf in leaves])
        is_alone = len(plan.table.launches) == 1 and plan.table.launches[0].dtype == "float32"
        are_numbers = not isinstance(factor, np.ndarray) and not isinstance(most, np.ndarray)
        are_few = widths.sum() < MOST_ADDED
        if is_alone and flags.compiles() and are_numbers and abs(factor) < MOST_FLOAT32 and are_few:
            self._widths = widths  # which must live as long
            self.words = np.zeros(problem_norms.CLIPPING_WORDS, np.int64)
            error = (int(widths.sum()) + 16) * 2.0**-53
            self.words[:FACTOR] = size, widths.ctypes.data, self.factors.ctypes.data
            self.words[FACTOR:].view(np.float64)[:] = factor, most, error

    def is_by(self, factor: Any, most: Any) -> bool:
        """Whether these are the factor and the norm, the same numbers for all problems."""
        return all(type(number) is float for number in (factor, most)) and self.numbers == (factor, most)

    def find(self) -> None:
        """Writes the factors."""
        with np.errstate(all="ignore"):
            if self.words is not None:
                (launch,) = self._plan.table.launches
                _compiled_clipping()(address_of(self.words), launch.table, len(launch.starts) - 1)
            else:
                _write_factors(self._plan, self.factors, *self.numbers)


def _write_factors(plan: Plan, factors: Array, factor: Any, most: Any) -> None:
    """Writes the factors from exact sums, which are scaled where squares overflow or vanish."""
    size = len(factors)
    totals, rests = np.zeros(size), np.zeros(size)
    factor, most = np.zeros(size) + factor, np.zeros(size) + most
    for number in range(len(plan.table.active)):
        values = gradient(plan, number, size)
        if flags.compiles():
            _compiled_squares()(*_place(values), totals, rests)
        else:
            squares = np.square(values.astype(np.float64))
            for problem, row in enumerate(squares.tolist()):
                totals[problem], rests[problem] = _pair([totals[problem], rests[problem], *row])
    find: Any = _compiled_factors() if flags.compiles() else problem_norms.problem_factors
    odd = find(totals, rests, factor, most, LEAST_SUM, factors)
    for problem in np.flatnonzero(np.isnan(factors)).tolist() if odd else ():
        factors[problem] = clipped(float(factor[problem]), _norm(plan, size, problem), float(most[problem]))


def _norm(plan: Plan, size: int, problem: int) -> Norm:
    """The norm of a problem's gradient, where squares overflow or vanish."""
    values = [gradient(plan, number, size)[problem].astype(np.float64) for number in range(len(plan.table.active))]
    whole = np.concatenate(values)
    peak = float(np.abs(whole).max(initial=0.0))
    if not 0 < peak < math.inf:
        return Norm(math.sqrt(float(np.square(whole).sum())))
    exponent = math.frexp(peak)[1]
    return Norm(math.sqrt(math.fsum(np.square(np.ldexp(whole, -exponent)).tolist())), exponent)


def _place(values: Array) -> tuple[int, int, int, int]:
    """The address of values, the size of one as a power of two, and their shape."""
    return values.ctypes.data, values.itemsize.bit_length() - 1, *values.shape


def _at(address: int, size: int, dtype: Any) -> Array:
    """The memory at an address as an array."""
    memory: Any = (ctypes.c_char * size).from_address(address) if size else b""
    values: Array = np.frombuffer(memory, dtype)
    return values


def _pair(numbers: list[float]) -> tuple[float, float]:
    """A sum, and what rounding takes from it."""
    total = sum(numbers)
    if not math.isfinite(total):
        return total, 0.0
    total = math.fsum(numbers)
    return total, math.fsum([*numbers, -total])


_NUMBERS = types.Array(types.float64, 1, "C")


@cache
def _compiled_peaks() -> Any:
    return compiled(problem_norms.problem_peaks, *[types.int64] * 4, _NUMBERS)


@cache
def _compiled_squares() -> Any:
    return compiled(problem_norms.problem_squares, *[types.int64] * 4, _NUMBERS, _NUMBERS)


@cache
def _compiled_factors() -> Any:
    return compiled(problem_norms.problem_factors, *[_NUMBERS] * 4, types.float64, _NUMBERS)


@cache
def _compiled_clipping() -> Any:
    return compiled(problem_norms.clip_problems, types.int64, types.Array(types.int64, 2, "C"), types.int64)
