"""What is timed: models and implementations, the same for the suites and for `python -m bench.ratios`."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np

from bench.limit import LIMITS
from fastopt import reference, threads
from fastopt.kernels import RULES, memory
from fastopt.optimizers import OPTIMIZERS

Step = Callable[[], None]


def mlp(*sizes: int, dtype: str = "float32", seed: int = 0) -> dict[str, Any]:
    """The parameters of a fully connected network, as a dict."""
    rng = np.random.default_rng(seed)
    params: dict[str, Any] = {}
    for number, (inputs, outputs) in enumerate(pairwise(sizes), start=1):
        params[f"W{number}"] = (rng.standard_normal((inputs, outputs)) * np.sqrt(2 / inputs)).astype(dtype)
        params[f"b{number}"] = np.zeros(outputs, dtype=dtype)
    return params


def array(size: int, dtype: str, seed: int = 0) -> dict[str, Any]:
    """One array, as a dict."""
    return {"p": np.random.default_rng(seed).standard_normal(size).astype(dtype)}


def gradients(params: dict[str, Any], seed: int = 1) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    return {key: (0.01 * rng.standard_normal(value.shape)).astype(value.dtype) for key, value in params.items()}


def checked_step(rule: str, implementation: str, params: dict[str, Any]) -> Step:
    """A function that makes one step, after three steps were found equal to the reference's, bit by bit."""
    mine = {key: value.copy() for key, value in params.items()}
    grads = gradients(params)
    if implementation == "limit":
        return limit_step(len(RULES[rule].state), mine, grads)
    optimizer = make(rule, implementation)
    if implementation != "reference":
        theirs, expected = make(rule, "reference"), {key: value.copy() for key, value in params.items()}
        for _ in range(3):
            theirs.update(expected, grads)
            optimizer.update(mine, grads)
        for key in params:
            assert mine[key].tobytes() == expected[key].tobytes(), f"{implementation} is not the reference at {key}"
    return lambda: optimizer.update(mine, grads)


def make(rule: str, implementation: str) -> Any:
    """An optimizer at its defaults; "reference" is the textbook as it stands, without the flush of subnormal state."""
    if implementation == "reference":
        optimizer = getattr(reference, OPTIMIZERS[rule].__name__)()
        optimizer.flush = False
        return optimizer
    return OPTIMIZERS[rule]()


def limit_step(slots: int, params: dict[str, Any], grads: dict[str, Any]) -> Step:
    """The same-traffic kernel over the first array, on the threads that an optimizer would get."""
    (p,), (g,) = params.values(), grads.values()
    state = memory.arena(p.size, p.dtype, slots)
    table = np.array([[x.ctypes.data for x in (p, g, *state)]], dtype=np.int64)
    starts = np.array([0, p.size], dtype=np.int64)
    count = threads.threads_for(p.nbytes * (3 + 2 * slots))
    kernel = LIMITS[slots].kernel(p.dtype.name, count > 1)
    alive = (p, g, state)
    return lambda: kernel(table, starts, count, ()) if alive else None
