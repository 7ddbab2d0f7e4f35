"""Norms where squares overflow or vanish, and comparisons with norms that are NaN or infinite."""

import math

import numpy as np
import pytest

import fastopt
from fastopt.engine import norms
from fastopt.engine.passes import Passes
from fastopt.optimizers import OPTIMIZERS
from tests.conftest import Pair, assert_same_bits, python

BY_NORM = ["lars", "lamb", "stable_adamw", "mars", "novograd", "muon", "adafactor", "shampoo", "soap"]


@pytest.mark.parametrize("scale", [1e-300, 1e-200, 1e-160, 1e-150, 1.0, 1e150, 1e155, 1e300, 1.7e308])
@pytest.mark.parametrize("name", ["clip_norm", "clip_array_norm"])
def test_clipping_by_norm_of_the_smallest_and_largest(name, scale):
    """The norm of [1.7e308] * 3 is beyond float64, too."""
    params = {"W": np.zeros(3), "b": np.zeros(2, np.float32)}
    most = min(1.0, scale)
    optimizer = fastopt.SGD(lr=1.0, **{name: most})
    optimizer.update(params, {"W": np.full(3, scale), "b": np.zeros(2, np.float32)})
    np.testing.assert_allclose(params["W"], -most / math.sqrt(3), rtol=1e-14)


@pytest.mark.parametrize("scale", [1e-44, 1e-30, 1e-20, 1e19, 1e20, 1e30, 3e38])
@pytest.mark.parametrize("name", ["clip_norm", "clip_array_norm"])
def test_float32_is_clipped_over_its_whole_range(name, scale):
    params = np.zeros(3, np.float32)
    gradient = np.full(3, scale, np.float32)
    most = min(1.0, float(gradient[0]))
    fastopt.SGD(lr=1.0, **{name: most}).update(params, gradient)
    # The factor itself is a float32: where it is subnormal it has fewer bits.
    np.testing.assert_allclose(params, -most / math.sqrt(3), rtol=1e-5 if scale > 1e37 else 1e-6, atol=1.5e-45)


@pytest.mark.parametrize("scale", [1e-310, 1e-200, 1e-158, 1e153, 1e156, 1e250, 1e307])
@pytest.mark.parametrize("what", ["gradients", "parameters", "both"])
@pytest.mark.parametrize("rule", ["sgd", "centralized", *BY_NORM])
def test_as_the_reference_where_squares_overflow_or_vanish(rule, what, scale):
    rng = np.random.default_rng(0)
    centralize, rule = rule == "centralized", rule.replace("centralized", "sgd")
    pair = Pair(rule, clip_norm=2.0, clip_array_norm=1.5, centralize=centralize)
    start = {"W": rng.standard_normal((40, 30)), "b": rng.standard_normal(7), "c": np.ones(3, np.float32)}
    if what != "gradients":
        start["W"] *= scale
    fast, plain = ({key: value.copy() for key, value in start.items()} for _ in range(2))
    for _ in range(3):
        grads = {key: rng.standard_normal(value.shape).astype(value.dtype) for key, value in start.items()}
        if what != "parameters":
            grads["W"] *= scale
        pair.update(fast, plain, grads)
        for key in start:
            assert_same_bits(fast[key], plain[key])
        pair.assert_same_state()


def test_scaled_sums_are_the_plain_ones_where_nothing_overflows():
    """Factors are powers of two, so the boundary between the passes does not show."""
    rng = np.random.default_rng(1)
    numbers = rng.standard_normal(3000)
    expected = math.sqrt(math.fsum((numbers**2).tolist()))
    for exponent in (-1000, -520, -480, -300, 0, 300, 500, 520, 1000):
        plan_norm = _norm_by_clipping(np.ldexp(numbers, exponent))
        assert plan_norm == math.ldexp(expected, exponent)


def _norm_by_clipping(gradient):
    optimizer, params = fastopt.SGD(clip_norm=1.0), np.zeros(gradient.shape)
    optimizer.update(params, gradient)
    optimizer._plan.accepts(params, gradient)
    return optimizer._plan.passes.gradient_norm()


def test_lars_takes_tiny_arrays_by_their_norm():
    params = np.full(4, 1e-170)
    fastopt.LARS(lr=1.0, momentum=0.0, trust_coefficient=0.5).update(params, np.full(4, 1e-180))
    np.testing.assert_allclose(params, 0.5e-170, rtol=1e-14)


def test_muon_goes_along_large_gradients():
    params = np.zeros((2, 2))
    fastopt.Muon(lr=1.0, weight_decay=0.0).update(params, np.diag([3e200, 0.5e200]))
    np.testing.assert_allclose(params, [[-0.7, 0.0], [0.0, -1.0]], atol=0.1)


@pytest.mark.parametrize("scale", [1e-310, 1e-200, 1e-158, 1e-150, 1e153, 1e156, 1e250])
def test_reports(scale):
    params = {"W": np.full((50, 40), scale), "x": np.ones(3, np.float32), "y": np.zeros(2)}
    grads = {"W": np.full((50, 40), scale / 4), "x": np.ones(3, np.float32), "y": np.zeros(2)}
    report = fastopt.SGD(lr=1.0).update(params, grads, report=True).by_key["W"]
    count = math.sqrt(2000)
    assert report.gradient_norm == pytest.approx(scale / 4 * count, rel=1e-12)
    assert report.update_norm == pytest.approx(scale / 4 * count, rel=1e-12)
    assert report.parameter_norm == pytest.approx(scale * 0.75 * count, rel=1e-12)
    assert report.update_ratio == pytest.approx(1 / 3, rel=1e-9)
    grads["y"][0] = np.nan
    skipped = fastopt.SGD(on_nonfinite="skip").update(params, grads, report=True).by_key["W"]
    assert skipped.gradient_norm == pytest.approx(scale / 4 * count, rel=1e-12)
    total = fastopt.SGD(lr=0.0).update({"W": params["W"]}, {"W": grads["W"]}, report=True)
    assert total.gradient_norm == pytest.approx(scale / 4 * count, rel=1e-12) and total.update_norm == 0


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_reports_of_nan_and_infinity(bad, dtype):
    params = {"W": np.ones(3, dtype), "V": np.full(3, 1e200)}
    grads = {"W": np.array([1.0, bad, 1.0], dtype), "V": np.full(3, 1e200)}
    report = fastopt.SGD(lr=0.5).update(params, grads, report=True)
    for found in (report, report.by_key["W"]):
        np.testing.assert_equal([found.gradient_norm, found.parameter_norm, found.update_norm], [bad] * 3)
    assert report.by_key["V"].gradient_norm == pytest.approx(1e200 * math.sqrt(3))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(
    "settings",
    [
        {"groups": {"a": {"clip_array_norm": 1.0}}},
        {"clip_array_norm": 1.0, "groups": {"b": {"clip_array_norm": math.inf}}},
    ],
    ids=["one group clips", "one group does not"],
)
def test_nan_stays_where_nothing_is_clipped(settings, bad):
    params = {"a": np.zeros(2), "b": np.zeros(3)}
    fastopt.SGD(lr=1.0, **settings).update(params, {"a": np.full(2, 3.0), "b": np.array([bad, 1.0, 1.0])})
    np.testing.assert_allclose(params["a"], -math.sqrt(0.5))
    np.testing.assert_array_equal(params["b"], [-bad, -1.0, -1.0])


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("settings", [{"clip_norm": 1.0}, {"clip_array_norm": 1.0}, {}])
@pytest.mark.parametrize("rule", ["sgd", *BY_NORM])
def test_nan_and_infinity_go_as_far_as_in_the_reference(rule, settings, bad):
    pair = Pair(rule, **settings)
    fast, plain = ({"a": np.ones((3, 2)), "b": np.ones(5), "c": np.full(2, np.inf)} for _ in range(2))
    for _ in range(2):
        grads = {"a": np.ones((3, 2)), "b": np.ones(5), "c": np.ones(2)}
        grads["b"][3] = bad
        pair.update(fast, plain, grads)
        for key in fast:
            assert_same_bits(fast[key], plain[key])


def test_clipped():
    assert norms.clipped(2.0, math.nan, math.inf) == 2.0
    assert norms.clipped(2.0, math.inf, math.inf) == 2.0
    assert math.isnan(norms.clipped(2.0, math.nan, 1.0))
    assert norms.clipped(-2.0, 3.0, 1.0) == -2.0 * (1.0 / 6.0)
    assert norms.clipped(1.0, norms.Norm(2.0**424, 600), 1.0) == 2.0**-1024
    assert norms.clipped(1e200, norms.Norm(1e200), 1.0) == pytest.approx(1e-200)
    assert norms.clipped(1e200, norms.Norm(math.inf), 1.0) == 0.0
    assert norms.Norm(2.0**424, 600) == math.inf and norms.Norm(3.0, 2) == 12.0


CODE = """
import numpy as np, fastopt
p = {"W": np.zeros(3), "V": np.zeros(3)}
report = fastopt.SGD(lr=1.0, clip_array_norm=1e-140).update(
    p, {"W": np.full(3, 1e155), "V": np.full(3, 1e-165)}, report=True)
print(p["W"][0], p["V"][0], report.by_key["W"].gradient_norm, report.by_key["V"].gradient_norm)
"""


def test_without_compiler():
    found = [float(x) for x in python(CODE, NUMBA_DISABLE_JIT="1").stdout.split()]
    root = math.sqrt(3)
    np.testing.assert_allclose(found, [-1e-140 / root, -1e-165, 1e155 * root, 1e-165 * root], rtol=1e-14)


def test_every_rule_that_measures_is_here():
    rules = {rule: optimizer._rule for rule, optimizer in OPTIMIZERS.items()}
    assert set(BY_NORM) == {name for name, rule in rules.items() if rule.measure or rule.prepare}


def exact_factor(factor, gradient, most):
    """The factor of a float32 kernel, by the exact norm."""
    norm = math.sqrt(math.fsum(np.square(gradient.astype(np.float64)).tolist()))
    return np.float32(norms.clipped(factor, norm, most))


def hard_bounds(rng, factor, gradient):
    """Largest norms by which the factor is halfway between two float32 numbers, or all but 1, and plain ones."""
    norm = abs(factor) * math.sqrt(math.fsum(np.square(gradient.astype(np.float64)).tolist()))
    for share in rng.uniform(1e-6, 1, 4).astype(np.float32):
        middle = (float(share) + float(np.nextafter(share, np.float32(2)))) / 2
        for halfway in (middle, np.nextafter(middle, 0), np.nextafter(middle, 1)):
            yield norm * float(halfway)
        yield norm * float(share)
    yield from (norm, np.nextafter(norm, 0), np.nextafter(norm, math.inf), norm * (1 - 2.0**-25), norm * 1e-30)


@pytest.mark.parametrize("scale", [1e-44, 1e-38, 1e-20, 1.0, 1e18, 1e37])
@pytest.mark.parametrize("factor", [1.0, -1.0, 0.125, -3.7, 1e20, 0.0])
def test_quick_clipping_is_that_by_the_exact_norm_or_in_doubt(scale, factor):
    """Sums of squares are taken in any order, and wrong by as much as a sum of a piece can be."""
    rng = np.random.default_rng(3)
    gradient = (rng.standard_normal(300) * scale).astype(np.float32)
    square, settled = np.square(gradient.astype(np.float64)), 0
    for most in map(float, hard_bounds(rng, factor, gradient)):
        expected = exact_factor(factor, gradient, most)
        for wrong in (0.0, 2.0**-40, -(2.0**-40)):
            parts = np.array_split(rng.permutation(square) * (1 + wrong), 7)
            found = norms.quick_clipped(factor, [part.sum() for part in parts], most)
            settled += found is not None
            assert found is None or np.float32(found).tobytes() == expected.tobytes()
    assert settled >= 3, "some are far from any middle"


@pytest.mark.parametrize("bad", [np.inf, -np.inf, np.nan])
def test_what_is_not_finite_is_not_clipped_quickly(bad):
    assert norms.quick_clipped(1.0, [1.0, bad * bad], 1.0) is None
    assert norms.quick_clipped(bad, [1.0], 1.0) is None
    assert norms.quick_clipped(1.0, [0.0], 0.0) == 1


@pytest.mark.parametrize("split", [1, 3])
def test_a_factor_in_doubt_is_settled_by_the_exact_norm(split, monkeypatch):
    """Where all but the last bits of the norm say that the factor is halfway between two float32 numbers."""
    rng, exact = np.random.default_rng(4), []
    gradient = rng.standard_normal(20_000).astype(np.float32)
    measured = Passes.gradient_norm
    monkeypatch.setattr(Passes, "gradient_norm", lambda passes: exact.append(1) or measured(passes))
    pair = Pair("sgd", lr=1.0)
    fast, plain = ({f"p{n}": np.zeros(20_000, np.float32) for n in range(split)} for _ in range(2))
    for most in hard_bounds(rng, 1.0, np.tile(gradient, split)):
        for optimizer in (pair.fast, pair.plain):
            optimizer.clip_norm = float(most)
        pair.update(fast, plain, {key: gradient for key in fast})
        for key in fast:
            assert_same_bits(fast[key], plain[key])
    assert 8 <= len(exact) < 21, "the bounds halfway, and no other"
