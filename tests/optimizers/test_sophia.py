"""Sophia against the paper's lines, and how it takes estimates of the Hessian's diagonal."""

import copy
import pickle

import numpy as np
import pytest

import fastopt
from fastopt import reference, schedules, threads
from tests.conftest import THREAD_COUNTS, Pair, assert_same_bits, python


def paper(p, gradients, estimates, lr, beta1=0.96, beta2=0.99, gamma=0.01, eps=1e-12, weight_decay=0.0, every=3):
    """Algorithm 3."""
    m = h = 0.0
    for t, g in enumerate(gradients, start=1):
        m = beta1 * m + (1 - beta1) * g
        if t % every == 1:
            h = beta2 * h + (1 - beta2) * estimates[t - 1]
        p = p - lr * weight_decay * p
        p = p - lr * np.clip(m / np.maximum(gamma * h, eps), -1, 1)
    return p


@pytest.mark.parametrize(
    "settings", [{}, {"weight_decay": 0.2}, {"beta1": 0.5, "beta2": 0.9, "gamma": 3.0}, {"eps": 0.01}], ids=str
)
def test_as_in_the_paper(settings, rng):
    start, gradients = rng.standard_normal(200), rng.standard_normal((20, 200))
    estimates = rng.standard_normal((20, 200)) * 200 + 100
    params, optimizer = {"W": start.copy()}, fastopt.Sophia(lr=0.1, decoupled=True, **settings)
    for t, g in enumerate(gradients, start=1):
        if t % 3 == 1:
            optimizer.update_hessian(params, {"W": estimates[t - 1]})
        optimizer.update(params, {"W": g})
    np.testing.assert_allclose(params["W"], paper(start, gradients, estimates, 0.1, **settings), rtol=1e-11, atol=1e-12)


def model(rng, dtype="float32"):
    shapes = {"W": (130, 70), "b": (70,), "none": (0,), "one": ()}
    return {key: np.asarray(rng.standard_normal(shape)).astype(dtype) for key, shape in shapes.items()}


@pytest.mark.parametrize("count", THREAD_COUNTS[:2])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("flat", [False, True])
def test_equals_the_reference(flat, dtype, count, rng):
    pair, fast = Pair("sophia", lr=0.1), model(rng, dtype)
    plain = copy.deepcopy(fast)
    fast = fastopt.flatten(fast) if flat else fast
    special = [np.nan, np.inf, -np.inf, 0.0, -0.0, np.finfo(dtype).max, np.finfo(dtype).tiny]
    with threads.exactly(count):
        for step in range(9):
            if step % 2 == 0:
                estimates = {key: np.abs(value) * 300 for key, value in model(rng, "float64").items()}
                estimates["b"][:7] = special if step == 4 else 1.0
                kept = {key: value.copy() for key, value in fast.items()}
                with np.errstate(all="ignore"):
                    pair.fast.update_hessian(fast, estimates)
                    pair.plain.update_hessian(plain, estimates)
                for key in kept:
                    assert_same_bits(fast[key], kept[key])
            assert pair.fast.iter == step
            pair.update(fast, plain, model(rng, dtype))
    for key in plain:
        assert_same_bits(fast[key], plain[key])
    pair.assert_same_state()


def test_masked_elements_keep_their_estimate(rng):
    """In the reference too."""
    pair, params = Pair("sophia", mask=np.array([True, False])), rng.standard_normal(2)
    for side in (pair.fast, pair.plain):
        side.update_hessian(params, np.ones(2))
    pair.assert_same_state()
    assert pair.fast.h[0] > 0 and pair.fast.h[1] == 0


def test_one_array_numbers_and_none():
    for package in (fastopt, reference):
        optimizer, p = package.Sophia(lr=0.5, beta1=0.5, beta2=0.5, gamma=1.0), np.ones(2)
        optimizer.update_hessian(p, np.array([8.0, 0.0]))
        optimizer.update(p, np.full(2, 2.0))
        assert p.tolist() == [0.875, 0.5]
        optimizer, params = package.Sophia(lr=0.5, beta1=0.5, beta2=0.5, gamma=1.0), {"x": 1.0, "W": np.ones(1)}
        optimizer.update_hessian(params, {"x": 8, "W": None})
        optimizer.update(params, {"x": 2.0, "W": np.full(1, 2.0)})
        assert params["x"] == 0.875 and type(params["x"]) is float and params["W"] == 0.5
        assert optimizer.h["x"] == 4.0 and optimizer.h["W"] == 0.0


def test_estimates_that_die_away_become_zero():
    optimizer, params = fastopt.Sophia(beta2=0.5), {"W": np.ones(3, np.float32)}
    optimizer.update_hessian(params, {"W": np.full(3, 1e-37)})
    for _ in range(10):
        optimizer.update_hessian(params, {"W": np.zeros(3)})
    assert (optimizer.h["W"] == 0).all()


def everything(optimizer, params):
    return pickle.dumps((optimizer.state_dict(), params))


@pytest.mark.parametrize("stepped", [False, True])
@pytest.mark.parametrize(
    ("params", "estimates", "error", "words"),
    [
        (None, {"W": np.ones(4), "b": np.ones(2)}, ValueError, r"Sophia: grads\['W'\] has shape \(4,\)"),
        (None, {"W": np.ones(3)}, KeyError, r"Sophia: grads has no entry for params\['b'\]"),
        (None, {"W": np.ones(3), "b": "x"}, TypeError, r"Sophia: grads\['b'\] is of type str"),
        (None, [1.0], TypeError, "Sophia: params is of type dict and grads of type list"),
        (None, {"W": np.ones(3), "b": np.array([1.0, np.nan])}, FloatingPointError, r"grads\['b'\] has 1 of 2 values"),
        (
            {"W": np.ones(3), "b": [1.0]},
            {"W": np.ones(3), "b": np.ones(2)},
            TypeError,
            r"params\['b'\] is of type list",
        ),
    ],
)
def test_mistakes_change_nothing(params, estimates, error, words, stepped):
    good, optimizer = {"W": np.ones(3), "b": np.ones(2)}, fastopt.Sophia(on_nonfinite="raise")
    if stepped:
        optimizer.update_hessian(good, {"W": np.ones(3), "b": np.ones(2)})
        optimizer.update(good, {"W": np.ones(3), "b": np.ones(2)})
    params = good if params is None else params
    before = everything(optimizer, params)
    with pytest.raises(error, match=words):
        optimizer.update_hessian(params, estimates)
    assert everything(optimizer, params) == before


def test_estimates_are_skipped_or_raise_like_gradients():
    params, bad = {"W": np.ones(3)}, {"W": np.array([1.0, np.inf, 1.0])}
    optimizer = fastopt.Sophia(on_nonfinite="skip")
    optimizer.update_hessian(params, bad)
    assert not optimizer.h and optimizer.skipped == 0
    optimizer.update_hessian(params, {"W": np.ones(3)})
    kept = optimizer.h["W"].copy()
    optimizer.update_hessian(params, bad)
    assert_same_bits(optimizer.h["W"], kept)
    optimizer.on_nonfinite = "propagate"
    optimizer.update_hessian(params, bad)
    assert np.isinf(optimizer.h["W"][1])
    optimizer.__dict__["_stepping"] = True
    with pytest.raises(RuntimeError, match="in the middle of a step"):
        optimizer.update_hessian(params, bad)


def test_what_is_done_to_gradients_is_not_done_to_estimates():
    settings = {"maximize": True, "gradient_scale": 0.5, "clip_value": 0.1, "clip_norm": 0.1, "weight_decay": 0.5}
    params, optimizer = {"W": np.ones(3)}, fastopt.Sophia(beta2=schedules.Linear(0.5, 0.75, 2), **settings)
    optimizer.update_hessian(params, {"W": np.full(3, 8.0)})
    assert optimizer.h["W"].tolist() == [4.0] * 3
    optimizer.update(params, {"W": np.ones(3)})
    optimizer.update_hessian(params, {"W": np.full(3, 8.0)})
    assert optimizer.h["W"].tolist() == [5.5] * 3  # at the step to come beta2 is 0.625


@pytest.mark.parametrize("steps", [0, 2])
def test_saved_and_resumed(steps, tmp_path, rng):
    optimizer, params = fastopt.Sophia(lr=0.1), model(rng)
    for _ in range(steps):
        optimizer.update(params, model(rng))
    optimizer.update_hessian(params, {key: np.full(value.shape, 50.0) for key, value in params.items()})
    optimizer.save(tmp_path / "state")
    resumed, other = fastopt.Sophia(), copy.deepcopy(params)
    resumed.load(tmp_path / "state")
    assert resumed.iter == steps
    grads = model(rng)
    for one, p in ((optimizer, params), (resumed, other)):
        one.update(p, grads)
        one.update_hessian(p, grads)
        one.update(p, grads)
    for key in params:
        assert_same_bits(params[key], other[key])


IN_PYTHON = """
import numpy as np
from fastopt import Sophia, reference
found = []
for make in (Sophia, reference.Sophia):
    params, optimizer = {"W": np.linspace(-1, 1, 40)}, make(lr=0.1)
    for step in range(3):
        optimizer.update_hessian(params, {"W": np.linspace(0, 99, 40)})
        optimizer.update(params, {"W": np.linspace(-1, 2, 40)})
    found.append(params["W"].tobytes())
print(found[0] == found[1])
"""


@pytest.mark.parametrize("setting", ["NUMBA_DISABLE_JIT", "FASTOPT_CHECK"])
def test_in_pure_python(setting):
    assert python(IN_PYTHON, **{setting: "1"}).stdout == "True\n"
