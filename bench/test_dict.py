"""`dict`: one Adam step of real models, as dicts of arrays."""

from functools import cache

import pytest

from bench.cases import NUMPY, OURS, checked_step, describe, embedding, equal_arrays, mlp
from bench.peers import PEERS

pytestmark = pytest.mark.filterwarnings("ignore")  # other libraries warn at import

MODELS = {
    "784-40-20-10": lambda: mlp(784, 40, 20, 10),
    "784-100x4-10": lambda: mlp(784, 100, 100, 100, 100, 10),
    "784-1024-1024-10": lambda: mlp(784, 1024, 1024, 10),
    "embedding": embedding,
    "200 arrays of 500": lambda: equal_arrays(200, 500),
}


@cache
def model_of(name):
    return MODELS[name]()


@pytest.mark.parametrize("implementation", [*NUMPY, *OURS, *PEERS])
@pytest.mark.parametrize("model", MODELS)
def test_dict(benchmark, model, implementation):
    if benchmark.disabled and model in ("784-1024-1024-10", "embedding"):
        pytest.skip("the small models show that the bench works")
    benchmark.group = f"dict {model}"
    params = model_of(model)
    step = checked_step("adam", implementation, params)
    benchmark(step)
    describe(benchmark, implementation, "adam", params, step)
