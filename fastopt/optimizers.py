"""The optimizers: hyperparameters with their defaults, and how they become the scalars of a formula.

The defaults are those of *Deep Learning from Scratch* (O'Reilly Japan, 2016, chapter 6): a script that is moved over by
changing its import takes the same path. The formulas are in `fastopt.kernels`, plain NumPy versions in
`fastopt.reference`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from fastopt.kernels import RULES
from fastopt.optimizer import Optimizer

__all__ = ["SGD", "AdaGrad", "Adam", "Momentum", "Nesterov", "RMSProp", "RMSprop"]


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


@dataclass(eq=False)
class AdaGrad(Optimizer):
    """Adaptive gradient: `h = h + g^2`, `p = p - lr g / (sqrt(h) + eps)`.

    Parameters
    ----------
    lr : float, default 0.01
        Learning rate, 0 or more.
    eps : float, default 1e-7
        Added to the root, 0 or more.
    initial_accumulator : float, default 0
        The value of h before the first step, 0 or more; read at the first step.

    State: `h`, the sum of squared gradients.

    Examples
    --------
    >>> import numpy as np
    >>> params = {"W": np.array([1.0])}
    >>> AdaGrad(lr=0.1, eps=0.0).update(params, {"W": np.array([5.0])})
    >>> params["W"]
    array([0.9])

    References
    ----------
    Duchi, Hazan and Singer, Adaptive subgradient methods for online learning and stochastic optimization, Journal of
    Machine Learning Research 12, 2011.
    """

    rule = "adagrad"
    lr: float = 0.01
    eps: float = 1e-7
    initial_accumulator: float = 0.0

    def start_values(self) -> dict[str, float]:
        return {"h": self.initial_accumulator}

    def scalars(self, step: int) -> tuple[float, ...]:
        return self.lr, self.eps


@dataclass(eq=False)
class RMSProp(Optimizer):
    """`h = decay_rate h + (1 - decay_rate) g^2`, `p = p - lr g / (sqrt(h + eps_root) + eps)`.

    Parameters
    ----------
    lr : float, default 0.01
        Learning rate, 0 or more.
    decay_rate : float, default 0.99
        The share of the running mean that is kept at each step, in [0, 1].
    eps : float, default 1e-7, or 0 where `eps_root` is given
        Added to the root, 0 or more. The default is chosen when the optimizer is made.
    eps_root : float, default 0
        Added under the root, 0 or more. `RMSProp(eps_root=1e-7)` is `p = p - lr g / sqrt(h + 1e-7)`.

    State: `h`, the running mean of squared gradients.

    Examples
    --------
    >>> import numpy as np
    >>> params = {"W": np.array([1.0])}
    >>> RMSProp(decay_rate=0.75, eps=0.0).update(params, {"W": np.array([5.0])})
    >>> params["W"]
    array([0.98])

    References
    ----------
    Tieleman and Hinton, Neural networks for machine learning, Coursera, lecture 6.5, 2012.
    """

    rule = "rmsprop"
    lr: float = 0.01
    decay_rate: float = 0.99
    eps: float = None  # type: ignore[assignment]  # stands for the default that __post_init__ works out
    eps_root: float = 0.0

    def __post_init__(self) -> None:
        if self.eps is None:
            self.eps = 0.0 if self.eps_root else 1e-7

    def scalars(self, step: int) -> tuple[float, ...]:
        return self.lr, self.decay_rate, 1 - self.decay_rate, self.eps, self.eps_root


RMSprop = RMSProp


@dataclass(eq=False)
class Adam(Optimizer):
    """Running means of gradient and squared gradient, both corrected for their start at zero.

    `m = m + (1 - beta1)(g - m)`, `v = v + (1 - beta2)(g^2 - v)`, then with `m_hat = m / (1 - beta1^t)` and
    `v_hat = v / (1 - beta2^t)` at step t, counted from 1:

    - form "textbook": `p = p - lr_t m / (sqrt(v) + eps)`, `lr_t = lr sqrt(1 - beta2^t) / (1 - beta1^t)`, as in *Deep
      Learning from Scratch* and, with its eps called epsilon hat, at the end of section 2 of the paper;
    - form "paper": `p = p - lr m_hat / (sqrt(v_hat) + eps)`, Algorithm 1 of the paper, and PyTorch;
    - with `eps_root`, `v_hat + eps_root` stands under the root in place of v_hat: `Adam(eps_root=1e-8)` is
      `p = p - lr m_hat / sqrt(v_hat + 1e-8)`.

    They differ only in eps, so the kernel is one and the same.

    Parameters
    ----------
    lr : float, default 0.001
        Learning rate, 0 or more.
    beta1, beta2 : float, default 0.9 and 0.999
        The shares of the running means that are kept at each step, in [0, 1).
    eps : float, default 1e-7 in the textbook's form, 1e-8 in the paper's, 0 where `eps_root` is given
        Added to the root, 0 or more. The default is chosen when the optimizer is made.
    eps_root : float, default 0
        Added to v_hat under the root, 0 or more.
    form : "textbook" or "paper"
        Whether eps stands beside the root of v or of v_hat.

    State: `m` and `v`, the running means, uncorrected; `iter`, the number of steps taken.

    Examples
    --------
    >>> import numpy as np
    >>> params = {"W": np.array([1.0])}
    >>> optimizer = Adam(lr=0.1)
    >>> optimizer.update(params, {"W": np.array([5.0])})
    >>> params["W"].round(6), optimizer.iter
    (array([0.9]), 1)

    References
    ----------
    Kingma and Ba, Adam: a method for stochastic optimization, ICLR 2015, arXiv:1412.6980.
    """

    rule = "adam"
    lr: float = 0.001
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = None  # type: ignore[assignment]  # stands for the default that __post_init__ works out
    eps_root: float = 0.0
    form: str = "textbook"

    def __post_init__(self) -> None:
        if self.eps is None:
            self.eps = 0.0 if self.eps_root else 1e-8 if self.form == "paper" else 1e-7

    def scalars(self, step: int) -> tuple[float, ...]:
        correction1, correction2 = 1.0 - self.beta1**step, 1.0 - self.beta2**step
        step_size = self.lr * math.sqrt(correction2) / correction1
        eps = self.eps * math.sqrt(correction2) if self.form == "paper" else self.eps
        return step_size, 1 - self.beta1, 1 - self.beta2, eps, self.eps_root * correction2


_CLASSES: dict[str, type[Optimizer]] = {optimizer.rule: optimizer for optimizer in map(globals().__getitem__, __all__)}

OPTIMIZERS: dict[str, type[Optimizer]] = {rule: _CLASSES[rule] for rule in RULES}
"""The optimizer of each rule, in the order of the registry."""
