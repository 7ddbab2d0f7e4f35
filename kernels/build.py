"""From a scalar formula to compiled kernels: the only file that knows numba's flags.

A rule is a function of scalars, `formula(p, g, *state, *scalars) -> (p, *state)`. `Rule.kernel` puts it into the one
loop of this file, `span`, and compiles that for a dtype, serial or parallel.
"""

from __future__ import annotations

import hashlib
import inspect
import os
import types
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numba
import numpy as np
from numba import njit, prange
from numba.core import config

from fastopt.kernels import elements
from fastopt.kernels.elements import addresses, cast, fetch_add, load, plus, put, squares, store
from fastopt.kernels.gradients import OPTIONS

FLAGS: dict[str, Any] = {
    # Division as in NumPy. "python" checks every divisor for zero and leaves the loop scalar: 2.34 against 0.31 ns
    # per element of Adam. No fastmath: it folds isnan to False and gains nothing in memory.
    "error_model": "numpy",
    # Two Python threads may step two optimizers at once.
    "nogil": True,
}

# Threads take the elements in pieces of this many: long enough that taking one (some 20 ns) costs nothing, short enough
# that no thread waits long for another.
PIECE = 8192

# Counters of different threads stand a cache line apart.
LINE = 8

# FASTOPT_CHECK=1: every address is looked at before a launch, and kernels run in pure Python, to find memory errors.
CHECK = os.environ.get("FASTOPT_CHECK") == "1"

# Columns of a tally: sums of squares of gradients, of new parameters and of their changes, then numbers of gradients
# that are zero and that are not finite.
GRADIENTS, PARAMETERS, CHANGES, ZEROS, NONFINITE = range(5)
FIELDS = 5
TOTAL, REST = 0, 1  # of a look at the norm

# What `span` and `with_option` find under these names in their globals; every compiled clone of them has its own.
rule: Any = None  # the formula, compiled, with the options that are bound
option: Any = None  # a function of gradients.py, compiled
DTYPE: Any = None  # np.float32 or np.float64
COLUMNS: Any = None  # a tuple as long as a row of the table


def with_option(p, g, *rest):  # type: ignore[no-untyped-def]
    """A rule with an option before it, whose amount stands behind the rule's scalars."""
    p, g = option(p, g, rest[-1])
    return rule(p, g, *rest[:-1])


def span(table, starts, first, last, scalars):  # type: ignore[no-untyped-def]
    """Applies the rule to elements `first` to `last` of all arrays, counted through as if they were one."""
    constants = cast(scalars, DTYPE)
    array = np.searchsorted(starts, first, side="right") - 1
    while first < last:
        begin = starts[array]
        end = min(last, starts[array + 1])
        where = addresses(table, array, COLUMNS)
        for index in range(first - begin, end - begin):
            store(where, index, rule(*(load(where, index, DTYPE) + constants)), DTYPE)
        first = end
        array += 1


def tallied_span(table, starts, first, last, scalars):  # type: ignore[no-untyped-def]
    """`span`, which also adds up what a report of the step needs, one row of the tally per array and piece.

    The table's last row holds the address of the tally. Sums over a piece are added up in one order, however many
    threads there are.
    """
    constants = cast(scalars, DTYPE)
    array = np.searchsorted(starts, first, side="right") - 1
    tally = table[len(starts) - 1, 0]
    while first < last:
        begin, piece = starts[array], first // PIECE
        end = min(last, starts[array + 1], (piece + 1) * PIECE)
        where = addresses(table, array, COLUMNS)
        gradients = parameters = changes = 0.0
        zeros = strange = 0
        for index in range(first - begin, end - begin):
            before = load(where, index, DTYPE)
            after = rule(*(before + constants))
            store(where, index, after, DTYPE)
            gradient, parameter = np.float64(before[1]), np.float64(after[0])
            change = parameter - np.float64(before[0])
            gradients = plus(gradients, gradient * gradient)
            parameters = plus(parameters, parameter * parameter)
            changes = plus(changes, change * change)
            zeros += gradient == 0
        if not gradients < np.inf:
            for index in range(first - begin, end - begin):
                strange += not abs(load(where, index, DTYPE)[1]) < np.inf
        row = FIELDS * (piece + array)
        put(tally, row + GRADIENTS, gradients)
        put(tally, row + PARAMETERS, parameters)
        put(tally, row + CHANGES, changes)
        put(tally, row + ZEROS, np.float64(zeros))
        put(tally, row + NONFINITE, np.float64(strange))
        first = end
        if end == starts[array + 1]:
            array += 1


def gradient_span(table, starts, first, last, scalars):  # type: ignore[no-untyped-def]
    """Writes to the tally whether there is a gradient that is not finite, and nothing else."""
    zero = DTYPE(0)
    array = np.searchsorted(starts, first, side="right") - 1
    tally = table[len(starts) - 1, 0]
    while first < last:
        begin, piece = starts[array], first // PIECE
        end = min(last, starts[array + 1], (piece + 1) * PIECE)
        where = addresses(table, array, COLUMNS)
        total = zero
        for index in range(first - begin, end - begin):
            total = plus(total, load(where, index, DTYPE)[1] * zero)  # NaN for NaN and infinity
        put(tally, FIELDS * (piece + array) + NONFINITE, np.float64(total != zero))
        first = end
        if end == starts[array + 1]:
            array += 1


def norm_span(table, starts, first, last, scalars):  # type: ignore[no-untyped-def]
    """Writes to the tally the sum of squares of the gradients and what rounding took from it, and nothing else."""
    array = np.searchsorted(starts, first, side="right") - 1
    tally = table[len(starts) - 1, 0]
    while first < last:
        begin, piece = starts[array], first // PIECE
        end = min(last, starts[array + 1], (piece + 1) * PIECE)
        total, rest = squares(table[array, 1], first - begin, end - begin, DTYPE)
        put(tally, FIELDS * (piece + array) + TOTAL, total)
        put(tally, FIELDS * (piece + array) + REST, rest)
        first = end
        if end == starts[array + 1]:
            array += 1


def serial(table, starts, threads, scalars):  # type: ignore[no-untyped-def]
    """Applies the rule to every element of every array.

    table : int64[arrays + 1, 2 + state slots], the addresses of parameter, gradient and state; of the last row the
        first element is the address of the tally, if there is one
    starts : int64[arrays + 1], the running sum of the array sizes
    threads : 1
    scalars : float64 tuple, the rule's scalars in the order of the formula
    """
    span(table, starts, 0, starts[-1], scalars)


def parallel(table, starts, threads, scalars):  # type: ignore[no-untyped-def]
    """The same on several threads.

    The elements are cut into as many equal shares as threads. A thread works through its own share, the same at every
    step, so that its part of the model stays in its core's cache; then it helps with the others'. A core that BLAS's
    threads still hold, spinning, therefore delays a step by one piece and not by a whole share.
    """
    total = starts[-1]
    pieces = (total + PIECE - 1) // PIECE
    taken = np.zeros(threads * LINE, dtype=np.int64)
    for thread in prange(threads):
        for turn in range(threads):
            share = (thread + turn) % threads
            begin, end = pieces * share // threads, pieces * (share + 1) // threads
            piece = begin + fetch_add(taken, share * LINE)
            while piece < end:
                span(table, starts, piece * PIECE, min(piece * PIECE + PIECE, total), scalars)
                piece = begin + fetch_add(taken, share * LINE)


SPANS = {"step": span, "report": tallied_span, "look": gradient_span, "norm": norm_span}
LOOKS = "look", "norm"  # only read gradients, and take no scalars


def no_formula(p, g, *state):  # type: ignore[no-untyped-def]
    """Stands for the rule where none is applied."""


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
        if self.formula is no_formula:
            return ()
        return tuple(inspect.signature(self.formula).parameters)[2 + len(self.state) :]

    def kernel(
        self, dtype: str, in_parallel: bool, which: str = "step", options: tuple[str, ...] = ()
    ) -> Callable[[Any, Any, int, tuple[float, ...]], None]:
        """The compiled `serial` or `parallel` of this rule for `dtype` ("float32" or "float64").

        which : "step"; "report", which fills the tally as well; "look", which only finds out whether all gradients
            are finite; or "norm", which only adds up their squares
        options : the names of the functions of `gradients.OPTIONS` that go before the rule, in that order; the amount
            of the first is the last of the scalars

        Compiled, or loaded from numba's disk cache, at the first call and kept for the life of the process.
        """
        if which in LOOKS:  # has nothing to do with the formula
            self = Rule(no_formula, ("",) * len(self.state))
        if config.DISABLE_JIT or CHECK:
            from fastopt.kernels.interpreted import interpreted  # which needs this file

            return interpreted(self, dtype, which, options)
        kernel, problem = _kernel(self, dtype, in_parallel, which, options)
        _say_once(problem)
        return kernel

    def dispatcher(self, dtype: str, in_parallel: bool, which: str = "step", options: tuple[str, ...] = ()) -> Any:
        """The numba dispatcher of a kernel, not compiled yet and without the disk cache (to inspect its code)."""
        loop = parallel if in_parallel else serial
        digest = _digest(self.formula, *(OPTIONS[name] for name in options))
        name = "_".join((self.name, *options, str(len(self.state)), which, dtype, loop.__name__, digest))
        # The inner functions carry it too: two cached kernels, compiled in two processes, may otherwise hold different
        # functions under one symbol, of which the loader takes the first for both.
        names = {
            "rule": composed(self.formula, options, name, njit(**FLAGS)),
            "DTYPE": getattr(np, dtype),
            "COLUMNS": (0,) * (2 + len(self.state)),
        }
        names = {"span": njit(**FLAGS)(clone(SPANS[which], f"span_{name}", names))}
        # numba's disk cache takes this name as its key. It knows nothing of callees and globals, hence the digest.
        return njit(parallel=in_parallel, **FLAGS)(clone(loop, name, names))

    def signature(self, options: tuple[str, ...] = ()) -> tuple[Any, ...]:
        """The argument types of every kernel of this rule."""
        return (
            numba.types.Array(numba.int64, 2, "C"),
            numba.types.Array(numba.int64, 1, "C"),
            numba.int64,
            numba.types.UniTuple(numba.float64, len(self.scalars) + len(options)),
        )


def clone(function: Any, name: str, names: dict[str, Any]) -> types.FunctionType:
    """A copy of a function that finds `names` in its globals."""
    names = {**function.__globals__, **names}
    copied = types.FunctionType(function.__code__, names, name, function.__defaults__, function.__closure__)
    copied.__qualname__ = name
    return copied


def composed(formula: Any, options: tuple[str, ...], name: str, compile: Callable[[Any], Any]) -> Any:
    """The formula with the options before it; what `name` is for, see `dispatcher`."""
    inner = compile(clone(formula, f"rule_{name}", {}))
    for which in reversed(options):  # the last one applied lies innermost
        names = {"rule": inner, "option": compile(clone(OPTIONS[which], f"{which}_{name}", {}))}
        inner = compile(clone(with_option, f"with_{which}_{name}", names))
    return inner


@cache
def _kernel(
    rule: Rule, dtype: str, in_parallel: bool, which: str, options: tuple[str, ...]
) -> tuple[Callable[..., None], Exception | None]:
    return _compiled(lambda: rule.dispatcher(dtype, in_parallel, which, options), rule.signature(options))


@cache
def compiled(function: Callable[..., Any], *signature: Any) -> Callable[..., Any]:
    """A function of the package, with the plain functions that it calls, compiled for one signature.

    Serial, holding the GIL, through the disk cache.
    """
    flags = {**FLAGS, "nogil": False}
    called = inspect.getclosurevars(function).globals
    helpers = {
        name: njit(**flags)(clone(value, f"{name}_{_digest(value)}", {}))
        for name, value in called.items()
        if isinstance(value, types.FunctionType)
    }
    copied = clone(function, f"{function.__name__}_{_digest(function)}", helpers)
    entry_point, problem = _compiled(lambda: njit(**flags)(copied), signature)
    _say_once(problem)
    return entry_point


def _compiled(make: Callable[[], Any], signature: tuple[Any, ...]) -> tuple[Callable[..., Any], Exception | None]:
    """Compiles a dispatcher for one signature, or loads it from the disk cache.

    Returns the entry point, which skips numba's look-up of types at every call, and what was wrong with the cache.

    A cache problem may cost time, never a step. What is damaged is written anew; where that fails too (no folder to
    write to, a full disk) the kernel is kept in memory only.
    """
    problem: Exception | None = None
    for damaged in (False, True):
        try:
            dispatcher = make()
            dispatcher.enable_caching()
            if damaged:
                dispatcher._cache.flush()
            dispatcher.compile(signature)
            problem = None
            break
        except numba.errors.NumbaError:
            raise  # of the formula, not of the cache
        except Exception as error:
            problem = error
    else:
        dispatcher = make()
        dispatcher.compile(signature)
    (overload,) = dispatcher.overloads.values()
    return overload.entry_point, problem


_said = False


def _say_once(problem: Exception | None) -> None:
    global _said
    if problem is not None and not _said:
        _said = True
        warnings.warn(
            f"fastopt: numba's disk cache cannot be used ({problem}), so kernels are compiled in every process. "
            "Set NUMBA_CACHE_DIR to a folder with free space that can be written to.",
            RuntimeWarning,
            stacklevel=2,
        )


@cache
def _machinery() -> str:
    """What the machine code of every kernel depends on besides the formula."""
    files = [hashlib.sha256(Path(path).read_bytes()).hexdigest() for path in (__file__, elements.__file__)]
    # Settings of numba's that change the code but are not in the key of its cache (numba #10821).
    settings = [getattr(config, name, None) for name in ("OPT", "BOUNDSCHECK", "LOOP_VECTORIZE", "SLP_VECTORIZE")]
    return repr((version("fastopt"), FLAGS, files, settings))


def _digest(*functions: Callable[..., Any]) -> str:
    return hashlib.sha256((_machinery() + "".join(map(_fingerprint, functions))).encode()).hexdigest()[:16]


def _fingerprint(function: Callable[..., Any]) -> str:
    """Everything that a Python function's compiled form depends on: its code, and what its global names mean."""
    closure = inspect.getclosurevars(function)
    names = {**closure.nonlocals, **closure.globals}
    return repr((_code(function.__code__), [(name, _meaning(names[name])) for name in sorted(names)]))


def _code(code: types.CodeType) -> tuple[Any, ...]:
    constants = [_code(value) if isinstance(value, types.CodeType) else value for value in code.co_consts]
    return code.co_code, constants, code.co_names, code.co_varnames


def _meaning(value: Any) -> str:
    value = getattr(value, "py_func", value)  # of a compiled function
    if isinstance(value, types.FunctionType):
        return _fingerprint(value)
    return value.__name__ if isinstance(value, types.ModuleType) else repr(value)
