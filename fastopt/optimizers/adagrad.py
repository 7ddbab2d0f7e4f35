"""AdaGrad and its kin: steps divided by a root of squared gradients."""

from __future__ import annotations

from dataclasses import dataclass, field

from fastopt import constraints
from fastopt.optimizer import Optimizer
from fastopt.typed import Number, number

__all__ = ["AdaGrad", "Adadelta", "CentredRMSProp", "RMSProp", "RMSPropMomentum", "RMSprop"]


@dataclass(eq=False)
class AdaGrad(Optimizer):
    """Adaptive gradient: `h = h + g^2`, `p = p - lr_t g / (sqrt(h + eps_root) + eps)`.

    At step t `lr_t = lr / (1 + (t - 1) lr_decay)`.

    Parameters
    ----------
    lr : float, default 0.01
        Learning rate, 0 or more.
    eps : float, default 1e-7, or 0 where `eps_root` is given
        Added to the root, 0 or more. The default is chosen when the optimizer is made.
    eps_root : float, default 0
        Added under the root, 0 or more. `AdaGrad(eps_root=1e-7)` is `p = p - lr g / sqrt(h + 1e-7)`.
    initial_accumulator : float, default 0
        The value of h before the first step, 0 or more; read at the first step.
    lr_decay : float, default 0
        How fast lr_t falls with the number t of the step, 0 or more, as in PyTorch; with 0 it is lr.

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

    Differences
    -----------
    PyTorch: `Adagrad`, the same formula; eps 1e-10.
    Keras: `Adagrad`, eps under the root, as `AdaGrad(eps_root=1e-7)`; h starts at 0.1; lr 0.001.
    optax: `adagrad`, the formula of Keras; h starts at 0.1.
    """

    rule = "adagrad"
    lr: Number = number(0.01)
    eps: Number = number(None)  # stands for the default that __post_init__ works out
    initial_accumulator: Number = number(0.0)
    lr_decay: Number = number(0.0)
    eps_root: Number = field(default=number(0.0), kw_only=True, repr=False)

    def __post_init__(self) -> None:
        if self.eps is None:
            self.eps = 0.0 if self.eps_root else 1e-7

    def start_values(self) -> dict[str, float]:
        return {"h": self.initial_accumulator}

    def effective_lr(self, step: int) -> float:
        return self.lr / (1 + (step - 1) * self.lr_decay)

    def scalars(self, step: int) -> tuple[float, ...]:
        return self.lr / (1 + (step - 1) * self.lr_decay), self.eps, self.eps_root


@dataclass(eq=False)
class RMSProp(Optimizer):
    """`h = decay_rate h + (1 - decay_rate) g^2`, `p = p - lr g / (sqrt(h + eps_root) + eps)`.

    Parameters
    ----------
    lr : float, default 0.01
        Learning rate, 0 or more.
    decay_rate : float, default 0.99
        Decay rate of the running mean, in [0, 1].
    eps : float, default 1e-7, or 0 where `eps_root` is given
        Added to the root, 0 or more. The default is chosen when the optimizer is made.
    eps_root : float, default 0
        Added under the root, 0 or more. `RMSProp(eps_root=1e-7)` is `p = p - lr g / sqrt(h + 1e-7)`.
    initial_accumulator : float, default 0
        The value of h before the first step, 0 or more; read at the first step. With 1, as in TensorFlow 1, the first
        steps are about lr and smaller, not lr / sqrt(1 - decay_rate).

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

    Differences
    -----------
    PyTorch: `RMSprop`, the same formula; eps 1e-8.
    Keras: `RMSprop`, eps under the root, as `RMSProp(eps_root=1e-7)`; lr 0.001, decay_rate 0.9.
    optax: `rmsprop`, eps under the root, as `RMSProp(eps_root=1e-8)`, or beside it with `eps_in_sqrt=False`;
        decay_rate 0.9.
    """

    rule = "rmsprop"
    lr: Number = number(0.01)
    decay_rate: Number = number(0.99)
    eps: Number = number(None)  # stands for the default that __post_init__ works out
    eps_root: Number = number(0.0)
    initial_accumulator: Number = field(default=number(0.0), kw_only=True, repr=False)

    def __post_init__(self) -> None:
        if self.eps is None:
            self.eps = 0.0 if self.eps_root else 1e-7

    def start_values(self) -> dict[str, float]:
        return super().start_values() | {"h": self.initial_accumulator}

    def effective_lr(self, step: int) -> float:
        return float(self.lr)

    def scalars(self, step: int) -> tuple[float, ...]:
        return self.lr, self.decay_rate, 1 - self.decay_rate, self.eps, self.eps_root

    def kept_share(self) -> float:
        return self.decay_rate


RMSprop = RMSProp


@dataclass(eq=False)
class RMSPropMomentum(RMSProp):
    """RMSProp whose scaled gradients are added up as by momentum.

    `h = decay_rate h + (1 - decay_rate) g^2`, `v = momentum v + g / (sqrt(h + eps_root) + eps)`, `p = p - lr v`, as
    PyTorch's `RMSprop(momentum=0.9)`.

    Parameters
    ----------
    lr, decay_rate, eps, eps_root, initial_accumulator
        As in `RMSProp`.
    momentum : float, default 0.9
        Decay rate of the velocity, in [0, 1].
    lr_in_velocity : bool, default False
        Whether `v = momentum v + lr g / (sqrt(h + eps_root) + eps)` and `p = p - v`, as in TensorFlow and optax, so
        that a new lr counts only for what is added from then on.

    State: `h`, the running mean of squared gradients; `v`, the velocity, without lr unless `lr_in_velocity`.

    Examples
    --------
    >>> import numpy as np
    >>> params, optimizer = {"W": np.array([1.0])}, RMSPropMomentum(decay_rate=0.75, eps=0.0)
    >>> optimizer.update(params, {"W": np.array([5.0])})
    >>> params["W"], optimizer.v["W"]
    (array([0.98]), array([2.]))

    References
    ----------
    Tieleman and Hinton, Neural networks for machine learning, Coursera, lecture 6.5, 2012.

    Differences
    -----------
    PyTorch: `RMSprop(momentum=0.9)`, the same formula; eps 1e-8.
    Keras: `RMSprop(momentum=0.9)`, as `RMSPropMomentum(eps_root=1e-7, lr_in_velocity=True)`; lr 0.001, decay_rate 0.9.
    optax: `rmsprop(momentum=0.9)`, the formula of Keras, or eps beside the root with `eps_in_sqrt=False`;
        decay_rate 0.9.
    """

    rule = "rmsprop_momentum"
    momentum: Number = number(0.9)
    lr_in_velocity: bool = field(default=False, kw_only=True, repr=False)

    def effective_lr(self, step: int) -> float:
        return constraints.effective_lr_of_momentum(self)

    def scalars(self, step: int) -> tuple[float, ...]:
        lr, *scalars = super().scalars(step)
        rate, gain = (1.0, lr) if self.lr_in_velocity else (lr, 1.0)
        return rate, *scalars, self.momentum, gain


@dataclass(eq=False)
class CentredRMSProp(RMSProp):
    """RMSProp that divides by the standard deviation of gradients in place of their root mean square.

    `h = decay_rate h + (1 - decay_rate) g^2`, `m = decay_rate m + (1 - decay_rate) g`,
    `v = momentum v + g / (sqrt(max(h - m^2, 0) + eps_root) + eps)`, `p = p - lr v`, as PyTorch's
    `RMSprop(centered=True)`, in which a difference h - m^2 that rounding makes negative becomes NaN, here 0.

    Where a gradient hardly changes, the deviation goes to zero and steps grow up to `lr g / eps`: choose eps, or
    eps_root, with that in mind. The paper has eps_root 1e-4, decay_rate 0.95, momentum 0.9 and lr 1e-4.

    Parameters
    ----------
    lr, decay_rate, eps, eps_root, initial_accumulator
        As in `RMSProp`.
    momentum : float, default 0
        Decay rate of the velocity, in [0, 1].

    State: `h` and `m`, the running means of squared gradients and of gradients; `v`, the velocity, without lr.

    Examples
    --------
    >>> import numpy as np
    >>> params = {"W": np.array([1.0])}
    >>> CentredRMSProp(decay_rate=0.5, eps=0.0).update(params, {"W": np.array([5.0])})
    >>> params["W"]
    array([0.98])

    References
    ----------
    Graves, Generating sequences with recurrent neural networks, 2013, arXiv:1308.0850, equations 38 to 41.

    Differences
    -----------
    PyTorch: `RMSprop(centered=True)`, NaN where rounding makes h - m^2 negative; eps 1e-8.
    Keras: `RMSprop(centered=True)`, eps under the root; lr is in the velocity; lr 0.001, decay_rate 0.9.
    optax: `rmsprop(centered=True)`, the formula of Keras, or eps beside the root with `eps_in_sqrt=False`;
        decay_rate 0.9.
    """

    rule = "centred_rmsprop"
    momentum: Number = number(0.0)

    def effective_lr(self, step: int) -> float:
        return constraints.effective_lr_of_momentum(self)

    def scalars(self, step: int) -> tuple[float, ...]:
        return *super().scalars(step), self.momentum, 0.0


@dataclass(eq=False)
class Adadelta(Optimizer):
    """Steps scaled by the root mean square of earlier steps over that of gradients.

    `h = decay_rate h + (1 - decay_rate) g^2`, `x = sqrt(d + eps) / sqrt(h + eps) g`,
    `d = decay_rate d + (1 - decay_rate) x^2`, `p = p - lr x`.

    Parameters
    ----------
    lr : float, default 1
        Learning rate, 0 or more.
    decay_rate : float, default 0.9
        Decay rate of the running means, in [0, 1].
    eps : float, default 1e-6
        Added under both roots, 0 or more; the first steps are about its root, and with 0 there are none.

    State: `h` and `d`, the running means of squared gradients and of squared steps.

    Examples
    --------
    >>> import numpy as np
    >>> params = {"W": np.array([1.0])}
    >>> Adadelta(decay_rate=0.75, eps=0.01).update(params, {"W": np.array([5.0])})
    >>> params["W"].round(6)
    array([0.80016])

    References
    ----------
    Zeiler, ADADELTA: an adaptive learning rate method, 2012, arXiv:1212.5701.

    Differences
    -----------
    PyTorch: `Adadelta`, the same.
    Keras: `Adadelta`, the same formula; lr 0.001, decay_rate 0.95, eps 1e-7.
    optax: `adadelta`, the same formula.
    """

    rule = "adadelta"
    lr: Number = number(1.0)
    decay_rate: Number = number(0.9)
    eps: Number = number(1e-6)

    def effective_lr(self, step: int) -> float:
        return self.lr

    def scalars(self, step: int) -> tuple[float, ...]:
        return self.lr, self.decay_rate, 1 - self.decay_rate, self.eps
