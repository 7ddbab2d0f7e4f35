"""Compact state: its speed, and training with it.

`python -m bench.storage speed [RULE ...]` : steps with state in 16 and 8 bits, in turns with those in float32 and with
    the float32 traffic kernel, and a model for more cores. Nothing else should run on the machine.
`python -m bench.storage training [RULE ...]` : the network of `optimizers-mnist` trained with each, five seeds.
`python -m bench.storage decay` : the root of v after gradients fall by 100 times, beside float32's.
"""

from __future__ import annotations

import os
import sys

import numpy as np

from bench.cases import Step, array, gradients, limit_step, size_of
from bench.limit import bytes_per_element
from bench.ratios import interleaved
from fastopt import threads
from fastopt.engine.columns import moved_bytes
from fastopt.kernels import RULES
from fastopt.kernels.codecs import STORAGES
from fastopt.nn import MultiLayerNet, load_mnist
from fastopt.optimizers import OPTIMIZERS

RULES_TRAINED = ("adam", "adamw", "momentum", "rmsprop", "lion", "amsgrad")
SEEDS = 5
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


def training(rules: list[str], iterations: int = 2000) -> None:
    """Prints mean and spread over seeds of the last losses and of test accuracy, for each storage."""
    (x_train, t_train), (x_test, t_test) = load_mnist()
    for rule in rules or RULES_TRAINED:
        for storage in STORAGES:
            found = []
            for seed in range(SEEDS):
                np.random.seed(seed)  # noqa: NPY002  (the network's own)
                network, rng = MultiLayerNet(784, [100] * 4, 10), np.random.default_rng(seed)
                optimizer, losses = OPTIMIZERS[rule](state_storage=storage, storage_seed=seed), []
                for _ in range(iterations):
                    batch = rng.integers(0, len(x_train), 128)
                    optimizer.update(network.params, network.gradient(x_train[batch], t_train[batch]))
                    losses.append(float(network.loss(x_train[batch], t_train[batch])))
                found.append((np.mean(losses[-100:]), float(network.accuracy(x_test, t_test))))
            (loss, accuracy), (loss_spread, accuracy_spread) = np.mean(found, axis=0), np.std(found, axis=0, ddof=1)
            print(
                f"{rule:9} {storage:9} loss {loss:.4f} +- {loss_spread:.4f}, accuracy {accuracy:.4f} +- "
                f"{accuracy_spread:.4f}",
                flush=True,
            )


def decay(steps: int = 5000) -> None:
    """Prints the root of v over float32's after gradients have fallen by 100 times."""
    roots = {}
    for storage in STORAGES:
        rng, params = np.random.default_rng(0), {"W": np.zeros(8192, np.float32)}
        optimizer = OPTIMIZERS["adam"](lr=0.0, state_storage=storage)
        roots[storage] = []
        for step in range(1000 + steps):
            scale = np.float32(1.0 if step < 1000 else 0.01)
            optimizer.update(params, {"W": scale * rng.standard_normal(8192, dtype=np.float32)})
            if step >= 1000 and step % 500 == 499:
                roots[storage].append(float(np.sqrt(optimizer.v["W"]).mean()))
    for storage in STORAGES[1:]:
        ratios = np.array(roots[storage]) / np.array(roots[STORAGES[0]])
        print(f"{storage:9} sqrt(v) over float32's, each 500 steps: {', '.join(f'{r:.3f}' for r in ratios)}")


if __name__ == "__main__":
    os.environ.setdefault("MPLBACKEND", "Agg")
    part, *names = sys.argv[1:] or ["speed"]
    if part == "decay":
        decay()
    else:
        {"speed": speed, "training": training}[part](names)
