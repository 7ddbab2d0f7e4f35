"""From a rule to machine code.

A rule is a function of scalars, `formula(p, g, *state, *scalars) -> (p, *state)`. `kernel` puts it into a loop over
elements, `passes.step_loop`, compiles that for a dtype, and gives its address to `loops.serial` or `loops.parallel`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from typing import Any

import numba
import numpy as np
from numba import njit
from numba.core import config
from numba.core.ccallback import CFunc

from fastopt.kernels import cpus, storage, stores
from fastopt.kernels.averages import AVERAGES
from fastopt.kernels.cache import digest_of, through_cache
from fastopt.kernels.caution import aligned
from fastopt.kernels.codecs import BFLOAT16, INT8
from fastopt.kernels.compose import clone, composed, helpers
from fastopt.kernels.constraints import BOUND_COLUMNS, BY_METRIC
from fastopt.kernels.flags import FLAGS, INNER, compiles
from fastopt.kernels.loops import parallel, serial
from fastopt.kernels.modulus import COMPLEX, LANES
from fastopt.kernels.passes import (
    FACTORS,
    STRIP_BYTES,
    aligned_loop,
    finite_loop,
    finite_squares_loop,
    measure_loop,
    norm_loop,
    prepare_loop,
    quick_norm_loop,
    report_loop,
    step_loop,
)
from fastopt.kernels.problems import parallel_problems, problems_loop, serial_problems
from fastopt.kernels.pure_python import InterpretedRule, interpreted, interpreted_problems
from fastopt.kernels.rule import Rule
from fastopt.kernels.stored_loops import ARRAY_KEYS, bfloat16_loop, int8_loop
from fastopt.kernels.totals import totals_loop
from fastopt.kernels.transforms import TRANSFORMS, with_scalars

_INT64 = numba.int64

LOOP = (_INT64,) * 7, numba.void
"""The type of `passes.step_loop` and those like it."""

DRIVER = _INT64, _INT64, numba.types.Array(_INT64, 2, "C"), numba.types.Array(_INT64, 1, "C"), _INT64
"""The argument types of `loops.serial` and `loops.parallel`."""

LOOPS = {
    "step": step_loop,
    "report": report_loop,
    "measure": measure_loop,
    "large_measure": measure_loop,
    "small_measure": measure_loop,
    "prepare": prepare_loop,
    "finite": finite_loop,
    "finite_squares": finite_squares_loop,
    "norm": norm_loop,
    "quick_norm": quick_norm_loop,
    "problems": problems_loop,
    "aligned": aligned_loop,
    "totals": totals_loop,
    "bfloat16": bfloat16_loop,
    "int8": int8_loop,
}

IN_PAIRS = "step", "report", "measure", "large_measure", "small_measure", "finite_squares"
"""Those that pairs of numbers may go through, for `modulus=True`."""

STORED_LOOPS = BFLOAT16, INT8
"""Those of a step whose state is stored in fewer bits."""


FUNCTIONS = TRANSFORMS | BOUND_COLUMNS | AVERAGES
"""The functions of transforms by name; a mask has none."""


def kernel(
    rule: Rule,
    dtype: str,
    in_parallel: bool,
    which: str = "step",
    transforms: tuple[str, ...] = (),
    form: int = stores.PLAIN,
    modulus: bool = False,
) -> Callable[[Any, Any, int], None]:
    """The compiled `serial` or `parallel` of this rule for `dtype` ("float32" or "float64").

    which : "step", or "bfloat16" or "int8", one whose state is stored so; "report", which fills the statistics as well;
        for a measuring rule "measure", which only adds up
        the squares of its results, "large_measure" or "small_measure" where those would overflow or vanish; for a
        preparing rule "prepare", which only writes the last state slot; with the transform "cautious" "aligned", which
        only counts the elements whose step goes against the gradient; for a rule with totals "totals", which only adds
        these up; for `NO_RULE` "finite", which only finds out
        whether all gradients are finite, "finite_squares", whether their squares are, or "norm" and
        "quick_norm", which only add these up
    transforms : the names of the functions of `transforms.TRANSFORMS` that go before the rule or on its step, in that
        order, then of those of `averages.AVERAGES` that go after it, and of columns. Their scalars stand behind the
        rule's: of those of TRANSFORMS the last one's first, of averages the first one's
    form : how new parameters are stored, see `stores.py`; the same machine code and bits for each
    modulus : whether the numbers are pairs, whose squares are taken together, of what is `IN_PAIRS`

    Compiled, or loaded from numba's disk cache, at the first call and kept for the life of the process.
    """
    if not compiles() or isinstance(rule, InterpretedRule):
        return interpreted(rule, dtype, "step" if which in STORED_LOOPS else which, transforms, modulus)
    callback = _callback(rule, dtype, which, transforms, (), modulus)
    driver = compiled(parallel if in_parallel else serial, *DRIVER, nogil=True, in_parallel=in_parallel)
    if which not in ("step", "report"):  # which do not write parameters
        form = stores.PLAIN
    in_pieces = which not in ("step", "prepare")
    return partial(driver, callback.address, form_address(form, dtype, in_pieces, 1 + modulus))


def problems_kernel(
    rule: Rule, dtype: str, in_parallel: bool, transforms: tuple[str, ...], places: tuple[int, ...]
) -> Callable[[Any, Any, int], None]:
    """The kernel for many problems at once; `places` as `PLACES` in `problems.py`."""
    if not compiles() or isinstance(rule, InterpretedRule):
        return interpreted_problems(rule, dtype, transforms, places)
    callback = _callback(rule, dtype, "problems", transforms, places)
    driver = compiled(
        parallel_problems if in_parallel else serial_problems, *DRIVER, nogil=True, in_parallel=in_parallel
    )
    return partial(driver, callback.address, form_address(stores.PLAIN, dtype))


def callback(
    rule: Rule,
    dtype: str,
    which: str = "step",
    transforms: tuple[str, ...] = (),
    places: tuple[int, ...] = (),
    modulus: bool = False,
) -> CFunc:
    """The part of a kernel that is the rule's, not compiled yet and without the disk cache."""
    functions = [FUNCTIONS[name] for name in transforms if name in FUNCTIONS]
    functions += [aligned] if which == "aligned" else []
    if rule.metric:
        functions += [rule.metric, *(BY_METRIC[name] for name in transforms if name in BY_METRIC)]
    constants = rule.columns(transforms), rule.small(transforms), *(places and (places,)), *(["modulus"] * modulus)
    digest = digest_of(rule.formula, *functions, constants=constants)
    name = "_".join((rule.name, *transforms, which, *(["modulus"] * modulus), dtype, digest))
    loop, slots, compile = LOOPS[which], len(rule.state), njit(**FLAGS, **INNER)
    is_stored = which in STORED_LOOPS
    # The inner functions carry it too: two cached kernels, compiled in two processes, may otherwise hold different
    # functions under one symbol, of which the loader takes the first for both.
    written = rule.columns(with_scalars(transforms))
    written = written[:-slots] if is_stored else written
    names = {
        "rule": composed(
            rule.paired if modulus else rule, transforms, name, compile, "step" if is_stored else which, modulus
        ),
        "DTYPE": getattr(np, dtype),
        "ELEMENT": getattr(np, COMPLEX[dtype] if modulus else dtype),
        "LANES": LANES if modulus else 1,
        "SIZE": np.dtype(dtype).itemsize,
        "COLUMNS": rule.columns(transforms),
        "WRITTEN": written,
        "FLOATS": rule.columns(transforms)[: -slots or None],
        "RESULTS": len(written) - 1,
        "SMALL_FLOATS": rule.small(transforms)[: len(written) - 2],
        "SMALL_SLOTS": rule.small(transforms)[len(written) - 2 :],
        "SLOTS": tuple(range(2, 2 + slots)),
        "KINDS": tuple(storage.kind(INT8, slot in rule.nonnegative) for slot in rule.state),
        "NOTHING": (np.uint32(0),) * slots,
        "KEYS_AT": tuple(range(ARRAY_KEYS, ARRAY_KEYS + slots)),
        "SMALL": rule.small(transforms),
        "SCALARS": (0,) * (len(rule.scalars) + len(with_scalars(transforms))),
        "PLACES": places,
        "BEHIND": len(rule.columns(transforms)),
        "SCALED": np.float64 if which in FACTORS else getattr(np, dtype),
        "FACTOR": FACTORS.get(which, getattr(np, dtype)(1)),
    }
    # numba's disk cache takes this name as its key. It knows nothing of callees and globals, hence the digest.
    return CFunc(clone(loop, name, {**helpers(loop, name, compile, names), **names}), LOOP, {}, FLAGS)


@cache
def _callback(
    rule: Rule,
    dtype: str,
    which: str,
    transforms: tuple[str, ...],
    places: tuple[int, ...] = (),
    modulus: bool = False,
) -> Any:
    return through_cache(lambda: callback(rule, dtype, which, transforms, places, modulus), CFunc.compile)


@cache
def form_address(form: int, dtype: str, in_pieces: bool = False, lanes: int = 1) -> int:
    """Return the address by which kernels for `dtype` get a form of `stores`; compiles its functions."""
    return int(_form(form, dtype, in_pieces, lanes).ctypes.data)


@cache
def _form(form: int, dtype: str, in_pieces: bool, lanes: int = 1) -> Any:
    numbers = np.zeros(stores.FIELDS, np.int64)
    numbers[stores.LENGTH], numbers[stores.LANES], numbers[stores.STRIP] = stores.LENGTHS[form], lanes, stores.WHOLE
    if form == stores.AHEAD:
        form, numbers[stores.STRIP] = stores.PLAIN, STRIP_BYTES // np.dtype(dtype).itemsize
    numbers[stores.FORM] = form
    numbers[stores.SCHEDULER] = cpus.scheduler()
    numbers[stores.SHIFT], numbers[stores.IN_PIECES] = np.dtype(dtype).itemsize.bit_length() - 1, in_pieces
    if form != stores.PLAIN:
        numbers[stores.OPEN] = block_function(stores.open_block).address
        numbers[stores.CLOSE] = block_function(stores.close_block).address
    return numbers


def stored_form(form: int, in_pieces: bool, kinds: Any, names: Any, step: Any, encodes: bool = True) -> Any:
    """Return the numbers for launches of compact state; of a kernel that does not write it, it `encodes` nothing.

    in_pieces : whether `loops.walk_stored` goes through pieces, with codecs, or `loops.walk_groups`, without
    kinds : int64[slots], the forms of `storage.py`
    names, step : uint64[arrays, slots] and uint64[1], the hashes from which `codecs.slot_key` is made
    """
    numbers = _form(form, "float32", in_pieces).copy()
    numbers[stores.SLOTS], numbers[stores.KINDS] = len(kinds), kinds.ctypes.data
    numbers[stores.NAMES], numbers[stores.STEP] = names.ctypes.data, step.ctypes.data
    if in_pieces:
        decode, encode = compiled_codecs()
        numbers[stores.DECODE], numbers[stores.ENCODE] = decode, encode if encodes else 0
    return numbers


def compiled_codecs() -> tuple[int, int]:
    """The addresses of `storage.decode` and `storage.encode`, compiled."""
    return compiled_for_c(storage.decode, 7), compiled_for_c(storage.encode, 7)


@cache
def block_function(function: Callable[..., int]) -> Any:
    signature = (_INT64,) * 7, _INT64
    name = f"{function.__name__}_{digest_of(function)}"
    return through_cache(lambda: CFunc(clone(function, name, {}), signature, {}, FLAGS), CFunc.compile)


def compiled(
    function: Callable[..., Any], *signature: Any, nogil: bool = False, in_parallel: bool = False
) -> Callable[..., Any]:
    """A function of the package, with the plain functions that it calls, compiled for one signature.

    Through the disk cache. With NUMBA_DISABLE_JIT=1 it is the function itself.
    """
    if config.DISABLE_JIT:
        return function
    overload = _overload(function, signature, nogil, in_parallel)
    return overload.entry_point  # type: ignore[no-any-return]  # skips numba's look-up of types at every call


@cache
def driver_for_c(function: Callable[..., Any], in_parallel: bool) -> int:
    """The address of `loops.parallel`, or what has its arguments, compiled, for calls from C."""
    overload = _overload(function, DRIVER, True, in_parallel)
    return int(overload.library.get_pointer_to_function(overload.fndesc.llvm_cfunc_wrapper_name))


@cache
def _overload(function: Callable[..., Any], signature: tuple[Any, ...], nogil: bool, in_parallel: bool) -> Any:
    flags = {**FLAGS, "nogil": nogil}
    digest = f"{'parallel' if in_parallel else 'serial'}_{digest_of(function)}"
    copied = clone(function, f"{function.__name__}_{digest}", helpers(function, digest, njit(**flags, **INNER)))
    dispatcher = through_cache(
        lambda: njit(parallel=in_parallel, **flags)(copied), lambda dispatcher: dispatcher.compile(signature)
    )
    (overload,) = dispatcher.overloads.values()
    return overload


@cache
def compiled_for_c(function: Callable[..., Any], count: int) -> int:
    """The address of a function of the package of `count` int64 numbers, and of one as its result, compiled for C."""
    return int(through_cache(lambda: c_function(function, count), CFunc.compile).address)


def c_function(function: Callable[..., Any], count: int) -> CFunc:
    """The same, not compiled yet and without the disk cache."""
    digest = digest_of(function)
    copied = clone(function, f"{function.__name__}_{digest}", helpers(function, digest, njit(**FLAGS, **INNER)))
    return CFunc(copied, ((_INT64,) * count, _INT64), {}, FLAGS)
