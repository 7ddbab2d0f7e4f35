"""Adam and its kin: running means of the gradient and of its square, corrected for their start."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal, cast

from fastopt.optimizer import Optimizer
from fastopt.typed import Number, number

__all__ = ["AMSGrad", "Adam", "AdamW", "Adamax", "NAdam", "RAdam"]

MOST_PRODUCTS = 1000
"""How many products NAdam remembers; one for each step count is enough."""


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
        Decay rates of the running means, in [0, 1).
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

    Differences
    -----------
    PyTorch: `Adam` is form "paper": eps 1e-8 beside the root of the corrected v.
    Keras: `Adam` is form "textbook": eps 1e-7 beside the root of the uncorrected v.
    optax: `adam` is form "paper"; its eps_root is that of fastopt, but eps stays 1e-8 beside it.
    """

    rule = "adam"
    lr: Number = number(0.001)
    beta1: Number = number(0.9)
    beta2: Number = number(0.999)
    eps: Number = number(None)  # stands for the default that __post_init__ works out
    eps_root: Number = number(0.0)
    form: Literal["textbook", "paper"] = "textbook"

    def __post_init__(self) -> None:
        if self.eps is None:
            self.eps = 0.0 if self.eps_root else 1e-8 if self.form == "paper" else 1e-7

    def effective_lr(self, step: int) -> float:
        return self.lr * math.sqrt(1.0 - self.beta2**step)

    def scalars(self, step: int) -> tuple[float, ...]:
        beta1, beta2, eps = self.beta1, self.beta2, self.eps
        correction1, correction2 = 1.0 - beta1**step, 1.0 - beta2**step
        root = math.sqrt(correction2)
        step_size = self.lr * root / correction1
        if self.form == "paper":
            eps *= root
        return step_size, 1 - beta1, 1 - beta2, eps, self.eps_root * correction2


@dataclass(eq=False)
class AdamW(Adam):
    """Adam in the paper's form with decoupled weight decay: `p = p - lr weight_decay p` before the step.

    It is `Adam(form="paper", weight_decay=0.01, decoupled=True)`, and takes the same settings.

    Parameters
    ----------
    lr, beta1, beta2, eps, eps_root, form
        As in `Adam`; form is "paper" by default, so that eps is 1e-8.
    weight_decay : float, default 0.01
        The share of a parameter that a step with lr 1 takes from it, 0 or more.

    State: as in `Adam`.

    Examples
    --------
    >>> import numpy as np
    >>> params = {"W": np.array([1.0])}
    >>> AdamW(lr=0.1, weight_decay=0.5).update(params, {"W": np.array([5.0])})
    >>> params["W"].round(6)
    array([0.85])

    References
    ----------
    Loshchilov and Hutter, Decoupled weight decay regularization, ICLR 2019, arXiv:1711.05101.

    Differences
    -----------
    PyTorch: `AdamW`, the same.
    Keras: `AdamW`, form "textbook" with eps 1e-7; weight_decay 0.004.
    optax: `adamw`, the same formula; weight_decay 1e-4.
    """

    rule = "adamw"
    form: Literal["textbook", "paper"] = "paper"
    weight_decay: Number = field(default=number(0.01), kw_only=True)
    decoupled: bool = field(default=True, kw_only=True, repr=False)


@dataclass(eq=False)
class AMSGrad(Optimizer):
    """Adam that never forgets the largest mean of squared gradients.

    `m = m + (1 - beta1)(g - m)`, `v = v + (1 - beta2)(g^2 - v)`, `v_max = max(v_max, v)` and
    `p = p - lr m_hat / (sqrt(v_max_hat) + eps)` with `m_hat = m / (1 - beta1^t)`,
    `v_max_hat = v_max / (1 - beta2^t)` at step t, as PyTorch's `Adam(amsgrad=True)`; the paper has no corrections.

    Parameters
    ----------
    lr : float, default 0.001
        Learning rate, 0 or more.
    beta1, beta2 : float, default 0.9 and 0.999
        Decay rates of the running means, in [0, 1).
    eps : float, default 1e-8
        Added to the root, 0 or more.

    State: `m` and `v`, the running means, uncorrected; `v_max`, the largest v so far.

    Examples
    --------
    >>> import numpy as np
    >>> params = {"W": np.array([1.0])}
    >>> AMSGrad(lr=0.1).update(params, {"W": np.array([5.0])})
    >>> params["W"].round(6)
    array([0.9])

    References
    ----------
    Reddi, Kale and Kumar, On the convergence of Adam and beyond, ICLR 2018, arXiv:1904.09237.

    Differences
    -----------
    PyTorch: `Adam(amsgrad=True)`, the same.
    Keras: `Adam(amsgrad=True)`, eps beside the root of v_max, uncorrected; eps 1e-7.
    optax: `amsgrad`, v_max is the largest corrected v, `max(v_max, v_hat)`, and is not corrected again.
    """

    rule = "amsgrad"
    lr: Number = number(0.001)
    beta1: Number = number(0.9)
    beta2: Number = number(0.999)
    eps: Number = number(1e-8)

    def effective_lr(self, step: int) -> float:
        return self.lr * math.sqrt(1.0 - self.beta2**step)

    def scalars(self, step: int) -> tuple[float, ...]:
        root = math.sqrt(1.0 - self.beta2**step)
        return self.lr * root / (1.0 - self.beta1**step), 1 - self.beta1, 1 - self.beta2, self.eps * root


@dataclass(eq=False)
class Adamax(Optimizer):
    """Adam with the largest magnitude in place of the root of a mean square.

    `m = m + (1 - beta1)(g - m)`, `u = max(beta2 u, |g| + eps)`, `p = p - lr / (1 - beta1^t) m / u` at step t.

    Parameters
    ----------
    lr : float, default 0.002
        Learning rate, 0 or more.
    beta1, beta2 : float, default 0.9 and 0.999
        Decay rates of the running mean and of u, in [0, 1).
    eps : float, default 1e-8
        Added to the magnitude, 0 or more.

    State: `m`, the running mean of the gradient, uncorrected; `u`, its decaying largest magnitude.

    Examples
    --------
    >>> import numpy as np
    >>> params = {"W": np.array([1.0])}
    >>> Adamax(lr=0.1).update(params, {"W": np.array([5.0])})
    >>> params["W"].round(6)
    array([0.9])

    References
    ----------
    Kingma and Ba, Adam: a method for stochastic optimization, ICLR 2015, arXiv:1412.6980, section 7.1.

    Differences
    -----------
    PyTorch: `Adamax`, the same.
    Keras: `Adamax`, eps added to u at the end, `u = max(beta2 u, |g|)`, `p = p - lr / (1 - beta1^t) m / (u + eps)`; lr
        0.001, eps 1e-7.
    optax: `adamax`, the same formula.
    """

    rule = "adamax"
    lr: Number = number(0.002)
    beta1: Number = number(0.9)
    beta2: Number = number(0.999)
    eps: Number = number(1e-8)

    def effective_lr(self, step: int) -> float:
        return float(self.lr)

    def scalars(self, step: int) -> tuple[float, ...]:
        return self.lr / (1.0 - self.beta1**step), 1 - self.beta1, self.beta2, self.eps


@dataclass(eq=False)
class NAdam(Optimizer):
    """Adam with Nesterov's look ahead: part of the step is the gradient itself.

    `m = m + (1 - beta1)(g - m)`, `v = v + (1 - beta2)(g^2 - v)`, then at step t with `v_hat = v / (1 - beta2^t)`,
    `mu_t = beta1 (1 - 0.96^(t momentum_decay) / 2)` and M_t the product of mu_1 to mu_t
    `p = p - lr ((1 - mu_t) / (1 - M_t) g + mu_{t+1} / (1 - M_{t+1}) m) / (sqrt(v_hat) + eps)`, as in PyTorch.

    Parameters
    ----------
    lr : float, default 0.002
        Learning rate, 0 or more.
    beta1, beta2 : float, default 0.9 and 0.999
        Decay rates of the running means, in [0, 1).
    eps : float, default 1e-8
        Added to the root, 0 or more.
    momentum_decay : float, default 0.004
        How fast mu rises from beta1 / 2 to beta1, 0 or more. M is that of the present beta1 and momentum_decay for all
        steps, so a loaded optimizer goes on as it was.

    State: `m` and `v`, the running means, uncorrected.

    Examples
    --------
    >>> import numpy as np
    >>> params = {"W": np.array([1.0])}
    >>> NAdam(lr=0.1).update(params, {"W": np.array([5.0])})
    >>> params["W"].round(6)
    array([0.894355])

    References
    ----------
    Dozat, Incorporating Nesterov momentum into Adam, ICLR workshop 2016.

    Differences
    -----------
    PyTorch: `NAdam`, the same.
    Keras: `Nadam`, the same formula with momentum_decay 1; lr 0.001, eps 1e-7.
    optax: `nadam`, beta1 instead of each mu and beta1^t instead of M_t, at every step.
    """

    rule = "nadam"
    lr: Number = number(0.002)
    beta1: Number = number(0.9)
    beta2: Number = number(0.999)
    eps: Number = number(1e-8)
    momentum_decay: Number = number(0.004)

    # beta1, momentum_decay and the products of mu by step, to go on from: each leaf counts its own steps.
    _products = cast("tuple[float, float, dict[int, float]]", (math.nan, math.nan, {}))

    def effective_lr(self, step: int) -> float:
        return self.lr * math.sqrt(1.0 - self.beta2**step)

    def scalars(self, step: int) -> tuple[float, ...]:
        root = math.sqrt(1.0 - self.beta2**step)
        product, mu, next_mu = self._mu_product(step), self._mu(step), self._mu(step + 1)
        return (
            self.lr * root * (1.0 - mu) / (1.0 - product),
            self.lr * root * next_mu / (1.0 - product * next_mu),
            1 - self.beta1,
            1 - self.beta2,
            self.eps * root,
        )

    def _mu(self, step: int) -> float:
        return self.beta1 * (1.0 - 0.5 * math.pow(0.96, step * self.momentum_decay))

    def _mu_product(self, step: int) -> float:
        """The product of mu from step 1 on: of the settings and the step alone, so no checkpoint need hold it."""
        beta1, momentum_decay, products = self._products
        if (beta1, momentum_decay) != (self.beta1, self.momentum_decay):
            products = {}
            self._products = self.beta1, self.momentum_decay, products
        last = step - 1 if step - 1 in products else max((other for other in products if other <= step), default=0)
        product = products.get(last, 1.0)
        while last < step and product > 1e-20:  # below 1.1e-16 it is nothing beside 1, even if steps count from far
            last += 1
            product *= self._mu(last)
        products[step] = product
        if len(products) > MOST_PRODUCTS:
            del products[next(iter(products))]
        return product


@dataclass(eq=False)
class RAdam(Optimizer):
    """Adam that begins as momentum, until enough gradients are in v, and then rectifies its step.

    `m = m + (1 - beta1)(g - m)`, `v = v + (1 - beta2)(g^2 - v)`, `m_hat = m / (1 - beta1^t)` at step t. With
    `rho_inf = 2 / (1 - beta2) - 1` and `rho = rho_inf - 2 t beta2^t / (1 - beta2^t)`:

    - rho up to 5 (with the default beta2 in the first 5 steps): `p = p - lr m_hat`;
    - above: `p = p - lr r m_hat sqrt(1 - beta2^t) / (sqrt(v) + eps)`,
      `r^2 = (rho - 4)(rho - 2) rho_inf / ((rho_inf - 4)(rho_inf - 2) rho)`, as in PyTorch.

    Parameters
    ----------
    lr : float, default 0.001
        Learning rate, 0 or more.
    beta1, beta2 : float, default 0.9 and 0.999
        Decay rates of the running means, in [0, 1).
    eps : float, default 1e-8
        Added to the root, 0 or more.

    State: `m` and `v`, the running means, uncorrected.

    Examples
    --------
    >>> import numpy as np
    >>> params = {"W": np.array([1.0])}
    >>> RAdam(lr=0.1).update(params, {"W": np.array([5.0])})
    >>> params["W"].round(6)
    array([0.5])

    References
    ----------
    Liu et al., On the variance of the adaptive learning rate and beyond, ICLR 2020, arXiv:1908.03265.

    Differences
    -----------
    PyTorch: `RAdam`, the same.
    Keras: has none.
    optax: `radam`, eps beside the root of the corrected v, `sqrt(v_hat) + eps`; rectified from rho 5 on, 5 included.
    """

    rule = "radam"
    lr: Number = number(0.001)
    beta1: Number = number(0.9)
    beta2: Number = number(0.999)
    eps: Number = number(1e-8)

    def effective_lr(self, step: int) -> float:
        return self.lr * (self._rectification(step) or 1.0)

    def scalars(self, step: int) -> tuple[float, ...]:
        step_size, rectification = self.lr / (1.0 - self.beta1**step), self._rectification(step)
        if rectification is not None:
            step_size *= rectification
        return step_size, 1 - self.beta1, 1 - self.beta2, self.eps, float(rectification is not None), 0.0, 1.0

    def _rectification(self, step: int) -> float | None:
        """The factor of a step that is divided by the root of v; None where it is not divided yet."""
        correction, kept = 1.0 - self.beta2**step, self.beta2**step
        rho_inf = 2.0 / (1.0 - self.beta2) - 1.0
        rho = rho_inf - 2.0 * step * kept / correction
        if rho <= 5.0:
            return None
        shape = (rho - 4.0) * (rho - 2.0) * rho_inf / ((rho_inf - 4.0) * (rho_inf - 2.0) * rho)
        return math.sqrt(shape * correction)
