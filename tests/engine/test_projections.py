"""Constraints on rows, columns and whole arrays: a pass after the step, with the reference's bits."""

import copy
import math

import numpy as np
import pytest
import scipy.optimize

import fastopt
from fastopt import EMA, Lookahead, Rows, threads
from fastopt.kernels import projections
from tests.conftest import THREAD_COUNTS, Pair, assert_same_bits, python

SHAPES = {"W": (130, 70), "b": (70,), "t": (5, 6, 7), "none": (0,), "one": ()}


def model(dtype, seed=0, order="C"):
    rng = np.random.default_rng(seed)
    return {
        key: np.array(rng.standard_normal(shape), dtype=dtype, order=order if len(shape) > 1 else "C")
        for key, shape in SHAPES.items()
    }


def assert_equals_reference(rule, settings, dtype="float32", count=1, steps=3, order="C"):
    pair, fast = Pair(rule, **settings), model(dtype, order=order)
    fast["W"][3] = 0.0
    fast["W"][5, 2], fast["W"][7, 1] = np.nan, np.inf
    plain = copy.deepcopy(fast)
    with threads.exactly(count):
        for step in range(steps):
            grads = model(dtype, step + 1)
            grads["W"][3] = 0.0
            pair.update(fast, plain, grads)
    for key in fast:
        assert_same_bits(fast[key], plain[key])
    pair.assert_same_state()
    return fast


KINDS = {
    "group_lasso": {"group_lasso": 2.0, "lr": 0.5},
    "max_norm": {"max_norm": 2.5, "lr": 0.5},
    "unit_norm": {"unit_norm": True, "lr": 0.5},
    "simplex": {"simplex": True, "lr": 0.5},
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("axis", [-1, 0, None])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("order", "CF")
def test_each_kind_and_axis(kind, axis, dtype, order):
    settings = {**KINDS[kind], "constraint_axis": axis}
    after = assert_equals_reference("momentum", settings, dtype, THREAD_COUNTS[-1], order=order)
    tolerance = 50 * np.finfo(dtype).eps
    lines = after["W"] if axis == -1 else after["W"].T if axis == 0 else after["W"].reshape(1, -1)
    lines = lines[np.isfinite(lines).all(axis=1)].astype(np.float64)
    norms = np.linalg.norm(lines, axis=1)
    if kind == "max_norm":
        assert np.all(norms <= 2.5 * (1 + tolerance))
    if kind == "unit_norm":
        assert np.all((abs(norms - 1) < tolerance) | (norms == 0))
    if kind == "simplex":
        assert np.all(lines >= 0) and np.all(abs(lines.sum(axis=1) - 1) < tolerance)


@pytest.mark.parametrize("count", THREAD_COUNTS)
def test_threads_and_groups(count):
    groups = {
        "W": {"max_norm": math.inf, "group_lasso": 3.0, "constraint_axis": 0, "l1": 0.1},
        "b": {"simplex": True, "max_norm": math.inf},
        "t": {"constraint_axis": 1},
    }
    assert_equals_reference("sgd", {"lr": 0.5, "max_norm": 1.0, "clip_norm": 50.0, "groups": groups}, count=count)


@pytest.mark.parametrize("rule", ["adam", "lamb", "muon", "lion"])
def test_a_norm_with_any_rule(rule):
    assert_equals_reference(rule, {"unit_norm": True, "nonnegative": True})


@pytest.mark.parametrize("scale", [1e-200, 1e-160, 1.0, 1e160, 1e200])
def test_norms_whose_squares_overflow_or_vanish(scale):
    params = np.arange(1.0, 5.0).reshape(2, 2) * scale
    fastopt.SGD(unit_norm=True).update(params, np.zeros((2, 2)))
    np.testing.assert_allclose(params, np.array([[1, 2], [3, 4]]) / np.array([[5], [25]]) ** 0.5, rtol=1e-15)


def test_a_row_whose_norm_itself_overflows_stays():
    pair, row = Pair("sgd", max_norm=1.0), [1.5e308, -1.5e308]
    fast, plain = np.array([row, [3.0, 4.0]]), np.array([row, [3.0, 4.0]])
    pair.update(fast, plain, np.zeros((2, 2)))
    assert_same_bits(fast, plain)
    np.testing.assert_allclose(fast, [row, [0.6, 0.8]], rtol=1e-15)


@pytest.mark.parametrize("dtype", ["float64", "complex128"])
def test_a_row_with_a_subnormal_norm_stays(dtype):
    pair, row = Pair("sgd", unit_norm=True), [2e-309, -1e-309]
    fast, plain = np.array([row, [3e-308, 4e-308]], dtype), np.array([row, [3e-308, 4e-308]], dtype)
    pair.update(fast, plain, np.zeros((2, 2), dtype))
    assert_same_bits(fast, plain)
    np.testing.assert_allclose(fast, [row, [0.6, 0.8]], rtol=1e-15)


@pytest.mark.parametrize(
    "row",
    [
        [3.0],
        [0.2, 0.3, 0.5],
        [1e30, 1.0],
        [-1e30, -1e30],
        [1e308, 1e308, 1e308, -1e308],
        [0.0, -0.0],
        [1e-30, 2e-30, 0.5],
    ],
)
def test_rows_on_the_simplex(row):
    params, plain = np.array([row]), np.array([row])
    Pair("sgd", simplex=True).update(params, plain, np.zeros_like(params))
    assert_same_bits(params, plain)
    assert params.min() >= 0 and abs(params.sum() - 1) < 1e-15
    again = params.copy()
    fastopt.SGD(simplex=True).update(again, np.zeros_like(params))
    np.testing.assert_allclose(again, params, rtol=0, atol=1e-15)


def test_containers_and_reports():
    runs = []
    for name in ("dict", "flat", "report", "strided", "numbers"):
        params = model("float64")
        params["one"] = 0.7 if name == "numbers" else params["one"]
        if name == "flat":
            params = fastopt.flatten(params)
        if name == "strided":
            params["W"] = np.repeat(params["W"], 2, axis=1)[:, ::2]
        optimizer = fastopt.Momentum(lr=0.5, max_norm=1.5)
        for step in range(3):
            grads = model("float64", step + 1)
            optimizer.update(params, fastopt.flatten(grads) if name == "flat" else grads, report=name == "report")
        assert abs(params["one"]) <= 1.5
        runs.append(np.array(params["W"]))
    for run in runs[1:]:
        assert_same_bits(run, runs[0])


def test_what_is_assigned_counts_from_the_next_step_on():
    params, optimizer = {"W": np.full((2, 2), 3.0)}, fastopt.SGD(lr=0.0)
    grads = {"W": np.zeros((2, 2))}
    optimizer.update(params, grads)
    optimizer.max_norm = 2.0
    optimizer.update(params, grads)
    assert params["W"].round(9).tolist() == [[1.414213562] * 2] * 2
    optimizer.max_norm = lambda step: 1.0
    optimizer.constraint_axis = None
    optimizer.update(params, grads)
    assert params["W"].round(9).tolist() == [[0.5] * 2] * 2
    optimizer.max_norm, optimizer.groups = math.inf, {"W": {"simplex": True, "constraint_axis": 0}}
    params["W"] = np.array([[2.0, 0.0], [0.0, 0.0]])
    optimizer.update(params, grads)
    assert params["W"].tolist() == [[1.0, 0.5], [0.0, 0.5]]


def test_group_lasso_by_the_effective_learning_rate():
    params = np.array([[3.0, 4.0], [0.3, 0.4]])
    fastopt.Momentum(lr=0.1, momentum=0.9, group_lasso=1.0).update(params, np.zeros((2, 2)))
    assert params.round(12).tolist() == [[2.4, 3.2], [0.0, 0.0]]


def test_checkpoints(tmp_path):
    optimizer = fastopt.Momentum(
        max_norm=2.0, groups={"b": {"unit_norm": True, "max_norm": math.inf}}, constraint_axis=None
    )
    params = {"W": np.ones((3, 3)), "b": np.ones(3)}
    optimizer.update(params, {"W": np.ones((3, 3)), "b": np.ones(3)})
    optimizer.save(tmp_path / "file")
    loaded = fastopt.Momentum()
    loaded.load(tmp_path / "file")
    assert repr(loaded) == repr(optimizer) and "max_norm=2.0" in repr(loaded)


def test_errors():
    params = {"W": np.ones((2, 2))}
    grads = {"W": np.ones((2, 2))}
    both = [
        lambda: fastopt.Adam(simplex=True),
        lambda: fastopt.RMSProp(group_lasso=0.1),
        lambda: fastopt.SGD(max_norm=1.0, averaging=EMA()),
        lambda: fastopt.SGD(unit_norm=True, lookahead=Lookahead()),
        lambda: fastopt.SGD(unit_norm=True, max_norm=1.0),
        lambda: fastopt.SGD(simplex=True, nonnegative=True),
        lambda: fastopt.SGD(max_norm=1.0, mask={"W": np.ones((2, 2), bool)}),
        lambda: fastopt.ScheduleFreeSGD(max_norm=1.0),
        lambda: fastopt.SGD(mask={"W": np.ones((2, 2), bool)}, groups={"W": {"max_norm": 1.0}}),
    ]
    for make in both:
        with pytest.raises(ValueError, match="do not go together"):
            make().update(params, grads)
    with pytest.raises(ValueError, match="gradients that are Rows"):
        fastopt.SGD(max_norm=1.0).update(params, {"W": Rows(np.array([1]), np.ones((1, 2)))})
    with pytest.raises(ValueError, match=r"constraint_axis is 2, but params\['W'\] has shape \(2, 2\)"):
        fastopt.SGD(max_norm=1.0, constraint_axis=2).update(params, grads)
    with pytest.raises(TypeError, match="constraint_axis must be the number of an axis"):
        fastopt.SGD(constraint_axis="rows")
    with pytest.raises(TypeError, match="simplex must be True or False"):
        fastopt.SGD(simplex=1)
    assert np.all(params["W"] == 1)


def test_groups_of_elements():
    for order in "CF":
        array = np.array(np.arange(24).reshape(2, 3, 4), order=order)
        flat = array.ravel(order="K")
        for axis in (0, 1, 2, -1, -2, -3, None):
            count, stride = projections.groups_of(array.shape, order, axis)
            starts = [group // stride * count * stride + group % stride for group in range(24 // count)]
            lines = {tuple(flat[start : start + count * stride : stride].tolist()) for start in starts}
            expected = array.reshape(1, -1) if axis is None else np.moveaxis(array, axis, -1).reshape(-1, count)
            assert {frozenset(line) for line in lines} == {frozenset(line) for line in expected.tolist()}


def test_the_kernels_in_pure_python_have_the_same_bits():
    code = """
import numpy as np, fastopt
for dtype in ("float32", "float64"):
    for settings in ({"group_lasso": 2.0}, {"max_norm": 1.0, "constraint_axis": 0}, {"unit_norm": True}, {"simplex": True}):
        params = np.random.default_rng(0).standard_normal((9, 700)).astype(dtype)
        fastopt.SGD(lr=0.5, **settings).update(params, np.ones((9, 700), dtype))
        print(params.tobytes().hex())
"""
    assert python(code).stdout == python(code, FASTOPT_CHECK="1").stdout


RNG = np.random.default_rng(3)
RETURNS = RNG.standard_normal((200, 8)) @ RNG.standard_normal((8, 8)) / 3 + RNG.uniform(0, 0.3, 8)
COVARIANCE, MEAN = np.cov(RETURNS.T), RETURNS.mean(axis=0)


@pytest.mark.parametrize("kind", [fastopt.SGD, fastopt.Momentum, fastopt.Nesterov])
def test_the_portfolio_of_scipy(kind):
    weights, risk = np.full(8, 1 / 8), 2.0
    optimizer = kind(lr=0.02 if kind is fastopt.SGD else 0.005, simplex=True)
    for _ in range(3000):
        optimizer.update(weights, risk * COVARIANCE @ weights - MEAN)
    found = scipy.optimize.minimize(
        lambda w: risk * w @ COVARIANCE @ w / 2 - MEAN @ w,
        np.full(8, 1 / 8),
        jac=lambda w: risk * COVARIANCE @ w - MEAN,
        bounds=[(0, 1)] * 8,
        constraints={"type": "eq", "fun": lambda w: w.sum() - 1, "jac": np.ones_like},
        method="SLSQP",
        options={"ftol": 1e-14, "maxiter": 500},
    )
    np.testing.assert_allclose(weights, found.x, atol=1e-5)
    assert 0 < np.count_nonzero(weights == 0) < 8


def test_group_lasso_of_scipy():
    """Rows of a matrix of coefficients for two targets; some features are of no use."""
    features = RNG.standard_normal((60, 6))
    targets = features[:, :2] @ RNG.standard_normal((2, 2)) + 0.1 * RNG.standard_normal((60, 2))
    weight, coefficients = 0.3, np.zeros((6, 2))
    optimizer = fastopt.Momentum(lr=0.05, group_lasso=weight)
    for _ in range(800):
        optimizer.update(coefficients, features.T @ (features @ coefficients - targets) / 60)

    def loss(x):
        x = x.reshape(6, 2)
        residual = features @ x - targets
        return np.sum(residual**2) / 120 + weight * np.sum(np.sqrt(np.sum(x**2, axis=1) + 1e-12))

    found = scipy.optimize.minimize(loss, np.full(12, 0.1), method="BFGS", options={"gtol": 1e-7}).x.reshape(6, 2)
    np.testing.assert_allclose(coefficients, found, atol=2e-4)
    assert np.any(coefficients[:2]) and not np.any(coefficients[2:])


def test_the_nearest_on_a_ball_of_scipy():
    target = np.array([3.0, -4.0])
    x = np.zeros(2)
    optimizer = fastopt.Momentum(lr=0.1, max_norm=2.0)
    for _ in range(300):
        optimizer.update(x, x - target)
    np.testing.assert_allclose(x, [1.2, -1.6], atol=1e-7)
