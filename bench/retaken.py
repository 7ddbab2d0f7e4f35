"""Micro-batches and steps taken back, beside the plain step of the same arrays: `python -m bench.ratios retaken`.

A trial costs one copy of parameters and state, which is timed too.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from bench.cases import Step, array, gradients, mlp, size_of
from bench.turns import interleaved, report
from fastopt import Adam

Arrays = dict[str, np.ndarray]


def sides(params: Arrays) -> dict[str, Step]:
    """Steps by what goes with them; the first is the plain one."""
    return {
        "plain": _step(params, lambda optimizer, own, grads: optimizer.update(own, grads)),
        "accumulate 1": _step(params, lambda optimizer, own, grads: _accumulated(optimizer, own, grads, 1)),
        "accumulate 4": _step(params, lambda optimizer, own, grads: _accumulated(optimizer, own, grads, 4)),
        "trial": _step(params, _on_trial),
        "rejected": _step(params, lambda optimizer, own, grads: _on_trial(optimizer, own, grads, rejects=True)),
        "copy": _copy(params),
    }


def _step(params: Arrays, make: Callable[[Any, Arrays, Arrays], None]) -> Step:
    own, grads, optimizer = {key: value.copy() for key, value in params.items()}, gradients(params), Adam()
    optimizer.update(own, grads)  # or what is rejected would be the first step, which makes state and plan anew
    return lambda: make(optimizer, own, grads)


def _accumulated(optimizer: Any, params: Arrays, grads: Arrays, count: int) -> None:
    for _ in range(count):
        optimizer.accumulate(grads)
    optimizer.update(params)


def _on_trial(optimizer: Any, params: Arrays, grads: Arrays, rejects: bool = False) -> None:
    with optimizer.trial(params) as step:
        optimizer.update(params, grads)
        if rejects:
            step.reject()


def _copy(params: Arrays) -> Step:
    """The plain step and a copy of what it writes, into memory that is there."""
    step, written = _step(params, lambda optimizer, own, grads: optimizer.update(own, grads)), []
    for value in params.values():
        written += [(np.empty_like(value), value)] * 3  # parameter, m and v

    def copied() -> None:
        for target, value in written:
            np.copyto(target, value)
        step()

    return copied


def measure() -> None:
    """Prints how many times as long each takes as the plain step."""
    for params, turns, calls in ((mlp(784, 100, 100, 100, 100, 10), 40, 20), (array(1_000_000, "float32"), 30, 10)):
        steps = sides(params)
        report(f"adam, {size_of(params):,}", list(steps), interleaved(list(steps.values()), turns, calls))
