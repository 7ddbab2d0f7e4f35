"""The code that is called the textbook computes what the reference does, in as few lines as the book."""

import inspect

import numpy as np
import pytest

from fastopt import reference
from fastopt.experiments import textbook
from fastopt.optimizers import OPTIMIZERS

SHAPES = {"W1": (20, 7), "b1": (7,), "W2": (7, 3)}


def pair(rule, dtype, steps=12):
    rng = np.random.default_rng(0)
    mine = {key: rng.standard_normal(shape).astype(dtype) for key, shape in SHAPES.items()}
    exact = {key: value.copy() for key, value in mine.items()}
    written, plain = textbook.textbook(rule), getattr(reference, OPTIMIZERS[rule].__name__)()
    for _ in range(steps):
        grads = {key: rng.standard_normal(shape).astype(dtype) for key, shape in SHAPES.items()}
        written.update(mine, grads)
        plain.update(exact, grads)
    return mine, exact


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("rule", OPTIMIZERS)
def test_textbook_is_the_reference(rule, dtype):
    mine, exact = pair(rule, dtype)
    for key, value in exact.items():
        assert mine[key].dtype == value.dtype
        if textbook.has_exact_bits(rule, dtype):
            assert mine[key].tobytes() == value.tobytes()
        else:
            np.testing.assert_allclose(mine[key], value, rtol=1e-3 if dtype == "float32" else 1e-10, atol=1e-6)


def test_the_books_adam_rounds_float32_in_float64():
    mine, exact = pair("adam", "float32")
    assert any(mine[key].tobytes() != exact[key].tobytes() for key in mine)


@pytest.mark.parametrize("rule", textbook.BOOK)
def test_numbers_as_in_the_ravine(rule):
    params, optimizer = {"x": -7.0, "y": 2.0}, textbook.textbook(rule)
    expected, plain = dict(params), getattr(reference, OPTIMIZERS[rule].__name__)()
    for _ in range(5):
        optimizer.update(params, {"x": params["x"] / 10, "y": 2 * params["y"]})
        plain.update(expected, {"x": expected["x"] / 10, "y": 2 * expected["y"]})
    assert params == pytest.approx(expected, rel=1e-14)


@pytest.mark.parametrize("kind", textbook.BOOK.values())
def test_as_few_lines_as_the_book(kind):
    assert len(inspect.getsource(kind).splitlines()) <= 20


def test_norms_are_numpys_and_factors_are_multiplied_once():
    optimizer = textbook.textbook("nadam")
    calls, mu = [], optimizer.rule.mu
    optimizer.rule.mu = lambda step: (calls.append(step), mu(step))[1]
    params = {"a": np.ones(3), "b": np.ones(2)}
    for _ in range(50):
        optimizer.update(params, params)
    assert len(calls) <= 50 * 5
    assert textbook.textbook("lamb").rule.norm(np.array([3.0, 4.0])) == 5.0
