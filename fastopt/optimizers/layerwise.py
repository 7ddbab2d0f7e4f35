"""Layer-wise optimizers: norms of each array are computed in a pass before the step."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from fastopt.optimizer import Optimizer
from fastopt.typed import Number, number

__all__ = ["LAMB", "LARS", "MARS", "NovoGrad", "StableAdamW"]


@dataclass(eq=False)
class LARS(Optimizer):
    """Momentum whose learning rate, for each array, is proportional to the norm of the array over that of its gradient.

    `v = momentum v + lr trust_coefficient |p| / (|g| + eps) g` and `p = p - v`; where a norm is zero, `v = momentum v +
    lr g`. `weight_decay`, where it is set, has been added to g.

    Parameters
    ----------
    lr : float, default 0.1
        Learning rate, 0 or more.
    momentum : float, default 0.9
        Decay rate of v, in [0, 1].
    trust_coefficient : float, default 0.001
        The length of a step with lr 1, relative to the norm of the array, 0 or more.
    eps : float, default 0
        Added to the norm of the gradient, 0 or more.

    State: `v`, the velocity: what the last step subtracted from the parameters.

    Examples
    --------
    >>> import numpy as np
    >>> params = {"W": np.array([3.0, 4.0])}
    >>> LARS(lr=1.0, trust_coefficient=0.1).update(params, {"W": np.array([0.0, 20.0])})
    >>> params["W"].round(6)
    array([3. , 3.5])

    References
    ----------
    You, Gitman and Ginsburg, Large batch training of convolutional networks, 2017, arXiv:1708.03888, Algorithm 1.

    Differences
    -----------
    PyTorch: has none.
    Keras: has none.
    optax: `lars`, the same formula.
    """

    rule = "lars"
    lr: Number = number(0.1)
    momentum: Number = number(0.9)
    trust_coefficient: Number = number(0.001)
    eps: Number = number(0.0)

    def scalars(self, step: int) -> tuple[float, ...]:
        return (self.momentum,)

    def trust_ratio(self, parameter_norm: float, gradient_norm: float, size: int) -> float:
        if parameter_norm == 0 or gradient_norm == 0:
            return self.lr
        return self.lr * self.trust_coefficient * parameter_norm / (gradient_norm + self.eps)


@dataclass(eq=False)
class LAMB(Optimizer):
    """Adam whose steps are scaled, for each array, to lr times the norm of the array.

    `m = m + (1 - beta1)(g - m)`, `v = v + (1 - beta2)(g^2 - v)`, `u = m_hat / (sqrt(v_hat) + eps) + weight_decay p`
    with `m_hat = m / (1 - beta1^t)`, `v_hat = v / (1 - beta2^t)` at step t, and `p = p - lr |p| / |u| u`; where a norm
    is zero, `p = p - lr u`. `decoupled=False` adds weight decay to g instead.

    Parameters
    ----------
    lr : float, default 0.001
        Learning rate, 0 or more.
    beta1, beta2 : float, default 0.9 and 0.999
        Decay rates of the running means, in [0, 1).
    eps : float, default 1e-6
        Added to the root, 0 or more.

    State: `m` and `v`, the running means of gradient and squared gradient, uncorrected.

    Examples
    --------
    >>> import numpy as np
    >>> params = {"W": np.array([3.0, -4.0])}
    >>> LAMB(lr=0.1, eps=0.0).update(params, {"W": np.array([1.0, 7.0])})
    >>> params["W"].round(6)
    array([ 2.646447, -4.353553])

    References
    ----------
    You et al., Large batch optimization for deep learning: training BERT in 76 minutes, ICLR 2020, arXiv:1904.00962,
    Algorithm 2.

    Differences
    -----------
    PyTorch: has none.
    Keras: `Lamb`, the same formula; eps 1e-7.
    optax: `lamb`, the same formula.
    """

    rule = "lamb"
    _decays_itself = True
    lr: Number = number(0.001)
    beta1: Number = number(0.9)
    beta2: Number = number(0.999)
    eps: Number = number(1e-6)
    decoupled: bool = field(default=True, kw_only=True, repr=False)

    def scalars(self, step: int) -> tuple[float, ...]:
        root = math.sqrt(1.0 - self.beta2**step)
        decay = self._formula_decay()
        return 1 - self.beta1, 1 - self.beta2, root / (1.0 - self.beta1**step), self.eps * root, decay

    def trust_ratio(self, parameter_norm: float, direction_norm: float, size: int) -> float:
        if parameter_norm == 0 or direction_norm == 0:
            return self.lr
        return self.lr * parameter_norm / direction_norm


@dataclass(eq=False)
class StableAdamW(Optimizer):
    """AdamW with Adafactor's clipping: shorter steps for an array whose gradients have outgrown their mean square.

    `m = m + (1 - beta1)(g - m)`, `v = v + (1 - beta2)(g^2 - v)`, r is the root of the mean of `g^2 / max(v_hat, eps^2)`
    over the array, and `p = p - lr / max(1, r) (m_hat / (sqrt(v_hat) + eps) + weight_decay p)` with
    `m_hat = m / (1 - beta1^t)`, `v_hat = v / (1 - beta2^t)` at step t. `decoupled=False` adds weight decay to g
    instead.

    Parameters
    ----------
    lr : float, default 0.001
        Learning rate, 0 or more.
    beta1, beta2 : float, default 0.9 and 0.99
        Decay rates of the running means, in [0, 1).
    eps : float, default 1e-6
        Added to the root, 0 or more.
    weight_decay : float, default 0.01
        As for every optimizer, but on by default.

    State: `m` and `v`, the running means of gradient and squared gradient, uncorrected.

    Examples
    --------
    >>> import numpy as np
    >>> params, optimizer = {"W": np.array([1.0])}, StableAdamW(lr=0.1, beta1=0.0, weight_decay=0.0)
    >>> for g in (1.0, 100.0):  # the second step is not much longer than the first
    ...     optimizer.update(params, {"W": np.array([g])})
    >>> params["W"].round(2)
    array([0.8])

    References
    ----------
    Wortsman et al., Stable and low-precision training for large-scale vision-language models, NeurIPS 2023,
    arXiv:2304.13013, Algorithm 2; the clipping is that of Shazeer and Stern, Adafactor, ICML 2018, arXiv:1804.04235.

    Differences
    -----------
    PyTorch: has none; its `Adafactor` clips in this way, with means by row and column instead of v.
    Keras: has none; nor does its `Adafactor` keep a v for each element.
    optax: has none; `clip_by_block_rms` after `scale_by_adam` clips by m_hat instead of g.
    """

    rule = "stable_adamw"
    _decays_itself = True
    lr: Number = number(0.001)
    beta1: Number = number(0.9)
    beta2: Number = number(0.99)
    eps: Number = number(1e-6)
    weight_decay: Number = field(default=number(0.01), kw_only=True, repr=False)
    decoupled: bool = field(default=True, kw_only=True, repr=False)

    def scalars(self, step: int) -> tuple[float, ...]:
        root = math.sqrt(1.0 - self.beta2**step)
        decay = self._formula_decay()
        return 1 - self.beta1, 1 - self.beta2, root / (1.0 - self.beta1**step), root, self.eps * root, decay

    def trust_ratio(self, spread_norm: float, parameter_norm: float, size: int) -> float:
        mean = spread_norm / math.sqrt(size) if size else 0.0
        return self.lr / mean if mean > 1 else self.lr


@dataclass(eq=False)
class MARS(Optimizer):
    """AdamW of gradients corrected by their change since the last step, which reduces their variance: MARS-AdamW.

    `c = g + gamma beta1 / (1 - beta1) (g - previous)`, at first `c = g`, divided by its norm where that is above 1,
    `m = m + (1 - beta1)(c - m)`, `v = v + (1 - beta2)(c^2 - v)` and `p = p - lr m_hat / (sqrt(v_hat) + eps)` with
    `m_hat = m / (1 - beta1^t)`, `v_hat = v / (1 - beta2^t)` at step t. The norm is that of each array.

    Parameters
    ----------
    lr : float, default 0.003
        Learning rate, 0 or more.
    beta1, beta2 : float, default 0.95 and 0.99
        Decay rates of the running means, in [0, 1).
    gamma : float, default 0.025
        The weight of the change, 0 or more.
    eps : float, default 1e-8
        Added to the root, 0 or more.
    decoupled : default True
        As for every optimizer, but on by default.

    State: `m` and `v`, the running means of c and its square, uncorrected; `previous`, the gradient of the step before.

    Examples
    --------
    >>> import numpy as np
    >>> params = {"W": np.array([1.0])}
    >>> MARS(lr=0.1, eps=0.0).update(params, {"W": np.array([5.0])})
    >>> params["W"].round(6)
    array([0.9])

    References
    ----------
    Yuan et al., MARS: unleashing the power of variance reduction for training large models, ICML 2025,
    arXiv:2411.10438, Algorithm 3, of which this is the approximate form.

    Differences
    -----------
    PyTorch: has none; timm's `Mars` is the same formula, but vectors go to AdamW unless `optimize_1d=True`.
    Keras: has none.
    optax: has none.
    """

    rule = "mars"
    lr: Number = number(0.003)
    beta1: Number = number(0.95)
    beta2: Number = number(0.99)
    gamma: Number = number(0.025)
    eps: Number = number(1e-8)
    decoupled: bool = field(default=True, kw_only=True, repr=False)

    def scalars(self, step: int) -> tuple[float, ...]:
        root = math.sqrt(1.0 - self.beta2**step)
        gain = self.gamma * self.beta1 / (1 - self.beta1) if step > 1 else 0.0
        return self.lr * root / (1.0 - self.beta1**step), 1 - self.beta1, 1 - self.beta2, self.eps * root, gain

    def trust_ratio(self, corrected_norm: float, _: float, size: int) -> float:
        return 1 / corrected_norm if corrected_norm > 1 else 1.0


@dataclass(eq=False)
class NovoGrad(Optimizer):
    """Momentum of gradients normalized by array: divided by the root of a running mean of their squared norm.

    `v = v + (1 - beta2)(|g|^2 - v)`, at first `v = |g|^2`, `m = beta1 m + g / (sqrt(v) + eps) + weight_decay p` and
    `p = p - lr m`. `decoupled=False` adds weight decay to g instead.

    Parameters
    ----------
    lr : float, default 0.001
        Learning rate, 0 or more.
    beta1, beta2 : float, default 0.9 and 0.25
        Decay rates of m and of the running mean v, in [0, 1).
    eps : float, default 1e-6
        Added to the root, 0 or more.

    State: `m`, and `v`, one number for each array, which is stored with each of its elements.

    Examples
    --------
    >>> import numpy as np
    >>> params = {"W": np.array([1.0, 1.0])}
    >>> NovoGrad(lr=0.5, eps=0.0).update(params, {"W": np.array([3.0, 4.0])})
    >>> params["W"].round(6)
    array([0.7, 0.6])

    References
    ----------
    Ginsburg et al., Stochastic gradient methods with layer-wise adaptive moments for training of deep networks, 2019,
    arXiv:1905.11286.

    Differences
    -----------
    PyTorch: has none.
    Keras: has none.
    optax: `novograd`, the same formula.
    """

    rule = "novograd"
    _decays_itself = True
    lr: Number = number(0.001)
    beta1: Number = number(0.9)
    beta2: Number = number(0.25)
    eps: Number = number(1e-6)
    decoupled: bool = field(default=True, kw_only=True, repr=False)

    def scalars(self, step: int) -> tuple[float, ...]:
        decay = self._formula_decay()
        return self.beta1, 1.0 if step == 1 else 1 - self.beta2, self.eps, decay, self.lr

    def trust_ratio(self, gradient_norm: float, _: float, size: int) -> float:
        return gradient_norm * gradient_norm
