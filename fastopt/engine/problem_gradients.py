"""Gradients of many problems: the largest magnitude and the norm of each, and by how much it is clipped."""

from __future__ import annotations

import ctypes
import math
from functools import cache
from typing import Any

import numpy as np
from numba import types

from fastopt.engine.norms import LEAST_SUM, Norm, clipped
from fastopt.engine.plan import Plan
from fastopt.flat import Array
from fastopt.kernels import flags, problems
from fastopt.kernels.compile import compiled


def gradient(plan: Plan, number: int, size: int) -> Array:
    """The gradient of an active leaf as the kernels see it: float[problems, elements of each]."""
    leaf = plan.table.active[number]
    values = _at(int(plan.table.addresses[leaf.row, 1]), leaf.layout.nbytes, leaf.layout.dtype)
    return values.reshape(size, -1)


def peaks(plan: Plan, size: int) -> list[Array]:
    """The largest magnitude of each problem's gradient, by leaf."""
    found = []
    for number in range(len(plan.table.active)):
        values = gradient(plan, number, size)
        if flags.compiles():
            largest = np.zeros(size)
            _compiled_peaks()(*_place(values), largest)
        else:
            largest = np.abs(values).max(axis=1, initial=0).astype(np.float64)
        found.append(largest)
    return found


def factors(plan: Plan, size: int, factor: float, most: float, found: Array) -> None:
    """Writes the factor of each problem's gradient, which has a largest norm."""
    totals, rests = np.zeros(size), np.zeros(size)
    for number in range(len(plan.table.active)):
        values = gradient(plan, number, size)
        if flags.compiles():
            _compiled_squares()(*_place(values), totals, rests)
        else:
            with np.errstate(over="ignore"):
                squares = np.square(values.astype(np.float64))
            for problem, row in enumerate(squares.tolist()):
                totals[problem], rests[problem] = _pair([totals[problem], rests[problem], *row])
    find: Any = _compiled_factors() if flags.compiles() else problems.problem_factors
    with np.errstate(all="ignore"):
        odd = find(totals, rests, factor, most, LEAST_SUM, found)
    for problem in np.flatnonzero(np.isnan(found)).tolist() if odd else ():
        found[problem] = clipped(factor, _norm(plan, size, problem), most)


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
    return compiled(problems.problem_peaks, *[types.int64] * 4, _NUMBERS)


@cache
def _compiled_squares() -> Any:
    return compiled(problems.problem_squares, *[types.int64] * 4, _NUMBERS, _NUMBERS)


@cache
def _compiled_factors() -> Any:
    return compiled(problems.problem_factors, _NUMBERS, _NUMBERS, *[types.float64] * 3, _NUMBERS)
