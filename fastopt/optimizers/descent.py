"""Plain descent and momentum: steps along the gradient, its running mean or its sign."""

from __future__ import annotations

from dataclasses import dataclass

from fastopt.optimizer import Optimizer

__all__ = ["SGD", "Lion", "Momentum", "Nesterov", "Signum"]


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

    Differences
    -----------
    PyTorch: `SGD`, the same formula; lr 0.001.
    Keras: `SGD`, the same.
    optax: `sgd`, the same formula.
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

    Differences
    -----------
    PyTorch: `SGD(momentum=0.9)`, `v = momentum v + g`, `p = p - lr v`: the same path as long as lr stays, but a new lr
        counts at once for the whole velocity; lr 0.001.
    Keras: `SGD(momentum=0.9)`, the same.
    optax: `sgd(momentum=0.9)`, the formula of PyTorch.
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

    Differences
    -----------
    PyTorch: `SGD(momentum=0.9, nesterov=True)`, `v = momentum v + g`, `p = p - lr (g + momentum v)`: the same path as
        long as lr stays, but a new lr counts at once for the whole velocity; lr 0.001.
    Keras: `SGD(momentum=0.9, nesterov=True)`, the same.
    optax: `sgd(momentum=0.9, nesterov=True)`, the formula of PyTorch.
    """

    rule = "nesterov"
    lr: float = 0.01
    momentum: float = 0.9

    def scalars(self, step: int) -> tuple[float, ...]:
        return self.momentum * self.momentum, (1 + self.momentum) * self.lr, self.momentum, self.lr


@dataclass(eq=False)
class Signum(Optimizer):
    """The sign of a running mean: `m = m + (1 - beta1)(g - m)`, `p = p - lr sign(m)`.

    Parameters
    ----------
    lr : float, default 0.001
        Learning rate, 0 or more.
    beta1 : float, default 0.9
        The share of the running mean that is kept at each step, in [0, 1); 0 takes the sign of the gradient.

    State: `m`, the running mean of the gradient. The sign of 0 is 0, that of NaN is NaN.

    Examples
    --------
    >>> import numpy as np
    >>> params = {"W": np.array([1.0])}
    >>> Signum(lr=0.25).update(params, {"W": np.array([5.0])})
    >>> params["W"].round(6)
    array([0.75])

    References
    ----------
    Bernstein, Wang, Azizzadenesheli and Anandkumar, signSGD: compressed optimisation for non-convex problems, ICML
    2018, arXiv:1802.04434.

    Differences
    -----------
    PyTorch: has none.
    Keras: has none.
    optax: `signum`, the same formula.
    """

    rule = "signum"
    lr: float = 0.001
    beta1: float = 0.9

    def scalars(self, step: int) -> tuple[float, ...]:
        return self.lr, 1 - self.beta1, 0.0


@dataclass(eq=False)
class Lion(Optimizer):
    """The sign of a mean that weighs the new gradient more than the running mean m does.

    `p = p - lr sign(m + (1 - beta1)(g - m))`, then `m = m + (1 - beta2)(g - m)`. Every step moves by lr, so lr is
    smaller than Adam's, by 3 to 10 times.

    Parameters
    ----------
    lr : float, default 0.0001
        Learning rate, 0 or more.
    beta1 : float, default 0.9
        The share of m in what the sign is taken of, in [0, 1).
    beta2 : float, default 0.99
        The share of the running mean that is kept at each step, in [0, 1).

    State: `m`, the running mean of the gradient. The sign of 0 is 0, that of NaN is NaN.

    Examples
    --------
    >>> import numpy as np
    >>> params = {"W": np.array([1.0])}
    >>> Lion(lr=0.25).update(params, {"W": np.array([5.0])})
    >>> params["W"].round(6)
    array([0.75])

    References
    ----------
    Chen et al., Symbolic discovery of optimization algorithms, NeurIPS 2023, arXiv:2302.06675.

    Differences
    -----------
    PyTorch: has none.
    Keras: `Lion`, the same formula; lr 0.001.
    optax: `lion`, the same formula; decoupled weight decay of 0.001 by default.
    """

    rule = "lion"
    lr: float = 0.0001
    beta1: float = 0.9
    beta2: float = 0.99

    def scalars(self, step: int) -> tuple[float, ...]:
        return self.lr, 1 - self.beta1, 1 - self.beta2, 0.0
