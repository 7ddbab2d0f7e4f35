"""optax's shape: pure functions, whose updates are the step."""

import copy
import pickle

import numpy as np
import pytest

import fastopt
from fastopt.functional import optax

RULES = ["sgd", "momentum", "adam", "adamw", "lamb", "schedule_free_sgd"]


def model(rng, dtype="float64"):
    return {"W": rng.standard_normal((3, 4)).astype(dtype), "b": rng.standard_normal(4).astype(dtype)}


@pytest.mark.parametrize("rule", RULES)
def test_updates_are_the_step(rule, rng):
    params = model(rng)
    optimizer = fastopt.optimizers.OPTIMIZERS[rule](lr=0.1)
    stepped, plain = copy.deepcopy(params), copy.deepcopy(optimizer)
    transformation = optax.transformation(optimizer)
    state = transformation.init(params)
    for _ in range(4):
        grads = model(rng)
        plain.update(stepped, grads)
        updates, state = transformation.update(grads, state, params)
        params = optax.apply_updates(params, updates)
        for key in params:
            np.testing.assert_allclose(params[key], stepped[key], rtol=1e-13, atol=1e-15)
    assert optimizer.iter == 0 and state.optimizer.iter == 4


def test_nothing_is_written_and_a_state_may_be_used_again(rng):
    params, grads = model(rng, "float32"), model(rng, "float32")
    kept = copy.deepcopy((params, grads))
    transformation = optax.transformation(fastopt.Adam())
    _, state = transformation.update(grads, transformation.init(params), params=params)
    before = pickle.dumps(state)
    one, next_state = transformation.update(grads, state, params)
    two, _ = transformation.update(grads, state, params)
    assert pickle.dumps(state) == before and next_state.optimizer.iter == 2
    for key in params:
        assert one[key].tobytes() == two[key].tobytes() and one[key].dtype == np.float32
        assert params[key].tobytes() == kept[0][key].tobytes() and grads[key].tobytes() == kept[1][key].tobytes()


def test_one_array():
    init, update = optax.transformation(fastopt.SGD(lr=0.5))
    updates, _ = update(np.ones(3), init(np.zeros(3)), np.zeros(3))
    assert optax.apply_updates(np.zeros(3), updates).tolist() == [-0.5] * 3


def test_mistakes():
    with pytest.raises(TypeError, match="transformation: expected an optimizer"):
        optax.transformation(fastopt.Adam)
    init, update = optax.transformation(fastopt.SGD())
    with pytest.raises(ValueError, match=r"update\(grads, state, params\)"):
        update(np.ones(3), init(np.ones(3)))
