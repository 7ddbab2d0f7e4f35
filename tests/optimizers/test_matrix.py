"""Optimizers of whole matrices: what they keep of each array besides its state, in steps, checkpoints and copies."""

import copy
import pickle

import numpy as np
import pytest

import fastopt
from fastopt import threads
from fastopt.checkpoint.state_dict import CheckpointError
from fastopt.kernels import RULES
from fastopt.optimizers import OPTIMIZERS
from tests.conftest import THREAD_COUNTS, Pair, assert_same_bits

SETTINGS = {"muon": {"normalize_rows": True}}
KEEPING = [rule for rule in RULES if RULES[rule].factors]
SHAPES = {"W": (12, 5), "F": (5, 12), "T": (3, 2, 4), "b": (7,), "one": (1, 1), "s": (), "none": (0, 3)}


def model(rng, dtype="float64"):
    """Arrays of all kinds, one in Fortran's order and one that is not contiguous."""
    params = {key: rng.standard_normal(shape).astype(dtype) for key, shape in SHAPES.items()}
    params["F"] = np.asfortranarray(params["F"])
    params["V"] = rng.standard_normal((6, 8)).astype(dtype)[::2, ::2]
    return params


def gradients(params, rng):
    return {key: np.asarray(rng.standard_normal(p.shape), p.dtype) for key, p in params.items()}


def make(rule, **settings):
    return OPTIMIZERS[rule](**SETTINGS.get(rule, {}), **settings)


def assert_same_factors(some, others):
    assert some.keys() == others.keys()
    for key, of_key in some.items():
        assert of_key.keys() == others[key].keys()
        for name, array in of_key.items():
            assert_same_bits(array, others[key][name])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("rule", KEEPING)
def test_as_the_reference(rule, dtype, rng):
    groups = {"F": {"lr_scale": 0.5}, "b": {"frozen": True}}
    pair = Pair(
        rule, groups=groups, clip_norm=2.0, averaging=fastopt.EMA(0.9), bounds=(-2, 2), **SETTINGS.get(rule, {})
    )
    fast = model(rng, dtype)
    plain = copy.deepcopy(fast)
    for step in range(12):
        grads = gradients(fast, rng) | ({"T": None} if step % 4 == 1 else {})
        pair.update(fast, plain, grads)
    for key in fast:
        assert_same_bits(fast[key], plain[key])
    pair.assert_same_state()
    assert_same_factors(pair.fast.factors, {key: kept for key, kept in pair.plain.kept.items() if kept})
    assert pair.fast.factors["W"] and "b" not in pair.fast.factors


@pytest.mark.parametrize("rule", KEEPING)
def test_same_bits_for_any_threads_and_order_of_keys(rule):
    results = []
    for count in (*THREAD_COUNTS, 1):
        rng = np.random.default_rng(0)
        params, optimizer = model(rng, "float32"), make(rule)
        if results:
            params = dict(reversed(params.items()))
        for _ in range(4):
            grads = gradients(dict(sorted(params.items())), rng)
            with threads.exactly(count):
                optimizer.update(params, grads)
        results.append(params)
    for params in results[1:]:
        for key in params:
            assert_same_bits(params[key], results[0][key])


@pytest.mark.parametrize("bare", [False, True])
@pytest.mark.parametrize("rule", KEEPING)
def test_factors_go_on_from_checkpoints_and_copies(rule, bare, tmp_path):
    def steps(optimizer, params, count, seed):
        rng = np.random.default_rng(seed)
        for _ in range(count):
            optimizer.update(params, gradients({"": params}, rng)[""] if bare else gradients(params, rng))

    def start():
        params = model(np.random.default_rng(7), "float32")
        return params["W"] if bare else params

    whole, expected = start(), make(rule, lr=0.1)
    steps(expected, whole, 7, 0)
    steps(expected, whole, 13, 1)
    params, optimizer = start(), make(rule, lr=0.1)
    assert optimizer.factors == {}
    steps(optimizer, params, 7, 0)
    assert next(iter(optimizer.factors)) == (None if bare else "W")
    optimizer.save(tmp_path / "file")
    fresh = [OPTIMIZERS[rule]() for _ in range(2)]
    fresh[0].load_state_dict(optimizer.state_dict())
    fresh[1].load(tmp_path / "file")
    for other in (*fresh, copy.deepcopy(optimizer), pickle.loads(pickle.dumps(optimizer))):
        assert_same_factors(other.factors, optimizer.factors)
        mine = copy.deepcopy(params)
        steps(other, mine, 13, 1)
        assert_same_factors(other.factors, expected.factors)
        for key in [...] if bare else mine:
            assert_same_bits(mine[key], whole[key])


@pytest.mark.parametrize("rule", KEEPING)
def test_factors_follow_what_becomes_of_the_state(rule, rng):
    params, optimizer = model(rng), make(rule, on_nonfinite="skip")
    optimizer.update(params, gradients(params, rng))
    before, saved = optimizer.factors, copy.deepcopy(params)
    with optimizer.trial(params) as trial:
        optimizer.update(params, gradients(params, rng))
        assert any((optimizer.factors["W"][name] != array).any() for name, array in before["W"].items())
        trial.reject()
    assert_same_factors(optimizer.factors, before)
    optimizer.update(params, gradients(params, rng) | {"W": np.full((12, 5), np.nan)})
    assert optimizer.skipped == 1
    assert_same_factors(optimizer.factors, before)
    for key in params:
        assert_same_bits(params[key], saved[key])
    with pytest.raises(ValueError, match=r"W.* has factors .*`forget` it"):
        optimizer.reindex("W", [0, 1])
    with pytest.raises(ValueError, match="read-only"):
        next(iter(optimizer.factors["W"].values()))[...] = 0
    optimizer.forget("W")
    assert_same_factors(optimizer.factors, {key: kept for key, kept in before.items() if key != "W"})
    optimizer.reset()
    assert optimizer.factors == {}
    optimizer.update(params, gradients(params, rng))
    setattr(optimizer, RULES[rule].state[-1], None)
    assert optimizer.factors == {}


@pytest.mark.parametrize("rule", KEEPING)
def test_factors_that_do_not_fit_are_refused(rule, rng):
    params, optimizer = {"W": np.ones((3, 4), np.float32), "b": np.ones(3, np.float32)}, make(rule)
    optimizer.update(params, gradients(params, rng))
    good = optimizer.state_dict()
    name, array = next(iter(good["factors"]["W"].items()))
    for factors, words in (
        ("much", "factors in state_dict are 'much', expected a dict of dicts"),
        ({"W": {name: array[:-1]}}, "is .*, expected"),
        ({"W": {name: None}}, "is NoneType, expected"),
        ({"W": {name: array.astype("float64")}}, "is float64, the state float32"),
        ({"W": {}}, f"have no .*{name}"),
        ({"W": {**good["factors"]["W"], "more": array}}, "'more'"),
    ):
        if isinstance(factors, dict) and factors["W"]:
            factors = {"W": {**good["factors"]["W"], **factors["W"]}}
        with pytest.raises(CheckpointError, match=words):
            optimizer.load_state_dict(good | {"factors": factors})
        assert_same_factors(optimizer.factors, good["factors"])
    wide = OPTIMIZERS[rule]()
    wide.load_state_dict(good, cast="float64")
    assert all(array.dtype == np.float64 for of_key in wide.factors.values() for array in of_key.values())
    other = make(rule)
    more = {"W": np.ones((4, 3), np.float32), "b": np.ones(3, np.float32)}
    other.update(more, gradients(more, rng))
    before = other.factors
    assert other.load_state_dict(good, strict=False).reshaped == ["W"]
    assert_same_factors({"W": other.factors["W"]}, {"W": before["W"]})
    assert_same_factors({"b": other.factors.get("b", {})}, {"b": good["factors"].get("b", {})})


@pytest.mark.parametrize("rule", KEEPING)
def test_nan_goes_through_and_empty_arrays_do_no_harm(rule):
    params, optimizer = {"W": np.ones((3, 4)), "none": np.ones((0, 4)), "nothing": np.ones((4, 0))}, make(rule)
    for bad in (1.0, np.nan, 1.0):
        optimizer.update(params, {key: np.full(p.shape, bad) for key, p in params.items()})
    assert np.isnan(params["W"]).all()
    params, optimizer = {"W": np.ones((3, 4), np.float32)}, make(rule)
    optimizer.update(params, {"W": np.zeros((3, 4))})
    assert np.isfinite(params["W"]).all()


@pytest.mark.parametrize("rule", [rule for rule in KEEPING if rule != "muon"])
def test_sums_of_squares_that_are_too_large_are_skipped_or_raise(rule):
    params, optimizer = {"W": np.ones((3, 4), np.float32)}, make(rule, on_nonfinite="raise")
    optimizer.update(params, {"W": np.ones((3, 4), np.float32)})
    before = params["W"].copy(), optimizer.factors
    with pytest.raises(FloatingPointError, match=r"grads\['W'\] is finite, but sums of its squares.*float32"):
        optimizer.update(params, {"W": np.full((3, 4), 1e30, np.float32)})
    assert_same_bits(params["W"], before[0])
    assert_same_factors(optimizer.factors, before[1])


@pytest.mark.parametrize("rule", KEEPING)
def test_what_does_not_go_together_with_them_says_so(rule):
    for settings, other in (
        ({"mask": {"W": np.ones((2, 2), bool)}}, "mask and a rule with norms of whole arrays"),
        ({"batch_axis": 0}, "batch_axis and a rule with norms of whole arrays"),
        ({"l1": 0.1}, "l1 or l2_prox and a rule without an effective learning rate"),
    ):
        with pytest.raises(ValueError, match=f"{other} do not go together"):
            make(rule, **settings)
    optimizer = make(rule)
    with pytest.raises(TypeError, match=r"W.*Rows"):
        optimizer.update({"W": np.ones((3, 2))}, {"W": fastopt.Rows(np.array([1]), np.ones((1, 2)))})
    with pytest.raises(ValueError, match="a rule of whole matrices"):
        optimizer.update({"W": np.ones((3, 2), complex)}, {"W": np.ones((3, 2), complex)})
    assert optimizer.iter == 0 and optimizer.factors == {}
    compact, plain = make(rule, state_storage="bfloat16"), make(rule)  # stays as it is
    one, other = ({"W": np.ones((80, 70), np.float32)} for _ in range(2))
    for each, params in ((compact, one), (plain, other)):
        each.update(params, {"W": np.linspace(-1, 1, 5600, dtype=np.float32).reshape(80, 70)})
    assert_same_bits(one["W"], other["W"])


@pytest.mark.parametrize("rule", KEEPING)
def test_no_factor_becomes_subnormal(rule):
    pair = Pair(rule, **SETTINGS.get(rule, {}), **({"decay_rate": 0.5, "eps": 0.0} if rule == "shampoo" else {}))
    fast, plain = ({"W": np.ones((3, 4), np.float32), "b": np.ones(4, np.float32)} for _ in range(2))
    for scale in (3e-19, 3e-19, *[0.0] * 30):
        pair.update(fast, plain, {key: np.full(p.shape, scale, np.float32) for key, p in fast.items()})
        for of_key in pair.fast.factors.values():
            for array in of_key.values():
                assert not np.any((array != 0) & (np.abs(array) < np.finfo(np.float32).tiny))
    assert_same_factors(pair.fast.factors, pair.plain.kept)
    for key in fast:
        assert_same_bits(fast[key], plain[key])


@pytest.mark.parametrize("rank", [1, 2])
def test_old_roots_do_not_make_steps_long(rank, rng):
    """Gradients of low rank leave directions in which old roots are large; rounding alone would grow there."""
    start = rng.standard_normal((6, rank)) @ rng.standard_normal((rank, 5))
    pair, fast = Pair("shampoo", lr=0.3, momentum=0.0, precondition_every=20), {"W": start.copy()}
    plain = {"W": start.copy()}
    for _ in range(120):
        before = fast["W"].copy()
        pair.update(fast, plain, {"W": 2 * fast["W"]})
        assert np.linalg.norm(fast["W"] - before) <= 0.3 * 30**0.25 * (1 + 1e-9)
    assert_same_bits(fast["W"], plain["W"])
    assert np.linalg.norm(fast["W"]) < np.linalg.norm(start)


@pytest.mark.parametrize("mode", ["skip", "raise"])
def test_a_step_whose_factors_overflow_leaves_state_as_it_was(mode):
    params, optimizer = {"W": np.float32([0.5, 1.0])}, fastopt.SOAP(on_nonfinite=mode)
    for _ in range(2):
        optimizer.update(params, {"W": np.float32([0.2, 0.3])})
    before = copy.deepcopy((params, optimizer.state_dict()))
    huge = {"W": np.float32([0.1, 1e25])}
    if mode == "raise":
        with pytest.raises(FloatingPointError):
            optimizer.update(params, huge)
    else:
        optimizer.update(params, huge)
        assert optimizer.skipped == 1
    np.testing.assert_array_equal(params["W"], before[0]["W"])
    assert (optimizer.u["W"] != 0).all()
    np.testing.assert_array_equal(optimizer.u["W"], before[1]["state"]["u"]["W"])
