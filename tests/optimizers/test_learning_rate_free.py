"""Prodigy, D-Adaptation, DoG and DoWG: estimates from sums over all parameters, which steps and checkpoints keep."""

import copy
import math
import pickle

import numpy as np
import pytest

import fastopt
from fastopt import threads
from fastopt.checkpoint.state_dict import CheckpointError
from fastopt.kernels import RULES
from fastopt.optimizers import OPTIMIZERS
from tests.conftest import THREAD_COUNTS, Pair, assert_same_bits

FREE = [rule for rule in RULES if RULES[rule].totals]


def steps(optimizer, params, count, seed=0):
    """Noisy gradients of |p - 1|^2 / 2, in which estimates grow."""
    rng = np.random.default_rng(seed)
    for _ in range(count):
        gradients = {key: p - 1 + 0.1 * rng.standard_normal(p.shape).astype(p.dtype) for key, p in params.items()}
        optimizer.update(params, gradients)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("rule", FREE)
def test_same_bits_for_any_cut_of_the_model_and_any_threads(rule, dtype, rng):
    start, gradients = rng.standard_normal(50_003).astype(dtype), rng.standard_normal((4, 50_003)).astype(dtype)
    results = []
    for count in THREAD_COUNTS:
        for cuts in ([], [1, 2, 8191, 8192, 25_000]):
            optimizer, params = OPTIMIZERS[rule](), dict(enumerate(np.split(start.copy(), cuts)))
            with threads.exactly(count):
                for g in gradients:
                    optimizer.update(params, dict(enumerate(np.split(g, cuts))))
            results.append((np.concatenate(list(params.values())), optimizer.estimates))
    flat, optimizer = fastopt.flatten({"a": start[:3], "b": start[3:]}), OPTIMIZERS[rule]()
    for g in gradients:
        optimizer.update(flat, fastopt.flatten({"a": g[:3], "b": g[3:]}))
    results.append((flat.buffer, optimizer.estimates))
    for values, estimates in results[1:]:
        assert_same_bits(values, results[0][0])
        assert estimates == results[0][1]


@pytest.mark.parametrize("rule", FREE)
def test_it_gets_there_without_a_learning_rate(rule):
    for scale in (1e-2, 1.0, 1e2):
        x, optimizer = np.full(20, scale), OPTIMIZERS[rule]()
        for _ in range(1500):
            optimizer.update(x, np.linspace(0.1, 1, 20) * x)
        assert np.abs(x).max() < 0.2 * scale, scale


@pytest.mark.parametrize("settings", [{"weight_decay": 0.1}, {"weight_decay": 0.1, "decoupled": False}])
@pytest.mark.parametrize("rule", FREE)
def test_with_settings_and_groups_as_the_reference(rule, settings, rng):
    groups = {"b": {"lr_scale": 0.5}, "frozen": {"frozen": True}}
    pair = Pair(rule, groups=groups, clip_value=0.5, gradient_scale=2.0, averaging=fastopt.EMA(0.9), **settings)
    fast = {"W": rng.standard_normal((30, 20)), "b": rng.standard_normal(7), "frozen": np.ones(3)}
    plain = {key: value.copy() for key, value in fast.items()}
    for step in range(6):
        gradients = {key: rng.standard_normal(p.shape) for key, p in fast.items()}
        pair.update(fast, plain, gradients | ({"b": None} if step == 1 else {}))
        assert pair.fast.estimates == pair.plain.estimates
    for key in fast:
        assert_same_bits(fast[key], plain[key])
    pair.assert_same_state()


@pytest.mark.parametrize("rule", FREE)
def test_estimates_go_on_from_checkpoints_and_copies(rule, tmp_path):
    def start():
        return {"W": np.linspace(-1, 3, 60).reshape(10, 6), "b": np.zeros(6, np.float32)}

    whole, expected = start(), OPTIMIZERS[rule](lr=0.9)
    steps(expected, whole, 5)
    steps(expected, whole, 5, seed=1)
    params, optimizer = start(), OPTIMIZERS[rule](lr=0.9)
    assert optimizer.estimates == {}
    steps(optimizer, params, 5)
    optimizer.save(tmp_path / "file")
    fresh = [OPTIMIZERS[rule]() for _ in range(2)]
    fresh[0].load_state_dict(optimizer.state_dict())
    fresh[1].load(tmp_path / "file")
    for other in (*fresh, copy.deepcopy(optimizer), pickle.loads(pickle.dumps(optimizer))):
        assert other.estimates == optimizer.estimates
        mine = copy.deepcopy(params)
        steps(other, mine, 5, seed=1)
        assert other.estimates == expected.estimates
        for key in mine:
            assert_same_bits(mine[key], whole[key])
    damaged = optimizer.state_dict() | {"estimates": {"d": "much"}}
    with pytest.raises(CheckpointError, match=r"estimates are .* expected a dict of numbers"):
        optimizer.load_state_dict(damaged)
    optimizer.reset()
    assert optimizer.estimates == {}


def test_estimates_come_back_with_a_rejected_step_and_stay_with_a_skipped_one():
    params, optimizer = {"W": np.linspace(-1, 3, 60)}, fastopt.Prodigy(on_nonfinite="skip")
    steps(optimizer, params, 5)
    before = optimizer.estimates
    with optimizer.trial(params) as trial:
        steps(optimizer, params, 1)
        assert optimizer.estimates != before
        trial.reject()
    assert optimizer.estimates == before
    optimizer.update(params, {"W": np.full(60, np.nan)})
    assert optimizer.skipped == 1 and optimizer.estimates == before


def test_zero_gradients_leave_the_estimate():
    for rule in FREE:
        params, optimizer = {"W": np.ones(3)}, OPTIMIZERS[rule]()
        optimizer.update(params, {"W": np.zeros(3)})
        assert params["W"].tolist() == [1, 1, 1]
        assert all(math.isfinite(value) for value in optimizer.estimates.values())


def test_a_sum_so_small_that_its_share_vanishes_leaves_the_estimate(rng):
    pair, g = Pair("dadapt_adam", lr=1e-3), np.full(3, 8e-308)
    fast, plain = {"W": np.ones(3)}, {"W": np.ones(3)}
    for scale in (1.0, 1e-4, 1e-12, 1e-14, 1e-15):
        pair.update(fast, plain, {"W": g * scale})
        assert_same_bits(fast["W"], plain["W"])
        assert pair.fast.estimates == pair.plain.estimates
    optimizer = pair.fast
    assert optimizer.estimated(1.0, 1e-322, {}) == {"d": 1e-6, "numerator": 1 - optimizer.beta2**0.5}


def test_ranges():
    with pytest.raises(ValueError, match="d0 must be in"):
        fastopt.Prodigy(d0=0.0)
    with pytest.raises(ValueError, match="growth_rate must be in"):
        fastopt.Prodigy(growth_rate=0.5)
    with pytest.raises(ValueError, match="initial_distance must be in"):
        fastopt.DoG(initial_distance=0.0)
    with pytest.raises(TypeError, match="its name here is initial_distance"):
        fastopt.DoG(reps_rel=1e-4)


def dowg_of_the_paper(x, gradients, r=1e-4):
    """Algorithm 1, with r relative to 1 + |x_0|."""
    start, v, r = x.copy(), 0.0, r * (1 + np.linalg.norm(x))
    for gradient in gradients:
        g = gradient(x)
        r = max(r, np.linalg.norm(x - start))
        v = v + r**2 * np.linalg.norm(g) ** 2
        x = x - r**2 / np.sqrt(v) * g
    return x


def test_dowg_as_in_the_paper():
    x, optimizer = np.linspace(-2, 5, 40), fastopt.DoWG()
    gradients = [lambda x: 0.3 * x + 0.1] * 60
    expected = dowg_of_the_paper(x.copy(), gradients)
    for gradient in gradients:
        optimizer.update(x, gradient(x))
    np.testing.assert_allclose(x, expected, rtol=1e-12)


# ours, and the optimizer of their package
AUTHORS = {
    "prodigyopt": [
        (lambda: fastopt.Prodigy(), lambda kinds, p: kinds.Prodigy([p])),
        (
            lambda: fastopt.Prodigy(weight_decay=0.1, bias_correction=True, safeguard_warmup=True, d_coef=2.0),
            lambda kinds, p: kinds.Prodigy(
                [p], weight_decay=0.1, use_bias_correction=True, safeguard_warmup=True, d_coef=2.0
            ),
        ),
        (lambda: fastopt.Prodigy(growth_rate=1.02), lambda kinds, p: kinds.Prodigy([p], growth_rate=1.02)),
    ],
    "dadaptation": [
        (lambda: fastopt.DAdaptAdam(), lambda kinds, p: kinds.DAdaptAdam([p])),
        (
            lambda: fastopt.DAdaptAdam(weight_decay=0.1, bias_correction=True),
            lambda kinds, p: kinds.DAdaptAdam([p], weight_decay=0.1, decouple=True, use_bias_correction=True),
        ),
    ],
    "dog": [
        (lambda: fastopt.DoG(), lambda kinds, p: kinds.DoG([p])),
        (lambda: fastopt.DoG(weight_decay=0.1), lambda kinds, p: kinds.DoG([p], weight_decay=0.1)),
    ],
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("package", "number"), [(package, number) for package, cases in AUTHORS.items() for number in range(len(cases))]
)
def test_takes_the_path_of_the_authors_package(package, number, rng):
    torch, kinds = pytest.importorskip("torch"), pytest.importorskip(package)
    make_ours, make = AUTHORS[package][number]
    start = rng.standard_normal((40, 30))
    params, p, ours = {"W": start.copy()}, torch.nn.Parameter(torch.tensor(start)), make_ours()
    theirs = make(kinds, p)
    for added in 0.1 * rng.standard_normal((60, 40, 30)):
        ours.update(params, {"W": params["W"] - 1 + added})
        p.grad = p.detach() - 1 + torch.tensor(added)
        theirs.step()
    assert np.abs(params["W"] - start).max() > 1e-5
    np.testing.assert_allclose(params["W"] - start, p.detach().numpy() - start, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("rule", FREE)
def test_sums_of_huge_and_infinite_numbers_are_those_of_the_reference(rule, dtype, rng):
    """They overflow to infinity as NumPy's, and not to the NaN that rounding takes from infinity."""
    most = float(np.finfo(dtype).max)
    for scale_p, scale_g in [(1.0, most / 8), (most / 8, 1.0), (most / 64, most / 64), (most**0.5, most**0.5 / 8)]:
        pair, p = Pair(rule), (scale_p * rng.uniform(0.5, 1, 700)).astype(dtype)
        fast, plain = {"W": p.copy(), "b": p[:3].copy()}, {"W": p.copy(), "b": p[:3].copy()}
        for sign in (1, -1, 1):
            g = (sign * scale_g * rng.uniform(0.5, 1, 700)).astype(dtype)
            pair.update(fast, plain, {"W": g, "b": g[:3]})
            for key in plain:
                assert_same_bits(fast[key], plain[key])
            np.testing.assert_equal(pair.fast.estimates, pair.plain.estimates)


@pytest.mark.parametrize("rule", FREE)
@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda optimizer: pickle.loads(pickle.dumps(optimizer))])
def test_copies_after_a_step_that_updated_nothing(rule, duplicate):
    optimizer, params = OPTIMIZERS[rule](), {"W": np.ones(3)}
    optimizer.update({}, {})
    optimizer.update(params, {"W": None})
    with optimizer.trial(params) as step:
        step.reject()
    other = duplicate(optimizer)
    assert (other.estimates, other.iter) == ({}, 2)


@pytest.mark.parametrize("rule", ["dog", "dowg"])
def test_distances_beyond_float32_are_refused_or_skipped(rule):
    """Gradients are finite and so are their squares, but not the square of the norm of the parameters."""
    params, grads = {"W": np.full(3, 1e30, np.float32)}, {"W": np.ones(3, np.float32)}
    optimizer = OPTIMIZERS[rule](on_nonfinite="raise")
    for _ in range(2):
        with pytest.raises(FloatingPointError, match=r"sums over all parameters.*estimates\['r'\] inf; nothing was"):
            optimizer.update(params, grads)
    assert (optimizer.estimates, optimizer.iter) == ({}, 0)
    optimizer.on_nonfinite = "skip"
    optimizer.update(params, grads)
    assert (optimizer.estimates, optimizer.skipped) == ({}, 1)
    assert_same_bits(params["W"], np.full(3, 1e30, np.float32))
