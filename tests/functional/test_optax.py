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


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        (lambda optax: optax.sgd(0.1), fastopt.SGD(lr=0.1)),
        (lambda optax: optax.adam(0.1), fastopt.Adam(lr=0.1, form="paper")),
        (lambda optax: optax.adamw(0.1), fastopt.AdamW(lr=0.1, weight_decay=1e-4)),
        (lambda optax: optax.rmsprop(0.1), fastopt.RMSProp(lr=0.1, decay_rate=0.9, eps_root=1e-8)),
    ],
    ids=["sgd", "adam", "adamw", "rmsprop"],
)
def test_a_loop_of_optax(theirs, ours, rng):
    """The same loop holds either; float32 within rounding, as optax's corrections are of float32 too."""
    peer = pytest.importorskip("optax")
    params, batches = model(rng, "float32"), [model(rng, "float32") for _ in range(5)]
    ends = []
    for library, optimizer in ((peer, theirs(peer)), (optax, optax.transformation(ours))):
        x = params
        state = optimizer.init(x)
        for grads in batches:
            updates, state = optimizer.update(grads, state, x)
            x = library.apply_updates(x, updates)
        ends.append(x)
    for key in params:
        np.testing.assert_allclose(ends[1][key], ends[0][key], rtol=2e-4, atol=2e-5)
