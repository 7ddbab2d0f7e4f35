"""`loop`: whole training steps, gradient and update, with BLAS at its defaults and on one thread.

A round is some steps of the implementation, before which the textbook makes as many, untimed by pytest-benchmark but
noted: the speed of a shared machine changes from second to second, so only what takes turns can be compared.
"""

import time
from contextlib import nullcontext

import numpy as np
import pytest

from bench.cases import NUMPY, assert_equal, make, one_thread
from fastopt import flatten
from fastopt.nn import MultiLayerNet

LOOPS = {
    "20-16-16-2, batch 32": ((20, 16, 16, 2), 32),
    "784-40-20-10, batch 100": ((784, 40, 20, 10), 100),
    "784-100x4-10, batch 128": ((784, 100, 100, 100, 100, 10), 128),
    "784-512-512-10, batch 64": ((784, 512, 512, 10), 64),
    "784-1024-1024-10, batch 128": ((784, 1024, 1024, 10), 128),
    "1024-4096-4096-10, batch 32": ((1024, 4096, 4096, 10), 32),
}


def training_step(implementation, sizes, batch):
    """A step on random data, and a list to which it appends the seconds of gradient and update."""
    rng = np.random.default_rng(0)
    network = MultiLayerNet(sizes[0], sizes[1:-1], sizes[-1], seed=0)
    x, t = rng.standard_normal((batch, sizes[0]), dtype=np.float32), rng.integers(0, sizes[-1], batch)
    grads = None
    if implementation == "flat":
        network.params = flatten(network.params)
        grads = flatten(network.params)
    optimizer, seconds = make("adam", implementation), []
    threading = one_thread if implementation == "fastopt serial" else nullcontext

    def step():
        start = time.perf_counter()
        gradient = network.gradient(x, t, out=grads)
        between = time.perf_counter()
        with threading():
            optimizer.update(network.params, gradient)
        seconds.append((between - start, time.perf_counter() - between))

    return step, seconds, network


@pytest.mark.parametrize("blas", ["default", "one thread"])
@pytest.mark.parametrize("implementation", [*NUMPY, "fastopt serial", "fastopt", "flat"])
@pytest.mark.parametrize("loop", LOOPS)
def test_loop(benchmark, loop, implementation, blas):
    sizes, batch = LOOPS[loop]
    if benchmark.disabled and max(sizes) > 1000:
        pytest.skip("the small networks show that the bench works")
    benchmark.group = f"loop {loop}, BLAS {blas}"
    limit = nullcontext()
    if blas == "one thread":
        limit = pytest.importorskip("threadpoolctl").threadpool_limits(1, user_api="blas")
    with limit:
        expected = training_step("reference", sizes, batch)
        step, seconds, network = training_step(implementation, sizes, batch)
        for _ in range(3):
            expected[0]()
            step()
        assert_equal("adam", implementation, network.params, expected[2].params)
        textbook, textbook_seconds, _ = training_step("textbook", sizes, batch)
        count, steps = rounds(sizes)

        def several(one_step):
            for _ in range(steps):
                one_step()

        several(textbook)
        seconds.clear(), textbook_seconds.clear()
        benchmark.pedantic(several, setup=lambda: (several(textbook), ((step,), {}))[1], rounds=count)
    mine, theirs = np.array(seconds).reshape(-1, steps, 2), np.array(textbook_seconds).reshape(-1, steps, 2)
    ratios = mine.sum(axis=(1, 2)) / theirs.sum(axis=(1, 2))
    gradient, update = np.median(mine, axis=(0, 1))
    benchmark.extra_info.update(
        {
            "steps per round": steps,
            "gradient": float(gradient),
            "update": float(update),
            "step": float(np.median(mine.sum(axis=2))),
            "textbook step": float(np.median(theirs.sum(axis=2))),
            "share of textbook": float(np.median(ratios)),
            "smallest share": float(ratios.min()),
        }
    )


def rounds(sizes):
    """Rounds and steps per round, for about a second."""
    if max(sizes[1:]) <= 100:
        return 60, 15
    return (40, 5) if max(sizes) < 1000 else (20, 3) if max(sizes) < 4000 else (6, 2)
