"""Many problems at once: `python -m bench.problems [PROBLEMS] [WIDTH]`, beside one flat step of as many numbers.

Nothing else should run on the machine.
"""

from __future__ import annotations

import sys

import numpy as np

from bench.cases import Step
from bench.turns import interleaved
from fastopt.optimizers import OPTIMIZERS


def sides(rule: str, problems: int, width: int) -> dict[str, Step]:
    """Steps by what differs between problems; the first is the flat one."""
    rng, kind = np.random.default_rng(0), OPTIMIZERS[rule]
    rates = rng.uniform(1e-4, 1e-3, problems)

    def step(shape: tuple[int, ...], share: float = 1.0, restarts: bool = False, **settings: object) -> Step:
        params, grads = rng.standard_normal(shape, np.float32), rng.standard_normal(shape, np.float32)
        optimizer = kind(**settings)
        for number in range(6):
            if restarts:
                optimizer.restart(rng.random(problems) < 0.2) if number else None
            optimizer.update(params, grads)
        if share < 1:
            optimizer.active = rng.random(problems) < share
        optimizer.update(params, grads)
        return lambda: optimizer.update(params, grads)

    shape = problems, width
    return {
        "one flat array": step((problems * width,)),
        "the same, clipped": step((problems * width,), clip_norm=1.0),
        "problems alike": step(shape, batch_axis=0),
        "an lr for each": step(shape, batch_axis=0, lr=rates),
        "other step counts": step(shape, batch_axis=0, restarts=True),
        "both": step(shape, batch_axis=0, lr=rates, restarts=True),
        "half of them active": step(shape, batch_axis=0, share=0.5),
        "a hundredth active": step(shape, batch_axis=0, share=0.01),
        "each clipped": step(shape, batch_axis=0, clip_norm=1.0),
    }


def main(problems: int = 10_000, width: int = 10, turns: int = 40) -> None:
    """Prints the time of each side over that of the flat step: by smallest times, and the median over turns."""
    for rule in ("adam", "momentum"):
        found = sides(rule, problems, width)
        seconds = interleaved(list(found.values()), turns, 5)
        flat = seconds[0]
        print(f"{rule}, {problems:,} problems of {width}:")
        for name, taken in zip(found, seconds, strict=True):
            least, median = taken.min() / flat.min(), np.median(taken / flat)
            print(f"    {name:20} {taken.min() * 1e6:8.1f} us, {least:5.2f} of a flat step, median {median:5.2f}")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
