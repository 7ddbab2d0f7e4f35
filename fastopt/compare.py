"""Two optimizers side by side: the largest difference, in units in the last place, and what a step costs."""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from html import escape
from typing import Any, NamedTuple

import numpy as np

from fastopt import checks, representation, threads
from fastopt.engine.address_table import Table
from fastopt.engine.plan import Plan
from fastopt.flat import Array
from fastopt.kernels import RULES
from fastopt.kernels.codecs import FLOAT32
from fastopt.kernels.modulus import COMPLEX
from fastopt.kernels.pure_python import in_pure_python, on_arrays
from fastopt.kernels.traffic import traffic_of
from fastopt.optimizer import Optimizer
from fastopt.optimizers import OPTIMIZERS
from fastopt.pairs import pairs

Shapes = Mapping[str, tuple[int, ...]]

# Two arrays and a number; a step in pure Python takes some microseconds an element.
FEW: Shapes = {"W": (20, 15), "b": (15,), "scale": ()}
# More than the pieces that two threads take at a time.
MANY: Shapes = {"W": (311, 97), "b": (97,)}


class Row(NamedTuple):
    """A comparison of two optimizers after some steps."""

    compared: str
    dtype: str
    values: int
    """How many parameters and state values were compared."""
    parameter_ulps: int
    state_ulps: int

    @property
    def identical(self) -> bool:
        """Whether all bits are equal."""
        return self.parameter_ulps == self.state_ulps == 0


@dataclass(frozen=True)
class Check:
    """The result of `check`; `print` shows it as a table."""

    optimizer: str
    rows: list[Row]
    nanoseconds: float
    """Of a step, per element, on an array of a million float32."""
    limit_nanoseconds: float
    """Of reading and writing the same arrays without arithmetic: what memory alone takes."""
    numpy_nanoseconds: float | None
    """Of the formula on whole arrays in plain NumPy; None where it has branches, or functions that NumPy has not,
    or where the rule is one of whole matrices."""

    @property
    def identical(self) -> bool:
        """Whether all bits are equal everywhere."""
        return all(row.identical for row in self.rows)

    def __str__(self) -> str:
        lines = [self.optimizer]
        for row in self.rows:
            largest = max(row.parameter_ulps, row.state_ulps)
            result = "identical bits" if row.identical else f"DIFFERENT by up to {largest} units in the last place"
            lines.append(f"  {row.compared:32}{row.dtype:9}{result}")
        plain = self.numpy_nanoseconds
        beside = "has no form of branches, a function, or a pass before" if plain is None else f"{plain:.3g} ns"
        lines.append(f"  a step on a million float32      {self.nanoseconds:.3g} ns per element")
        lines.append(f"    its reads and writes alone     {self.limit_nanoseconds:.3g} ns")
        lines.append(f"    plain NumPy                    {beside}")
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        """The same as a table, for notebooks."""
        rows = []
        for row in self.rows:
            largest = max(row.parameter_ulps, row.state_ulps)
            rows.append((row.compared, row.dtype, "identical" if row.identical else f"DIFFERENT by {largest} ulps"))
        plain = "" if self.numpy_nanoseconds is None else f"{self.numpy_nanoseconds:.3g} ns"
        rows += [
            ("a step on a million float32, per element", "float32", f"{self.nanoseconds:.3g} ns"),
            ("its reads and writes alone", "float32", f"{self.limit_nanoseconds:.3g} ns"),
            *([("plain NumPy", "float32", plain)] if plain else []),
        ]
        return f"<p>{escape(self.optimizer)}</p>{representation.html_table(('', 'dtype', ''), rows)}"


def check(optimizer: Optimizer | type[Optimizer], steps: int = 5) -> Check:
    """Compares the compiled steps of an optimizer with its formula in pure Python, and times them.

    Times are those of the fastest of seven steps, beside what memory alone takes and the formula in plain NumPy.

    Parameters
    ----------
    optimizer : Optimizer, or a subclass, which stands for its defaults
        It is copied, and makes no step itself.
    steps : int
        The number of steps of each kind, on gradients that range over 60 orders of magnitude.

    Returns
    -------
    Check
        `identical`, the largest differences in `rows`, `nanoseconds`, `limit_nanoseconds` and `numpy_nanoseconds`. A
        formula differs where a function of math or NumPy rounds in another way than its compiled form, or where it
        turns float32 into float64.

    Examples
    --------
    >>> import fastopt
    >>> fastopt.check(fastopt.Momentum).identical
    True
    """
    compiled = optimizer() if isinstance(optimizer, type) and issubclass(optimizer, Optimizer) else optimizer
    if not isinstance(compiled, Optimizer):
        raise TypeError(checks.no_optimizer("fastopt.check", optimizer))
    fresh = copy.deepcopy(compiled)
    fresh.reset()
    plain = copy.deepcopy(fresh)
    plain.__dict__["_rule"] = in_pure_python(fresh._rule)
    rows = []
    dtypes = ["float32", "float64"] if fresh.state_storage == FLOAT32 else ["float32"]
    for dtype in [*dtypes, *map(COMPLEX.__getitem__, dtypes)] if fresh.modulus else dtypes:
        with threads.exactly(1):
            results = [trained(copy.deepcopy(one), FEW, dtype, steps) for one in (fresh, plain)]
            rows.append(row("compiled and pure Python", dtype, *results))
        if threads.layer() is not None:
            results = []
            for count in (1, 2):
                with threads.exactly(count):
                    results.append(trained(copy.deepcopy(fresh), MANY, dtype, steps))
            rows.append(row("on one thread and on two", dtype, *results))
    return Check(repr(fresh), rows, *_nanoseconds(fresh))


def trained(optimizer: Any, shapes: Shapes, dtype: str, steps: int, seed: int = 0) -> tuple[list[Array], list[Array]]:
    """Parameters and state after some steps of a model of random numbers.

    Gradients range over 60 orders of magnitude and hold zeros.
    """
    rng = np.random.default_rng(seed)
    params = {key: np.array(rng.standard_normal(shape), dtype) for key, shape in shapes.items()}
    with np.errstate(all="ignore"):
        for _ in range(steps):
            optimizer.update(params, {key: _gradient(rng, shape, dtype) for key, shape in shapes.items()})
    slots = optimizer._rule.state if isinstance(optimizer, Optimizer) else optimizer.slots
    state = [getattr(optimizer, slot)[key] for slot in slots for key in shapes]
    return list(map(pairs, params.values())), list(map(pairs, state))


def row(compared: str, dtype: str, first: tuple[list[Array], ...], second: tuple[list[Array], ...]) -> Row:
    """How far two results of `trained` differ."""
    both = [list(zip(mine, yours, strict=True)) for mine, yours in zip(first, second, strict=True)]
    largest = [max((ulps(a, b) for a, b in arrays), default=0) for arrays in both]
    return Row(compared, dtype, sum(array.size for arrays in first for array in arrays), *largest)


def _gradient(rng: np.random.Generator, shape: tuple[int, ...], dtype: str) -> Array:
    magnitude = 10.0 ** rng.uniform(-15, 15, size=shape)
    zeros = rng.random(shape) < 0.1
    values = rng.standard_normal(shape)
    if np.dtype(dtype).kind == "c":
        values = values + 1j * rng.standard_normal(shape)
    return np.array(np.where(zeros, 0.0, values * magnitude), dtype)


def ulps(a: Array, b: Array) -> int:
    """The largest distance between two float arrays, counted in representable numbers; 0 means equal bits.

    All NaNs are equal; +0 and -0 are one apart.
    """
    if a.size == 0:
        return 0
    first, second = _rank(a), _rank(b)
    return int((np.maximum(first, second) - np.minimum(first, second)).max())


def _rank(x: Array) -> Array:
    """Unsigned integers in the order of the floats, neighbours one apart."""
    kind = np.dtype(np.uint32 if x.dtype == np.float32 else np.uint64)
    bits = np.where(np.isnan(x), np.array(np.nan, dtype=x.dtype), x).view(kind)
    sign = kind.type(1 << (8 * kind.itemsize - 1))
    return np.asarray(np.where(bits & sign, ~bits, bits | sign))


def _nanoseconds(optimizer: Optimizer, size: int = 1_000_000) -> tuple[float, float, float | None]:
    """Costs of an element: in a step of the optimizer, without its arithmetic, and in its formula on whole arrays."""
    rng = np.random.default_rng(0)
    p, g = (rng.standard_normal(size, dtype=np.float32) for _ in range(2))
    state = [np.full(size, value, np.float32) for value in optimizer.start_values().values()]
    scalars, formula = optimizer._at(1).scalars(1), on_arrays(optimizer._rule.formula)

    def on_whole_arrays() -> None:
        for old, new in zip((p, *state), formula(p, g, *state, *scalars), strict=True):
            old[...] = new

    fastest = _fastest(lambda: optimizer.update(p, g))
    limit = _fastest(_moving(len(state), p, g))
    if optimizer._rule.prepare:  # most of its work is not in the formula
        return fastest / size, limit / size, None
    try:
        with np.errstate(all="ignore"):
            plain = _fastest(on_whole_arrays)
    except (TypeError, ValueError):  # an array is neither true nor false, nor one number
        return fastest / size, limit / size, None
    return fastest / size, limit / size, plain / size


def _moving(slots: int, p: Array, g: Array) -> Callable[[], Any]:
    """Reads and writes what a step with so many state slots does, without arithmetic."""
    moving = traffic_of(slots)
    plan = Plan(Table("fastopt.check", moving, p, g, dict.fromkeys(moving.state, 0.0), None))
    return lambda: plan.run(p, [()], report=False)


def memory_limit(rule: str, size: int, dtype: str) -> float:
    """Seconds of the reads and writes of a rule's step on one array, without arithmetic: the median of some."""
    p, g = np.zeros(size, dtype), np.zeros(size, dtype)
    return _median(_moving(len(RULES[rule].state), p, g))


def step_time(rule: str, size: int, dtype: str) -> float:
    """Seconds of a rule's step on one array, by fastopt, alone on the machine: the median of some."""
    p, g = np.ones(size, dtype), np.full(size, 1e-3, dtype)
    optimizer = OPTIMIZERS[rule]()
    return _median(lambda: optimizer.update(p, g))


def _median(step: Callable[[], Any]) -> float:
    """Seconds of a call, after one that does not count: up to 200 calls in up to a fifth of a second."""
    step()
    seconds: list[float] = []
    end = time.perf_counter() + 0.2
    while len(seconds) < 5 or (len(seconds) < 200 and time.perf_counter() < end):
        start = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def _fastest(step: Callable[[], Any], times: int = 7) -> float:
    """Nanoseconds of the fastest of a few calls, the first of which does not count."""
    step()
    nanoseconds = []
    for _ in range(times):
        start = time.perf_counter_ns()
        step()
        nanoseconds.append(time.perf_counter_ns() - start)
    return float(min(nanoseconds))
