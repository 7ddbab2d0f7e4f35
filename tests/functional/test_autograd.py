"""The optimizers of autograd.misc, with autograd's as the oracle."""

import numpy as np
import pytest

from fastopt.functional import autograd as ours

theirs = pytest.importorskip("autograd.misc.optimizers")


def gradient(x, i):
    return {"W": 2 * (x["W"] - 3.0) + np.sin(i), "b": np.cos(x["b"])}


@pytest.mark.parametrize("settings", [{}, {"num_iters": 7, "step_size": 0.03}], ids=["defaults", "settings"])
@pytest.mark.parametrize("name", ["sgd", "rmsprop", "adam"])
def test_results_are_those_of_autograd(name, settings):
    x0 = {"W": np.arange(6.0).reshape(2, 3), "b": np.ones(2)}
    seen, expected_calls = [], []
    found = getattr(ours, name)(gradient, x0, lambda *call: seen.append(call), **settings)
    expected = getattr(theirs, name)(gradient, x0, lambda *call: expected_calls.append(call), **settings)
    assert x0["W"].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert [i for _, i, _ in seen] == [i for _, i, _ in expected_calls]
    for key in x0:
        np.testing.assert_allclose(found[key], expected[key], rtol=1e-12)
        for (x, _, g), (their_x, _, their_g) in zip(seen, expected_calls, strict=True):
            np.testing.assert_allclose(x[key], their_x[key], rtol=1e-12)
            np.testing.assert_allclose(g[key], their_g[key], rtol=1e-11)


def test_one_array():
    for name in ("sgd", "rmsprop", "adam"):
        found = getattr(ours, name)(lambda x, i: x, np.ones(3), num_iters=5)
        np.testing.assert_allclose(found, getattr(theirs, name)(lambda x, i: x, np.ones(3), num_iters=5), rtol=1e-13)
