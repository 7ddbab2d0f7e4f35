"""From a scalar formula to compiled kernels: the only file that knows numba's flags.

A rule is a function of scalars, `formula(p, g, *state, *scalars) -> (p, *state)`. `Rule.kernel` puts it into a loop
over elements, `loops.span`, compiles that for a dtype, and gives its address to `loops.serial` or `loops.parallel`.
"""

from __future__ import annotations

import dis
import hashlib
import inspect
import os
import sys
import types
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, cached_property, partial
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numba
import numpy as np
from numba import njit
from numba.core import config
from numba.core.ccallback import CFunc

from fastopt.kernels import loops, stores
from fastopt.kernels.averages import AVERAGES
from fastopt.kernels.cache import content, through_cache
from fastopt.kernels.intrinsics import FLUSHED, KEPT, SIGN_KEPT
from fastopt.kernels.loops import (
    gradient_span,
    measured_span,
    norm_span,
    parallel,
    prepared_span,
    quick_norm_span,
    serial,
    span,
    square_span,
    tallied_span,
    with_average,
    with_mean,
    with_option,
)
from fastopt.kernels.transforms import OPTIONS, with_amounts

FLAGS: dict[str, Any] = {
    # Division as in NumPy. "python" checks every divisor for zero and leaves the loop scalar: 2.34 against 0.31 ns
    # per element of Adam. No fastmath: it folds isnan to False and gains nothing in memory.
    "error_model": "numpy",
    # Two Python threads may step two optimizers at once.
    "nogil": True,
}

# Of functions that only compiled ones call. Without their forms for Python and C a kernel compiles in three quarters of
# the time.
INNER = {"no_cpython_wrapper": True, "no_cfunc_wrapper": True}

# FASTOPT_CHECK=1: every address is looked at before a launch, and kernels run in pure Python, to find memory errors.
CHECK = os.environ.get("FASTOPT_CHECK", "").strip() == "1"
if os.environ.get("FASTOPT_CHECK", "").strip() not in ("", "0", "1"):
    warnings.warn("FASTOPT_CHECK must be 0 or 1; it is taken as 0", RuntimeWarning, stacklevel=2)


def compiles() -> bool:
    """Whether kernels are compiled, and not in pure Python."""
    return not (config.DISABLE_JIT or CHECK)


_INT64 = numba.int64

SPAN = (_INT64,) * 7, numba.void
"""The type of `loops.span` and those like it."""

DRIVER = _INT64, _INT64, numba.types.Array(_INT64, 2, "C"), numba.types.Array(_INT64, 1, "C"), _INT64
"""The argument types of `loops.serial` and `loops.parallel`."""

SPANS = {
    "step": span,
    "report": tallied_span,
    "measure": measured_span,
    "large_measure": measured_span,
    "small_measure": measured_span,
    "prepare": prepared_span,
    "look": gradient_span,
    "look_at_squares": square_span,
    "norm": norm_span,
    "quick_norm": quick_norm_span,
}

FACTORS = {"large_measure": loops.DOWN, "small_measure": loops.UP}
"""By what measures are multiplied whose squares would overflow or vanish."""


@dataclass(frozen=True)
class Rule:
    """An update rule: its formula on scalars and the names of its state slots.

    formula : `(p, g, *state, *scalars) -> (p, *state)` on plain numbers; numeric literals are not allowed (they would
        make float32 arithmetic float64), `math` functions are.
    state : the names of the state slots, in the order of the formula.
    measure : for a rule that needs norms of each array: a formula that takes the same but for the last scalar and
        returns two numbers. What their norms come to is the last scalar.
    rows : whether it may be applied to some rows of a parameter and not to others, for gradients that are `Rows`
    idle : where steps without a gradient have a closed form: the formula `(p, g, *state, *scalars) -> (p, *state)`
        of several of them, whose scalars are the first of kept, share and moved; see `kernels/skipped_steps.py`
    exact : the slots whose exact value decides a branch, so that small ones are not flushed to zero
    signed : those whose sign decides one, which small values keep
    squares_norms : whether the ratio of its measures is the square of a norm
    prepare : for a rule that needs whole arrays: a formula that takes the same and returns one number, which goes to
        the last state slot before the step; the optimizer's `prepared` then has each array of that slot.
    """

    formula: Callable[..., Any]
    state: tuple[str, ...] = ()
    measure: Callable[..., Any] | None = None
    rows: bool = False
    idle: Callable[..., Any] | None = None
    prepare: Callable[..., Any] | None = None
    exact: tuple[str, ...] = ()
    signed: tuple[str, ...] = ()
    squares_norms: bool = False

    @cached_property
    def is_by_array(self) -> bool:
        """Whether arrays must be told apart."""
        return bool(self.measure or self.prepare)

    @property
    def measured(self) -> tuple[str, ...]:
        """The arrays that the pass before the step reads."""
        before = self.measure or self.prepare
        read = {step.argval for step in dis.get_instructions(before)} if before else set()
        return tuple(name for name in ("p", "g", *self.state) if name in read)

    @cached_property
    def preparing(self) -> Rule | None:
        """The rule of the pass over memory that goes before the step, and writes its last state slot only."""
        return Rule(self.prepare, self.state) if self.prepare else None

    @cached_property
    def measuring(self) -> Rule | None:
        """The rule of the pass over memory that goes before the step, and writes nothing."""
        return Rule(self.measure, self.state) if self.measure else None

    @property
    def name(self) -> str:
        return self.formula.__name__

    @cached_property
    def scalars(self) -> tuple[str, ...]:
        """The names of the formula's scalars."""
        return tuple(inspect.signature(self.formula).parameters)[2 + len(self.state) :]

    def columns(self, options: tuple[str, ...] = ()) -> tuple[int, ...]:
        """The columns of the table that the formula with options takes: averages and means stand behind the state."""
        last = 2 + len(self.state)
        slots = [last + number for number, name in enumerate(AVERAGES) if name in options]
        means = [last + len(AVERAGES)] if "centralize" in options else []
        return 0, 1, *reversed(slots), *means, *range(2, last)  # the one applied last lies outermost

    def small(self, options: tuple[str, ...] = ()) -> tuple[int, ...]:
        """What becomes of small values of the columns that are written, but for parameter and gradient."""
        kinds = [KEPT if slot in self.exact else SIGN_KEPT if slot in self.signed else FLUSHED for slot in self.state]
        return (*(FLUSHED for option in options if option in AVERAGES), *kinds)

    def kernel(
        self,
        dtype: str,
        in_parallel: bool,
        which: str = "step",
        options: tuple[str, ...] = (),
        form: int = stores.PLAIN,
    ) -> Callable[[Any, Any, int], None]:
        """The compiled `serial` or `parallel` of this rule for `dtype` ("float32" or "float64").

        which : "step"; "report", which fills the tally as well; for a measuring rule "measure", which only adds up
            the squares of its results, "large_measure" or "small_measure" where those would overflow or vanish; for a
            preparing rule "prepare", which only writes the last state slot; for `NO_RULE` "look", which only finds out
            whether all gradients are finite, "look_at_squares", whether their squares are, or "norm" and
            "quick_norm", which only add these up
        options : the names of the functions of `gradients.OPTIONS` that go before the rule, in that order, and then
            of those of `averages.AVERAGES` that go after it. Their amounts stand behind the scalars: of those before
            the rule the last one's first, of those after it the first one's
        form : how new parameters are stored, see `stores.py`; the same machine code and bits for each

        Compiled, or loaded from numba's disk cache, at the first call and kept for the life of the process.
        """
        if not compiles():
            from fastopt.kernels.pure_python import interpreted  # which needs this file

            return interpreted(self, dtype, which, options)
        callback = _callback(self, dtype, which, options)
        driver = compiled(parallel if in_parallel else serial, *DRIVER, nogil=True, in_parallel=in_parallel)
        if which not in ("step", "report"):  # which do not write parameters
            form = stores.PLAIN
        return partial(driver, callback.address, form_address(form, dtype, which not in ("step", "prepare")))

    def callback(self, dtype: str, which: str = "step", options: tuple[str, ...] = ()) -> CFunc:
        """The part of a kernel that is the rule's, not compiled yet and without the disk cache."""
        functions = [(OPTIONS | AVERAGES)[name] for name in options]
        digest = _digest(self.formula, *functions, constants=(self.columns(options), self.small(options)))
        name = "_".join((self.name, *options, which, dtype, digest))
        # The inner functions carry it too: two cached kernels, compiled in two processes, may otherwise hold different
        # functions under one symbol, of which the loader takes the first for both.
        names = {
            "rule": composed(self.formula, options, name, njit(**FLAGS, **INNER)),
            "DTYPE": getattr(np, dtype),
            "SIZE": np.dtype(dtype).itemsize,
            "COLUMNS": self.columns(options),
            "WRITTEN": self.columns(with_amounts(options)),
            "SMALL": self.small(options),
            "SCALARS": (0,) * (len(self.scalars) + len(with_amounts(options))),
            "SCALED": np.float64 if which in FACTORS else getattr(np, dtype),
            "FACTOR": FACTORS.get(which, getattr(np, dtype)(1)),
        }
        # numba's disk cache takes this name as its key. It knows nothing of callees and globals, hence the digest.
        return CFunc(clone(SPANS[which], name, names), SPAN, {}, FLAGS)


def no_formula(p, g):  # type: ignore[no-untyped-def]
    """Stands for a formula where none is applied."""


NO_RULE = Rule(no_formula)
"""For the kernels that only look at gradients, which are the same for all rules."""


def gradient_measure(p, g):  # type: ignore[no-untyped-def]
    """The gradient as a measure."""
    return g, g


GRADIENT_MEASURE = Rule(gradient_measure)
"""For the norm of gradients whose squares overflow or vanish."""


def clone(function: Any, name: str, names: dict[str, Any]) -> types.FunctionType:
    """A copy of a function that finds `names` in its globals."""
    names = {**function.__globals__, **names}
    copied = types.FunctionType(function.__code__, names, name, function.__defaults__, function.__closure__)
    copied.__qualname__ = name
    return copied


def composed(formula: Any, options: tuple[str, ...], name: str, compile: Callable[[Any], Any]) -> Any:
    """The formula with the options before and after it; what `name` is for, see `callback`."""
    inner = compile(clone(formula, f"rule_{name}", _helpers(formula, name, compile)))
    for which in reversed([option for option in options if option in OPTIONS]):  # the last one applied lies innermost
        names = {"rule": inner, "option": compile(clone(OPTIONS[which], f"{which}_{name}", {}))}
        around = with_mean if which == "centralize" else with_option
        inner = compile(clone(around, f"with_{which}_{name}", names))
    for which in [option for option in options if option in AVERAGES]:
        names = {"rule": inner, "option": compile(clone(AVERAGES[which], f"{which}_{name}", {}))}
        inner = compile(clone(with_average, f"with_{which}_{name}", names))
    return inner


def _helpers(function: Any, name: str, compile: Callable[[Any], Any]) -> dict[str, Any]:
    """The plain functions that a function calls, compiled under names of their own."""
    called = inspect.getclosurevars(function).globals
    return {
        helper: compile(clone(value, f"{helper}_{name}", _helpers(value, name, compile)))
        for helper, value in called.items()
        if isinstance(value, types.FunctionType)
    }


@cache
def _callback(rule: Rule, dtype: str, which: str, options: tuple[str, ...]) -> Any:
    return through_cache(lambda: rule.callback(dtype, which, options), CFunc.compile)


@cache
def form_address(form: int, dtype: str, in_pieces: bool = False) -> int:
    """What kernels for `dtype` get of a form of `stores`; compiles its functions."""
    return int(_form(form, dtype, in_pieces).ctypes.data)


@cache
def _form(form: int, dtype: str, in_pieces: bool) -> Any:
    numbers = np.zeros(stores.FIELDS, np.int64)
    numbers[stores.FORM], numbers[stores.LENGTH] = form, stores.LENGTHS[form]
    numbers[stores.SHIFT], numbers[stores.IN_PIECES] = np.dtype(dtype).itemsize.bit_length() - 1, in_pieces
    if form != stores.PLAIN:
        numbers[stores.OPEN] = block_function(stores.open_block).address
        numbers[stores.CLOSE] = block_function(stores.close_block).address
    return numbers


@cache
def block_function(function: Callable[..., int]) -> Any:
    signature = (_INT64,) * 7, _INT64
    name = f"{function.__name__}_{_digest(function)}"
    return through_cache(lambda: CFunc(clone(function, name, {}), signature, {}, FLAGS), CFunc.compile)


@cache
def compiled(
    function: Callable[..., Any], *signature: Any, nogil: bool = False, in_parallel: bool = False
) -> Callable[..., Any]:
    """A function of the package, with the plain functions that it calls, compiled for one signature.

    Through the disk cache. With NUMBA_DISABLE_JIT=1 it is the function itself.
    """
    if config.DISABLE_JIT:
        return function
    flags = {**FLAGS, "nogil": nogil}
    digest = f"{'parallel' if in_parallel else 'serial'}_{_digest(function)}"
    copied = clone(function, f"{function.__name__}_{digest}", _helpers(function, digest, njit(**flags, **INNER)))
    dispatcher = through_cache(
        lambda: njit(parallel=in_parallel, **flags)(copied), lambda dispatcher: dispatcher.compile(signature)
    )
    (overload,) = dispatcher.overloads.values()
    return overload.entry_point  # type: ignore[no-any-return]  # skips numba's look-up of types at every call


@cache
def compiled_for_c(function: Callable[..., Any], count: int) -> int:
    """The address of a function of the package of `count` int64 numbers, and of one as its result, compiled for C."""
    digest = _digest(function)
    copied = clone(function, f"{function.__name__}_{digest}", _helpers(function, digest, njit(**FLAGS, **INNER)))
    callback = through_cache(lambda: CFunc(copied, ((_INT64,) * count, _INT64), {}, FLAGS), CFunc.compile)
    return int(callback.address)


def _version() -> str:
    try:
        return version("fastopt")
    except PackageNotFoundError:  # as in a zip file of the package alone
        return "unknown"


def machinery_modules() -> list[types.ModuleType]:
    """Return this module and those of the package that it takes something from, directly or through others."""
    package, modules, pending = __name__.rpartition(".")[0], {}, [sys.modules[__name__]]
    while pending:
        module = pending.pop()
        modules[module.__name__] = module
        values = list(vars(module).values())
        for value in [*values, *(item for table in values if isinstance(table, dict) for item in table.values())]:
            name = value.__name__ if isinstance(value, types.ModuleType) else getattr(value, "__module__", None)
            if isinstance(name, str) and name.startswith(f"{package}.") and name not in modules and name in sys.modules:
                pending.append(sys.modules[name])
    return [modules[name] for name in sorted(modules)]


@cache
def _machinery() -> str:
    """What the machine code of every kernel depends on besides the formula."""
    files = [hashlib.sha256(content(module)).hexdigest() for module in machinery_modules()]
    # Settings of numba's that change the code but are not in the key of its cache (numba #10821).
    settings = [getattr(config, name, None) for name in ("OPT", "BOUNDSCHECK", "LOOP_VECTORIZE", "SLP_VECTORIZE")]
    return repr((_version(), FLAGS, files, settings))


def _digest(*functions: Callable[..., Any], constants: tuple[Any, ...] = ()) -> str:
    parts = _machinery(), *map(_fingerprint, functions), repr(constants)
    return hashlib.sha256("".join(parts).encode()).hexdigest()[:16]


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
