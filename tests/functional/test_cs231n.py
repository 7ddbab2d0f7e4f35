"""The functions of cs231n: names, defaults, counting, what is written and what is not."""

import copy
import pickle

import numpy as np
import pytest

from fastopt import functional
from fastopt.functional import cs231n

SHAPE = (4, 5)


def written_out(name, w, dw, config):
    """The course's formulas, in its words for settings and state."""
    lr = config["learning_rate"]
    if name == "sgd":
        return w - lr * dw
    if name == "sgd_momentum":
        config["velocity"] = config["momentum"] * config["velocity"] - lr * dw
        return w + config["velocity"]
    if name == "rmsprop":
        config["cache"] = config["decay_rate"] * config["cache"] + (1 - config["decay_rate"]) * dw**2
        return w - lr * dw / (np.sqrt(config["cache"]) + config["epsilon"])
    config["t"] += 1
    config["m"] = config["beta1"] * config["m"] + (1 - config["beta1"]) * dw
    config["v"] = config["beta2"] * config["v"] + (1 - config["beta2"]) * dw**2
    m_hat = config["m"] / (1 - config["beta1"] ** config["t"])
    v_hat = config["v"] / (1 - config["beta2"] ** config["t"])
    return w - lr * m_hat / (np.sqrt(v_hat) + config["epsilon"])


DEFAULTS = {
    "sgd": {"learning_rate": 1e-2},
    "sgd_momentum": {"learning_rate": 1e-2, "momentum": 0.9, "velocity": 0.0},
    "rmsprop": {"learning_rate": 1e-2, "decay_rate": 0.99, "epsilon": 1e-8, "cache": 0.0},
    "adam": {"learning_rate": 1e-3, "beta1": 0.9, "beta2": 0.999, "epsilon": 1e-8, "t": 0, "m": 0.0, "v": 0.0},
}  # fmt: skip
STATE = {"sgd": (), "sgd_momentum": ("velocity",), "rmsprop": ("cache",), "adam": ("m", "v")}
EXACT = ("sgd", "sgd_momentum")


def assert_close(name, value, expected):
    if name in EXACT:
        assert value.tobytes() == expected.tobytes()
    else:
        np.testing.assert_allclose(value, expected, rtol=1e-13, atol=1e-15)


@pytest.mark.parametrize("inplace", [False, True])
@pytest.mark.parametrize("name", DEFAULTS)
def test_steps_are_those_of_the_course(name, inplace, rng):
    w = rng.standard_normal(SHAPE)
    expected, reference, config = w.copy(), dict(DEFAULTS[name]), None
    for step in range(5):
        dw = rng.standard_normal(SHAPE)
        if step == 3:  # as a Solver does after each epoch
            config["learning_rate"] *= 0.5
            reference["learning_rate"] *= 0.5
        w, config = getattr(cs231n, name)(w, dw, config, inplace=inplace)
        expected = written_out(name, expected, dw, reference)
        assert_close(name, w, expected)
        for slot in STATE[name]:
            assert_close(name, config[slot], reference[slot])
    assert config.get("t", 5) == 5
    assert {key: config[key] for key in DEFAULTS[name] if key not in STATE[name]} == {
        key: value for key, value in reference.items() if key not in STATE[name]
    }


@pytest.mark.parametrize("name", DEFAULTS)
def test_what_is_written(name):
    function, w, dw = getattr(functional, name), np.ones(SHAPE), np.ones(SHAPE)
    new, config = function(w, dw)
    assert (new is w) == (name == "sgd")  # as in the course
    w = np.ones(SHAPE)
    old = {slot: config[slot] for slot in STATE[name]}
    before = copy.deepcopy(old)
    new, same = function(w, dw, config, inplace=False)
    assert same is config and new is not w and (w == 1).all()
    assert all(old[slot].tobytes() == before[slot].tobytes() and config[slot] is not old[slot] for slot in old)
    new, config = function(w, dw, config, inplace=True)
    kept = {slot: config[slot] for slot in STATE[name]}
    new, config = function(w, dw, config, inplace=True)
    assert new is w and all(config[slot] is kept[slot] for slot in kept)


@pytest.mark.parametrize("change", ["given", "replaced", "copied", "pickled", "shared"])
@pytest.mark.parametrize("name", ["sgd_momentum", "rmsprop", "adam"])
def test_state_is_that_of_the_config(name, change, rng):
    """Set as in the course's notebooks, replaced between steps, or gone on with from a copy."""
    w, dw = rng.standard_normal(SHAPE), rng.standard_normal(SHAPE)
    state = {slot: rng.random(SHAPE) for slot in STATE[name]}
    count = {"t": 5} if name == "adam" else {}
    config = {**state, **count}
    function = getattr(cs231n, name)
    if change != "given":
        config = function(w, dw)[1]
        if change == "replaced":
            config.update(state, **count)
        else:
            function(w, dw, config)
            state, count = {slot: config[slot].copy() for slot in state}, {key: config[key] for key in count}
            config = {"copied": copy.deepcopy, "pickled": lambda x: pickle.loads(pickle.dumps(x)), "shared": dict}[
                change
            ](config)
    reference = {**DEFAULTS[name], **copy.deepcopy(state), **count}
    assert_close(name, function(w, dw, config)[0], written_out(name, w, dw, reference))


def test_configs_that_share_an_optimizer_do_not_share_state(rng):
    w, dw = rng.standard_normal(SHAPE), rng.standard_normal(SHAPE)
    first = cs231n.adam(w, dw)[1]
    second = dict(first)
    one, _ = cs231n.adam(w, dw, first)
    two, _ = cs231n.adam(w, dw, second)
    assert one.tobytes() == two.tobytes() and second["t"] == 2


def test_mistakes():
    config = {"m": np.zeros(3)}
    with pytest.raises(ValueError, match=r"config\['m'\] has shape \(3,\), expected \(4, 5\), that of w"):
        cs231n.adam(np.ones(SHAPE), np.ones(SHAPE), config)
    with pytest.raises(ValueError, match=r"Adam: lr must be in \[0, inf\)"):
        cs231n.adam(np.ones(3), np.ones(3), {"learning_rate": -1.0})
    for name in DEFAULTS:
        with pytest.raises(TypeError, match="params has dtype int64, expected float32, float64"):
            getattr(cs231n, name)(np.ones(3, np.int64), np.ones(3))
    w = np.ones(3)
    with pytest.raises(ValueError, match="grads has shape"):
        cs231n.sgd(w, np.ones(4))
    assert (w == 1).all()
