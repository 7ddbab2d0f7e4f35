"""Constraints on groups of elements, rows or columns: a pass over the new parameters, after the step.

Each is a function `(parameter, start, stride, count, amount)` that writes one group in place: `count` elements of the
array at the address `parameter`, from `start` on, every `stride`-th. One thread works on a group, so the bits do not
depend on how many there are; squares are added up as exact pairs. Numbers are float64 until they are stored. A group
with NaN or infinity in it is left alone.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable
from functools import cache, partial
from typing import Any

import numpy as np
from numba import njit
from numba.core.ccallback import CFunc

from fastopt.kernels.cache import digest_of, through_cache
from fastopt.kernels.compile import DRIVER, LOOP, compiled, form_address
from fastopt.kernels.compose import clone
from fastopt.kernels.exact_sum import add_squares
from fastopt.kernels.flags import FLAGS, INNER, compiles
from fastopt.kernels.intrinsics import numbers, peek, put
from fastopt.kernels.loops import parallel, serial
from fastopt.kernels.passes import BLOCK, DOWN, UP
from fastopt.kernels.storage import get
from fastopt.kernels.stores import PLAIN, stack_block

SMALLEST = float(np.finfo(np.float64).tiny)
"""The smallest normal number, by which 1 can be divided."""

# What the functions below find under these names in their globals; every compiled clone of them has its own.
DTYPE: Any = None  # np.float32 or np.float64
SIZE: Any = None  # the bytes of an element
constrain: Any = None  # one of `PROJECTIONS`, compiled


def norm_times(parameter, start, stride, count, factor):
    """The norm of a group, each element times factor."""
    total = compensation = 0.0
    if stride == 1 and factor == 1.0:
        total, compensation = add_squares(total, compensation, parameter, start, start + count, DTYPE)
        return math.sqrt(total + compensation)
    block = stack_block()
    for begin in range(0, count, BLOCK):
        size = min(BLOCK, count - begin)
        for place in range(size):
            put(block, place, DTYPE(get(parameter, start + (begin + place) * stride, DTYPE) * factor))
        total, compensation = add_squares(total, compensation, block, 0, size, DTYPE)
    return math.sqrt(total + compensation)


def norm_of(parameter, start, stride, count):
    """The norm of a group, also where squares of float64 numbers overflow or vanish."""
    norm = norm_times(parameter, start, stride, count, 1.0)
    if SIZE == 8 and not norm < 1e150:
        norm = norm_times(parameter, start, stride, count, DOWN) * UP
    elif SIZE == 8 and norm < 1e-140:
        norm = norm_times(parameter, start, stride, count, UP) * DOWN
    return norm


def rescale(parameter, start, stride, count, factor):
    """Multiplies a group by a factor."""
    for place in range(count):
        index = start + place * stride
        put(parameter, index, DTYPE(np.float64(get(parameter, index, DTYPE)) * factor))


def group_lasso(parameter, start, stride, count, threshold):
    """The proximal step of the penalty that is the norm of each group: `p max(0, 1 - threshold / norm)`."""
    norm = norm_of(parameter, start, stride, count)
    if norm > threshold > 0 and norm < np.inf:
        rescale(parameter, start, stride, count, 1 - threshold / norm)
    elif norm <= threshold and threshold > 0:
        for place in range(count):
            put(parameter, start + place * stride, DTYPE(0.0))


def max_norm(parameter, start, stride, count, most):
    """Groups whose norm is larger are scaled down to it."""
    norm = norm_of(parameter, start, stride, count)
    if most < norm < np.inf:
        rescale(parameter, start, stride, count, most / norm)


def unit_norm(parameter, start, stride, count, wanted):
    """Groups are scaled to norm one; zeros, and what is subnormal, stay."""
    norm = norm_of(parameter, start, stride, count)
    if wanted and SMALLEST <= norm < np.inf:
        rescale(parameter, start, stride, count, 1 / norm)


def simplex(parameter, start, stride, count, wanted):
    """The nearest group of numbers that are not negative and sum to one: `max(0, p - shift)` (Michelot 1986).

    Beginning with all elements, the shift is that with which those above it would sum to one, until they stay the
    same. Elements are taken relative to the largest, so that sums are of numbers between -1 and 0.
    """
    largest = -np.inf
    for place in range(count):
        value = np.float64(get(parameter, start + place * stride, DTYPE))
        largest = value if value > largest or value != value else largest
        if not abs(value) < np.inf:
            return
    shift, before = -1.0, count + 1
    while wanted:
        total, compensation, above = 0.0, 0.0, 0
        for place in range(count):
            value = np.float64(get(parameter, start + place * stride, DTYPE)) - largest
            if value > shift:
                new = total + value
                part = new - total
                compensation += (total - (new - part)) + (value - part)
                total = new
                above += 1
        if above >= before:
            break
        shift, before = (total + compensation - 1.0) / above, above
    for place in range(count if wanted else 0):
        index = start + place * stride
        value = np.float64(get(parameter, index, DTYPE)) - largest - shift
        put(parameter, index, DTYPE(value if value > 0 else 0.0))


PROJECTIONS: dict[str, Callable[..., None]] = {
    function.__name__: function for function in (group_lasso, max_norm, unit_norm, simplex)
}
"""In the order in which they are applied."""

FIELDS = 4
ADDRESS, COUNT, STRIDE, AMOUNT = range(FIELDS)
"""The columns of the table: addresses of parameter and amount, the elements of a group and the step between them."""


def group_loop(row, scalars, parameter, statistics, form, first, last):
    """Applies a constraint to the groups of an array that begin among its elements `first` to `last`.

    Groups are counted as if each lay in one piece, so that pieces of as many elements are as much work.
    """
    count, stride = peek(row + 8 * COUNT), peek(row + 8 * STRIDE)
    (amount,) = numbers(scalars, (0,), np.float64)
    for group in range((first + count - 1) // count, (last + count - 1) // count):
        constrain(parameter, group // stride * count * stride + group % stride, stride, count, amount)


def groups_of(shape: tuple[int, ...], order: str, axis: int | None) -> tuple[int, int]:
    """How many elements the groups of an array have that lie along an axis, and the step between them in memory."""
    if axis is None or len(shape) < 2:
        return math.prod(shape), 1
    shape, axis = (shape[::-1], -1 - axis) if order == "F" else (shape, axis)
    axis %= len(shape)
    return shape[axis], math.prod(shape[axis + 1 :])


@cache
def projection(kind: str, dtype: str, in_parallel: bool) -> Callable[[Any, Any, int], None]:
    """The compiled kernel of a constraint: takes a table of `FIELDS`, running sums of sizes and threads."""
    if not compiles():
        return partial(_in_python, _bound(PROJECTIONS[kind], dtype, "python", _python_function, _PYTHON))
    driver = compiled(parallel if in_parallel else serial, *DRIVER, nogil=True, in_parallel=in_parallel)
    return partial(driver, _callback(kind, dtype).address, form_address(PLAIN, dtype))


@cache
def _callback(kind: str, dtype: str) -> Any:
    return through_cache(lambda: callback(kind, dtype), CFunc.compile)


def callback(kind: str, dtype: str) -> CFunc:
    """The loop of a constraint, not compiled yet and without the disk cache."""
    name = f"{kind}_{dtype}_{digest_of(group_loop, PROJECTIONS[kind])}"
    constrain = _bound(PROJECTIONS[kind], dtype, name, njit(**FLAGS, **INNER), {})
    return CFunc(clone(group_loop, f"groups_{name}", {"constrain": constrain}), LOOP, {}, FLAGS)


def _bound(function: Any, dtype: str, name: str, compile: Callable[[Any], Any], more: dict[str, Any]) -> Any:
    """A function with those that it calls, for a dtype."""
    names = {"DTYPE": getattr(np, dtype), "SIZE": np.dtype(dtype).itemsize, **more}
    names |= {
        helper.__name__: _bound(helper, dtype, name, compile, more)
        for helper in (norm_times, norm_of, rescale)
        if helper.__name__ in function.__code__.co_names
    }
    return compile(clone(function, f"{function.__name__}_{name}", names))


def _python_function(function: Any) -> Any:
    return np.errstate(all="ignore")(function)


def _element(address: int, index: int, dtype: Any) -> Any:
    kind = ctypes.c_float if dtype is np.float32 else ctypes.c_double
    return kind.from_address(int(address) + ctypes.sizeof(kind) * int(index))


def _python_squares(total: float, compensation: float, address: int, first: int, last: int, dtype: Any) -> Any:
    numbers = [float(_element(address, index, dtype).value) for index in range(first, last)]
    squares = [total, compensation, *[number * number for number in numbers]]
    if not math.isfinite(sum(squares)):
        return sum(squares), 0.0
    total = math.fsum(squares)
    return total, math.fsum([*squares, -total])


def _python_put(address: int, index: int, value: Any) -> None:
    _element(address, index, type(value)).value = value


_ROOM = (ctypes.c_double * BLOCK)()

_PYTHON: dict[str, Any] = {
    "get": lambda address, index, dtype: dtype(_element(address, index, dtype).value),
    "put": _python_put,
    "add_squares": _python_squares,
    "stack_block": lambda: ctypes.addressof(_ROOM),
}
"""The intrinsics in pure Python."""


def _in_python(constrain: Any, table: Any, starts: Any, threads: int) -> None:
    for row, size in zip(table.tolist(), np.diff(starts).tolist(), strict=False):
        amount = ctypes.c_double.from_address(row[AMOUNT]).value
        count, stride = row[COUNT], row[STRIDE]
        for group in range(size // count):
            constrain(row[ADDRESS], group // stride * count * stride + group % stride, stride, count, amount)
