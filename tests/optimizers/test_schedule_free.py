"""Schedule-free optimizers against the paper's lines, and the averaged parameters."""

import copy
import math

import numpy as np
import pytest

import fastopt
from fastopt import CheckpointError, schedules
from fastopt.optimizers import OPTIMIZERS
from tests.conftest import Pair, assert_same_bits

RULES = ["schedule_free_sgd", "schedule_free_adamw"]


def paper(p, gradients, adam, lr=0.1, beta1=0.9, beta2=0.99, eps=1e-8, warmup=0, weight_decay=0.0):
    """Algorithm 1 with x, y and z; without its v where `adam` is False. Returns y and x after each step."""
    x = z = y = p
    v, squares, found = 0.0, 0.0, []
    for t, g in enumerate(gradients, start=1):
        direction = g
        if adam:
            v = beta2 * v + (1 - beta2) * g * g
            direction = g / (np.sqrt(v / (1 - beta2**t)) + eps)
        lr_t = lr * min(1, t / warmup) if warmup else lr
        squares += lr_t**2
        z = z - lr_t * direction - lr_t * weight_decay * y
        c = lr_t**2 / squares
        x = (1 - c) * x + c * z
        y = (1 - beta1) * z + beta1 * x
        found.append((y, x))
    return found


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"beta1": 0.0},
        {"warmup": 7},
        {"warmup": 7.5},
        {"warmup": 1},
        {"warmup": 0.5},
        {"warmup": 1000},
        {"weight_decay": 0.3},
        {"weight_decay": 0.3, "warmup": 5, "beta1": 0.5},
    ],
    ids=str,
)
@pytest.mark.parametrize("rule", RULES)
def test_as_in_the_paper(rule, settings, rng):
    start, gradients = rng.standard_normal(50), 0.5 + rng.standard_normal((30, 50))
    adam = rule == "schedule_free_adamw"
    params, optimizer = {"W": start.copy()}, OPTIMIZERS[rule](lr=0.1, **settings)
    if adam:
        optimizer.beta2 = 0.99
    for g, (y, x) in zip(gradients, paper(start, gradients, adam, **settings), strict=True):
        optimizer.update(params, {"W": g})
        np.testing.assert_allclose(params["W"], y, rtol=1e-12, atol=1e-13)
        np.testing.assert_allclose(optimizer.averaged(params)["W"], x, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("decoupled", [False, True])
@pytest.mark.parametrize("rule", RULES)
def test_weight_decay_equals_the_reference(rule, decoupled, rng):
    pair = Pair(rule, weight_decay=0.1, decoupled=decoupled, warmup=3.0, lr=0.1)
    fast, plain = {"W": np.ones(100, np.float32)}, {"W": np.ones(100, np.float32)}
    for _ in range(6):
        pair.update(fast, plain, {"W": rng.standard_normal(100).astype(np.float32)})
    assert_same_bits(fast["W"], plain["W"])
    pair.assert_same_state()


@pytest.mark.parametrize(("rule", "expected"), [("schedule_free_sgd", 0.85), ("schedule_free_adamw", 0.9)])
def test_decay_of_the_gradient_and_decoupled(rule, expected):
    """For SGD they are the same."""
    for decoupled, result in ((False, expected), (True, 0.85)):
        params = {"W": np.ones(3)}
        OPTIMIZERS[rule](lr=0.1, weight_decay=0.5, decoupled=decoupled).update(params, {"W": np.ones(3)})
        assert params["W"] == pytest.approx(result)


def test_without_a_share_of_the_average_it_is_sgd_and_the_mean_of_its_path(rng):
    start, path = rng.standard_normal(9), []
    params, plain = {"W": start.copy()}, {"W": start.copy()}
    optimizer, sgd = fastopt.ScheduleFreeSGD(lr=0.1, beta1=0.0), fastopt.SGD(lr=0.1)
    for _ in range(10):
        g = rng.standard_normal(9)
        optimizer.update(params, {"W": g})
        sgd.update(plain, {"W": g})
        path.append(plain["W"].copy())
    np.testing.assert_allclose(params["W"], plain["W"], rtol=1e-13)
    np.testing.assert_allclose(optimizer.averaged(params)["W"], np.mean(path, axis=0), rtol=1e-12)


@pytest.mark.parametrize("rule", RULES)
def test_a_parameter_that_has_no_gradient_at_first(rule):
    """It stays where it is, and so does its average, which then begins from there."""
    pair = Pair(rule, lr=0.5)
    params, plain = {"a": np.ones(3), "b": np.full(2, 8.0)}, {"a": np.ones(3), "b": np.full(2, 8.0)}
    pair.update(params, plain, {"a": np.ones(3), "b": None})
    assert pair.fast.averaged(params)["b"].tolist() == params["b"].tolist() == [8.0, 8.0]
    pair.update(params, plain, {"a": np.ones(3), "b": np.zeros(2)})
    assert pair.fast.averaged(params)["b"].tolist() == params["b"].tolist() == [8.0, 8.0]
    pair.update(params, plain, {"a": np.ones(3), "b": np.ones(2)})
    assert 7 < params["b"][0] < 8
    assert_same_bits(params["b"], plain["b"])


def test_a_schedule_is_in_the_steps_and_not_in_the_weights():
    optimizer, params = fastopt.ScheduleFreeSGD(lr=schedules.Milestones(1.0, at=(1,), gamma=0.5)), {"x": 0.0}
    for _ in range(2):
        optimizer.update(params, {"x": 1.0})
    assert optimizer.averaged(params)["x"] == pytest.approx(-1.25)  # z was -1 and -1.5


@pytest.mark.parametrize("rule", RULES)
def test_averaged(rule, rng):
    params = {"W": np.asfortranarray(rng.standard_normal((3, 4))), "b": np.zeros(2, np.float32), "x": 1.5, "n": 3}
    optimizer = OPTIMIZERS[rule]()
    before = optimizer.averaged(params)
    assert_same_bits(before["W"], params["W"])
    assert before["W"] is not params["W"] and before["x"] == 1.5 and type(before["n"]) is float
    for _ in range(3):
        optimizer.update(params, {"W": np.ones((3, 4)), "b": np.ones(2), "x": 1.0, "n": None})
    kept = copy.deepcopy(params)
    average = optimizer.averaged(params)
    assert list(average) == list(params) and type(average["x"]) is float and average["n"] == 3
    for key in ("W", "b"):
        assert_same_bits(average[key], params[key] + optimizer.offset[key])
        assert_same_bits(params[key], kept[key])


def test_averaged_of_one_array_and_of_a_flat_dict():
    bare, flat = np.ones(3), fastopt.flatten({"W": np.ones(3)})
    first, second = fastopt.ScheduleFreeSGD(), fastopt.ScheduleFreeSGD()
    for _ in range(3):
        first.update(bare, np.ones(3))
        second.update(flat, fastopt.flatten({"W": np.ones(3)}))
    assert_same_bits(first.averaged(bare), bare + first.offset)
    assert_same_bits(second.averaged(flat)["W"], first.averaged(bare))


def test_averaged_refuses_what_a_step_would():
    optimizer, params = fastopt.ScheduleFreeSGD(), {"W": np.ones(3)}
    optimizer.update(params, {"W": np.ones(3)})
    for wrong, error, words in (
        (1.0, TypeError, "params must be a dict or a list of arrays, .* or one NumPy array, got float"),
        ({"W": np.ones(4)}, ValueError, r"params\['W'\] has shape \(4,\), but at the first step it had \(3,\)"),
        ({"W": np.ones(3, np.float32)}, TypeError, r"params\['W'\] has dtype float32, but at the first step"),
        ({"V": np.ones(3)}, KeyError, r"params\['V'\] has no state, which begins at"),
        ({"W": [1.0]}, KeyError, r"params\['W'\]\[0\] has no state"),
        (np.ones(3), KeyError, "one bare array has no state"),
    ):
        with pytest.raises(error, match=words):
            optimizer.averaged(wrong)
    optimizer.__dict__["_stepping"] = True
    with pytest.raises(RuntimeError, match="in the middle of a step"):
        optimizer.averaged(params)


def test_the_average_after_loading(tmp_path):
    optimizer, params = fastopt.ScheduleFreeAdamW(lr=0.1, warmup=2.0), {"W": np.ones(3)}
    for g in (1.0, 2.0, -1.0):
        optimizer.update(params, {"W": np.full(3, g)})
    optimizer.save(tmp_path / "state")
    resumed = fastopt.ScheduleFreeAdamW()
    resumed.load(tmp_path / "state")
    assert_same_bits(resumed.averaged(params)["W"], optimizer.averaged(params)["W"])
    with pytest.raises(CheckpointError, match="holds the state of rule 'schedule_free_adamw'"):
        fastopt.ScheduleFreeSGD().load(tmp_path / "state")


def test_far_on():
    for warmup in (0.0, 1e300, 1e15):
        optimizer, params = fastopt.ScheduleFreeSGD(lr=0.1, warmup=warmup), {"x": 1.0}
        optimizer.iter = 2**50
        optimizer.update(params, {"x": 1.0})
        assert math.isfinite(params["x"]) and math.isfinite(optimizer.averaged(params)["x"])
