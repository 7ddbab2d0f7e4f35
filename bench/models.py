"""Models that are trained in benches: networks of `fastopt.nn`, and others in short plain NumPy.

Each has `params` and `gradient(batch)`, a dict of gradients of one of its batches, as a user's own code would.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np

from fastopt.nn import MultiLayerNet
from fastopt.nn.mnist import Mnist, as_arrays, read_mnist

Arrays = dict[str, Any]
BATCHES = 200  # different ones, one after the other and then again


@cache
def data() -> Mnist:
    """MNIST as it is found: all of it, or the subset that comes with the package."""
    return read_mnist()


@cache
def digits(dtype: str) -> tuple[np.ndarray, np.ndarray]:
    """The training data."""
    (x, t), _ = as_arrays(data())
    return x.astype(dtype), t


class Mlp:
    """Fully connected, ReLU; on digits where it has 784 inputs, else on random numbers."""

    def __init__(self, sizes: Sequence[int], batch: int, dtype: str) -> None:
        rng = np.random.default_rng(0)
        self.network = MultiLayerNet(sizes[0], sizes[1:-1], sizes[-1], dtype=dtype, seed=0)
        self.params = self.network.params
        if sizes[0] == 784:
            self.x, self.t = digits(dtype)
        else:
            self.x = rng.standard_normal((20 * batch, sizes[0])).astype(dtype)
            self.t = rng.integers(0, sizes[-1], len(self.x))
        self.rows = rng.integers(0, len(self.x), (BATCHES, batch))

    def gradient(self, batch: int) -> Any:
        rows = self.rows[batch % BATCHES]
        return self.network.gradient(self.x[rows], self.t[rows])


class Autograd:
    """784-100-100-10 with tanh, differentiated by autograd."""

    def __init__(self, batch: int, dtype: str) -> None:
        import autograd.numpy as anp
        from autograd import grad

        rng = np.random.default_rng(0)
        self.params: Arrays = {}
        for number, (a, b) in enumerate(((784, 100), (100, 100), (100, 10)), start=1):
            self.params[f"W{number}"] = (rng.standard_normal((a, b)) / np.sqrt(a)).astype(dtype)
            self.params[f"b{number}"] = np.zeros(b, dtype)
        self.x, self.t = digits(dtype)
        self.rows = rng.integers(0, len(self.x), (BATCHES, batch))

        def loss(params: Arrays, x: np.ndarray, t: np.ndarray) -> Any:
            h = anp.tanh(anp.dot(x, params["W1"]) + params["b1"])
            h = anp.tanh(anp.dot(h, params["W2"]) + params["b2"])
            y = anp.dot(h, params["W3"]) + params["b3"]
            return anp.mean(anp.log(anp.sum(anp.exp(y), axis=1)) - y[anp.arange(len(t)), t])

        self.differentiate = grad(loss)

    def gradient(self, batch: int) -> Any:
        rows = self.rows[batch % BATCHES]
        return self.differentiate(self.params, self.x[rows], self.t[rows])


def softmax_gradient(y: np.ndarray, t: np.ndarray) -> tuple[float, np.ndarray]:
    """The mean cross entropy of scores y, which are overwritten with its gradient by them."""
    every = np.arange(len(t))
    y -= y.max(axis=1, keepdims=True)
    np.exp(y, out=y)
    y /= y.sum(axis=1, keepdims=True)
    loss = -np.log(y[every, t]).mean()
    y[every, t] -= 1
    y /= len(t)
    return float(loss), y


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


class Lstm:
    """A language model: words to vectors of 100, an LSTM of 100, scores of all words; 35 steps of time back."""

    def __init__(self, batch: int, dtype: str, words: int = 10_000, width: int = 100, time: int = 35) -> None:
        rng = np.random.default_rng(0)
        shapes = {"embed": (words, width), "Wx": (width, 4 * width), "Wh": (width, 4 * width), "W": (width, words)}
        self.params: Arrays = {
            key: (rng.standard_normal(shape) / np.sqrt(width)).astype(dtype) for key, shape in shapes.items()
        }
        self.params |= {"bh": np.zeros(4 * width, dtype), "b": np.zeros(words, dtype)}
        self.text = rng.integers(0, words, (20, batch, time + 1))
        self.width = width

    def gradient(self, batch: int) -> Arrays:
        p, n, text = self.params, self.width, self.text[batch % len(self.text)]
        words, following = text[:, :-1].T, text[:, 1:].T  # (time, batch)
        x = p["embed"][words]
        h = c = np.zeros((len(text), n), x.dtype)
        steps, outputs = [], []
        for x_t in x:
            a = x_t @ p["Wx"] + h @ p["Wh"] + p["bh"]
            gates, g = sigmoid(a[:, : 3 * n]), np.tanh(a[:, 3 * n :])  # forget, input, output; candidate
            f, i, o = gates[:, :n], gates[:, n : 2 * n], gates[:, 2 * n :]
            before, h_before, c = c, h, f * c + i * g
            tanh_c = np.tanh(c)
            h = o * tanh_c
            steps.append((x_t, h_before, before, f, i, o, g, tanh_c))
            outputs.append(h)
        hidden = np.concatenate(outputs)
        self.last_loss, dy = softmax_gradient(hidden @ p["W"] + p["b"], following.ravel())
        grads = {key: np.zeros_like(value) for key, value in p.items() if key in ("embed", "Wx", "Wh", "bh")}
        grads |= {"W": hidden.T @ dy, "b": dy.sum(axis=0)}
        d_outputs = (dy @ p["W"].T).reshape(len(steps), -1, n)
        dh, dc = np.zeros_like(h), np.zeros_like(c)
        for time in reversed(range(len(steps))):
            x_t, h_before, before, f, i, o, g, tanh_c = steps[time]
            dh = dh + d_outputs[time]
            dc = dc + dh * o * (1 - tanh_c**2)
            d_gates = dc * before * f * (1 - f), dc * g * i * (1 - i), dh * tanh_c * o * (1 - o), dc * i * (1 - g**2)
            da = np.hstack(d_gates)
            grads["Wx"] += x_t.T @ da
            grads["Wh"] += h_before.T @ da
            grads["bh"] += da.sum(axis=0)
            np.add.at(grads["embed"], words[time], da @ p["Wx"].T)
            dh, dc = da @ p["Wh"].T, dc * f
        return grads


class Convolution:
    """30 filters of 5 x 5 by im2col, ReLU, maxima of 2 x 2, 100 hidden units, 10 scores; on digits."""

    def __init__(self, batch: int, dtype: str) -> None:
        rng = np.random.default_rng(0)
        self.params: Arrays = {
            "W1": (0.1 * rng.standard_normal((25, 30))).astype(dtype),
            "b1": np.zeros(30, dtype),
            "W2": (rng.standard_normal((12 * 12 * 30, 100)) * np.sqrt(2 / 4320)).astype(dtype),
            "b2": np.zeros(100, dtype),
            "W3": (rng.standard_normal((100, 10)) * 0.1).astype(dtype),
            "b3": np.zeros(10, dtype),
        }
        self.x, self.t = digits(dtype)
        self.rows = rng.integers(0, len(self.x), (BATCHES, batch))

    def gradient(self, batch: int) -> Arrays:
        p, rows = self.params, self.rows[batch % BATCHES]
        images, count = self.x[rows].reshape(-1, 28, 28), len(rows)
        patches = np.lib.stride_tricks.sliding_window_view(images, (5, 5), axis=(1, 2)).reshape(-1, 25)
        maps = np.maximum(patches @ p["W1"] + p["b1"], 0)
        # The four places of each 2 x 2 window on an axis of their own.
        windows = maps.reshape(count, 12, 2, 12, 2, 30).transpose(0, 1, 3, 5, 2, 4).reshape(-1, 4)
        place = windows.argmax(axis=1)
        every = np.arange(len(windows))
        flat = windows[every, place].reshape(count, -1)
        hidden = np.maximum(flat @ p["W2"] + p["b2"], 0)
        self.last_loss, dy = softmax_gradient(hidden @ p["W3"] + p["b3"], self.t[rows])
        d_hidden = dy @ p["W3"].T * (hidden > 0)
        d_windows = np.zeros_like(windows)
        d_windows[every, place] = ((d_hidden @ p["W2"].T) * (flat > 0)).ravel()
        d_maps = d_windows.reshape(count, 12, 12, 30, 2, 2).transpose(0, 1, 4, 2, 5, 3).reshape(-1, 30)
        return {
            "W1": patches.T @ d_maps,
            "b1": d_maps.sum(axis=0),
            "W2": flat.T @ d_hidden,
            "b2": d_hidden.sum(axis=0),
            "W3": hidden.T @ dy,
            "b3": dy.sum(axis=0),
        }
