"""Plain descent and momentum: steps along the gradient, its running mean or its sign."""

from __future__ import annotations

from dataclasses import dataclass

from fastopt.optimizer import Optimizer

__all__ = ["SGD", "Momentum", "Nesterov"]


@dataclass(eq=False)
class SGD(Optimizer):
    """Stochastic gradient descent: `p = p - lr g`.

    Parameters
    ----------
    lr : float, default 0.01
        Learning rate, 0 or more.

    Examples
    --------
    >>> import numpy as np
    >>> params = {"W": np.array([1.0, 2.0])}
    >>> SGD(lr=0.1).update(params, {"W": np.array([1.0, -1.0])})
    >>> params["W"]
    array([0.9, 2.1])

    References
    ----------
    Robbins and Monro, A stochastic approximation method, Annals of Mathematical Statistics 22, 1951.
    """

    rule = "sgd"
    lr: float = 0.01

    def scalars(self, step: int) -> tuple[float, ...]:
        return (self.lr,)


@dataclass(eq=False)
class Momentum(Optimizer):
    """The heavy ball: `v = momentum v - lr g`, `p = p + v`.

    Parameters
    ----------
    lr : float, default 0.01
        Learning rate, 0 or more.
    momentum : float, default 0.9
        The share of the velocity that is kept at each step, in [0, 1].

    State: `v`, the velocity.

    Examples
    --------
    >>> import numpy as np
    >>> params, optimizer = {"W": np.array([1.0])}, Momentum(lr=0.1)
    >>> for _ in range(2):
    ...     optimizer.update(params, {"W": np.array([1.0])})
    >>> params["W"], optimizer.v["W"]
    (array([0.71]), array([-0.19]))

    References
    ----------
    Polyak, Some methods of speeding up the convergence of iteration methods, 1964.
    """

    rule = "momentum"
    lr: float = 0.01
    momentum: float = 0.9

    def scalars(self, step: int) -> tuple[float, ...]:
        return self.lr, self.momentum


@dataclass(eq=False)
class Nesterov(Optimizer):
    """Nesterov's accelerated gradient: `p = p + momentum^2 v - (1 + momentum) lr g`, `v = momentum v - lr g`.

    The formula for p reads the velocity of the step before. Printings of *Deep Learning from Scratch* before January
    2021, and the many copies of their code, update v first and then read the new one, which is not Nesterov's method.

    Parameters
    ----------
    lr : float, default 0.01
        Learning rate, 0 or more.
    momentum : float, default 0.9
        The share of the velocity that is kept at each step, in [0, 1].

    State: `v`, the velocity.

    Examples
    --------
    >>> import numpy as np
    >>> params = {"W": np.array([1.0])}
    >>> Nesterov(lr=0.1).update(params, {"W": np.array([1.0])})
    >>> params["W"]
    array([0.81])

    References
    ----------
    Bengio, Boulanger-Lewandowski and Pascanu, Advances in optimizing recurrent networks, arXiv:1212.0901, eq. 7.
    """

    rule = "nesterov"
    lr: float = 0.01
    momentum: float = 0.9

    def scalars(self, step: int) -> tuple[float, ...]:
        return self.momentum * self.momentum, (1 + self.momentum) * self.lr, self.momentum, self.lr
