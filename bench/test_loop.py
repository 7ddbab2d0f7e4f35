"""`loop`: whole training steps, gradient and update, with BLAS at its defaults and on one thread."""

import time
from contextlib import nullcontext

import numpy as np
import pytest

from bench.cases import NUMPY, make, one_thread
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
        network.use(flatten(network.params))
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
        for key, value in expected[2].params.items():
            assert network.params[key].tobytes() == value.tobytes(), f"{implementation} is not the reference at {key}"
        seconds.clear()
        benchmark.pedantic(step, rounds=rounds(sizes), warmup_rounds=3)
    if seconds:
        gradient, update = np.median(seconds, axis=0)
        benchmark.extra_info["gradient"], benchmark.extra_info["update"] = float(gradient), float(update)


def rounds(sizes):
    """As many as fit into half a second."""
    return 500 if max(sizes[1:]) <= 100 else 100 if max(sizes) < 1000 else 40 if max(sizes) < 4000 else 10
