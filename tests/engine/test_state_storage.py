"""Optimizers whose state is kept in 16 or 8 bits, against `fastopt.reference` bit by bit, and what else there is to them."""

import copy
import pickle
from functools import partial

import numpy as np
import pytest

import fastopt
from fastopt import EMA, SGD, AdaGrad, Adam, Lookahead, Momentum, RMSProp, Rows, flatten, reference, threads
from fastopt.engine import columns
from fastopt.kernels import RULES
from fastopt.optimizers import OPTIMIZERS
from tests.conftest import assert_same_bits

COMPACT = ["bfloat16", "int8"]
STORED = [name for name, rule in RULES.items() if rule.state and not rule.is_by_array]


def model(seed=0):
    """Two arrays that are compact, one of them in Fortran order and not of whole groups, and one too small."""
    rng = np.random.default_rng(seed)
    wide = np.asfortranarray(rng.standard_normal((77, 67)))
    arrays = {"W": rng.standard_normal((110, 100)), "V": wide, "b": rng.standard_normal(100)}
    return {key: array.astype(np.float32, order="K") for key, array in arrays.items()}


def gradients(params, step):
    rng = np.random.default_rng(1000 + step)
    noise = {key: rng.standard_normal(value.shape) for key, value in params.items()}
    return {key: (0.1 * value + 0.05 * noise[key]).astype(np.float32) for key, value in params.items()}


def trained(optimizer, steps=4, params=None, update=None):
    params = model() if params is None else params
    for step in range(steps):
        grads = gradients({key: params[key] for key in params}, step)
        (update or optimizer.update)(params, grads)
    return params


def assert_same_state(optimizer, other):
    for slot in optimizer._rule.state:
        mine, theirs = getattr(optimizer, slot), getattr(other, slot)
        for key in mine:
            assert_same_bits(np.array(mine[key]), np.array(theirs[key]))


@pytest.mark.parametrize("storage", COMPACT)
@pytest.mark.parametrize("rule", STORED)
def test_every_rule_is_the_reference_with_codecs(rule, storage):
    optimizer = OPTIMIZERS[rule](state_storage=storage, storage_seed=3)
    expected = getattr(reference, type(optimizer).__name__)(state_storage=storage, storage_seed=3)
    params, theirs = model(), model()
    for step in range(3):
        grads = gradients(params, step)
        optimizer.update(params, grads)
        expected.update(theirs, grads)
        for key, value in params.items():
            assert_same_bits(value, theirs[key])
    assert_same_state(optimizer, expected)
    for (slot, key), run in expected.runs.items():
        column = optimizer._state.array_of(slot, key)
        np.testing.assert_array_equal(column.run[: column.nbytes], run)
    assert len(expected.runs) == 2 * len(RULES[rule].state)


@pytest.mark.parametrize("storage", COMPACT)
@pytest.mark.parametrize(
    "settings",
    [
        {"clip_norm": 1.0, "weight_decay": 0.01, "decoupled": True},
        {"averaging": EMA(0.9), "lookahead": Lookahead(every=2)},
        {"groups": {"V": {"state_storage": "float32"}, "W": {"lr_scale": 0.5}}},
        {"clip_array_norm": 0.5, "clip_value": 0.1, "maximize": True},
        {"centralize": True},
    ],
    ids=["decay", "averages", "groups", "clip", "centralize"],
)
def test_with_all_else_it_is_the_reference(storage, settings):
    optimizer, expected = Adam(state_storage=storage, **settings), reference.Adam(state_storage=storage, **settings)
    params, theirs = trained(optimizer), trained(expected)
    for key, value in params.items():
        assert_same_bits(value, theirs[key])
    assert_same_state(optimizer, expected)
    if "groups" in settings:  # "W", and the others in float32
        assert len(optimizer._plan.table.launches) == 2, "a launch for each storage"
    if "averaging" in settings:
        assert optimizer.weight_average["W"].flags.writeable, "float32, so it is the average itself"
        assert optimizer.slow_weights["W"].dtype == np.float32


@pytest.mark.parametrize("storage", COMPACT)
def test_bits_do_not_depend_on_threads_reports_or_flat_dicts(storage):
    def large():
        rng = np.random.default_rng(0)
        return {f"p{n}": rng.standard_normal(size).astype(np.float32) for n, size in enumerate((5000, 70_001, 8192))}

    expected = Adam(state_storage=storage)
    theirs = trained(expected, params=large())
    for count in (1, 2, 3, 7):
        with threads.exactly(count):
            optimizer = Adam(state_storage=storage)
            params = trained(optimizer, params=large())
            flat = trained(other := Adam(state_storage=storage), params=flatten(large()))
            one = Adam(state_storage=storage)
            reported = trained(one, params=large(), update=partial(one.update, report=True))
        for key, value in theirs.items():
            for found in (params, flat, reported):
                assert_same_bits(found[key], value)
        for found in (optimizer, other, one):
            assert_same_state(found, expected)


def test_reports_are_those_of_what_was_done():
    optimizer, params = Adam(state_storage="int8"), model()
    before, grads = {key: value.copy() for key, value in params.items()}, gradients(params, 0)
    report = optimizer.update(params, grads, report=True)
    squares = [np.sum((params[key].astype(float) - before[key]) ** 2) for key in params]
    np.testing.assert_allclose(report.update_norm, np.sqrt(sum(squares)), rtol=1e-6)
    assert list(report.by_key) == list(params)
    for key, square in zip(params, squares, strict=True):
        np.testing.assert_allclose(report.by_key[key].update_norm, np.sqrt(square), rtol=1e-6)


def test_one_bare_array():
    params, optimizer, expected = model()["W"], RMSProp(state_storage="int8"), reference.RMSProp(state_storage="int8")
    theirs = params.copy()
    for step in range(3):
        grads = gradients({"W": params}, step)["W"]
        optimizer.update(params, grads)
        expected.update(theirs, grads)
    assert_same_bits(params, theirs)
    assert optimizer.h.shape == params.shape


def test_state_is_decoded_when_looked_at_and_encoded_when_assigned():
    optimizer = Adam(state_storage="int8")
    trained(optimizer)
    m = optimizer.m["W"]
    assert m.dtype == np.float32
    assert m.shape == (110, 100)
    with pytest.raises(ValueError, match="read-only"):
        m[0] = 0
    assert list(optimizer.m) == ["W", "V", "b"]
    optimizer.m["b"][...] = 2.0  # float32, so it is the state itself
    assert (optimizer.m["b"] == 2.0).all()
    optimizer.m["W"] = 0.5
    np.testing.assert_allclose(optimizer.m["W"], 0.5, rtol=0.04)
    optimizer.m["W"] = 2 * m
    np.testing.assert_allclose(optimizer.m["W"], 2 * m, atol=0.03 * np.abs(m).max())
    with pytest.raises(KeyError, match="'X'"):
        optimizer.m["X"] = 0.0
    with pytest.raises(ValueError, match="shape"):
        optimizer.m["W"] = np.zeros(3)
    with pytest.raises(ValueError, match=r"v\['W'\] is never negative, got -1"):
        optimizer.v["W"] = -1.0
    with pytest.raises(TypeError, match="keys of a"):
        del optimizer.m["W"]
    assert set(dict(optimizer.v)) == {"W", "V", "b"}
    assert (
        repr(optimizer.v)
        == "{'W': int8 of shape (110, 100), 'V': int8 of shape (77, 67), 'b': float32 of shape (100,)}"
    )


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda one: pickle.loads(pickle.dumps(one))], ids=["copy", "pickle"])
@pytest.mark.parametrize("storage", COMPACT)
def test_copies_go_on_with_the_same_bits(storage, copied):
    optimizer, params = Adam(state_storage=storage), model()
    trained(optimizer, params=params)
    other, theirs = copied(optimizer), copy.deepcopy(params)
    assert_same_state(optimizer, other)
    trained(optimizer, params=params)
    trained(other, params=theirs)
    for key, value in params.items():
        assert_same_bits(value, theirs[key])


def test_what_is_assigned_becomes_the_storage_at_the_next_step():
    optimizer, params = Adam(), model()
    trained(optimizer, params=params)
    m = optimizer.m["W"].copy()
    optimizer.state_storage = "bfloat16"
    trained(optimizer, 1, params)
    assert isinstance(optimizer._state.array_of("m", "W"), columns.Column)
    optimizer.state_storage = "float32"
    trained(optimizer, 1, params)
    assert isinstance(optimizer.m["W"], np.ndarray)
    assert optimizer.m["W"].flags.writeable
    assert np.abs(optimizer.m["W"] - m).max() < np.abs(m).max()


def test_small_arrays_rows_and_rules_with_norms_stay_float32():
    optimizer = Adam(state_storage="int8")
    table = np.zeros((500, 20), np.float32)
    optimizer.update({"E": table}, {"E": Rows(np.array([3, 5]), np.ones((2, 20), np.float32))})
    assert optimizer.m["E"].flags.writeable
    optimizer = fastopt.LAMB(state_storage="int8")
    trained(optimizer)
    assert optimizer.m["W"].flags.writeable
    trained(SGD(state_storage="int8"))  # has no state


def test_float64_refuses_before_anything_is_written():
    params = {"W": np.ones((80, 80))}
    with pytest.raises(TypeError, match=r"params\['W'\] has dtype float64, but state_storage='int8' is for float32"):
        Adam(state_storage="int8").update(params, {"W": np.ones((80, 80))})
    assert (params["W"] == 1).all()
    optimizer = Adam(state_storage="int8", groups={"W": {"state_storage": "float32"}})
    optimizer.update(params, {"W": np.ones((80, 80))})


@pytest.mark.parametrize(
    ("name", "value", "error"),
    [
        ("state_storage", "int4", ValueError),
        ("state_storage", 8, TypeError),
        ("storage_seed", -1, ValueError),
        ("storage_seed", 1.5, ValueError),
    ],
)
def test_settings_are_checked(name, value, error):
    with pytest.raises(error, match=f"Adam: {name} must be"):
        Adam(**{name: value})
    with pytest.raises(ValueError, match="storage_seed"):
        Adam(groups={"W": {"storage_seed": 1}})


def test_seeds_give_other_noise():
    states = [trained(Adam(state_storage="bfloat16", storage_seed=seed)) for seed in (0, 0, 1)]
    assert_same_bits(states[0]["W"], states[1]["W"])
    assert states[0]["W"].tobytes() != states[2]["W"].tobytes()


def test_steps_that_are_left_out_write_nothing():
    optimizer, params = Adam(state_storage="int8", on_nonfinite="skip"), model()
    trained(optimizer, params=params)
    before, codes = copy.deepcopy(params), copy.deepcopy(optimizer)
    grads = gradients(params, 0)
    grads["W"][3, 3] = np.nan
    optimizer.update(params, grads)
    for key, value in params.items():
        assert_same_bits(value, before[key])
    assert_same_state(optimizer, codes)
    optimizer.on_nonfinite = "raise"
    with pytest.raises(FloatingPointError, match=r"grads\['W'\]"):
        optimizer.update(params, grads)
    assert_same_state(optimizer, codes)
    optimizer.on_nonfinite = "propagate"
    optimizer.update(params, grads)
    assert np.isnan(params["W"]).sum() == np.isnan(optimizer.m["W"]).sum() == 1, "neighbours in a group stay finite"


def test_zero_gradients_move_nothing():
    optimizer, params = Adam(state_storage="int8"), model()
    grads = {key: np.zeros_like(value) for key, value in params.items()}
    grads["W"][0] = 1.0
    before = copy.deepcopy(params)
    for _ in range(5):
        optimizer.update(params, grads)
    assert_same_bits(params["W"][1:], before["W"][1:])
    assert (params["W"][0] != before["W"][0]).all()


def test_a_start_value_is_encoded():
    optimizer, expected = (
        AdaGrad(initial_accumulator=0.3, state_storage="int8"),
        reference.AdaGrad(initial_accumulator=0.3, state_storage="int8"),
    )
    assert_same_bits(trained(optimizer, 1)["W"], trained(expected, 1)["W"])


def test_v_follows_when_gradients_fall():
    """Rounded to nearest, v would stay where it is: half a unit of bfloat16 is more than 1 - beta2 of it."""
    roots = {}
    for storage in ("float32", *COMPACT):
        optimizer, params = Adam(lr=0.0, beta2=0.99, state_storage=storage), {"W": np.zeros(4096, np.float32)}
        noise = np.random.default_rng(0)
        for step in range(600):
            scale = 1.0 if step < 100 else 0.01
            optimizer.update(params, {"W": scale * noise.standard_normal(4096).astype(np.float32)})
        roots[storage] = np.sqrt(optimizer.v["W"]).mean()
    for storage in COMPACT:
        assert abs(roots[storage] / roots["float32"] - 1) < 0.03


def test_momentum_trains_alike():
    def loss(storage):
        rng, target = np.random.default_rng(0), np.random.default_rng(1).standard_normal((64, 64)).astype(np.float32)
        optimizer, params = Momentum(lr=0.05, state_storage=storage), {"W": np.zeros((64, 64), np.float32)}
        for _ in range(150):
            optimizer.update(
                params, {"W": params["W"] - target + 0.1 * rng.standard_normal((64, 64)).astype(np.float32)}
            )
        return np.square(params["W"] - target).mean()

    expected = loss("float32")
    for storage in COMPACT:
        assert loss(storage) == pytest.approx(expected, rel=0.1)


def test_a_rule_of_ones_own_says_what_is_never_negative():
    def own(p, g, v, lr, share, eps):
        v = v + share * (g * g - v)
        return p - lr * g / (np.sqrt(v) + eps), v

    settings = {"lr": 0.01, "share": 0.1, "eps": 1e-8}
    optimizer = fastopt.rule(own, state=("v",), nonnegative=("v",), **settings)(state_storage="int8")
    trained(optimizer, 2)
    assert optimizer._state.array_of("v", "W").parts()[0].dtype == np.uint8
    with pytest.raises(TypeError, match="u"):
        fastopt.rule(own, state=("v",), nonnegative=("u",), **settings)


def test_check_compares_compact_state():
    found = fastopt.check(fastopt.Adam(state_storage="int8"), steps=2)
    assert found.identical and {row.dtype for row in found.rows} == {"float32"}
