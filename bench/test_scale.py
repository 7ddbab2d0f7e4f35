"""`scale`: Adam over the number of threads, the size of the model, and the number of arrays."""

from functools import lru_cache

import pytest

from bench.cases import array, checked_step, describe, equal_arrays
from fastopt import threads

pytestmark = pytest.mark.filterwarnings("ignore")  # other libraries warn at import

SIZES = {f"1e{power}": 10**power for power in range(2, 9)}
THREADS = range(1, threads.config.NUMBA_NUM_THREADS + 1)
TOTAL = 1_000_000

model = lru_cache(maxsize=1)(array)
arrays = lru_cache(maxsize=1)(equal_arrays)


@pytest.mark.parametrize("count", THREADS)
@pytest.mark.parametrize("size", ["1e6", "3e7"])
def test_threads(benchmark, small, size, count):
    benchmark.group = f"threads adam float32 {size}"
    params = model(small({"1e6": 1_000_000, "3e7": 30_000_000}[size]))
    step = checked_step("adam", "fastopt", params)
    with threads.num_threads(count):
        benchmark(step)
        describe(benchmark, "fastopt", "adam", params, step)


@pytest.mark.parametrize(
    "implementation", ["textbook", "in place", "fastopt", "limit", "torch fused", "torch", "optax", "scikit-learn"]
)
@pytest.mark.parametrize("size", SIZES)
def test_size(benchmark, small, size, implementation):
    benchmark.group = f"size adam float32 {size}"
    params = model(small(SIZES[size]))
    step = checked_step("adam", implementation, params)
    benchmark(step)
    describe(benchmark, implementation, "adam", params, step)


@pytest.mark.parametrize("implementation", ["textbook", "in place", "fastopt", "flat", "torch fused"])
@pytest.mark.parametrize("count", [1, 10, 100, 1000, 10_000])
def test_arrays(benchmark, small, count, implementation):
    benchmark.group = f"arrays adam float32 {count:,} of {TOTAL // count:,}"
    params = arrays(count if not benchmark.disabled else min(count, 100), small(TOTAL) // count or 1)
    step = checked_step("adam", implementation, params)
    benchmark(step)
    describe(benchmark, implementation, "adam", params, step)
