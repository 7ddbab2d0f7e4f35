"""Fully connected networks for classification."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from fastopt.nn.layers import Affine, Array, Relu, Sigmoid, SoftmaxWithLoss

ACTIVATIONS: dict[str, type[Relu] | type[Sigmoid]] = {"relu": Relu, "sigmoid": Sigmoid}

# The variance of the weights times the number of inputs, by name: He et al. (2015) for ReLU, Glorot and Bengio (2010).
INITS = {"relu": 2.0, "he": 2.0, "sigmoid": 1.0, "xavier": 1.0}


class MultiLayerNet:
    """A multi-layer perceptron with softmax and cross-entropy at the end.

    Parameters
    ----------
    input_size, output_size : int
    hidden_size_list : sequence of int
        The widths of the hidden layers.
    activation : "relu" or "sigmoid"
    weight_init_std : number, or "relu" / "he" (sqrt(2 / inputs)), or "sigmoid" / "xavier" (sqrt(1 / inputs))
        The standard deviation of the normally distributed initial weights; biases start at zero.
    weight_decay_lambda : float
        Adds `0.5 lambda sum(W^2)` to the loss.
    dtype : "float32" or "float64"
        Of parameters, activations and gradients.
    seed : int or None
        Of the initial weights.

    Attributes
    ----------
    params : dict
        `W1` of shape (inputs, outputs), `b1` of shape (outputs,), `W2` ...

    Raises
    ------
    ValueError
        for an unknown name of an activation or of an initialisation.

    Examples
    --------
    >>> import numpy as np
    >>> network = MultiLayerNet(4, [8], 3, seed=0)
    >>> x, t = np.ones((5, 4), dtype=np.float32), np.zeros(5, dtype=int)
    >>> sorted(network.gradient(x, t))
    ['W1', 'W2', 'b1', 'b2']
    """

    def __init__(
        self,
        input_size: int,
        hidden_size_list: Sequence[int],
        output_size: int,
        activation: str = "relu",
        weight_init_std: float | str = "relu",
        weight_decay_lambda: float = 0.0,
        *,
        dtype: npt.DTypeLike = "float32",
        seed: int | None = None,
    ) -> None:
        if activation.lower() not in ACTIVATIONS:
            raise ValueError(f"activation must be one of {', '.join(ACTIVATIONS)}, got {activation!r}")
        self.weight_decay_lambda = weight_decay_lambda
        self.dtype = np.dtype(dtype)
        sizes = [input_size, *hidden_size_list, output_size]
        rng = np.random.default_rng(seed)
        self.params: dict[Any, Array] = {}
        self.layers: list[Affine | Relu | Sigmoid] = []
        for number, (inputs, outputs) in enumerate(pairwise(sizes), start=1):
            weights = rng.standard_normal((inputs, outputs)) * _standard_deviation(weight_init_std, inputs)
            self.params[f"W{number}"] = weights.astype(self.dtype)
            self.params[f"b{number}"] = np.zeros(outputs, dtype=self.dtype)
            self.layers.append(Affine(self.params, number))
            if number < len(sizes) - 1:
                self.layers.append(ACTIVATIONS[activation.lower()]())
        self.last_layer = SoftmaxWithLoss()

    def use(self, params: dict[Any, Array]) -> None:
        """Takes other parameters of the same names and shapes, such as `flatten(network.params)`."""
        self.params = params
        for layer in self.layers:
            if isinstance(layer, Affine):
                layer.params = params

    def predict(self, x: Array) -> Array:
        """Scores of shape (batch, output_size) for inputs of shape (batch, input_size)."""
        for layer in self.layers:
            x = layer.forward(x)
        return x

    def loss(self, x: Array, t: Array) -> float:
        """The mean cross-entropy, weight decay included. `t` holds integer labels or one-hot rows."""
        decay = 0.0
        if self.weight_decay_lambda:
            weights = (value for name, value in self.params.items() if name.startswith("W"))
            decay = 0.5 * self.weight_decay_lambda * sum(float(np.sum(w * w)) for w in weights)
        return self.last_layer.forward(self.predict(x), t) + decay

    def accuracy(self, x: Array, t: Array) -> float:
        """The share of rows whose highest score is at their label."""
        labels = t.argmax(axis=1) if t.ndim == 2 else t
        return float(np.mean(self.predict(x).argmax(axis=1) == labels))

    def gradient(self, x: Array, t: Array, out: Mapping[Any, Array] | None = None) -> Mapping[Any, Array]:
        """The gradients of the loss by back-propagation, a dict like `params`.

        `out` takes them in place of new arrays: a dict like `params`, or a `FlatDict` of one. The loss of the batch
        is in `last_loss` afterwards.
        """
        grads = {name: np.empty_like(value) for name, value in self.params.items()} if out is None else out
        self.last_loss = self.loss(x, t)
        dy = self.last_layer.backward()
        for layer in reversed(self.layers):
            if isinstance(layer, Affine):
                layer.gradients(dy, grads)
                if self.weight_decay_lambda:
                    weight_gradient = grads[layer.weight]
                    weight_gradient += self.weight_decay_lambda * self.params[layer.weight]
            if layer is not self.layers[0]:  # nothing asks for the gradient with respect to the input
                dy = layer.backward(dy)
        return grads


def _standard_deviation(weight_init_std: float | str, inputs: int) -> float:
    if not isinstance(weight_init_std, str):
        return float(weight_init_std)
    if weight_init_std.lower() not in INITS:
        raise ValueError(f"weight_init_std must be a number or one of {', '.join(INITS)}, got {weight_init_std!r}")
    return float(np.sqrt(INITS[weight_init_std.lower()] / inputs))
