"""*Deep Learning from Scratch*, volume 3: parameters that are objects with `.data` and `.grad`, as in DeZero."""

import copy

import numpy as np
import pytest

import fastopt
from tests.scripts import oracles
from tests.scripts.models import cross_entropy, digits
from tests.scripts.oracles import assert_same_bits


class Variable:
    """An array and the variable that its gradient is."""

    def __init__(self, data):
        self.data, self.grad = data, None


class MLP:
    """Two affine layers with a ReLU between, whose parameters are variables and whose gradients too."""

    def __init__(self, rng):
        shapes = [(16, 12), (12,), (12, 10), (10,)]
        self._params = [Variable(0.3 * rng.standard_normal(shape)) for shape in shapes]
        self.unused = Variable(np.ones(3))  # takes part in no loss

    def params(self):
        yield from self._params
        yield self.unused

    def cleargrads(self):
        for param in self.params():
            param.grad = None

    def backward(self, x, t):
        W1, b1, W2, b2 = (param.data for param in self._params)
        hidden = np.maximum(x @ W1 + b1, 0)
        loss, back = cross_entropy(hidden @ W2 + b2, t)
        inner = back @ W2.T * (hidden > 0)
        grads = (x.T @ inner, inner.sum(0), hidden.T @ back, back.sum(0))
        for param, grad in zip(self._params, grads, strict=True):
            param.grad = Variable(grad)
        return loss


class ByFormula:
    """DeZero's optimizers: walk the parameters that have a gradient, with state by identity."""

    def __init__(self, formula, **settings):
        self.formula, self.settings, self.state, self.t = formula, settings, {}, 0

    def update(self, model):
        self.t += 1
        for param in model.params():
            if param.grad is not None:
                state = self.state.setdefault(id(param), oracles.Zeros())
                param.data[...] = self.formula(param.data, param.grad.data, self.t, state, **self.settings)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (fastopt.SGD(lr=0.1), ByFormula(oracles.sgd, lr=0.1)),
        (fastopt.Momentum(lr=0.05), ByFormula(oracles.momentum, lr=0.05)),
        (fastopt.Adam(eps=1e-8), ByFormula(oracles.adam, eps=1e-8)),
    ],
    ids=["SGD", "MomentumSGD", "Adam"],
)
def test_mnist(ours, theirs, rng):
    """The script of DeZero's MNIST: the same bits with its defaults, among them Adam's eps 1e-8."""
    x, t = digits(rng)
    first = MLP(rng)
    runs = []
    for optimizer in (ours, theirs):
        model, losses = copy.deepcopy(first), []
        for step in range(40):
            rows = slice(20 * (step % 3), 20 * (step % 3) + 20)
            model.cleargrads()
            losses.append(model.backward(x[rows], t[rows]))
            optimizer.update(model)
        runs.append(([param.data for param in model.params()], losses))
    assert_same_bits(runs[0][0], runs[1][0])
    assert runs[0][1] == runs[1][1] and losses[-1] < losses[0]
    assert (runs[0][0][-1] == 1).all()
