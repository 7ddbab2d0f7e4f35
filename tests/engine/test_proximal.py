"""Proximal steps of L1 and squared L2 penalties: in the step's own pass, with the reference's bits, to SciPy's minima."""

import copy

import numpy as np
import pytest
import scipy.optimize

import fastopt
from fastopt import EMA, Lookahead, Rows, schedules, threads
from fastopt.optimizers import OPTIMIZERS
from tests.conftest import ONE_OF_EACH_KIND, THREAD_COUNTS, Pair, assert_same_bits

SHAPES = {"W": (130, 70), "b": (70,), "none": (0,), "one": ()}


def proximal_rules():
    names = []
    for name, kind in OPTIMIZERS.items():
        try:
            kind(l1=0.1)
            names.append(name)
        except ValueError:
            pass
    return names


def model(dtype, seed=0):
    rng = np.random.default_rng(seed)
    return {key: np.asarray(rng.standard_normal(shape)).astype(dtype) for key, shape in SHAPES.items()}


def assert_equals_reference(rule, settings, dtype="float32", count=1, steps=4, with_nan=True):
    pair, fast = Pair(rule, **settings), model(dtype)
    fast["W"][0, 3:6] = -0.0, np.nan if with_nan else 1.0, 50.0
    plain = copy.deepcopy(fast)
    with threads.exactly(count):
        for step in range(steps):
            grads = model(dtype, step + 1)
            grads["W"][0, :2] = 0.0, -0.0
            pair.update(fast, plain, grads)
    for key in fast:
        assert_same_bits(fast[key], plain[key])
    pair.assert_same_state()
    return pair.fast, fast


ALL = {"l1": 0.3, "l2_prox": 0.2, "bounds": (None, 0.9), "groups": {"one": {"lr_scale": 2.0}}}
WITHOUT = {**ALL, "groups": {**ALL["groups"], "b": {"l1": 0.0}}}  # a kernel more


@pytest.mark.parametrize("rule", proximal_rules())
def test_every_rule_equals_its_reference(rule):
    if rule == "rmsprop":  # the others of its kind in a row
        assert_equals_reference(rule, ALL, "float64")
    steps = 7 if rule == "radam" else 4  # it divides by a root from the sixth on
    every = WITHOUT if rule in ONE_OF_EACH_KIND else ALL
    _, after = assert_equals_reference(rule, {**every, "lr": 30.0 if rule == "adadelta" else 0.1}, steps=steps)
    zeros = after["W"] == 0
    assert zeros.any() and not zeros.all() and not np.signbit(after["W"][zeros]).any()


def test_which_rules_have_them():
    """Those with one step size of an element; a rule that gets it has to be added here."""
    assert set(proximal_rules()) == {
        *("sgd", "momentum", "nesterov", "sgd_momentum", "sgd_nesterov", "adagrad", "rmsprop", "rmsprop_momentum"),
        *("centred_rmsprop", "adam", "adamw", "amsgrad", "adamax", "nadam", "adabelief", "yogi"),
        *("radam", "adadelta", "adan", "ademamix", "laprop"),
    }


@pytest.mark.parametrize("count", THREAD_COUNTS)
def test_threads(count):
    assert_equals_reference("adam", {**WITHOUT, "lr": 0.1}, count=count)


@pytest.mark.parametrize("rule", ["sgd", "adam"])
@pytest.mark.parametrize(
    "settings",
    [
        {"l1": 0.5, "mask": {"W": np.arange(9100).reshape(130, 70) % 3 > 0}, "averaging": EMA(0.5)},
        {"l2_prox": 5.0, "weight_decay": 0.1, "decoupled": True, "clip_norm": 1.0},
    ],
)
def test_with_others(rule, settings):
    assert_equals_reference(rule, {**settings, "lr": 0.1})


def test_the_formulas():
    def step(kind, gradient=0.0, start=1.0, **settings):
        params = np.array([start, -start, 0.1 * start])
        kind(**settings).update(params, np.full(3, gradient))
        return params.round(12).tolist()

    assert step(fastopt.SGD, lr=0.5, l1=0.4) == [0.8, -0.8, 0.0]
    assert step(fastopt.SGD, lr=0.5, l2_prox=2.0) == [0.5, -0.5, 0.05]
    assert step(fastopt.SGD, lr=0.5, l1=0.4, l2_prox=2.0) == [0.4, -0.4, 0.0]
    assert step(fastopt.SGD, lr=0.5, l1=0.4, bounds=(-0.5, 0.25)) == [0.25, -0.5, 0.0]
    assert step(fastopt.Momentum, lr=0.1, momentum=0.75, l1=0.5) == [0.8, -0.8, 0.0]  # lr / (1 - momentum) = 0.4
    # A first step of Adam is lr in the direction of the sign, and lr / (sqrt(v_hat) + eps) = lr / |g|.
    assert step(fastopt.Adam, 2.0, lr=0.1, eps=0.0, l1=1.0) == [0.85, -1.05, 0.0]
    assert step(fastopt.Adam, 2.0, lr=0.1, eps=0.0, l1=0.0) == [0.9, -1.1, 0.0]


def test_nothing_happens_to_a_zero_without_a_penalty():
    params = {"a": np.array([-0.0]), "b": np.array([-0.0])}
    optimizer = fastopt.SGD(lr=1.0, l1=1.0, l2_prox=1.0, groups={"a": {"l1": 0, "l2_prox": 0}})
    optimizer.update(params, {"a": np.zeros(1), "b": np.zeros(1)})
    assert np.signbit(params["a"]).all() and not np.signbit(params["b"]).any()


@pytest.mark.parametrize("rule", ["sgd", "adam"])
def test_nothing_happens_at_a_learning_rate_of_zero(rule):
    """Nor in the reference, where metrics are infinite."""
    pair, fast = Pair(rule, lr=0.0, l1=1.0, l2_prox=1.0), {"a": np.array([-0.0, 1.0], np.float32)}
    plain = copy.deepcopy(fast)
    pair.update(fast, plain, {"a": np.full(2, 1e30, np.float32)})
    assert_same_bits(fast["a"], plain["a"])
    assert np.signbit(fast["a"]).tolist() == [True, False] and fast["a"][1] == 1


def test_schedules_and_step_counts():
    """A penalty that a schedule ends; leaves that joined later have step sizes by their own count."""
    params = {"a": np.ones(1)}
    optimizer = fastopt.SGD(lr=0.1, l1=lambda step: float(step < 3))
    for _ in range(5):
        optimizer.update(params, {"a": np.zeros(1)})
    assert params["a"].round(12).tolist() == [0.8]
    pair, fast = Pair("adam", lr=0.1, l1=0.3), model("float32")
    plain = copy.deepcopy(fast)
    for step in range(1, 5):
        grads = model("float32", step)
        if step < 3:
            grads["b"] = None
        pair.update(fast, plain, grads)
    for key in fast:
        assert_same_bits(fast[key], plain[key])


def test_rows_shrink_when_they_are_touched():
    params = {"e": np.ones((4, 2))}
    fastopt.SGD(lr=0.5, l1=1.0).update(params, {"e": Rows(np.array([2]), np.zeros((1, 2)))})
    assert params["e"][:, 0].tolist() == [1.0, 1.0, 0.5, 1.0]
    with pytest.raises(ValueError, match=r"l1 or l2_prox and Rows\(..., exact=True\)"):
        fastopt.SGD(l1=1.0).update(params, {"e": Rows(np.array([2]), np.zeros((1, 2)), exact=True)})


def test_what_does_not_go_together():
    for make in (
        lambda: fastopt.Lion(l1=0.1),
        lambda: fastopt.LAMB(groups={"W": {"l2_prox": 0.1}}),
        lambda: fastopt.ScheduleFreeSGD(l1=0.1),
        lambda: fastopt.SGD(l1=0.1, lookahead=Lookahead()),
        lambda: fastopt.SGD(l1=lambda step: 0.1, lookahead=Lookahead()),
    ):
        with pytest.raises(ValueError, match="do not go together"):
            make()

    @fastopt.rule(lr=0.1)
    def mine(p, g, lr):
        return (p - lr * g,)

    with pytest.raises(ValueError, match="without an effective learning rate"):
        mine(l1=0.1)
    with pytest.raises(ValueError, match=r"l1 must be in \[0, inf\)"):
        fastopt.SGD(l1=-0.1)
    params = {"W": np.ones(1)}
    with pytest.raises(ValueError, match="momentum below 1"):
        fastopt.Momentum(momentum=1.0, l1=0.1).update(params, {"W": np.ones(1)})
    assert params["W"] == 1


RNG = np.random.default_rng(5)
A, Y = RNG.standard_normal((40, 12)), RNG.standard_normal(40)


def lasso_minimum(l1, l2=0.0):
    """By SciPy: x = u - v with u and v not negative."""

    def loss(z):
        x, residual = z[:12] - z[12:], A @ (z[:12] - z[12:]) - Y
        gradient = A.T @ residual / 40 + l2 * x
        return residual @ residual / 80 + l2 * x @ x / 2 + l1 * z.sum(), np.r_[gradient + l1, -gradient + l1]

    found = scipy.optimize.minimize(
        loss, np.zeros(24), jac=True, bounds=[(0, None)] * 24, options={"ftol": 1e-15, "gtol": 1e-10}
    )
    return found.x[:12] - found.x[12:]


@pytest.mark.parametrize(
    ("optimizer", "steps"),
    [
        (fastopt.SGD(lr=0.3), 500),
        (fastopt.Momentum(lr=0.05), 1000),
        (fastopt.Nesterov(lr=0.05), 1000),
        (fastopt.Adam(lr=schedules.Exponential(0.02, 0.995)), 2000),
        (fastopt.RMSProp(lr=schedules.Exponential(0.01, 0.995)), 2000),
        (fastopt.RAdam(lr=schedules.Exponential(0.1, 0.998)), 3000),
        (fastopt.Adadelta(lr=schedules.Exponential(20.0, 0.998)), 4000),
        (fastopt.Adan(lr=schedules.Exponential(0.02, 0.995)), 2000),
        (fastopt.AdEMAMix(lr=schedules.Exponential(0.005, 0.997), beta3=0.99), 3000),
        (fastopt.LaProp(lr=0.001), 4000),  # constant, as steps of earlier rates are in m
    ],
    ids=lambda value: type(value).__name__ if not isinstance(value, int) else "",
)
def test_the_minimum_is_that_of_scipy(optimizer, steps):
    optimizer.l1, optimizer.l2_prox = 0.1, 0.05
    x, expected = np.zeros(12), lasso_minimum(0.1, 0.05)
    for _ in range(steps):
        optimizer.update(x, A.T @ (A @ x - Y) / 40)
    np.testing.assert_allclose(x, expected, atol=1e-4)
    assert np.array_equal(x == 0, np.abs(expected) < 1e-6) and 0 < np.count_nonzero(x) < 12


@pytest.mark.parametrize("kind", [fastopt.SGD, fastopt.Momentum, fastopt.Adam])
def test_least_squares_within_bounds_are_those_of_scipy(kind):
    lr = 0.3 if kind is fastopt.SGD else 0.05 if kind is fastopt.Momentum else schedules.Exponential(0.02, 0.99)
    low, high = RNG.uniform(-0.1, 0, 12), 0.05
    optimizer, x = kind(lr=lr, bounds=(low, high)), np.zeros(12)
    for _ in range(1000):
        optimizer.update(x, A.T @ (A @ x - Y) / 40)
    expected = scipy.optimize.lsq_linear(A, Y, (low, np.full(12, high)), tol=1e-14).x
    np.testing.assert_allclose(x, expected, atol=1e-5)
    assert np.any(x == high) and np.any(x == low)
