"""Layers with a forward and a backward pass, in plain NumPy.

A layer keeps in `forward` what its `backward` needs. Batches are the rows of 2-D arrays. Layers with parameters read
them from the network's dict at every call, so the arrays in it may be replaced at any time.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from fastopt.nn import checks

Array = npt.NDArray[Any]


class Layer:
    """The base class of layers: three passes over a batch, of which a layer without parameters needs two."""

    params: Mapping[Any, Array]
    """The dict that holds the layer's parameters, where it has some."""

    def forward(self, x: Array, train: bool = False) -> Array:
        """The layer's output; some layers behave differently in training."""
        raise NotImplementedError

    def backward(self, dy: Array) -> Array:
        """The gradient of the loss with respect to the input of the last `forward`, from that of its output."""
        raise NotImplementedError

    def gradients(self, dy: Array, out: Mapping[Any, Array]) -> None:
        """Writes the gradients with respect to the layer's parameters into the arrays of `out`."""


class Affine(Layer):
    """`y = x W + b`, with x of shape (batch, inputs), W of shape (inputs, outputs) and b of shape (outputs,)."""

    def __init__(self, params: Mapping[Any, Array], number: int) -> None:
        self.params = params
        self.weight, self.bias = f"W{number}", f"b{number}"

    def forward(self, x: Array, train: bool = False) -> Array:
        self.x = x
        return x @ self.params[self.weight] + self.params[self.bias]

    def backward(self, dy: Array) -> Array:
        return dy @ self.params[self.weight].T

    def gradients(self, dy: Array, out: Mapping[Any, Array]) -> None:
        np.matmul(self.x.T, dy, out=out[self.weight])
        np.sum(dy, axis=0, out=out[self.bias])


class Relu(Layer):
    """`y = max(x, 0)`."""

    def forward(self, x: Array, train: bool = False) -> Array:
        self.positive = x > 0
        return np.maximum(x, 0)

    def backward(self, dy: Array) -> Array:
        return dy * self.positive


class Sigmoid(Layer):
    """`y = 1 / (1 + exp(-x))`, written with tanh, which does not overflow."""

    def forward(self, x: Array, train: bool = False) -> Array:
        self.y: Array = 0.5 * (1.0 + np.tanh(0.5 * x))
        return self.y

    def backward(self, dy: Array) -> Array:
        return np.asarray(dy * self.y * (1.0 - self.y))


class BatchNormalization(Layer):
    """`y = gamma (x - mean) / sqrt(variance + eps) + beta`, column by column (Ioffe and Szegedy, arXiv:1502.03167).

    While training, mean and variance are those of the batch; a running mean of both, of which each batch replaces the
    share `1 - momentum`, stands in for them otherwise. `gamma` and `beta` have shape (columns,).
    """

    def __init__(self, params: Mapping[Any, Array], number: int, momentum: float = 0.9, eps: float = 1e-7) -> None:
        self.params = params
        self.gamma, self.beta = f"gamma{number}", f"beta{number}"
        self.momentum, self.eps = float(momentum), float(eps)  # np.float64 would drag float32 arrays along
        self.running_mean = np.zeros_like(params[self.gamma])
        self.running_variance = np.zeros_like(params[self.gamma])

    def forward(self, x: Array, train: bool = False) -> Array:
        self.train = train
        if train:
            mean, variance = x.mean(axis=0), x.var(axis=0)
            self.running_mean = self.momentum * self.running_mean + (1 - self.momentum) * mean
            self.running_variance = self.momentum * self.running_variance + (1 - self.momentum) * variance
        else:
            mean, variance = self.running_mean, self.running_variance
        self.deviation = np.sqrt(variance + self.eps)
        self.normalized = (x - mean) / self.deviation
        return np.asarray(self.params[self.gamma] * self.normalized + self.params[self.beta])

    def backward(self, dy: Array) -> Array:
        slope = self.params[self.gamma] / self.deviation
        if not self.train:
            return np.asarray(slope * dy)
        # Mean and variance depend on x as well: what they take off keeps the gradient's columns free of a mean and of
        # a component along the normalized input.
        along = (dy * self.normalized).mean(axis=0)
        return np.asarray(slope * (dy - dy.mean(axis=0) - self.normalized * along))

    def gradients(self, dy: Array, out: Mapping[Any, Array]) -> None:
        np.sum(dy * self.normalized, axis=0, out=out[self.gamma])
        np.sum(dy, axis=0, out=out[self.beta])


class Dropout(Layer):
    """While training, sets each number to zero with probability `ratio`; otherwise multiplies by `1 - ratio`.

    (Srivastava et al., Journal of Machine Learning Research 15, 2014.)
    """

    def __init__(self, ratio: float = 0.5, rng: np.random.Generator | None = None) -> None:
        self.ratio = checks.dropout_ratio(ratio)
        self.rng = np.random.default_rng() if rng is None else rng

    def forward(self, x: Array, train: bool = False) -> Array:
        self.scale: Any = 1.0 - self.ratio
        if train:
            self.scale = self.rng.random(x.shape, dtype=np.float32) >= self.ratio
        return np.asarray(x * self.scale)

    def backward(self, dy: Array) -> Array:
        return np.asarray(dy * self.scale)


class SoftmaxWithLoss:
    """The mean cross-entropy of softmax scores against labels, integers of shape (batch,) or one-hot rows."""

    def forward(self, x: Array, t: Array) -> float:
        self.labels = checks.class_labels(t, *x.shape)
        shifted = x - x.max(axis=1, keepdims=True)  # no score overflows
        logarithms = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
        self.y = np.exp(logarithms)
        return -float(logarithms[np.arange(len(x)), self.labels].mean())

    def backward(self) -> Array:
        dx: Array = self.y.copy()
        dx[np.arange(len(dx)), self.labels] -= 1
        dx /= len(dx)
        return dx
