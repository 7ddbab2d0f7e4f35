"""Layers with a forward and a backward pass, in plain NumPy.

A layer keeps in `forward` what its `backward` needs. Batches are the rows of 2-D arrays. Layers with parameters read
them from the network's dict at every call, so the dict may be flattened or its arrays replaced at any time.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


class Affine:
    """`y = x W + b`, with x of shape (batch, inputs), W of shape (inputs, outputs) and b of shape (outputs,)."""

    def __init__(self, params: Mapping[Any, Array], number: int) -> None:
        self.params = params
        self.weight, self.bias = f"W{number}", f"b{number}"

    def forward(self, x: Array) -> Array:
        self.x = x
        return x @ self.params[self.weight] + self.params[self.bias]

    def backward(self, dy: Array) -> Array:
        return dy @ self.params[self.weight].T

    def gradients(self, dy: Array, out: Mapping[Any, Array]) -> None:
        """Writes the gradients with respect to W and b into the arrays of `out`."""
        np.matmul(self.x.T, dy, out=out[self.weight])
        np.sum(dy, axis=0, out=out[self.bias])


class Relu:
    """`y = max(x, 0)`."""

    def forward(self, x: Array) -> Array:
        self.positive = x > 0
        return np.maximum(x, 0)

    def backward(self, dy: Array) -> Array:
        return dy * self.positive


class Sigmoid:
    """`y = 1 / (1 + exp(-x))`, written with tanh, which does not overflow."""

    def forward(self, x: Array) -> Array:
        self.y: Array = 0.5 * (1.0 + np.tanh(0.5 * x))
        return self.y

    def backward(self, dy: Array) -> Array:
        return np.asarray(dy * self.y * (1.0 - self.y))


class SoftmaxWithLoss:
    """The mean cross-entropy of softmax scores against labels, integers of shape (batch,) or one-hot rows."""

    def forward(self, x: Array, t: Array) -> float:
        shifted = x - x.max(axis=1, keepdims=True)
        logarithms = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
        self.y = np.exp(logarithms)
        self.t = t.argmax(axis=1) if t.ndim == 2 else t
        return -float(logarithms[np.arange(len(x)), self.t].mean())

    def backward(self) -> Array:
        dx: Array = self.y.copy()
        dx[np.arange(len(dx)), self.t] -= 1
        dx /= len(dx)
        return dx
