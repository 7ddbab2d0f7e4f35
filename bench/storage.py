"""Compact state: its speed, and training with it.

`python -m bench.storage speed [RULE ...]` : steps with state in 16 and 8 bits, in turns with those in float32 and with
    the float32 traffic kernel, and a model for more cores. Nothing else should run on the machine.
`python -m bench.storage training [RULE ...]` : the network of `optimizers-mnist` and an LSTM on characters (the rule
    "characters"), trained with each storage, five seeds.
`python -m bench.storage decay` : the root of v after gradients fall by 100 times, beside float32's.
`python -m bench.storage picture [FILE]` : draws the loss curves and that root.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np

from bench import storage_training
from bench.cases import Step, array, gradients, limit_step, size_of
from bench.limit import bytes_per_element
from bench.ratios import interleaved
from fastopt import set_tuning, threads
from fastopt.engine.columns import moved_bytes
from fastopt.kernels import RULES
from fastopt.kernels.codecs import STORAGES
from fastopt.optimizers import OPTIMIZERS

PARTS = "speed", "training", "decay", "picture"
PICTURE = "docs/source/explanation/compact_state.svg"
RULES_TIMED = ("adam", "adamw", "momentum", "rmsprop", "lion", "amsgrad", "adan")


def step_of(rule: str, storage: str, size: int) -> Step:
    """A step of an array of `size` elements."""
    params = array(size)
    grads, optimizer = gradients(params), OPTIMIZERS[rule](state_storage=storage)
    for _ in range(2):
        optimizer.update(params, grads)
    return lambda: optimizer.update(params, grads)


def limit_of(rule: str, size: int) -> Step:
    """The reads and writes of a float32 step, without its arithmetic."""
    params, slots = array(size), len(RULES[rule].state)
    count = threads.threads_for(size_of(params) * bytes_per_element(slots, 4))
    return limit_step(slots, params, gradients(params), count)


def ratios(rule: str, size: int, turns: int, calls: int) -> dict[str, float]:
    """Seconds of a step over those of the float32 traffic kernel, the smallest of both; prints the median too."""
    sides = [limit_of(rule, size), *(step_of(rule, storage, size) for storage in STORAGES)]
    seconds = interleaved(sides, turns, calls)
    found = {}
    print(f"{rule}, {size:,}: traffic of float32 {np.median(seconds[0]) * 1e3:.3f} ms", flush=True)
    for storage, taken in zip(STORAGES, seconds[1:], strict=True):
        slots = len(RULES[rule].state)
        share = moved_bytes(storage, 4, slots) / moved_bytes("float32", 4, slots)
        found[storage] = taken.min() / seconds[0].min()
        print(
            f"    {storage:9} {np.median(taken) * 1e3:9.3f} ms, {found[storage]:.3f} of it (median "
            f"{np.median(taken / seconds[0]):.3f}, bytes say {share:.2f}); {taken.min() / seconds[1].min():.2f} of "
            "float32's own step",
            flush=True,
        )
    return found


def speed(rules: list[str]) -> None:
    """Prints ratios in memory and in cache, and the model."""
    set_tuning("off")  # without a training loop; trials would look like slow steps
    for rule in rules or RULES_TIMED:
        ratios(rule, 30_000_000, 11, 1)
    if not rules:
        ratios("adam", 100_000_000, 5, 1)
        ratios("adam", 1_000_000, 11, 20)
        model()


def model() -> None:
    """Prints what to expect with more cores to the same memory: the time is that of the bytes or that of the work."""
    one = 60_000  # in the second cache
    with threads.num_threads(1):
        seconds = interleaved([step_of("adam", storage, one) for storage in STORAGES], 7, 50).min(axis=1) / one
    size = 30_000_000
    traffic = interleaved([limit_of("adam", size)], 7, 1).min() / size
    bandwidth = bytes_per_element(2, 4) / traffic
    print(f"model, Adam: {bandwidth / 1e9:.0f} GB/s, in cache {', '.join(f'{s * 1e9:.2f}' for s in seconds)} ns")
    print("    cores  " + "  ".join(f"{storage:>9}" for storage in STORAGES))
    for cores in (1, 2, 4, 8, 16):
        times = [
            max(moved_bytes(storage, 4, 2) / bandwidth, work / cores)
            for storage, work in zip(STORAGES, seconds, strict=True)
        ]
        print(f"    {cores:5}  " + "  ".join(f"{time / traffic:9.2f}" for time in times))


def main(arguments: list[str]) -> None:
    os.environ.setdefault("MPLBACKEND", "Agg")
    part, *names = arguments or ["speed"]
    if part == "speed":
        speed(names)
    elif part == "training":
        storage_training.training(names)
    elif part == "decay":
        storage_training.decay()
    elif part == "picture":
        storage_training.picture(Path(*names or [PICTURE]))
    else:
        raise SystemExit(f"python -m bench.storage: there is no part {part!r}; it is one of {', '.join(PARTS)}")


if __name__ == "__main__":
    main(sys.argv[1:])
