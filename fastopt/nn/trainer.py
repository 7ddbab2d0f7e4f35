"""Training by epochs."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import numpy as np

from fastopt.nn import checks
from fastopt.nn.layers import Array
from fastopt.optimizers import OPTIMIZERS

DEFAULT_OPTIMIZER_PARAM: Mapping[str, Any] = MappingProxyType({"lr": 0.01})


class Trainer:
    """Trains a network on random batches and keeps its losses and accuracies.

    Parameters
    ----------
    network : object
        With `params`, `gradient(x, t)`, `loss(x, t)` and `accuracy(x, t)`, such as `MultiLayerNet`.
    x_train, t_train, x_test, t_test : arrays
        Inputs and labels.
    epochs : int
    mini_batch_size : int
        Rows per step, drawn with replacement. An epoch has `len(x_train) // mini_batch_size` steps.
    optimizer : str or object
        The name of an optimizer in any case ("SGD", "Adam", ...), or an object with `update(params, grads)`.
    optimizer_param : dict
        The settings of an optimizer that is given by name.
    evaluate_sample_num_per_epoch : int or None
        Accuracies are computed on this many of the first rows; None: on all.
    verbose : bool
        Whether to print a line per epoch.
    seed : int or None
        Of the batches.

    Attributes
    ----------
    train_loss_list : list
        The loss of each step's batch, after the step.
    train_acc_list, test_acc_list : list
        The accuracies after the first step of each epoch, so that the curves begin where training begins.

    Raises
    ------
    ValueError
        for an unknown optimizer, a batch larger than the data, inputs without labels.

    Examples
    --------
    >>> from fastopt.nn import MultiLayerNet, Trainer, load_mnist
    >>> from fastopt.nn.mnist import SUBSET
    >>> (x_train, t_train), (x_test, t_test) = load_mnist(directory=SUBSET)
    >>> network = MultiLayerNet(784, [50], 10, seed=0)
    >>> data = x_train[:300], t_train[:300], x_test, t_test
    >>> trainer = Trainer(network, *data, epochs=10, optimizer="adam", verbose=False, seed=0)
    >>> trainer.train()
    >>> len(trainer.train_loss_list), len(trainer.test_acc_list), trainer.test_acc_list[-1] > 0.6
    (30, 10, True)
    """

    def __init__(
        self,
        network: Any,
        x_train: Array,
        t_train: Array,
        x_test: Array,
        t_test: Array,
        epochs: int = 20,
        mini_batch_size: int = 100,
        optimizer: Any = "SGD",
        optimizer_param: Mapping[str, Any] = DEFAULT_OPTIMIZER_PARAM,
        evaluate_sample_num_per_epoch: int | None = None,
        verbose: bool = True,
        *,
        seed: int | None = None,
    ) -> None:
        x_train, t_train = checks.same_length(x_train, t_train, "training data")
        x_test, t_test = checks.same_length(x_test, t_test, "test data")
        if evaluate_sample_num_per_epoch is not None:
            checks.whole_number("evaluate_sample_num_per_epoch", evaluate_sample_num_per_epoch)
        if isinstance(optimizer, str):
            optimizer = OPTIMIZERS[checks.choice("optimizer", optimizer, OPTIMIZERS)](**optimizer_param)
        elif isinstance(optimizer, type) or not hasattr(optimizer, "update"):
            raise TypeError(
                f"optimizer must be a name ({', '.join(OPTIMIZERS)}) or an object with update(params, grads), "
                f"got {optimizer!r}"
            )
        elif optimizer_param is not DEFAULT_OPTIMIZER_PARAM:
            raise ValueError("optimizer_param is for optimizers by name; give an object its settings when you make it")
        self.network, self.optimizer, self.verbose = network, optimizer, verbose
        self.x_train, self.t_train, self.x_test, self.t_test = x_train, t_train, x_test, t_test
        self.epochs = checks.whole_number("epochs", epochs)
        self.batch_size = checks.batch_size(mini_batch_size, len(x_train))
        self.evaluate_sample_num_per_epoch = evaluate_sample_num_per_epoch
        self.rng = np.random.default_rng(seed)

        self.iter_per_epoch = len(x_train) // self.batch_size
        self.max_iter = self.epochs * self.iter_per_epoch
        self.current_iter = self.current_epoch = 0
        self.train_loss_list: list[float] = []
        self.train_acc_list: list[float] = []
        self.test_acc_list: list[float] = []

    def train_step(self) -> None:
        """One step, and at the first of each epoch the accuracies."""
        rows = self.rng.integers(0, len(self.x_train), self.batch_size)
        x, t = self.x_train[rows], self.t_train[rows]
        self.optimizer.update(self.network.params, self.network.gradient(x, t))
        self.train_loss_list.append(self.network.loss(x, t))
        if self.current_iter % self.iter_per_epoch == 0:
            self.current_epoch += 1
            seen = slice(self.evaluate_sample_num_per_epoch)
            self.train_acc_list.append(self.network.accuracy(self.x_train[seen], self.t_train[seen]))
            self.test_acc_list.append(self.network.accuracy(self.x_test[seen], self.t_test[seen]))
            if self.verbose:
                print(
                    f"epoch {self.current_epoch:3}: loss {self.train_loss_list[-1]:.4f}, accuracy in training "
                    f"{self.train_acc_list[-1]:.4f}, in test {self.test_acc_list[-1]:.4f}"
                )
        self.current_iter += 1

    def train(self) -> None:
        """All steps that are left, and at the end the accuracy on all test data."""
        while self.current_iter < self.max_iter:
            self.train_step()
        if self.verbose:
            print(f"final test accuracy: {self.network.accuracy(self.x_test, self.t_test):.4f}")
