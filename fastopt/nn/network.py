"""Fully connected networks for classification."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from fastopt.nn import checks
from fastopt.nn.gradient import numerical_gradient
from fastopt.nn.layers import Affine, Array, BatchNormalization, Dropout, Layer, Relu, Sigmoid, SoftmaxWithLoss

ACTIVATIONS: dict[str, type[Layer]] = {"relu": Relu, "sigmoid": Sigmoid}

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
        Of parameters, activations and gradients; inputs are converted to it.
    seed : int or None
        Of the initial weights (and of Dropout).

    Attributes
    ----------
    params : dict
        `W1` of shape (inputs, outputs), `b1` of shape (outputs,), `W2` ... May be replaced by a dict of the same names
        and shapes: after `network.params = fastopt.flatten(network.params)` they lie in one buffer.
    last_loss : float
        The loss of the batch that `gradient` last saw.

    Raises
    ------
    ValueError, TypeError
        for an unknown name of an activation or of an initialisation, or sizes that are none. All methods raise them
        for inputs and labels that do not fit the network.

    Examples
    --------
    >>> import numpy as np
    >>> from fastopt.nn import MultiLayerNet
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
        sizes = checks.sizes(input_size, hidden_size_list, output_size)
        make_activation = ACTIVATIONS[checks.choice("activation", activation, ACTIVATIONS)]
        self.input_size = sizes[0]
        self.weight_decay_lambda = checks.not_negative("weight_decay_lambda", weight_decay_lambda)
        self.dtype = checks.float_dtype(dtype)
        self.rng = np.random.default_rng(seed)
        self.layers: list[Layer] = []
        self._params: dict[Any, Array] = {}
        for number, (inputs, outputs) in enumerate(pairwise(sizes), start=1):
            weights = self.rng.standard_normal((inputs, outputs)) * _standard_deviation(weight_init_std, inputs)
            self._params[f"W{number}"] = weights.astype(self.dtype)
            self._params[f"b{number}"] = np.zeros(outputs, dtype=self.dtype)
            self.layers.append(Affine(self._params, number))
            if number < len(sizes) - 1:
                self.layers += self._hidden_layers(number, outputs, make_activation())
        self.last_layer = SoftmaxWithLoss()
        self._expected = {name: (value.shape, value.dtype) for name, value in self._params.items()}
        self._last_out: Mapping[Any, Array] | None = None

    def _hidden_layers(self, number: int, width: int, activation: Layer) -> list[Layer]:
        """The layers after a hidden Affine layer."""
        return [activation]

    @property
    def params(self) -> dict[Any, Array]:
        return self._params

    @params.setter
    def params(self, params: dict[Any, Array]) -> None:
        checks.replacement(self._expected, params, "params")
        self._params = params
        for layer in self.layers:
            layer.params = params

    def predict(self, x: Array, train: bool = False) -> Array:
        """Scores of shape (batch, output_size) for inputs of shape (batch, input_size)."""
        x = checks.inputs(x, self.input_size, self.dtype)
        for layer in self.layers:
            x = layer.forward(x, train)
        if x.dtype != self.dtype:
            checks.replacement(self._expected, self.params, "params")
        return x

    def loss(self, x: Array, t: Array, train: bool = False) -> float:
        """The mean cross-entropy, weight decay included. `t` holds integer labels or one-hot rows."""
        decay = 0.0
        if self.weight_decay_lambda:
            weights = (value for name, value in self.params.items() if name.startswith("W"))
            decay = 0.5 * self.weight_decay_lambda * sum(float(np.sum(w * w)) for w in weights)
        return self.last_layer.forward(self.predict(x, train), t) + decay

    def accuracy(self, x: Array, t: Array) -> float:
        """The share of rows whose highest score is at their label."""
        scores = self.predict(x)
        return float(np.mean(scores.argmax(axis=1) == checks.class_labels(t, *scores.shape)))

    def gradient(self, x: Array, t: Array, out: Mapping[Any, Array] | None = None) -> Mapping[Any, Array]:
        """The gradients of the loss by back-propagation, a dict like `params`.

        `out` takes them in place of new arrays: a dict of arrays like those of `params`, or a `FlatDict`; it is checked
        the first time it is passed. The loss of the batch is in `last_loss` afterwards.
        """
        if out is None:
            grads: Mapping[Any, Array] = {name: np.empty_like(value) for name, value in self.params.items()}
        elif out is not self._last_out:
            checks.gradients_out(self._expected, self.params, out)
            self._last_out = grads = out
        else:
            grads = out
        self.last_loss = self.loss(x, t, train=True)
        dy = self.last_layer.backward()
        for layer in reversed(self.layers):
            layer.gradients(dy, grads)
            if layer is not self.layers[0]:  # nothing asks for the gradient with respect to the input
                dy = layer.backward(dy)
        if self.weight_decay_lambda:
            for name in self.params:
                if name.startswith("W"):
                    weight_gradient = grads[name]
                    weight_gradient += self.weight_decay_lambda * self.params[name]
        return grads

    def numerical_gradient(self, x: Array, t: Array) -> dict[Any, Array]:
        """The same gradients by central differences, to check `gradient` with: slow, and in float64 always.

        The network stays as it is; Dropout drops what it will drop in the next call of `gradient`.
        """
        twin = copy.deepcopy(self)
        twin.dtype = np.dtype(np.float64)
        twin._params = {name: value.astype(np.float64) for name, value in self.params.items()}
        for layer in twin.layers:
            layer.params = twin._params

        def loss(_: Array) -> float:
            twin.rng.bit_generator.state = self.rng.bit_generator.state
            return twin.loss(x, t, train=True)

        return {name: numerical_gradient(loss, value) for name, value in twin.params.items()}


class MultiLayerNetExtend(MultiLayerNet):
    """A `MultiLayerNet` that may have batch normalization before, and Dropout after, each hidden activation.

    Parameters
    ----------
    use_dropout : bool
    dropout_ration : float
        The share of activations that Dropout sets to zero, in [0, 1).
    use_batchnorm : bool
        Adds `gamma1`, `beta1`, ... of shape (width,) to `params`, which start at one and zero.

    All others are those of `MultiLayerNet`.

    Examples
    --------
    >>> from fastopt.nn import MultiLayerNetExtend
    >>> network = MultiLayerNetExtend(4, [8], 3, use_dropout=True, dropout_ration=0.2, use_batchnorm=True, seed=0)
    >>> list(network.params)
    ['W1', 'b1', 'gamma1', 'beta1', 'W2', 'b2']
    >>> [type(layer).__name__ for layer in network.layers]
    ['Affine', 'BatchNormalization', 'Relu', 'Dropout', 'Affine']
    """

    def __init__(
        self,
        input_size: int,
        hidden_size_list: Sequence[int],
        output_size: int,
        activation: str = "relu",
        weight_init_std: float | str = "relu",
        weight_decay_lambda: float = 0.0,
        use_dropout: bool = False,
        dropout_ration: float = 0.5,
        use_batchnorm: bool = False,
        *,
        dtype: npt.DTypeLike = "float32",
        seed: int | None = None,
    ) -> None:
        self.use_dropout, self.use_batchnorm = use_dropout, use_batchnorm
        self.dropout_ration = checks.dropout_ratio(dropout_ration)
        super().__init__(
            input_size,
            hidden_size_list,
            output_size,
            activation,
            weight_init_std,
            weight_decay_lambda,
            dtype=dtype,
            seed=seed,
        )

    def _hidden_layers(self, number: int, width: int, activation: Layer) -> list[Layer]:
        layers = [activation]
        if self.use_batchnorm:
            self._params[f"gamma{number}"] = np.ones(width, dtype=self.dtype)
            self._params[f"beta{number}"] = np.zeros(width, dtype=self.dtype)
            layers.insert(0, BatchNormalization(self._params, number))
        if self.use_dropout:
            layers.append(Dropout(self.dropout_ration, self.rng))
        return layers


def _standard_deviation(weight_init_std: float | str, inputs: int) -> float:
    if not isinstance(weight_init_std, str):
        return checks.not_negative("weight_init_std", weight_init_std)
    name = checks.choice("weight_init_std", weight_init_std, INITS)
    return float(np.sqrt(INITS[name] / inputs))
