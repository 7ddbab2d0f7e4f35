"""Benchmark cases: models and implementations, the same for the suites and for `python -m bench.ratios`.

Every step that `checked_step` returns has been found equal to `fastopt.reference` first: bit by bit where it claims to
be the same expressions, within a stated tolerance where it rounds differently.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import lru_cache
from importlib.util import find_spec
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from bench import beside, inplace
from bench.inplace import InPlace
from bench.limit import LIMITS, bytes_per_element
from bench.peers import PEERS
from fastopt import flatten, reference, threads
from fastopt.experiments.textbook import has_exact_bits, textbook
from fastopt.kernels import RULES, arena
from fastopt.kernels.compile import kernel as kernel_of
from fastopt.optimizers import OPTIMIZERS

Step = Callable[[], Any]
Arrays = dict[str, Any]

OURS = ("fastopt", "fastopt serial", "flat")
"""The compiled optimizer on a dict; kept to one thread; on flat dicts."""

NUMPY = ("textbook", "in place")
"""The code that people have (the book's class, see `fastopt.experiments.textbook`), and the best fair NumPy."""

# Other libraries, and some of the textbook's rules, round differently; that is what may be between them after three
# steps at the default settings.
TOLERANCE = {"float32": 2e-6, "float64": 1e-9}


def mlp(*sizes: int, dtype: str = "float32", seed: int = 0) -> Arrays:
    """The parameters of a fully connected network."""
    rng = np.random.default_rng(seed)
    params: Arrays = {}
    for number, (inputs, outputs) in enumerate(pairwise(sizes), start=1):
        params[f"W{number}"] = (rng.standard_normal((inputs, outputs)) * np.sqrt(2 / inputs)).astype(dtype)
        params[f"b{number}"] = np.zeros(outputs, dtype=dtype)
    return params


def array(size: int, dtype: str = "float32", seed: int = 0) -> Arrays:
    """One array."""
    return {"p": np.random.default_rng(seed).standard_normal(size, dtype=np.dtype(dtype).type)}


def equal_arrays(count: int, size: int, dtype: str = "float32") -> Arrays:
    """`count` arrays of `size` elements."""
    rng = np.random.default_rng(0)
    return {f"p{number}": rng.standard_normal(size, dtype=np.dtype(dtype).type) for number in range(count)}


def embedding(dtype: str = "float32") -> Arrays:
    """A model most of which is one table, as in word vectors."""
    table = np.random.default_rng(0).standard_normal((50_000, 64), dtype=np.dtype(dtype).type)
    return {"table": 0.1 * table, **mlp(64, 128, 10, dtype=dtype)}


def gradients(params: Arrays, seed: int = 1) -> Arrays:
    """Random gradients of the shapes of the parameters, a hundredth of a standard normal."""
    rng = np.random.default_rng(seed)
    return {
        key: rng.standard_normal(value.shape, dtype=value.dtype.type) * value.dtype.type(0.01)
        for key, value in params.items()
    }


def size_of(params: Arrays) -> int:
    """Elements of all arrays."""
    return sum(value.size for value in params.values())


def make(rule: str, implementation: str, **settings: Any) -> Any:
    """An optimizer with `update(params, grads)`, at its defaults but for fastopt's `settings`."""
    if implementation == "reference":
        return getattr(reference, OPTIMIZERS[rule].__name__)()
    if implementation == "textbook":
        return textbook(rule)
    if implementation == "beside":
        return beside.optimizer(sys.modules[beside.NAME], rule)
    return InPlace(rule) if implementation == "in place" else OPTIMIZERS[rule](**settings)


def checked_step(rule: str, implementation: str, params: Arrays) -> Step:
    """A function that makes one step of an implementation on copies of the parameters."""
    updated, grads = {key: value.copy() for key, value in params.items()}, gradients(params)
    if implementation == "limit":
        return limit_step(len(RULES[rule].state), updated, grads, threads.threads_for(_moved(rule, params)))
    if implementation == "in place" and rule not in inplace.RULES:
        pytest.skip("written for the textbook's rules")
    if implementation in PEERS:
        return _peer_step(rule, implementation, params, grads)
    optimizer, threading = make(rule, implementation), one_thread if implementation == "fastopt serial" else nullcontext
    if implementation == "flat":
        updated, grads = flatten(updated), flatten(grads)
    if implementation != "reference":
        steps = _steps_to_check(params)
        with threading():
            for _ in range(steps):
                optimizer.update(updated, grads)
        assert_equal(rule, implementation, updated, _expected(rule, _Key(params), steps))
    if implementation != "fastopt serial":
        return lambda: optimizer.update(updated, grads)

    def serial() -> None:
        with threads.num_threads(1):
            optimizer.update(updated, grads)

    # The switch costs 2 us, which only small models would notice, and they are serial anyway.
    return serial if threads.threads_for(_moved(rule, params)) > 1 else lambda: optimizer.update(updated, grads)


def assert_equal(rule: str, implementation: str, updated: Arrays, expected: Arrays) -> None:
    """All bits, but for a textbook that rounds differently."""
    for key, value in expected.items():
        text = f"{implementation} is not the reference at {key}"
        if implementation == "textbook" and not has_exact_bits(rule, value.dtype.name):
            np.testing.assert_allclose(updated[key], value, rtol=0, atol=TOLERANCE[value.dtype.name], err_msg=text)
        else:
            assert updated[key].tobytes() == value.tobytes(), text


def one_thread() -> AbstractContextManager[None]:
    return threads.num_threads(1)


def _peer_step(rule: str, implementation: str, params: Arrays, grads: Arrays) -> Step:
    package, function = PEERS[implementation]
    if rule != "adam":
        pytest.skip(f"{implementation} is compared for Adam")
    if find_spec(package) is None:
        pytest.skip(f"{implementation} is not installed: pip install -e '.[peers]'")
    step, read, settings = function(params, grads)
    updated, optimizer = {key: value.copy() for key, value in params.items()}, OPTIMIZERS[rule](**settings)
    for _ in range(_steps_to_check(params)):
        step()
        optimizer.update(updated, grads)
    for theirs, ours in zip(read(), updated.values(), strict=True):
        np.testing.assert_allclose(theirs, ours, rtol=0, atol=TOLERANCE[ours.dtype.name], err_msg=implementation)
    return step


def _steps_to_check(params: Arrays) -> int:
    return 3 if size_of(params) < 10_000_000 else 1


class _Key:
    """Parameters as the key of a cache: the same dict is the same key."""

    def __init__(self, params: Arrays) -> None:
        self.params = params

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Key) and self.params is other.params

    def __hash__(self) -> int:
        return id(self.params)


@lru_cache(maxsize=1)
def _expected(rule: str, key: _Key, steps: int) -> Arrays:
    """Results of the reference."""
    expected, optimizer = {name: value.copy() for name, value in key.params.items()}, make(rule, "reference")
    grads = gradients(key.params)
    for _ in range(steps):
        optimizer.update(expected, grads)
    return expected


def _moved(rule: str, params: Arrays) -> int:
    itemsize = next(iter(params.values())).dtype.itemsize
    return size_of(params) * bytes_per_element(len(RULES[rule].state), itemsize)


def limit_step(slots: int, params: Arrays, grads: Arrays, count: int) -> Step:
    """The same-traffic kernel over the first array, on so many threads."""
    (p,), (g,) = params.values(), grads.values()
    state = arena.blocks(p.size, p.dtype, slots)
    scalars = np.zeros(1)  # of which the formula reads none
    table = np.array([[x.ctypes.data for x in (p, g, *state, scalars)]], dtype=np.int64)
    starts = np.array([0, p.size], dtype=np.int64)
    kernel = kernel_of(LIMITS[slots], p.dtype.name, count > 1)
    alive = (p, g, state, scalars)
    return lambda: kernel(table, starts, count) if alive else None


@lru_cache(maxsize=1)
def _limit(slots: int, size: int, dtype: str, count: int) -> Step:
    params = array(size, dtype)
    return limit_step(slots, params, gradients(params), count)


def share_of_limit(step: Step, slots: int, size: int, dtype: str, count: int) -> float:
    """The time of the same-traffic kernel by that of a step: in turns, as the machine's speed changes; the median."""
    limit, ratios, end = _limit(slots, size, dtype, count), [], time.perf_counter() + 0.15
    calls = max(1, int(0.002 / min(_seconds(limit, 1) for _ in range(3))))
    while len(ratios) < 3 or time.perf_counter() < end:
        ratios.append(_seconds(limit, calls) / _seconds(step, calls))
    return float(np.median(ratios))


def _seconds(step: Step, calls: int) -> float:
    """Of so many calls, after one that finds its data."""
    step()
    start = time.perf_counter()
    for _ in range(calls):
        step()
    return time.perf_counter() - start


def describe(benchmark: Any, implementation: str, rule: str, params: Arrays, step: Step) -> None:
    """Fills `extra_info` after the timing of a step."""
    slots, first = len(RULES[rule].state), next(iter(params.values()))
    info, size = benchmark.extra_info, size_of(params)
    info["elements"], info["bytes per element"] = size, bytes_per_element(slots, first.dtype.itemsize)
    info["threads"], info["layer"] = threads.threads_for(_moved(rule, params)), threads.layer()
    if benchmark.stats:
        info["GB/s"] = round(_moved(rule, params) / benchmark.stats["min"] / 1e9, 2)
    if benchmark.stats and implementation not in NUMPY:  # whose share says nothing, and would take longest
        info["share of limit"] = round(share_of_limit(step, slots, size, first.dtype.name, info["threads"]), 3)
