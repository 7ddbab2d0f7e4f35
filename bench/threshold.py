"""Fits the size from which a parallel step pays, in training loops: `python -m bench.threshold`.

Networks of growing size are trained; blocks of steps take turns on one thread and on all. NumPy's BLAS is at its
default settings, its threads spinning between products as they do in real training. For each size the script prints
the times of a whole step and of the update alone, and the gain of the parallel kernel; PARALLEL_BYTES in
`fastopt/threads.py` is the smallest traffic from which on whole steps do not lose.
"""

from __future__ import annotations

import time
from itertools import pairwise

import numpy as np

from fastopt import threads
from fastopt.kernels import RULES
from fastopt.nn import MultiLayerNet
from fastopt.optimizers import OPTIMIZERS

MODELS = (
    ((784, 40, 20, 10), 100),
    ((784, 60, 60, 10), 100),
    ((784, 100, 100, 100, 100, 10), 128),
    ((784, 150, 100, 10), 128),
    ((784, 200, 200, 10), 128),
    ((784, 300, 200, 10), 128),
    ((784, 512, 512, 10), 128),
    ((784, 1024, 1024, 10), 128),
)


def train(rule: str, sizes: tuple[int, ...], batch: int, turns: int, block: int) -> np.ndarray:
    """Seconds of gradient and update, shape (2 settings, 2 parts, turns * block)."""
    rng = np.random.default_rng(0)
    network = MultiLayerNet(sizes[0], sizes[1:-1], sizes[-1], seed=0)
    optimizer = OPTIMIZERS[rule]()
    data = rng.standard_normal((20, batch, sizes[0])).astype(np.float32)
    labels = rng.integers(0, sizes[-1], (20, batch))
    seconds = np.zeros((2, 2, turns * block))
    counts = (1, threads.numba.get_num_threads())
    for turn in range(-1, turns):  # the first turn warms up
        for setting, count in enumerate(counts):
            with threads.exactly(count):
                for step in range(block):
                    start = time.perf_counter()
                    grads = network.gradient(data[step % 20], labels[step % 20])
                    between = time.perf_counter()
                    optimizer.update(network.params, grads)
                    end = time.perf_counter()
                    seconds[setting, :, turn * block + step] = between - start, end - between
    return seconds


def main() -> None:
    print(f"layer {threads.layer()}, float32; medians in us; gain = serial / parallel")
    heads = ("rule", "network", "MB", "step: 1", "all", "gain", "update: 1", "all", "gain")
    print("{:8} {:26} {:>6}  {:>9} {:>9} {:>5}   {:>9} {:>9} {:>5}".format(*heads))
    for rule in ("sgd", "adam"):
        for sizes, batch in MODELS:
            parameters = sum((a + 1) * b for a, b in pairwise(sizes))
            moved = parameters * 4 * (3 + 2 * len(RULES[rule].state))
            block = 20 if parameters < 500_000 else 5
            seconds = np.median(train(rule, sizes, batch, turns=25, block=block), axis=2) * 1e6
            (g1, u1), (g2, u2) = seconds
            print(
                f"{rule:8} {'-'.join(map(str, sizes)):26} {moved / 1e6:6.1f}  {g1 + u1:9.0f} {g2 + u2:9.0f} "
                f"{(g1 + u1) / (g2 + u2):5.2f}   {u1:9.0f} {u2:9.0f} {u1 / u2:5.2f}"
            )


if __name__ == "__main__":
    main()
