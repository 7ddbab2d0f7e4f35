"""From a scalar formula to compiled kernels: the only file that knows numba's flags.

A rule is a function of scalars, `formula(p, g, *state, *scalars) -> (p, *state)`. `Rule.kernel` puts it into the one
loop of this file, `sweep`, and compiles that for a dtype, serial or parallel.
"""

from __future__ import annotations

import hashlib
import inspect
import types
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, cached_property
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numba
import numpy as np
from numba import njit, prange

from fastopt.kernels import elements
from fastopt.kernels.elements import addresses, cast, load, store

FLAGS: dict[str, Any] = {
    # Division as in NumPy. "python" checks every divisor for zero and leaves the loop scalar: 2.34 against 0.31 ns
    # per element of Adam. No fastmath: it folds isnan to False and gains nothing in memory.
    "error_model": "numpy",
    # Two Python threads may step two optimizers at once.
    "nogil": True,
}

# Threads get whole blocks of this many elements, so that two of them rarely write to one cache line.
BLOCK = 64

# What `sweep` finds under these names in its globals; every compiled clone of it has its own.
rule: Any = None  # the formula, compiled
DTYPE: Any = None  # np.float32 or np.float64
COLUMNS: Any = None  # a tuple as long as a row of the table


def sweep(table, starts, threads, scalars):  # type: ignore[no-untyped-def]
    """Applies the rule to every element of every array.

    table : int64[arrays, 2 + state slots], the addresses of parameter, gradient and state
    starts : int64[arrays + 1], the running sum of the array sizes
    threads : how many equal shares to cut the elements into, across array borders; one per thread
    scalars : float64 tuple, the rule's scalars in the order of the formula
    """
    constants = cast(scalars, DTYPE)
    total = starts[-1]
    for thread in prange(threads):
        first = total * thread // threads // BLOCK * BLOCK
        last = total if thread == threads - 1 else total * (thread + 1) // threads // BLOCK * BLOCK
        array = np.searchsorted(starts, first, side="right") - 1
        while first < last:
            begin = starts[array]
            end = min(last, starts[array + 1])
            where = addresses(table, array, COLUMNS)
            for index in range(first - begin, end - begin):
                store(where, index, rule(*(load(where, index, DTYPE) + constants)))
            first = end
            array += 1


@dataclass(frozen=True)
class Rule:
    """An update rule: its formula on scalars and the names of its state slots.

    formula : `(p, g, *state, *scalars) -> (p, *state)` on plain numbers; numeric literals are not allowed (they would
        make float32 arithmetic float64), `math` functions are.
    state : the names of the state slots, in the order of the formula.
    """

    formula: Callable[..., Any]
    state: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return self.formula.__name__

    @cached_property
    def scalars(self) -> tuple[str, ...]:
        """The names of the formula's scalars."""
        return tuple(inspect.signature(self.formula).parameters)[2 + len(self.state) :]

    def kernel(self, dtype: str, parallel: bool) -> Callable[[Any, Any, int, tuple[float, ...]], None]:
        """The compiled `sweep` of this rule for `dtype` ("float32" or "float64").

        Compiled, or loaded from numba's disk cache, at the first call and kept for the life of the process.
        """
        return _kernel(self, dtype, parallel)

    def dispatcher(self, dtype: str, parallel: bool) -> Any:
        """The numba dispatcher of a kernel, not compiled yet and without the disk cache (to inspect its code)."""
        name = f"{self.name}_{dtype}_{'parallel' if parallel else 'serial'}_{_digest(self.formula)}"
        names = {
            "rule": njit(**FLAGS)(self.formula),
            "DTYPE": getattr(np, dtype),
            "COLUMNS": (0,) * (2 + len(self.state)),
        }
        clone = types.FunctionType(sweep.__code__, {**sweep.__globals__, **names}, name)
        # numba's disk cache takes this name as its key. It knows nothing of the callee or of globals, hence the digest.
        clone.__qualname__ = name
        return njit(parallel=parallel, **FLAGS)(clone)

    def signature(self) -> tuple[Any, ...]:
        """The argument types of every kernel of this rule."""
        return (
            numba.types.Array(numba.int64, 2, "C"),
            numba.types.Array(numba.int64, 1, "C"),
            numba.int64,
            numba.types.UniTuple(numba.float64, len(self.scalars)),
        )


@cache
def _kernel(rule: Rule, dtype: str, parallel: bool) -> Callable[..., None]:
    return _compiled(lambda: rule.dispatcher(dtype, parallel), rule.signature())


@cache
def compiled(function: Callable[..., Any], *signature: Any) -> Callable[..., Any]:
    """A function of the package, with the plain functions that it calls, compiled for one signature.

    Serial, holding the GIL, through the disk cache.
    """
    flags = {**FLAGS, "nogil": False}
    helpers = {
        name: njit(**flags)(value)
        for name, value in inspect.getclosurevars(function).globals.items()
        if isinstance(value, types.FunctionType)
    }
    clone = types.FunctionType(function.__code__, {**function.__globals__, **helpers})
    clone.__qualname__ = f"{function.__name__}_{_digest(function)}"
    return _compiled(lambda: njit(**flags)(clone), signature)


def _compiled(dispatcher: Callable[[], Any], signature: tuple[Any, ...]) -> Callable[..., Any]:
    """Compiles one signature and returns its entry point, which skips numba's look-up of types at every call."""
    try:
        made = dispatcher()
        made.enable_caching()
        made.compile(signature)
    except Exception as error:
        # No folder to write to, a full disk, a damaged file: a cache problem may cost time, never a step.
        made = dispatcher()
        made.compile(signature)
        warnings.warn(
            f"fastopt: numba's disk cache is not usable ({error}); kernels are compiled anew in every process. "
            "Set NUMBA_CACHE_DIR to a folder that can be written to.",
            RuntimeWarning,
            stacklevel=2,
        )
    (overload,) = made.overloads.values()
    return overload.entry_point  # type: ignore[no-any-return]


@cache
def _machinery() -> str:
    """What the machine code of every kernel depends on besides the formula."""
    try:
        package = version("fastopt")
    except PackageNotFoundError:
        package = "not installed"
    files = [Path(path).read_bytes() for path in (__file__, elements.__file__)]
    return repr((package, FLAGS, [hashlib.sha256(content).hexdigest() for content in files]))


def _digest(function: Callable[..., Any]) -> str:
    return hashlib.sha256((_machinery() + _fingerprint(function)).encode()).hexdigest()[:16]


def _fingerprint(function: Callable[..., Any]) -> str:
    """Everything that a Python function's compiled form depends on: its code, and what its global names mean."""
    closure = inspect.getclosurevars(function)
    names = {**closure.nonlocals, **closure.globals}
    return repr((_code(function.__code__), [(name, _meaning(names[name])) for name in sorted(names)]))


def _code(code: types.CodeType) -> tuple[Any, ...]:
    constants = [_code(value) if isinstance(value, types.CodeType) else value for value in code.co_consts]
    return code.co_code, constants, code.co_names, code.co_varnames


def _meaning(value: Any) -> str:
    if isinstance(value, types.FunctionType):
        return _fingerprint(value)
    return value.__name__ if isinstance(value, types.ModuleType) else repr(value)
