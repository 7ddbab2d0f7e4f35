"""Ratios that the README states, measured so that noise falls on both sides alike: `python -m bench.ratios`.

Both sides take turns in one process, a few calls each; a ratio is taken per turn, and the smallest and the median are
printed, with the median times. Nothing else should run on the machine.
"""

from __future__ import annotations

import gc
import time

import numpy as np

from bench.cases import Step, array, checked_step, mlp
from fastopt import threads


def interleaved(first: Step, second: Step, turns: int, calls: int) -> tuple[np.ndarray, np.ndarray]:
    """Seconds per call of both, an entry per turn."""
    seconds = np.zeros((2, turns))
    for step in (first, second):
        step()
    gc.disable()
    for turn in range(turns):
        for side, step in enumerate((first, second)):
            start = time.perf_counter()
            for _ in range(calls):
                step()
            seconds[side, turn] = (time.perf_counter() - start) / calls
    gc.enable()
    return seconds[0], seconds[1]


def report(name: str, first: Step, second: Step, turns: int, calls: int) -> None:
    """Prints how many times as long the first takes as the second."""
    a, b = interleaved(first, second, turns, calls)
    ratio = a / b
    print(
        f"{name:62}  {np.median(a) * 1e6:10.1f} us / {np.median(b) * 1e6:10.1f} us"
        f"   ratio of minima {a.min() / b.min():6.2f}   median {np.median(ratio):6.2f}"
    )


def main() -> None:
    print(f"threading layer {threads.layer()}, float32, BLAS idle")
    large = array(30_000_000, "float32")
    fast, limit = checked_step("adam", "fastopt", large), checked_step("adam", "limit", large)
    report("Adam, 30 M elements: fastopt / same traffic", fast, limit, 40, 1)
    report("Adam, 30 M elements: reference / fastopt", checked_step("adam", "reference", large), fast, 15, 1)
    for sizes in ((784, 40, 20, 10), (784, 100, 100, 100, 100, 10)):
        params = mlp(*sizes)
        steps = [checked_step("adam", name, params) for name in ("reference", "fastopt")]
        report(f"Adam, dict of {'-'.join(map(str, sizes))}: reference / fastopt", steps[0], steps[1], 200, 10)


if __name__ == "__main__":
    main()
