"""*Deep Learning from Scratch*, volume 1: the scripts of chapters 6 and 7, with dicts of parameters."""

import copy

import numpy as np
import pytest

import fastopt
from fastopt.nn import MultiLayerNet, MultiLayerNetExtend
from tests.scripts import oracles
from tests.scripts.models import digits
from tests.scripts.oracles import By, assert_same_bits

BOOK = {
    "SGD": oracles.sgd,
    "Momentum": oracles.momentum,
    "Nesterov": oracles.nesterov,
    "AdaGrad": oracles.adagrad,
    "RMSprop": oracles.rmsprop,
    "Adam": oracles.adam,
}


@pytest.mark.parametrize(
    ("name", "lr"),
    [("SGD", 0.95), ("Momentum", 0.1), ("Nesterov", 0.1), ("AdaGrad", 1.5), ("RMSprop", 0.3), ("Adam", 0.3)],
)
def test_ravine_with_python_floats(name, lr):
    """The script that draws the paths: two numbers in a dict. The same to 1e-14."""
    ends = []
    for optimizer in (getattr(fastopt, name)(lr=lr), By(BOOK[name], lr=lr)):
        params = {"x": -7.0, "y": 2.0}
        for _ in range(30):
            optimizer.update(params, {"x": params["x"] / 10.0, "y": 2.0 * params["y"]})
        ends.append(params)
    assert ends[0] == pytest.approx(ends[1], rel=1e-14) and abs(ends[0]["y"]) < 0.7


NETWORKS = {
    "optimizers": lambda: MultiLayerNet(16, [12, 12], 10, dtype=np.float64, seed=0),
    "weight init": lambda: MultiLayerNet(16, [12, 12], 10, activation="sigmoid", weight_init_std=0.01, dtype=np.float64, seed=0),
    "weight decay": lambda: MultiLayerNet(16, [12, 12], 10, weight_decay_lambda=0.1, dtype=np.float64, seed=0),
    "batch norm": lambda: MultiLayerNetExtend(16, [12, 12], 10, use_batchnorm=True, dtype=np.float64, seed=0),
    "dropout": lambda: MultiLayerNetExtend(16, [12], 10, use_dropout=True, dropout_ration=0.2, dtype=np.float64, seed=0),
}  # fmt: skip


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("name", BOOK)
def test_chapter_6(name, network, rng):
    """The comparisons of chapter 6: the same bits in parameters and losses."""
    x, t = digits(rng)
    runs = []
    for optimizer in (getattr(fastopt, name)(), By(BOOK[name])):
        net = NETWORKS[network]()
        losses = []
        for step in range(6):
            rows = slice(10 * step, 10 * step + 10)
            grads = net.gradient(x[rows], t[rows])
            optimizer.update(net.params, grads)
            losses.append(net.loss(x[rows], t[rows]))
        runs.append((net.params, losses))
    assert_same_bits(runs[0][0], runs[1][0])
    assert runs[0][1] == runs[1][1]


class ConvNet:
    """Convolution, ReLU, pooling over 2x2, affine, softmax, on images of shape (rows, 1, 8, 8)."""

    def __init__(self, rng, filters=4):
        self.params = {
            "W1": 0.3 * rng.standard_normal((filters, 1, 3, 3)),
            "b1": np.zeros(filters),
            "W2": 0.3 * rng.standard_normal((filters * 9, 10)),
            "b2": np.zeros(10),
        }

    def gradient(self, x, t):
        W1, b1, W2, b2 = self.params.values()
        windows = np.lib.stride_tricks.sliding_window_view(x[:, 0], (3, 3), axis=(1, 2))
        out = np.einsum("nyxij,fij->nfyx", windows, W1[:, 0]) + b1[:, None, None]
        active = np.maximum(out, 0).reshape(len(x), -1, 3, 2, 3, 2)
        pooled = active.max(axis=(3, 5))
        flat = pooled.reshape(len(x), -1)
        scores = flat @ W2 + b2
        odds = np.exp(scores - scores.max(axis=1, keepdims=True))
        odds /= odds.sum(axis=1, keepdims=True)
        self.loss = -np.log(odds[np.arange(len(t)), t]).mean()
        odds[np.arange(len(t)), t] -= 1
        back = odds / len(t)
        largest = (active == pooled[:, :, :, None, :, None]) & (active > 0)
        through = ((back @ W2.T).reshape(pooled.shape)[:, :, :, None, :, None] * largest).reshape(out.shape)
        return {
            "W1": np.einsum("nfyx,nyxij->fij", through, windows)[:, None],
            "b1": through.sum(axis=(0, 2, 3)),
            "W2": flat.T @ back,
            "b2": back.sum(axis=0),
        }


@pytest.mark.parametrize("name", ["Adam", "SGD"])
def test_chapter_7(name, rng):
    """The convolutional network: the same bits, and it learns."""
    x, t = digits(rng, size=64)
    x, first = x.reshape(-1, 1, 8, 8), ConvNet(rng)
    runs = []
    for optimizer in (getattr(fastopt, name)(lr=0.02), By(BOOK[name], lr=0.02)):
        net, losses = copy.deepcopy(first), []
        for _ in range(40):
            optimizer.update(net.params, net.gradient(x, t))
            losses.append(net.loss)
        runs.append((net.params, losses))
    assert_same_bits(runs[0][0], runs[1][0])
    assert runs[0][1] == runs[1][1] and losses[-1] < 0.9 * losses[0]


def test_the_convolution_is_right(rng):
    x, t = digits(rng, rows=10, size=64)
    net = ConvNet(rng)
    grads = net.gradient(x.reshape(-1, 1, 8, 8), t)
    for key, index in (("W1", (2, 0, 1, 1)), ("b1", 1), ("W2", (5, 3))):
        values = []
        for step in (1e-5, -1e-5):
            changed = copy.deepcopy(net)
            changed.params[key][index] += step
            changed.gradient(x.reshape(-1, 1, 8, 8), t)
            values.append(changed.loss)
        assert grads[key][index] == pytest.approx((values[0] - values[1]) / 2e-5, rel=1e-5)
