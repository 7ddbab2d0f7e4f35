"""Plain descent and momentum: steps along the gradient or its running mean."""

from __future__ import annotations

from dataclasses import dataclass, field

from fastopt import constraints
from fastopt.optimizer import Optimizer
from fastopt.typed import Number, number

__all__ = ["ASGD", "SGD", "Momentum", "Nesterov", "SGDMomentum", "SGDNesterov"]


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
    lr: Number = number(0.01)

    def effective_lr(self, step: int) -> float:
        return float(self.lr)

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
        Decay rate of the velocity, in [0, 1].

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
    PyTorch: `SGD(momentum=0.9)`, `v = momentum v + g`, `p = p - lr v`: the same path while lr is constant, but a new lr
        applies to the whole velocity at once; lr 0.001.
    Keras: `SGD(momentum=0.9)`, the same.
    optax: `sgd(momentum=0.9)`, the formula of PyTorch.
    """

    rule = "momentum"
    lr: Number = number(0.01)
    momentum: Number = number(0.9)

    def effective_lr(self, step: int) -> float:
        return constraints.effective_lr_of_momentum(self)

    def scalars(self, step: int) -> tuple[float, ...]:
        return self.lr, self.momentum

    def kept_share(self) -> float:
        return self.momentum


@dataclass(eq=False)
class Nesterov(Optimizer):
    """Nesterov's accelerated gradient: `p = p + momentum^2 v - (1 + momentum) lr g`, `v = momentum v - lr g`.

    The formula for p reads the velocity of the step before. Printings of *Deep Learning from Scratch* before January
    2021, and the many copies of their code, update v first and then read the new one, which is not Nesterov's method.
    Their bits come from the rule `nesterov_2016` below, for results that were got with them.

    Parameters
    ----------
    lr : float, default 0.01
        Learning rate, 0 or more.
    momentum : float, default 0.9
        Decay rate of the velocity, in [0, 1].

    State: `v`, the velocity.

    Examples
    --------
    >>> import numpy as np
    >>> params = {"W": np.array([1.0])}
    >>> Nesterov(lr=0.1).update(params, {"W": np.array([1.0])})
    >>> params["W"]
    array([0.81])

    The formula of copies from before January 2021:

    >>> import fastopt
    >>> def scalars(step, lr, momentum):
    ...     return momentum * momentum, (1 + momentum) * lr, momentum, lr
    >>> @fastopt.rule(state=("v",), scalars=scalars, lr=0.01, momentum=0.9)
    ... def nesterov_2016(p, g, v, momentum_squared, gradient_step, momentum, lr):
    ...     v = momentum * v
    ...     v = v - lr * g
    ...     p = p + momentum_squared * v  # the new v
    ...     p = p - gradient_step * g
    ...     return p, v
    >>> params = {"W": np.array([1.0])}
    >>> nesterov_2016(lr=0.1).update(params, {"W": np.array([1.0])})
    >>> params["W"]
    array([0.729])

    References
    ----------
    Bengio, Boulanger-Lewandowski and Pascanu, Advances in optimizing recurrent networks, arXiv:1212.0901, eq. 7.

    Differences
    -----------
    PyTorch: `SGD(momentum=0.9, nesterov=True)`, `v = momentum v + g`, `p = p - lr (g + momentum v)`: the same path
        while lr is constant, but a new lr applies to the whole velocity at once; lr 0.001.
    Keras: `SGD(momentum=0.9, nesterov=True)`, the same.
    optax: `sgd(momentum=0.9, nesterov=True)`, the formula of PyTorch.
    """

    rule = "nesterov"
    lr: Number = number(0.01)
    momentum: Number = number(0.9)

    def effective_lr(self, step: int) -> float:
        return constraints.effective_lr_of_momentum(self)

    def scalars(self, step: int) -> tuple[float, ...]:
        return self.momentum * self.momentum, (1 + self.momentum) * self.lr, self.momentum, self.lr


@dataclass(eq=False)
class SGDMomentum(Optimizer):
    """Momentum in PyTorch's form: `v = momentum v + (1 - dampening) g`, at the first step `v = g`, and `p = p - lr v`.

    Without dampening it takes the path of `Momentum` while lr is constant. Here a new lr applies to the whole velocity
    at once, in `Momentum` only to what is added to it from then on.

    Parameters
    ----------
    lr : float, default 0.01
        Learning rate, 0 or more.
    momentum : float, default 0.9
        Decay rate of the velocity, in [0, 1].
    dampening : float, default 0
        The share of a gradient that does not go into the velocity, in [0, 1]; the first goes in as it is.
    damp_first : bool, default False
        Whether the first gradient is damped too: `SGDMomentum(dampening=0.9, damp_first=True)` is a running mean from
        v = 0, `v = 0.9 v + 0.1 g`, as in many courses and evolution strategies.

    State: `v`, the velocity, without lr.

    Examples
    --------
    >>> import numpy as np
    >>> params, optimizer = {"W": np.array([1.0])}, SGDMomentum(lr=0.5, momentum=0.5, dampening=0.5)
    >>> for _ in range(2):
    ...     optimizer.update(params, {"W": np.array([1.0])})
    >>> params["W"], optimizer.v["W"]
    (array([0.]), array([1.]))

    References
    ----------
    Sutskever, Martens, Dahl and Hinton, On the importance of initialization and momentum in deep learning, ICML 2013.

    Differences
    -----------
    PyTorch: `SGD(momentum=0.9)`, the same formula; lr 0.001.
    Keras: `SGD(momentum=0.9)`, the formula of `Momentum`.
    optax: `sgd(momentum=0.9)`, the same formula, without dampening.
    """

    rule = "sgd_momentum"
    lr: Number = number(0.01)
    momentum: Number = number(0.9)
    dampening: Number = number(0.0)
    damp_first: bool = field(default=False, kw_only=True, repr=False)

    def effective_lr(self, step: int) -> float:
        return constraints.effective_lr_of_momentum(self) * (1 - self.dampening)

    def scalars(self, step: int) -> tuple[float, ...]:
        return self.lr, self.momentum, 1.0 if step == 1 and not self.damp_first else 1 - self.dampening


@dataclass(eq=False)
class SGDNesterov(Optimizer):
    """Nesterov's momentum in PyTorch's form: `v = momentum v + g`, `p = p - lr (g + momentum v)`.

    It takes the path of `Nesterov` while lr is constant. Here a new lr applies to the whole velocity at once, in
    `Nesterov` only to what is added to it from then on.

    Parameters
    ----------
    lr : float, default 0.01
        Learning rate, 0 or more.
    momentum : float, default 0.9
        Decay rate of the velocity, in [0, 1].

    State: `v`, the velocity, without lr.

    Examples
    --------
    >>> import numpy as np
    >>> params = {"W": np.array([1.0])}
    >>> SGDNesterov(lr=0.5, momentum=0.5).update(params, {"W": np.array([1.0])})
    >>> params["W"]
    array([0.25])

    References
    ----------
    Sutskever, Martens, Dahl and Hinton, On the importance of initialization and momentum in deep learning, ICML 2013.

    Differences
    -----------
    PyTorch: `SGD(momentum=0.9, nesterov=True)`, the same formula; lr 0.001.
    Keras: `SGD(momentum=0.9, nesterov=True)`, the formula of `Nesterov`.
    optax: `sgd(momentum=0.9, nesterov=True)`, the same formula.
    """

    rule = "sgd_nesterov"
    lr: Number = number(0.01)
    momentum: Number = number(0.9)

    def effective_lr(self, step: int) -> float:
        return constraints.effective_lr_of_momentum(self)

    def scalars(self, step: int) -> tuple[float, ...]:
        return self.lr, self.momentum


@dataclass(eq=False)
class ASGD(Optimizer):
    """SGD with a decaying learning rate, and the average of the parameters.

    At step t `lr_t = lr / (1 + lambd lr (t - 1))^alpha`, `p = (1 - lambd lr_t) p - lr_t g` and
    `average = average + (p - average) / max(1, t - 1 - t0)`, as in PyTorch, whose names these are. Use the average in
    the end: `params["W"][...] = optimizer.average["W"]`.

    Parameters
    ----------
    lr : float, default 0.01
        Learning rate of the first step, 0 or more.
    lambd : float, default 1e-4
        How fast the learning rate decays, and the weights with it: the weight of an L2 penalty, 0 or more.
    alpha : float, default 0.75
        The power with which the learning rate falls, 0 or more.
    t0 : float, default 1e6
        After how many steps averaging begins, 0 or more; until then the average is the parameter itself.

    State: `average`, the average of the parameters.

    Examples
    --------
    >>> import numpy as np
    >>> params, optimizer = {"W": np.array([1.0])}, ASGD(lr=0.25, lambd=0.0, t0=0.0)
    >>> for _ in range(4):
    ...     optimizer.update(params, {"W": np.array([1.0])})
    >>> params["W"], optimizer.average["W"]  # of 0.5, 0.25 and 0
    (array([0.]), array([0.25]))

    References
    ----------
    Polyak and Juditsky, Acceleration of stochastic approximation by averaging, SIAM Journal on Control and Optimization
    30, 1992. Xu, Towards optimal one pass large scale learning with averaged stochastic gradient descent, 2011,
    arXiv:1107.2490.

    Differences
    -----------
    PyTorch: `ASGD`, the same.
    Keras: has none.
    optax: has none.
    """

    rule = "asgd"
    lr: Number = number(0.01)
    lambd: Number = number(1e-4)
    alpha: Number = number(0.75)
    t0: Number = number(1e6)

    def scalars(self, step: int) -> tuple[float, ...]:
        lr = self.lr * (1 + self.lambd * self.lr * (step - 1)) ** -self.alpha
        return lr, 1 - self.lambd * lr, 1 / max(1.0, step - 1 - self.t0), 1.0
