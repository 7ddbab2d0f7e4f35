"""autograd's neural net: parameters in a list of tuples, gradients by autograd."""

import numpy as np
import pytest

from fastopt.functional import autograd as autograd_calls
from tests.scripts.models import digits


def autograds_adam(grad, x, num_iters, step_size):
    """autograd's formula on one vector."""
    m = v = np.zeros_like(x)
    for i in range(num_iters):
        g = grad(x, i)
        m, v = 0.1 * g + 0.9 * m, (1 - 0.999) * g**2 + 0.999 * v
        m_hat, v_hat = m / (1 - 0.9 ** (i + 1)), v / (1 - 0.999 ** (i + 1))
        x = x - step_size * m_hat / (np.sqrt(v_hat) + 1e-8)
    return x


def test_autograds_neural_net(rng):
    """Parameters in a list of tuples (W, b), gradients by autograd, in batches: within 1e-10 after 40 steps."""
    autograd = pytest.importorskip("autograd")
    from autograd.misc import flatten

    anp = autograd.numpy
    x, t = digits(rng)
    hot = np.eye(10)[t]
    first = [(0.3 * rng.standard_normal(shape), np.zeros(shape[1])) for shape in ((16, 12), (12, 10))]

    def scores(params, inputs):
        for W, b in params:
            outputs = anp.dot(inputs, W) + b
            inputs = anp.tanh(outputs)
        return outputs - anp.log(anp.sum(anp.exp(outputs), axis=1, keepdims=True))

    def objective(params, i):
        rows = slice(15 * (i % 4), 15 * (i % 4) + 15)
        penalty = 0.1 * sum(anp.sum(W**2) + anp.sum(b**2) for W, b in params)
        return penalty - anp.sum(scores(params, x[rows]) * hot[rows])

    losses = []
    found = autograd_calls.adam(
        autograd.grad(objective), first, lambda params, i, g: losses.append(objective(params, 0)), 40, 0.01
    )
    vector, unflatten = flatten(first)
    expected = unflatten(
        autograds_adam(lambda x, i: flatten(autograd.grad(objective)(unflatten(x), i))[0], vector, 40, 0.01)
    )
    assert [type(pair) for pair in found] == [tuple, tuple]
    for pair, their_pair in zip(found, expected, strict=True):
        for array, their_array in zip(pair, their_pair, strict=True):
            np.testing.assert_allclose(array, their_array, rtol=1e-10, atol=1e-12)
    assert losses[-1] < 0.5 * losses[0]
