"""One step of every rule on one array: the reference, fastopt, and the same traffic without arithmetic."""

import pytest

from bench.cases import array, checked_step, mlp
from bench.limit import bytes_per_element
from fastopt import threads
from fastopt.kernels import RULES

SIZES = {"1e3": 1_000, "1e5": 100_000, "1e6": 1_000_000, "3e7": 30_000_000}


@pytest.mark.parametrize("implementation", ["reference", "fastopt", "limit"])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("rule", RULES)
def test_array(benchmark, rule, size, implementation):
    benchmark.group = f"{rule} float32 {size}"
    # Run once, untimed, with the tests: gigabytes would show nothing more.
    elements = min(SIZES[size], 1_000_000) if benchmark.disabled else SIZES[size]
    step = checked_step(rule, implementation, array(elements, "float32"))
    slots = len(RULES[rule].state)
    benchmark.extra_info["bytes per element"] = bytes_per_element(slots, 4)
    benchmark.extra_info["threads"] = threads.threads_for(bytes_per_element(slots, 4) * elements)
    benchmark.extra_info["layer"] = threads.layer()
    benchmark(step)
    if benchmark.stats:
        moved = bytes_per_element(slots, 4) * elements
        benchmark.extra_info["GB/s"] = round(moved / benchmark.stats["median"] / 1e9, 1)


MODELS = {"784-40-20-10": (784, 40, 20, 10), "784-100x4-10": (784, 100, 100, 100, 100, 10)}


@pytest.mark.parametrize("implementation", ["reference", "fastopt"])
@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("rule", RULES)
def test_dict(benchmark, rule, model, implementation):
    benchmark.group = f"{rule} float32 dict {model}"
    benchmark(checked_step(rule, implementation, mlp(*MODELS[model])))
