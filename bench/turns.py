"""Steps that take turns in one process, so that noise falls on all sides alike."""

from __future__ import annotations

import gc
import time
from typing import Any

import numpy as np

from bench.cases import Step

Sides = dict[str, dict[str, float]]

MEASURED: dict[str, Sides] = {}
"""Measurements of the running part so far: by case and side, seconds and how many times as long it takes."""


def interleaved(sides: list[Step], turns: int, calls: int) -> np.ndarray:
    """Seconds per call, shape (sides, turns)."""
    seconds = np.zeros((len(sides), turns))
    gc.disable()
    for turn in range(turns):
        for side, step in enumerate(sides):
            # Threads of the side before stop spinning, those of this one wake. A worker that was asleep may be woken
            # on the core of its waker and stay there until the scheduler's next tick moves it, up to 10 ms later.
            time.sleep(0.003)
            warm = time.perf_counter() + 0.015
            while time.perf_counter() < warm:
                step()
            start = time.perf_counter()
            for _ in range(calls):
                step()
            seconds[side, turn] = (time.perf_counter() - start) / calls
    gc.enable()
    return seconds


def report(what: str, names: list[str], seconds: np.ndarray) -> None:
    """Prints how many times as long each of the others takes as the first."""
    mine = seconds[0]
    MEASURED[what] = {
        name: {"seconds": rounded(np.median(theirs)), "ratio": rounded(np.median(theirs / mine))}
        for name, theirs in zip(names, seconds, strict=True)
    }
    print(f"{what}: {names[0]} {np.median(mine) * 1e6:,.1f} us", flush=True)
    for name, theirs in zip(names[1:], seconds[1:], strict=True):
        ratio, minima = np.median(theirs / mine), theirs.min() / mine.min()
        print(
            f"    {name:14} {np.median(theirs) * 1e6:12,.1f} us, {ratio:6.2f} times (minima {minima:.2f}); "
            f"the other way round {1 / ratio:.3f} ({1 / minima:.3f})"
        )


def rounded(number: Any) -> float:
    """Four digits."""
    return float(f"{number:.4g}")
