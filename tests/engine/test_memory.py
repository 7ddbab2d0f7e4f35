"""A step allocates nothing of the size of the parameters."""

import gc
import tracemalloc
import weakref
from pathlib import Path

import numpy as np
import pytest

import fastopt
from fastopt import threads
from fastopt.kernels import RULES
from fastopt.optimizers import OPTIMIZERS
from tests.conftest import THREAD_COUNTS, cases_of, python

SIZE = 200_000


def models():
    """Parameters and gradients in every way in which a step handles them."""
    shape = (500, SIZE // 500)
    plain = {"W": np.ones(shape, np.float32), "b": np.ones(500, np.float32)}
    grads = {"W": np.ones(shape, np.float32), "b": np.ones(500, np.float32)}
    return {
        "dict": (plain, grads),
        "flat": (fastopt.flatten(plain), fastopt.flatten(grads)),
        "array": (np.ones(SIZE), np.ones(SIZE)),
        "F": ({"W": np.ones(shape, order="F")}, {"W": np.ones(shape, order="F")}),
        "strided": ({"W": np.ones((500, SIZE // 250))[:, ::2]}, {"W": np.ones(shape)}),
        "converted": (plain, {"W": np.ones(shape).T.copy().T, "b": np.ones(500)}),
        "own gradient": (plain, plain),
    }


@pytest.mark.parametrize(
    ("rule", "model", "count"),
    cases_of([rule for rule in RULES if not RULES[rule].prepare], list(models()), THREAD_COUNTS[:2]),  # not in NumPy
)
def test_no_temporary_of_parameter_size(rule, model, count):
    params, grads = models()[model]
    optimizer = OPTIMIZERS[rule]()
    with threads.exactly(count):
        for _ in range(2):
            optimizer.update(params, grads)
        tracemalloc.start()
        optimizer.update(params, grads)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert peak < 50_000, f"{peak} bytes"


def test_tracemalloc_sees_numpys_temporaries():
    tracemalloc.start()
    np.ones(SIZE) + 1
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak > 8 * SIZE


@pytest.mark.parametrize("rule", ["sgd", "adam"])  # without and with state; the rest is the same code
def test_memory_does_not_grow(rule):
    """Arrays are replaced, gradients come and go, None and numbers among them."""
    rng, optimizer = np.random.default_rng(0), OPTIMIZERS[rule]()
    params = {"a": np.ones(20_000), "b": np.ones((50, 40), order="F"), "x": 1.0}
    own = [tracemalloc.Filter(True, f"{Path(module.__file__).parent}/*") for module in (fastopt, fastopt.kernels)]
    traced = []
    tracemalloc.start()
    for step in range(2000):
        if step in (1000, 1999):
            gc.collect()
            # The blocks that the package's own lines allocated. NumPy keeps freed small blocks for its next arrays,
            # which look like a growth until its store is full: up to some two hundred, once. A leak is one a step.
            lines = tracemalloc.take_snapshot().filter_traces(own).statistics("lineno")
            traced.append(sum(line.count for line in lines))
        if step % 3 == 0:
            params["a"] = params["a"].copy()
        grads = {key: rng.standard_normal(np.shape(value)) for key, value in params.items()}
        grads["b"] = None if step % 7 == 0 else grads["b"]
        optimizer.update(params, grads)
    tracemalloc.stop()
    assert 0 < traced[0] and traced[1] - traced[0] < 500, f"{traced[1] - traced[0]} blocks more after 1000 steps"


def test_replaced_arrays_are_let_go():
    """A report has addresses of its own, which must not keep arrays of the past alive until the next report."""
    optimizer = OPTIMIZERS["adam"]()
    params, grads = {"W": np.ones(1000)}, {"W": np.ones(1000)}
    optimizer.update(params, grads, report=True)
    optimizer.update(params, grads)
    replaced = weakref.ref(params["W"])
    params["W"] = params["W"].copy()
    optimizer.update(params, grads)
    gc.collect()
    assert replaced() is None


SOAK = """
import random, resource, sys, numpy as np, fastopt
from pathlib import Path
rng, params = random.Random(0), {f"p{i}": np.ones(50 + 10 * i) for i in range(4)}
optimizer = fastopt.Adam()
def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
steps, start = int(sys.argv[1]), 0
for step in range(steps):
    if rng.random() < 0.3:
        key = rng.choice(list(params))
        params[key] = params[key].copy()
    optimizer.update(params, {key: np.ones(value.shape) for key, value in params.items()}, report=step % 10 == 0)
    if step == steps // 4:
        start = resident()
print(resident() - start)
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="Linux")
def test_a_soak_of_200_000_steps_with_arrays_replaced_at_random():
    growth = int(python(SOAK, "200000").stdout)
    assert growth < 2_000_000, f"{growth} bytes more after 150,000 steps"
