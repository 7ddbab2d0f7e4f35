"""scikit-learn's neural networks, trained by fastopt: a script changes its import, or names any optimizer.

>>> import numpy as np
>>> import fastopt
>>> from fastopt.sklearn import MLPRegressor  # was: from sklearn.neural_network import MLPRegressor
>>> x = np.linspace(-1.0, 1.0, 40).reshape(-1, 1)
>>> model = MLPRegressor(hidden_layer_sizes=(8,), optimizer=fastopt.NAdam(lr=0.02), max_iter=1000, random_state=0)
>>> _ = model.fit(x, np.abs(x).ravel())
>>> model.score(x, np.abs(x).ravel()) > 0.95
True

scikit-learn makes an optimizer in `fit` and keeps it as `_optimizer`; here that is a property, which puts one of
fastopt in its place. Nothing of scikit-learn is changed or copied.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable
from typing import Any

from fastopt import checks
from fastopt.optimizer import Optimizer
from fastopt.optimizers import Adam, Momentum, Nesterov

try:
    from sklearn import neural_network
except ImportError as error:
    raise ImportError("fastopt.sklearn needs scikit-learn: pip install 'fastopt[sklearn]'") from error

__all__ = ["MLPClassifier", "MLPRegressor"]


def _init(network: Any) -> Callable[..., None]:
    """`__init__` with the parameters of scikit-learn's class, by which `get_params` knows them, and `optimizer`."""

    def __init__(self: Any, *values: Any, optimizer: Optimizer | None = None, **settings: Any) -> None:
        network.__init__(self, *values, **settings)
        self.optimizer = optimizer

    theirs = inspect.signature(network.__init__)
    parameter = inspect.Parameter("optimizer", inspect.Parameter.KEYWORD_ONLY, default=None)
    vars(__init__)["__signature__"] = theirs.replace(parameters=[*theirs.parameters.values(), parameter])
    return __init__


class _TrainedByFastopt:
    """The parameter `optimizer` of both networks, and the stand-in for scikit-learn's own."""

    optimizer: Any

    @property
    def _optimizer(self) -> _Stepper:
        if "_stepper" not in vars(self):
            raise AttributeError("there is no optimizer before fit")
        stepper: _Stepper = vars(self)["_stepper"]
        return stepper

    @_optimizer.setter
    def _optimizer(self, theirs: Any) -> None:
        vars(self)["_stepper"] = _Stepper(theirs, self)

    @property
    def optimizer_(self) -> Optimizer:
        """The optimizer that trains, with its state: a copy of `optimizer`, or made of scikit-learn's settings."""
        optimizer: Optimizer = self._optimizer.optimizer
        return optimizer

    def _fit(self: Any, *arguments: Any, **settings: Any) -> Any:
        if self.optimizer is not None:
            if not isinstance(self.optimizer, Optimizer):
                raise TypeError(checks.no_optimizer(type(self).__name__, self.optimizer))
            if self.solver != "adam":
                raise ValueError(
                    f"{type(self).__name__}: both solver={self.solver!r} and an optimizer are given; leave solver"
                )
        return super()._fit(*arguments, **settings)  # type: ignore[misc]


class _Stepper:
    """The optimizer that scikit-learn sees: fastopt's steps, and scikit-learn's learning rate and stopping."""

    def __init__(self, theirs: Any, network: Any) -> None:
        # Their policy, without the buffers of their state, which are lists.
        vars(theirs).update({name: None for name, value in vars(theirs).items() if isinstance(value, list)})
        self._theirs, self._follows = theirs, network.optimizer is None and network.solver == "sgd"
        self.optimizer: Any = _same(network) if network.optimizer is None else copy.deepcopy(network.optimizer)

    def update_params(self, params: list[Any], grads: list[Any]) -> None:
        """A step, in place."""
        if self._follows and self.optimizer.lr != self._theirs.learning_rate:
            self.optimizer.lr = self._theirs.learning_rate
        self.optimizer.update(params, grads)

    def iteration_ends(self, time_step: int) -> None:
        """An epoch ended: the learning rate may change."""
        self._theirs.iteration_ends(time_step)

    def trigger_stopping(self, msg: str, verbose: bool) -> bool:
        """There was no progress: says whether to stop."""
        stop: bool = self._theirs.trigger_stopping(msg, verbose)
        return stop


def _same(network: Any) -> Optimizer:
    """The optimizer of fastopt with the formula and settings of scikit-learn's solver."""
    lr = network.learning_rate_init
    if network.solver == "adam":
        return Adam(lr=lr, beta1=network.beta_1, beta2=network.beta_2, eps=network.epsilon)
    kind = Nesterov if network.nesterovs_momentum else Momentum
    return kind(lr=lr, momentum=network.momentum)


class MLPClassifier(_TrainedByFastopt, neural_network.MLPClassifier):  # type: ignore[misc]
    """`sklearn.neural_network.MLPClassifier` with the parameter `optimizer`.

    Parameters
    ----------
    optimizer : Optimizer, optional
        Trains the network; `fit` takes a copy. Its own learning rate and schedules count, not scikit-learn's
        `learning_rate`, `learning_rate_init`, `momentum`, `beta_1`, `beta_2` and `epsilon`, and `solver` must be left
        at "adam". Without one, `solver` and these settings are taken: "adam" and "sgd" are the same formulas in
        fastopt's kernels, with results within rounding; "lbfgs" is SciPy's as ever.

    All else is as in scikit-learn; `optimizer_` is what trained, with its state.
    """

    __init__ = _init(neural_network.MLPClassifier)


class MLPRegressor(_TrainedByFastopt, neural_network.MLPRegressor):  # type: ignore[misc]
    """`sklearn.neural_network.MLPRegressor` with the parameter `optimizer`: see `MLPClassifier`."""

    __init__ = _init(neural_network.MLPRegressor)
