"""The cost of NumPy's BLAS threads, spinning after each product, to a training step: `python -m bench.blas`.

Trains 1024-4096-4096-10 with batch 32 under several settings of OpenBLAS, each in a process of its own, in turns, and
prints the median times of gradient and update.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time

import numpy as np

SETTINGS: tuple[dict[str, str], ...] = ({}, {"OPENBLAS_THREAD_TIMEOUT": "4"}, {"OPENBLAS_NUM_THREADS": "1"})
TURNS, STEPS = 3, 15


def train() -> None:
    """Prints the medians of gradient and update in seconds, of fastopt's serial and usual step and the textbook's."""
    from contextlib import nullcontext

    from bench.cases import make
    from fastopt import threads
    from fastopt.nn import MultiLayerNet

    network = MultiLayerNet(1024, [4096, 4096], 10, seed=0)
    rng = np.random.default_rng(0)
    x, t = rng.standard_normal((32, 1024)).astype(np.float32), rng.integers(0, 10, 32)
    results = []
    for name, context in (("fastopt", nullcontext()), ("fastopt", threads.num_threads(1)), ("textbook", nullcontext())):
        optimizer, seconds = make("adam", name), []
        with context:
            for _ in range(STEPS):
                start = time.perf_counter()
                grads = network.gradient(x, t)
                between = time.perf_counter()
                optimizer.update(network.params, grads)
                seconds.append((between - start, time.perf_counter() - between))
        results.append(np.median(seconds[2:], axis=0).tolist())
    print(json.dumps(results))


def main() -> None:
    medians: dict[str, list[list[list[float]]]] = {}
    for _ in range(TURNS):
        for setting in SETTINGS:
            command = [sys.executable, "-c", "from bench.blas import train; train()"]
            process = subprocess.run(command, env={**os.environ, **setting}, capture_output=True, text=True, check=True)
            name = " ".join(f"{key}={value}" for key, value in setting.items()) or "BLAS at its defaults"
            medians.setdefault(name, []).append(json.loads(process.stdout))
    print("1024-4096-4096-10, batch 32, Adam, float32; ms of gradient + update = step")
    for name, runs in medians.items():
        parts = np.median(runs, axis=0) * 1e3
        labelled = zip(("fastopt", "serial", "textbook"), parts, strict=True)
        rows = [f"{label} {g:.1f} + {u:.1f} = {g + u:.1f}" for label, (g, u) in labelled]
        print(f"{name:28} " + "   ".join(rows))


if __name__ == "__main__":
    main()
