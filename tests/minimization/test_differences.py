"""Differences are SciPy's, and never look beyond the bounds."""

import numpy as np
import pytest

from fastopt.minimization import differences
from fastopt.minimization.points import Form

numdiff = pytest.importorskip("scipy.optimize._numdiff")


def gradient(fun, x, value, scheme, limits=()):
    form = Form("test", x)
    return differences.gradient(fun, form, x, value, scheme, {form.keys[0]: limits} if limits else {})


def wavy(x):
    return float(np.sin(x).sum() + (x**3).prod())


@pytest.mark.parametrize("scheme", ["2-point", "3-point"])
def test_steps_are_those_of_scipy(scheme):
    x = np.array([0.3, -250.0, 0.0, 7.0])
    kept = x.copy()
    exact = numdiff.approx_derivative(wavy, x, method=scheme)
    assert gradient(wavy, x, wavy(x), scheme).tobytes() == exact.tobytes()
    assert x.tobytes() == kept.tobytes()


@pytest.mark.parametrize("scheme", ["2-point", "3-point"])
def test_complex_numbers_are_pairs(scheme):
    z = np.array([[0.3 - 2j, 7.0], [-1j, 0.5 + 0.1j]])
    form = Form("test", z, dtypes=(z.dtype,))
    expected = differences.gradient(wavy, Form("test", z.view(float)), z.view(float), 0.5, scheme, {})
    found = differences.gradient(lambda z: wavy(z.view(float)), form, z, 0.5, scheme, {})
    assert found.shape == z.shape and found.tobytes() == expected.tobytes()


@pytest.mark.parametrize("scheme", ["2-point", "3-point"])
@pytest.mark.parametrize("room", [(0.0, 1.0), (1.0, 0.0), (1e-9, 2e-9), (1e-7, 1.0), (1.0, 1e-7)])
def test_no_point_is_beyond_the_bounds(scheme, room):
    x = np.array([0.5, -2.0])
    low, high = x - room[0], x + room[1]
    seen = []

    def fun(x):
        seen.append(x.copy())
        return float((x**2).sum())

    found = gradient(fun, x, 4.25, scheme, (low, high))
    assert all(((low <= point) & (point <= high)).all() for point in seen)
    np.testing.assert_allclose(found, 2 * x, rtol=1e-6)
    theirs = numdiff.approx_derivative(fun, x, method=scheme, bounds=(low, high))
    np.testing.assert_allclose(found, theirs, rtol=1e-6)


def test_what_its_bounds_hold_has_no_gradient():
    assert gradient(wavy, np.array([0.5]), 0.0, "3-point", (np.array(0.5), np.array(0.5))).tolist() == [0.0]


@pytest.mark.parametrize("scheme", ["2-point", "3-point"])
def test_float32_takes_larger_steps(scheme):
    x = {"a": np.array([[1.0, 2.0]], np.float32), "b": np.array(3.0, np.float32)}
    found = gradient(lambda x: float((x["a"] ** 2).sum() + x["b"] ** 2), x, 14.0, scheme)
    assert found["a"].dtype == np.float32 and found["a"].shape == (1, 2)
    np.testing.assert_allclose(found["a"], [[2.0, 4.0]], rtol=1e-3)
    np.testing.assert_allclose(found["b"], 6.0, rtol=1e-3)
