"""Mistakes in the arguments of `minimize`, and what SciPy hands over that is not used."""

import sys

import numpy as np
import pytest

import fastopt
from fastopt import Adam
from tests.minimization.test_minimize import START, bowl, bowl_gradient

optimize = pytest.importorskip("scipy.optimize")


def test_what_scipy_hands_over_and_is_not_used():
    with pytest.warns(RuntimeWarning, match="does not use Hessian information"):
        optimize.minimize(
            bowl,
            np.zeros(3),
            jac=bowl_gradient,
            hess=lambda x: np.eye(3),
            method=fastopt.minimize,
            options={"maxiter": 1},
        )
    with pytest.raises(ValueError, match="constraints are not supported; hand in bounds"):
        optimize.minimize(bowl, np.zeros(3), method=fastopt.minimize, constraints={"type": "eq", "fun": lambda x: x[0]})


def test_without_scipy_an_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "scipy.optimize", None)
    with pytest.raises(ImportError, match=r"pip install 'fastopt\[scipy\]'"):
        fastopt.minimize(bowl, np.zeros(3))


def never(x):
    raise AssertionError("called before all was checked")


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"fun": 3}, TypeError, r"fun must be a function fun\(x, \*args\), got int"),
        ({"x0": ["a"]}, TypeError, "x0 has dtype <U1"),
        ({"x0": {"W": np.array([1j], np.clongdouble)}}, TypeError, r"x0\['W'\] has dtype c.* or complex128; convert it"),
        ({"x0": [1j], "bounds": [(0, 1)]}, ValueError, "x is complex, and complex numbers have no order"),
        ({"jac": "4-point"}, ValueError, "jac must be True .* got '4-point'"),
        ({"jac": "adam"}, ValueError, "an optimizer is named by method='adam'"),
        ({"method": "adamm"}, ValueError, "there is no method 'adamm'.*did you mean 'adam'"),
        ({"method": Adam}, TypeError, "expected an optimizer"),
        ({"method": Adam(maximize=True)}, ValueError, "maximize=True"),
        ({"method": "sgd", "options": {"optimizer": Adam()}}, ValueError, "both method='sgd' and options"),
        ({"method": Adam(), "options": {"lr": 0.1}}, TypeError, r"no option 'lr' beside an optimizer"),
        ({"options": {"learning_rate": 0.1}}, TypeError, "there is no option 'learning_rate'"),
        ({"options": {"lr": -1.0}}, ValueError, r"Adam: lr must be in \[0, inf\)"),
        ({"options": {"maxiter": 1.5}}, TypeError, r"options\['maxiter'\] must be a whole number, 0 or more, got 1.5"),
        ({"options": {"patience": 0}}, ValueError, r"options\['patience'\] must be a whole number, 1 or more"),
        ({"options": {"smoothing": 1.0}}, ValueError, r"options\['smoothing'\] must be a number in \[0, 1\)"),
        ({"tol": "small"}, TypeError, r"options\['gtol'\] must be a number"),
        ({"tol": -1.0}, ValueError, r"options\['gtol'\] must be a number in \[0, inf\), got -1.0"),
        ({"options": {"rng": 0, "batches": []}}, ValueError, "takes rng or batches, got both"),
        ({"callback": 3}, TypeError, "callback must be a function, got int"),
        ({"bounds": [(0, 1)]}, ValueError, r"a pair \(low, high\) for each of the 2 elements of x0"),
        ({"bounds": [(0, 1), (3, 2)]}, ValueError, "each lower bound of x must be at most the upper one"),
        ({"bounds": [(0, 1), (np.nan, 2)]}, ValueError, "each lower bound"),
        ({"x0": {"W": np.ones(2)}, "bounds": [(0, 1), (0, 1)]}, TypeError, r"x0 is a dict of arrays, so bounds must be pairs by their names, such as \{'W': \(0.0, None\)\}"),
        ({"x0": {"W": np.ones(2)}, "bounds": {"V": (0, 1)}}, KeyError, "bounds has 'V', but x0 has 'W'"),
        ({"bounds": optimize.Bounds([0, 0, 0], [1, 1, 1])}, ValueError, r"shape \(3,\), which does not fit"),
    ],
)  # fmt: skip
def test_mistakes_are_told_before_the_function_is_called(arguments, error, words):
    with pytest.raises(error, match=words):
        fastopt.minimize(**{"fun": never, "x0": START, **arguments})


@pytest.mark.parametrize(
    ("fun", "jac", "error", "words"),
    [
        (lambda x: x, None, TypeError, r"fun must return one real number, got ndarray of shape \(2,\)"),
        (lambda x: 1j, None, TypeError, "one real number, got complex.*; take its real part"),
        (lambda x: 1.0, True, TypeError, "with jac=True fun must return the value and its gradient, got float"),
        (
            lambda x: 1.0,
            lambda x: np.ones(3),
            ValueError,
            r"gradient of x has shape \(3,\), expected that of the parameter, \(2,\)",
        ),
    ],
)
def test_mistakes_of_the_function(fun, jac, error, words):
    with pytest.raises(error, match=words):
        fastopt.minimize(fun, START, jac=jac)


@pytest.mark.parametrize(
    ("gradient", "error", "words"),
    [
        (np.ones(2), TypeError, "gradient must be of the form of the point, a dict, got ndarray"),
        ({"W": None}, TypeError, "the gradient is None; return it"),
        ({}, KeyError, r"grads has no entry for params\['W'\]"),
        ({"V": np.ones(2)}, KeyError, r"it has 'V'"),
    ],
)
def test_gradients_of_another_form(gradient, error, words):
    with pytest.raises(error, match=words):
        fastopt.minimize(lambda x: 1.0, {"W": np.ones(2)}, jac=lambda x: gradient)
