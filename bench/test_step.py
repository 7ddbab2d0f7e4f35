"""`step`: one step of every rule on one array; of the textbook's rules for all implementations, and in float64 too.

`ten steps`: of rules of whole matrices, on a matrix; one of them renews what Shampoo and SOAP compute every tenth.
"""

from functools import lru_cache

import pytest

from bench import inplace
from bench.cases import NUMPY, array, checked_step, describe, mlp
from bench.peers import PEERS
from fastopt.kernels import RULES

pytestmark = pytest.mark.filterwarnings("ignore")  # other libraries warn at import

SIZES = {"1e3": 1_000, "1e5": 100_000, "1e6": 1_000_000, "3e7": 30_000_000}
# Rule, dtype and implementation. Muon's time is that of BLAS.
CASES = [(rule, "float32", "fastopt") for rule in RULES]
CASES += [(rule, "float32", "textbook") for rule in RULES if not RULES[rule].prepare]
CASES += [(rule, "float32", "limit") for rule in RULES if not RULES[rule].prepare]
CASES += [(rule, "float32", other) for rule in inplace.RULES for other in ("in place", "fastopt serial")]
CASES += [(rule, "float64", name) for rule in inplace.RULES for name in (*NUMPY, "fastopt serial", "fastopt", "limit")]

model = lru_cache(maxsize=1)(array)


def run(benchmark, rule, dtype, size, implementation, elements):
    benchmark.group = f"step {rule} {dtype} {size}"
    params = model(elements, dtype)
    step = checked_step(rule, implementation, params)
    benchmark(step)
    describe(benchmark, implementation, rule, params, step)


@pytest.mark.parametrize(("rule", "dtype", "implementation"), sorted(CASES, key=lambda case: (case[1], case[0])))
@pytest.mark.parametrize("size", SIZES)
def test_step(benchmark, size, rule, dtype, implementation):
    if benchmark.disabled and size != "1e3":
        pytest.skip("the smallest size shows that the bench works")
    run(benchmark, rule, dtype, size, implementation, SIZES[size])


@pytest.mark.parametrize("rule", [rule for rule in RULES if RULES[rule].prepare])
@pytest.mark.parametrize("shape", [(64, 32), (784, 100), (300, 300)])
def test_matrix(benchmark, shape, rule):
    if benchmark.disabled and shape != (64, 32):
        pytest.skip("the smallest size shows that the bench works")
    params = {"W": mlp(*shape)["W1"]}
    benchmark.group = f"ten steps float32 {shape[0]}x{shape[1]}"
    step = checked_step(rule, "fastopt", params)
    benchmark(lambda: [step() for _ in range(10)])
    benchmark.extra_info["rule"] = rule


@pytest.mark.parametrize("implementation", PEERS)
@pytest.mark.parametrize("size", SIZES)
def test_peer(benchmark, small, size, implementation):
    run(benchmark, "adam", "float32", size, implementation, small(SIZES[size]))
