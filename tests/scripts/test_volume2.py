"""*Deep Learning from Scratch*, volume 2: parameters in lists, shared ones merged before each step."""

import copy

import numpy as np
import pytest

import fastopt
from tests.scripts import oracles
from tests.scripts.models import cross_entropy
from tests.scripts.oracles import By, assert_same_bits


def merged(params, grads):
    """Each array once: gradients of the same array, or of its transpose, are added up."""
    params, grads = list(params), list(grads)
    first = 0
    while first < len(params):
        other = first + 1
        while other < len(params):
            same, turned = params[other] is params[first], params[other].base is params[first]
            if same or turned:
                grads[first] += grads[other].T if turned and not same else grads[other]
                del params[other], grads[other]
            else:
                other += 1
        first += 1
    return params, grads


def clipped(grads, largest):
    """Scales gradients down, in place, whose norm is too large."""
    rate = largest / (np.sqrt(sum((grad**2).sum() for grad in grads)) + 1e-6)
    if rate < 1:
        for grad in grads:
            grad *= rate


class Spiral:
    """Two affine layers with a sigmoid between."""

    def __init__(self, rng, dtype):
        shapes = [(2, 10), (10,), (10, 3), (3,)]
        self.params = [(0.5 * rng.standard_normal(shape)).astype(dtype) for shape in shapes]

    def gradient(self, x, t):
        W1, b1, W2, b2 = self.params
        hidden = 1 / (1 + np.exp(-(x @ W1 + b1)))
        self.loss, back = cross_entropy(hidden @ W2 + b2, t)
        inner = back @ W2.T * hidden * (1 - hidden)
        self.grads = [x.T @ inner, inner.sum(0), hidden.T @ back, back.sum(0)]


def spiral(rng, rows=40):
    radius = np.tile(np.linspace(0, 1, rows), 3)
    arm = np.repeat(np.arange(3), rows)
    angle = 4 * radius + 2 * np.pi / 3 * arm + 0.1 * rng.standard_normal(3 * rows)
    return np.stack([radius * np.sin(angle), radius * np.cos(angle)], axis=1), arm


@pytest.mark.parametrize(
    ("optimizer", "formula"),
    [
        (fastopt.SGD(lr=1.0), By(oracles.sgd, lr=1.0)),
        (fastopt.Momentum(lr=0.1), By(oracles.momentum, lr=0.1)),
        (fastopt.Adam(lr=0.02), By(oracles.adam, lr=0.02)),
    ],
    ids=["SGD", "Momentum", "Adam"],
)
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_spiral(optimizer, formula, dtype, rng):
    """A list of arrays and a list of gradients: the same bits."""
    x, t = spiral(rng)
    first = Spiral(rng, dtype)
    runs = []
    for rule in (copy.deepcopy(optimizer), copy.deepcopy(formula)):
        model, losses, order = copy.deepcopy(first), [], np.random.default_rng(1)
        for _ in range(60):
            rows = order.permutation(len(x))[:30]
            model.gradient(x[rows].astype(dtype), t[rows])
            rule.update(model.params, model.grads)
            losses.append(model.loss)
        runs.append((model.params, losses))
    assert_same_bits(runs[0][0], runs[1][0])
    assert runs[0][1] == runs[1][1] and np.mean(losses[-9:]) < losses[0]


class CBOW:
    """Words from the mean of their neighbours; both neighbours go through one matrix, which the list has twice."""

    def __init__(self, rng, words, size=5):
        into, out = 0.1 * rng.standard_normal((words, size)), 0.1 * rng.standard_normal((size, words))
        self.params = [into, into, out]

    def gradient(self, contexts, targets):
        into, _, out = self.params
        hidden = (into[contexts[:, 0]] + into[contexts[:, 1]]) / 2
        self.loss, back = cross_entropy(hidden @ out, targets)
        inner = back @ out.T / 2
        sides = []
        for side in contexts.T:
            sides.append(np.zeros_like(into))
            np.add.at(sides[-1], side, inner)
        self.grads = [*sides, hidden.T @ back]


def test_cbow_with_one_matrix_twice(rng):
    """`remove_duplicate` makes a new, shorter list for each step: the same bits."""
    text = np.array([0, 1, 2, 3, 0, 4, 5, 1, 2, 6])
    contexts, targets = np.stack([text[:-2], text[2:]], axis=1), text[1:-1]
    first = CBOW(rng, 7)
    runs = []
    for optimizer in (fastopt.Adam(lr=0.01), By(oracles.adam, lr=0.01)):
        model, losses = copy.deepcopy(first), []
        assert model.params[0] is model.params[1]
        for _ in range(50):
            model.gradient(contexts, targets)
            optimizer.update(*merged(model.params, model.grads))
            losses.append(model.loss)
        runs.append((model.params, losses))
    assert_same_bits(runs[0][0], runs[1][0])
    assert runs[0][1] == runs[1][1] and losses[-1] < 0.8 * losses[0]


class RNNLM:
    """A recurrent language model whose output matrix is the transpose of its embedding."""

    def __init__(self, rng, words, size=6):
        embedding = 0.3 * rng.standard_normal((words, size))
        Wx, Wh = 0.3 * rng.standard_normal((size, size)), 0.3 * rng.standard_normal((size, size))
        self.params = [embedding, Wx, Wh, np.zeros(size), embedding.T, np.zeros(words)]

    def gradient(self, inputs, targets, state):
        embedding, Wx, Wh, b, out, bias = self.params
        states, vectors = [state], embedding[inputs]
        for step in range(inputs.shape[1]):
            states.append(np.tanh(vectors[:, step] @ Wx + states[-1] @ Wh + b))
        hidden = np.stack(states[1:], axis=1)
        self.loss, back = cross_entropy(hidden @ out + bias, targets)
        grads = [np.zeros_like(array) for array in self.params]
        grads[4] += np.einsum("nth,ntv->hv", hidden, back)
        grads[5] += back.sum(axis=(0, 1))
        following = np.zeros_like(state)
        for step in reversed(range(inputs.shape[1])):
            inner = (back[:, step] @ out.T + following) * (1 - hidden[:, step] ** 2)
            grads[1] += vectors[:, step].T @ inner
            grads[2] += states[step].T @ inner
            grads[3] += inner.sum(axis=0)
            np.add.at(grads[0], inputs[:, step], inner @ Wx.T)
            following = inner @ Wh.T
        self.grads = grads
        return states[-1]


def language(model, optimizer, clip, steps=40):
    """Trains on a text that repeats itself; the state goes on from batch to batch."""
    text = np.tile(np.array([0, 3, 1, 4, 2, 5, 5, 1]), 60)
    state, losses = np.zeros((2, 6)), []
    for step in range(steps):
        rows = np.stack([np.arange(5) + 5 * step, np.arange(5) + 5 * step + 200])
        state = model.gradient(text[rows], text[rows + 1], state)
        params, grads = merged(model.params, model.grads)
        if clip:
            clipped(grads, 0.25)
        optimizer.update(params, grads)
        losses.append(model.loss)
    return losses


def test_rnnlm_with_tied_weights(rng):
    """SGD with lr 2 and clipped gradients: the same bits; with fastopt's own clipping to 1e-4 after 40 steps."""
    first = RNNLM(rng, 6)
    models = [copy.deepcopy(first) for _ in range(3)]
    for model in models:  # a copy of a view is no view
        model.params[4] = model.params[0].T
    losses = [
        language(models[0], fastopt.SGD(lr=2.0), clip=True),
        language(models[1], By(oracles.sgd, lr=2.0), clip=True),
        language(models[2], fastopt.SGD(lr=2.0, clip_norm=0.25), clip=False),
    ]
    assert_same_bits(models[0].params, models[1].params)
    assert losses[0] == losses[1] and losses[0][-1] < 0.7 * losses[0][0]
    for found, expected in zip(models[2].params, models[1].params, strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-4)


def test_tied_weights_that_are_not_merged_are_refused(rng):
    model = RNNLM(rng, 6)
    model.gradient(np.zeros((1, 2), int), np.zeros((1, 2), int), np.zeros((1, 6)))
    before = copy.deepcopy(model.params)
    with pytest.raises(ValueError, match=r"params\[0\] and params\[4\] share memory"):
        fastopt.SGD().update(model.params, model.grads)
    assert_same_bits(model.params, before)
