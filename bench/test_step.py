"""`step`: one step of every rule on one array, for all implementations."""

from functools import lru_cache

import pytest

from bench.cases import NUMPY, array, checked_step, describe
from bench.peers import PEERS
from fastopt.kernels import RULES

pytestmark = pytest.mark.filterwarnings("ignore")  # other libraries warn at import

SIZES = {"1e3": 1_000, "1e5": 100_000, "1e6": 1_000_000, "3e7": 30_000_000}
DTYPES = ("float32", "float64")

model = lru_cache(maxsize=1)(array)


def run(benchmark, rule, dtype, size, implementation, elements):
    benchmark.group = f"step {rule} {dtype} {size}"
    params = model(elements, dtype)
    benchmark(checked_step(rule, implementation, params))
    describe(benchmark, rule, params)


@pytest.mark.parametrize("implementation", [*NUMPY, "fastopt serial", "fastopt", "limit"])
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", SIZES)
def test_step(benchmark, size, dtype, rule, implementation):
    if benchmark.disabled and size != "1e3":
        pytest.skip("the smallest size shows that the bench works")
    run(benchmark, rule, dtype, size, implementation, SIZES[size])


@pytest.mark.parametrize("implementation", PEERS)
@pytest.mark.parametrize("size", SIZES)
def test_peer(benchmark, small, size, implementation):
    run(benchmark, "adam", "float32", size, implementation, small(SIZES[size]))
