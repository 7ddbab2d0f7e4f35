"""Kernels in pure Python."""

from __future__ import annotations

import ctypes
import inspect
import math
import types
from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any

import numpy as np

from fastopt.kernels import codecs, problems
from fastopt.kernels.compose import clone, composed
from fastopt.kernels.intrinsics import KEPT, SIGN_KEPT, smallest_state
from fastopt.kernels.loops import PIECE
from fastopt.kernels.modulus import LANES
from fastopt.kernels.passes import COMPENSATION, DOWN, FACTORS, FIELDS, SECOND_COMPENSATION, SECOND_TOTAL, TOTAL, UP
from fastopt.kernels.rule import Rule
from fastopt.kernels.transforms import with_scalars


class InterpretedRule(Rule):
    """A rule whose steps are in pure Python."""


def in_pure_python(rule: Rule) -> InterpretedRule:
    """The same rule, with steps in pure Python."""
    return InterpretedRule(**{field.name: getattr(rule, field.name) for field in fields(rule)})


def on_arrays(formula: Callable[..., Any]) -> Callable[..., Any]:
    """The formula with NumPy's functions for those of `math`, which keep the dtype and take arrays too."""
    names = inspect.getclosurevars(formula).globals
    return clone(formula, formula.__name__, {name: _numpy_form(value) for name, value in names.items()})


def _numpy_form(value: Any) -> Any:
    if value is math:
        return types.SimpleNamespace(**{name: _numpy_form(function) for name, function in vars(math).items()})
    if getattr(value, "__module__", None) == "math":  # from math import sqrt
        return getattr(np, value.__name__, None) or _without_errors(value)
    return on_arrays(value) if isinstance(value, types.FunctionType) else value


def _without_errors(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function of `math` that returns infinity or NaN, as the compiled ones do, where it would raise."""

    def returning(*numbers: Any) -> Any:
        try:
            return function(*numbers)
        except OverflowError:
            return math.inf
        except ValueError:
            return math.nan

    return returning


def interpreted(
    rule: Rule, dtype: str, which: str, transforms: tuple[str, ...] = (), modulus: bool = False
) -> Callable[..., None]:
    """The kernel in pure Python, for NUMBA_DISABLE_JIT=1 and FASTOPT_CHECK=1.

    The same table and the same bits, a thousand times slower.
    """
    number = np.dtype(dtype).type
    smallest = number(smallest_state(dtype))
    scalars = ctypes.c_double * (len(rule.scalars) + len(with_scalars(transforms)))
    written = [rule.columns(transforms).index(column) for column in rule.columns(with_scalars(transforms))]
    of_numbers = on_arrays_of(rule.paired if modulus else rule)
    formula = composed(of_numbers, transforms, rule.name, _in_python, which, modulus)
    lanes = LANES if modulus else 1

    def flushed(value: Any, kind: int) -> Any:
        if abs(value) < smallest and kind != KEPT:
            return np.copysign(smallest, value) if kind == SIGN_KEPT and value else value * 0
        return value

    @np.errstate(all="ignore")
    def kernel(table: Any, starts: Any, threads: int) -> None:
        for number_of_array, size in enumerate(np.diff(starts).tolist()):
            memory = ctypes.c_float * size if number is np.float32 else ctypes.c_double * size
            addresses = table[number_of_array, list(rule.columns(transforms))]
            arrays = [np.ctypeslib.as_array(memory.from_address(int(at))) for at in addresses]
            constants = [number(x) for x in scalars.from_address(int(table[number_of_array, -1]))]
            before = arrays[0].astype(np.float64)
            elements = [[tuple(pair) for pair in array.reshape(-1, 2)] for array in arrays] if modulus else arrays
            for index in range(size // lanes if which in ("step", "report") else 0):
                p, *state = formula(*(array[index] for array in elements), *constants)
                here = slice(lanes * index, lanes * index + lanes)
                arrays[0][here] = p
                for place, value, kind in zip(written[2:], state, rule.small(transforms), strict=True):
                    arrays[place][here] = [flushed(number, kind) for number in (value if modulus else (value,))]
            for index in range(size if which == "prepare" else 0):
                arrays[-1][index] = formula(*(array[index] for array in arrays), *constants)
            if which in ("step", "prepare"):
                continue
            row = int(starts[number_of_array]) // PIECE + number_of_array
            cells = (ctypes.c_double * FIELDS).from_address(int(table[-1, 0]) + 8 * FIELDS * row)
            parameter, gradient = (array.astype(np.float64) for array in arrays[:2])
            if which == "norm":
                cells[TOTAL], cells[COMPENSATION] = _squares(gradient)
            elif which == "totals":
                results = [formula(*(array[index] for array in arrays), *constants) for index in range(size)]
                for cell, values in enumerate(np.array(results, np.float64).reshape(-1, 2).T):
                    cells[2 * cell], cells[2 * cell + 1] = _sum(values.tolist())
            elif which == "aligned":
                count = sum(bool(formula(*(array[index] for array in arrays), *constants)) for index in range(size))
                cells[TOTAL], cells[COMPENSATION] = float(count), 0.0
            elif which == "quick_norm":
                cells[TOTAL], cells[COMPENSATION] = np.square(gradient).sum(), 0.0
            elif which == "measure" or which in FACTORS:
                results = [formula(*(array[index] for array in elements), *constants) for index in range(size // lanes)]
                measures = np.array(results, np.float64).reshape(-1, 2, lanes).swapaxes(0, 1)
                one, other = FACTORS.get(which, 1.0) * measures.reshape(2, -1)
                cells[TOTAL], cells[COMPENSATION] = _squares(one)
                cells[SECOND_TOTAL], cells[SECOND_COMPENSATION] = _squares(other)
            else:
                seen = (arrays[1] * arrays[1]).reshape(-1, lanes).sum(1) if which == "finite_squares" else gradient
                plain, large, small = (
                    [float(np.square(x * factor).sum()) for x in (gradient, parameter, parameter - before)]
                    for factor in (1.0, DOWN, UP)
                )
                cells[:] = [*plain, int((gradient == 0).sum()), int((~np.isfinite(seen)).sum()), *large, *small]

    return kernel


_OPERATIONS: dict[int, Callable[[Any, Any], Any]] = {
    problems.TAKE: lambda value, other: other,
    problems.MULTIPLY: np.multiply,
    problems.DIVIDE: np.divide,
    problems.ADD: np.add,
}
"""The functions of the operations of `problems.py`."""


def interpreted_problems(
    rule: Rule, dtype: str, transforms: tuple[str, ...], places: tuple[int, ...]
) -> Callable[..., None]:
    """The kernel for many problems at once in pure Python: each active one is a step of its own.

    places : as `PLACES` in `problems.py`, which says what the table holds
    """
    step = interpreted(rule, dtype, "step", transforms)
    size_of = np.dtype(dtype).itemsize

    def numbers(address: Any, count: int, kind: Any) -> Any:
        return np.ctypeslib.as_array((kind * int(count)).from_address(int(address)))

    def scalar(shared: Any, number: int, size: int) -> Any:
        first = problems.SCALARS_AT + problems.EACH * number
        source, _, count, *operations = shared[first : first + problems.EACH].tolist()
        values = numbers(source, size, ctypes.c_double).copy() if source else np.zeros(size)
        index = numbers(shared[problems.INDEX], size, ctypes.c_int64) if shared[problems.INDEX] else [0] * size
        moved = int(numbers(shared[problems.MOVED], 1, ctypes.c_int64)[0])
        for kind, address in zip(operations[0 : 2 * count : 2], operations[1 : 2 * count : 2], strict=True):
            others = np.array([numbers(address + moved + int(at), 1, ctypes.c_double)[0] for at in index])
            with np.errstate(all="ignore"):
                values = _OPERATIONS[kind](values, others)
        return values

    def kernel(table: Any, starts: Any, threads: int) -> None:
        for row, elements in enumerate(np.diff(starts).tolist()):
            own = numbers(table[row, -1], problems.SHARED + 1, ctypes.c_int64)
            width, last = int(own[problems.WIDTH]), problems.SCALARS_AT + problems.EACH * (max(places) + 1)
            size = elements // width if elements else 0
            shared = numbers(own[problems.SHARED], last, ctypes.c_int64)
            constants = numbers(own[problems.CONSTANTS], len(places) - 1, ctypes.c_double)
            differing = [scalar(shared, number, size) for number in range(max(places) + 1)]
            for problem in range(size):
                at = [
                    c if place < 0 else differing[place][problem] for c, place in zip(constants, places, strict=False)
                ]
                if places[-1] >= 0 and not differing[places[-1]][problem]:
                    continue
                scalars, single = np.array(at), table[[row, -1]].copy()
                single[0, : len(rule.state) + 2] += problem * width * size_of
                single[0, -1] = scalars.ctypes.data
                step(single, np.array([0, width]), 1)

    return kernel


def on_arrays_of(rule: Rule) -> Rule:
    """A rule of the same formulas on arrays."""
    return replace(rule, formula=on_arrays(rule.formula), metric=rule.metric and on_arrays(rule.metric))


def _in_python(function: Any) -> Any:
    """A function with what an intrinsic of it is in Python."""
    function.__globals__["chosen"] = lambda mask, new, old: new if np.any(mask) else old[: len(new)]
    return function


def _squares(values: Any) -> tuple[float, float]:
    """The sum of squares, and what rounding took from it."""
    return _sum((values**2).tolist())


def _sum(values: list[float]) -> tuple[float, float]:
    """A sum, and what rounding took from it."""
    total = sum(values)
    if not math.isfinite(total):
        return total, 0.0
    total = math.fsum(values)
    return total, math.fsum([*values, -total])


class Stored:
    """A kernel of a rule whose state is stored in fewer bits, in pure Python.

    storage : as in `codecs`
    nonnegative : whether each slot is never negative
    names, step : uint64[arrays, slots] and uint64[1], the hashes from which `codecs.slot_key` is made
    """

    def __init__(
        self,
        kernel: Callable[..., None],
        storage: str,
        nonnegative: list[bool],
        names: Any,
        step: Any,
        encodes: bool = True,
    ) -> None:
        self._kernel, self._storage, self._nonnegative = kernel, storage, nonnegative
        self._names, self._step, self._encodes = names, step, encodes

    def __call__(self, table: Any, starts: Any, threads: int) -> None:
        """Decodes the state of all arrays, has the kernel work on it, and encodes it."""
        decoded, copies = table.copy(), []
        keys = codecs.mixed(self._names ^ self._step)
        for row, size in enumerate(np.diff(starts).tolist()):
            for slot, nonnegative in enumerate(self._nonnegative):
                memory = ctypes.c_uint8 * codecs.run_bytes(self._storage, size)
                run = np.ctypeslib.as_array(memory.from_address(int(table[row, 2 + slot])))
                values = codecs.decode(self._storage, nonnegative, run, size).copy()
                decoded[row, 2 + slot] = values.ctypes.data
                copies.append((nonnegative, values, int(codecs.pair_key(int(keys[row, slot]), slot)), run))
        self._kernel(decoded, starts, threads)
        for nonnegative, values, key, run in copies if self._encodes else ():
            codecs.encode(self._storage, nonnegative, values, key, run)
