"""Steps like the one before, with settings that vary: the same bits as all others, and nothing that changes is missed."""

import itertools

import numpy as np
import pytest

import fastopt
from fastopt import schedules
from fastopt.engine import step
from tests.conftest import Pair, assert_same_bits

FACTORS = (0.5, 1.0, 0.25, 2.0, 0.125)

SETTINGS = {
    "clipping": {"clip_norm": 0.4},
    "clipping, decay": {"clip_norm": 0.4, "weight_decay": 0.1},
    "schedule": {"lr": schedules.Cosine(0.1, steps=9), "weight_decay": 0.1, "decoupled": True},
    "groups": {"groups": {"b": {"weight_decay": 0.0, "lr": 0.3}}, "weight_decay": 0.1, "clip_value": 0.3},
    "all": {
        "clip_norm": 0.4,
        "maximize": True,
        "gradient_scale": 0.5,
        "lr": lambda step: 0.1 / step,
        "groups": {"b": {"weight_decay": 0.0, "lr_scale": 0.5}},
        "weight_decay": 0.1,
        "decoupled": True,
    },
}


@pytest.fixture
def full_steps(monkeypatch):
    """How many steps `step.make` has made."""
    counted, make = [], step.make
    monkeypatch.setattr(step, "make", lambda *rest: counted.append(1) or make(*rest))
    return counted


def arrays(rng, dtype):
    return {"W": rng.standard_normal((30, 4)).astype(dtype), "b": rng.standard_normal(7).astype(dtype)}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", SETTINGS)
def test_as_the_reference(name, dtype, full_steps, rng):
    settings = SETTINGS[name]
    numbers = {key: value for key, value in settings.items() if not callable(value)}
    pair, fast = Pair("adam", **numbers), arrays(rng, dtype)
    plain = {key: value.copy() for key, value in fast.items()}
    pair.fast = fastopt.Adam(**settings)
    for number in range(1, 9):
        if "lr" in settings:
            pair.plain.lr = settings["lr"](number)
        pair.update(fast, plain, arrays(rng, dtype))
        for key in fast:
            assert_same_bits(fast[key], plain[key])
    pair.assert_same_state()
    assert len(full_steps) == 2 and pair.fast.iter == 8


@pytest.mark.parametrize("kind", ["array", "flat"])
def test_one_array_and_flat_dicts(kind, full_steps, rng):
    params, grads = arrays(rng, np.float32), arrays(rng, np.float32)
    if kind == "array":
        params, grads = params["W"], grads["W"]
        plain = params.copy()
    else:
        params, grads = fastopt.flatten(params), fastopt.flatten(grads)
        plain = {key: value.copy() for key, value in params.items()}
    pair = Pair("momentum", clip_norm=0.3)
    for _ in range(6):
        pair.update(params, plain, grads)
    for key in (...,) if kind == "array" else params:
        assert_same_bits(params[key], plain[key])
    assert len(full_steps) == 2


CHANGES = {
    "a setting": lambda o, p, g: setattr(o, "clip_norm", 0.05),
    "a schedule that ends": lambda o, p, g: setattr(o, "lr", 0.5),
    "a group's setting": lambda o, p, g: o.groups["b"].update(lr=0.7),
    "a new group": lambda o, p, g: o.groups.update({"W": {"weight_decay": 0.9}}),
    "a gradient of None": lambda o, p, g: g.update(b=None),
    "another array": lambda o, p, g: p.update(W=p["W"] + 1),
    "another shape of a gradient": lambda o, p, g: g.update(b=g["b"].reshape(1, 7)),
    "another dtype of a gradient": lambda o, p, g: g.update(b=g["b"].astype(np.float64)),
    "the step": lambda o, p, g: setattr(o, "iter", 50),
    "non-finite gradients": lambda o, p, g: setattr(o, "on_nonfinite", "skip"),
}


@pytest.mark.parametrize("what", CHANGES)
def test_changes_are_seen(what, rng):
    """Beside an optimizer that is forced to look at everything, as it reports each step."""
    settings = {"lr": schedules.Exponential(0.1, 0.9), "groups": {"b": {"lr_scale": 0.5}}, "clip_norm": 0.4}
    sides = []
    for report in (False, True):
        optimizer, own = fastopt.Adam(**settings), np.random.default_rng(5)
        params = arrays(own, np.float32)
        for number in range(9):
            grads = arrays(own, np.float32)
            if number == 4:
                CHANGES[what](optimizer, params, grads)
            optimizer.update(params, grads, report=report)
        sides.append((optimizer, params))
    (ours, found), (theirs, expected) = sides
    assert ours.iter == theirs.iter
    for key, array in found.items():
        assert_same_bits(array, expected[key])


def test_errors_write_nothing(full_steps, rng):
    params, grads = arrays(rng, np.float32), arrays(rng, np.float32)
    optimizer = fastopt.Adam(lr=lambda step: -1.0 if step == 6 else 0.1, clip_norm=1.0)
    for bad, error, words in (
        ({**grads, "W": np.ones((4, 30))}, ValueError, "shape"),
        ({"W": grads["W"]}, KeyError, "'b'"),
        (grads, ValueError, "lr at step 6 must be in"),
    ):
        while optimizer.iter < 4 or (optimizer.iter == 4 and bad is grads):
            optimizer.update(params, grads)
        before, steps = {key: value.copy() for key, value in params.items()}, optimizer.iter
        with pytest.raises(error, match=words):
            optimizer.update(params, bad)
        assert optimizer.iter == steps
        for key in params:
            assert_same_bits(params[key], before[key])
    optimizer.lr = 0.1
    optimizer.update(params, grads)
    assert optimizer.iter == 6


def test_a_schedule_is_asked_once_a_step(rng):
    asked = itertools.count()
    optimizer = fastopt.Adam(lr=lambda step: 0.1 + 0 * next(asked), groups={"b": {"weight_decay": 0.1}}, clip_norm=1.0)
    begin = next(asked)
    params, grads = arrays(rng, np.float32), arrays(rng, np.float32)
    for _ in range(7):
        optimizer.update(params, grads)
    assert next(asked) - begin - 1 == 7


@pytest.mark.parametrize("more", [{"clip_norm": 0.4}, {"lr": schedules.Exponential(0.1, 0.9)}])
def test_state_that_is_rounded_by_the_step_is_made_anew(more):
    """Beside an optimizer whose plan is forgotten before each step."""
    sides = []
    for forgets in (False, True):
        optimizer, own = fastopt.Adam(state_storage="bfloat16", **more), np.random.default_rng(5)
        params = {"W": own.standard_normal(5000).astype(np.float32)}
        for _ in range(8):
            if forgets:
                optimizer._forget_plans()
            optimizer.update(params, {"W": own.standard_normal(5000).astype(np.float32)})
        sides.append(params["W"])
    assert_same_bits(*sides)
