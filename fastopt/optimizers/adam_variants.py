"""Optimizers that change what Adam averages."""

from __future__ import annotations

import math
from dataclasses import dataclass

from fastopt.optimizer import Optimizer
from fastopt.typed import Number, number

__all__ = ["ADOPT", "AdEMAMix", "AdaBelief", "Adan", "LaProp", "Yogi"]


@dataclass(eq=False)
class AdaBelief(Optimizer):
    """Adam that divides by how far gradients are from their running mean.

    `m = m + (1 - beta1)(g - m)`, `s = s + (1 - beta2)((g - m)^2 - s) + eps_root` and
    `p = p - lr m_hat / (sqrt(s_hat) + eps)` with `m_hat = m / (1 - beta1^t)`, `s_hat = s / (1 - beta2^t)` at step t.

    Parameters
    ----------
    lr : float, default 0.001
        Learning rate, 0 or more.
    beta1, beta2 : float, default 0.9 and 0.999
        Decay rates of the running means, in [0, 1).
    eps : float, default 1e-16
        Added to the root, 0 or more.
    eps_root : float, default 1e-16
        Added to s at every step, 0 or more.

    State: `m` and `s`, the running means of gradient and squared distance, uncorrected.

    Examples
    --------
    >>> import numpy as np
    >>> params = {"W": np.array([1.0])}
    >>> AdaBelief(lr=0.1, beta1=0.75).update(params, {"W": np.array([4.0])})
    >>> params["W"].round(6)
    array([0.866667])

    References
    ----------
    Zhuang et al., AdaBelief optimizer: adapting stepsizes by the belief in observed gradients, NeurIPS 2020,
    arXiv:2010.07468.

    Differences
    -----------
    PyTorch: has none.
    Keras: has none.
    optax: `adabelief`, the same formula, eps and eps_root.
    """

    rule = "adabelief"
    lr: Number = number(0.001)
    beta1: Number = number(0.9)
    beta2: Number = number(0.999)
    eps: Number = number(1e-16)
    eps_root: Number = number(1e-16)

    def effective_lr(self, step: int) -> float:
        return self.lr * math.sqrt(1.0 - self.beta2**step)

    def scalars(self, step: int) -> tuple[float, ...]:
        root = math.sqrt(1.0 - self.beta2**step)
        step_size = self.lr * root / (1.0 - self.beta1**step)
        return step_size, 1 - self.beta1, 1 - self.beta2, self.eps * root, self.eps_root


@dataclass(eq=False)
class Yogi(Optimizer):
    """Adam whose mean square follows by steps of a size that does not depend on the distance.

    `m = m + (1 - beta1)(g - m)`, `v = v - (1 - beta2) sign(v - g^2) g^2` and
    `p = p - lr m_hat / (sqrt(v_hat) + eps)` with `m_hat = m / (1 - beta1^t)`, `v_hat = v / (1 - beta2^t)` at step t.

    Parameters
    ----------
    lr : float, default 0.01
        Learning rate, 0 or more.
    beta1, beta2 : float, default 0.9 and 0.999
        Decay rates of the running means, in [0, 1).
    eps : float, default 1e-3
        Added to the root, 0 or more.
    initial_accumulator : float, default 1e-6
        The value of v before the first step, 0 or more; read at the first step.

    State: `m`, the running mean of the gradient, and `v`, uncorrected.

    Examples
    --------
    >>> import numpy as np
    >>> params = {"W": np.array([1.0])}
    >>> Yogi(lr=0.1, eps=0.0, initial_accumulator=0.0).update(params, {"W": np.array([5.0])})
    >>> params["W"].round(6)
    array([0.9])

    References
    ----------
    Zaheer, Reddi, Sachan, Kale and Kumar, Adaptive methods for nonconvex optimization, NeurIPS 2018.

    Differences
    -----------
    PyTorch: has none.
    Keras: has none.
    optax: `yogi`, the same formula and eps; m too starts at initial_accumulator, here at 0.
    """

    rule = "yogi"
    lr: Number = number(0.01)
    beta1: Number = number(0.9)
    beta2: Number = number(0.999)
    eps: Number = number(1e-3)
    initial_accumulator: Number = number(1e-6)

    def start_values(self) -> dict[str, float]:
        return {"m": 0.0, "v": self.initial_accumulator}

    def effective_lr(self, step: int) -> float:
        return self.lr * math.sqrt(1.0 - self.beta2**step)

    def scalars(self, step: int) -> tuple[float, ...]:
        root = math.sqrt(1.0 - self.beta2**step)
        return self.lr * root / (1.0 - self.beta1**step), 1 - self.beta1, 1 - self.beta2, self.eps * root


@dataclass(eq=False)
class AdEMAMix(Optimizer):
    """Adam with a second, slow mean of the gradient added to the first.

    `m = m + (1 - beta1)(g - m)`, `slow = slow + (1 - beta3_t)(g - slow)`, `v = v + (1 - beta2)(g^2 - v)` and
    `p = p - lr (m_hat + alpha_t slow) / (sqrt(v_hat) + eps)` with `m_hat = m / (1 - beta1^t)`,
    `v_hat = v / (1 - beta2^t)` at step t.

    Parameters
    ----------
    lr : float, default 0.001
        Learning rate, 0 or more.
    beta1, beta2, beta3 : float, default 0.9, 0.999 and 0.9999
        Decay rates of the running means, in [0, 1).
    alpha : float, default 5
        The weight of the slow mean, 0 or more.
    eps : float, default 1e-8
        Added to the root, 0 or more.
    warmup : float, default 0
        The number of steps in which alpha_t grows from 0 to alpha and beta3_t from beta1 to beta3, 0 or more. alpha_t
        grows linearly, and so does the memory of the slow mean, -1 / log(beta3_t). The paper takes the whole training.

    State: `m`, `slow` and `v`, the running means, uncorrected.

    Examples
    --------
    >>> import numpy as np
    >>> params = {"W": np.array([1.0])}
    >>> AdEMAMix(lr=0.1, beta3=0.5, alpha=2.0).update(params, {"W": np.array([5.0])})
    >>> params["W"].round(6)
    array([0.8])

    References
    ----------
    Pagliardini, Ablin and Grangier, The AdEMAMix optimizer: better, faster, older, ICLR 2025, arXiv:2409.03137.

    Differences
    -----------
    PyTorch: has none.
    Keras: has none.
    optax: `contrib.ademamix`, the same formula; what warmup does is left to schedules of b3 and alpha.
    """

    rule = "ademamix"
    lr: Number = number(0.001)
    beta1: Number = number(0.9)
    beta2: Number = number(0.999)
    beta3: Number = number(0.9999)
    alpha: Number = number(5.0)
    eps: Number = number(1e-8)
    warmup: Number = number(0.0)

    def effective_lr(self, step: int) -> float:
        return self.lr * math.sqrt(1.0 - self.beta2**step) * (1.0 + self._warmed_up(step)[0])

    def scalars(self, step: int) -> tuple[float, ...]:
        root = math.sqrt(1.0 - self.beta2**step)
        fast_step = self.lr * root / (1.0 - self.beta1**step)
        alpha, beta3 = self._warmed_up(step)
        slow_step = self.lr * root * alpha
        return fast_step, slow_step, 1 - self.beta1, 1 - beta3, 1 - self.beta2, self.eps * root

    def _warmed_up(self, step: int) -> tuple[float, float]:
        """Alpha and beta3 at a step."""
        if step >= self.warmup:
            return self.alpha, self.beta3
        share = step / self.warmup
        memory = (1 - share) * _memory(self.beta1) + share * _memory(self.beta3)
        beta3 = min(math.exp(-1 / memory), self.beta3) if memory else 0.0
        return self.alpha * share, beta3


def _memory(beta: float) -> float:
    """The number of steps in which a running mean forgets all but 1 / e."""
    return -1 / math.log(beta) if beta else 0.0


@dataclass(eq=False)
class Adan(Optimizer):
    """Adam with Nesterov's look ahead by the change of the gradient, y = g - previous, 0 at the first step.

    `m = m + (1 - beta1)(g - m)`, `v = v + (1 - beta2)(y - v)`, `n = n + (1 - beta3)((g + beta2 y)^2 - n)` and
    `p = p - lr (m_hat + beta2 v_hat) / (sqrt(n_hat) + eps)` with `m_hat = m / (1 - beta1^t)` and so on at step t.
    The betas are the shares that are kept, as in the authors' code, 1 - beta in the paper.

    Parameters
    ----------
    lr : float, default 0.001
        Learning rate, 0 or more.
    beta1, beta2, beta3 : float, default 0.98, 0.92 and 0.99
        Decay rates of the running means, in [0, 1).
    eps : float, default 1e-8
        Added to the root, 0 or more.

    State: `m`, `v` and `n`, the running means, uncorrected; `previous`, the gradient of the step before.

    Examples
    --------
    >>> import numpy as np
    >>> params = {"W": np.array([1.0])}
    >>> Adan(lr=0.1).update(params, {"W": np.array([5.0])})
    >>> params["W"].round(6)
    array([0.9])

    References
    ----------
    Xie, Zhou, Li, Lin and Yan, Adan: adaptive Nesterov momentum algorithm for faster optimizing deep models, 2022,
    arXiv:2208.06677.

    Differences
    -----------
    PyTorch: has none.
    Keras: has none.
    optax: `adan`, `1 - beta2` instead of both factors beta2; 1e-8 under the root besides eps.
    """

    rule = "adan"
    lr: Number = number(0.001)
    beta1: Number = number(0.98)
    beta2: Number = number(0.92)
    beta3: Number = number(0.99)
    eps: Number = number(1e-8)

    def effective_lr(self, step: int) -> float:
        return self.lr * math.sqrt(1.0 - self.beta3**step)

    def scalars(self, step: int) -> tuple[float, ...]:
        root = math.sqrt(1.0 - self.beta3**step)
        mean_step = self.lr * root / (1.0 - self.beta1**step)
        change_step = self.lr * root * self.beta2 / (1.0 - self.beta2**step)
        shares = 1 - self.beta1, 1 - self.beta2, 1 - self.beta3
        return mean_step, change_step, *shares, self.beta2, self.eps * root, float(step > 1), 0.0


@dataclass(eq=False)
class LaProp(Optimizer):
    """Adam in the other order: gradients are divided by their root mean square first, and then averaged.

    `v = v + (1 - beta2)(g^2 - v)`, `m = m + (1 - beta1)(lr g / (sqrt(v_hat) + eps) - m)` and `p = p - m_hat` with
    `v_hat = v / (1 - beta2^t)`, `m_hat = m / (1 - beta1^t)` at step t. As each gradient is divided by a v that has
    seen it, momentum stays bounded however beta1 and beta2 are chosen.

    Parameters
    ----------
    lr : float, default 0.0004
        Learning rate, 0 or more. A change of it reaches the parameters through m, a little at each step.
    beta1, beta2 : float, default 0.9 and 0.999
        Decay rates of the running means, in [0, 1).
    eps : float, default 1e-15
        Added to the root, 0 or more.

    State: `m` and `v`, the running means of steps and squared gradients, uncorrected.

    Examples
    --------
    >>> import numpy as np
    >>> params = {"W": np.array([1.0])}
    >>> LaProp(lr=0.1).update(params, {"W": np.array([4.0])})
    >>> params["W"].round(6)
    array([0.9])

    References
    ----------
    Ziyin, Wang and Ueda, LaProp: separating momentum and adaptivity in Adam, 2020, arXiv:2002.04839.

    Differences
    -----------
    PyTorch: has none.
    Keras: has none.
    optax: `chain(scale_by_rms(0.999, eps_in_sqrt=False, bias_correction=True), ema(0.9), scale(-lr))`; a change of lr
        there counts for all of m at once.
    """

    rule = "laprop"
    lr: Number = number(0.0004)
    beta1: Number = number(0.9)
    beta2: Number = number(0.999)
    eps: Number = number(1e-15)

    def effective_lr(self, step: int) -> float:
        return self.lr * math.sqrt(1.0 - self.beta2**step)

    def scalars(self, step: int) -> tuple[float, ...]:
        root = math.sqrt(1.0 - self.beta2**step)
        return self.lr * root, 1 - self.beta1, 1 - self.beta2, 1.0 / (1.0 - self.beta1**step), self.eps * root


@dataclass(eq=False)
class ADOPT(Optimizer):
    """Adam that divides each gradient by a mean square that has not seen it, which converges for every beta2.

    `n = g / max(sqrt(v), eps)`, clipped to `(t - 1)^clip_exponent` at step t, `m = m + (1 - beta1)(n - m)`,
    `p = p - lr m`, and then `v = v + (1 - beta2)(g^2 - v)`. The first step sets `v = g^2` and moves nothing.

    Parameters
    ----------
    lr : float, default 0.001
        Learning rate, 0 or more.
    beta1, beta2 : float, default 0.9 and 0.9999
        Decay rates of the running means, in [0, 1).
    eps : float, default 1e-6
        The smallest divisor, 0 or more.
    clip_exponent : float, default 0.25
        The power of the step by which the bound of n grows, 0 or more.

    State: `m` and `v`, the running means of scaled gradients and squared gradients.

    Examples
    --------
    >>> import numpy as np
    >>> params, optimizer = {"W": np.array([1.0])}, ADOPT(lr=0.1, beta1=0.5)
    >>> for _ in range(2):
    ...     optimizer.update(params, {"W": np.array([4.0])})
    >>> params["W"]
    array([0.95])

    References
    ----------
    Taniguchi et al., ADOPT: modified Adam can converge with any beta2 with the optimal rate, NeurIPS 2024,
    arXiv:2411.02853, Algorithm 2.

    Differences
    -----------
    PyTorch: has none; timm's `Adopt` is the same formula, but decoupled weight decay leaves out the first step.
    Keras: has none.
    optax: `contrib.adopt`, the same formula.
    """

    rule = "adopt"
    lr: Number = number(0.001)
    beta1: Number = number(0.9)
    beta2: Number = number(0.9999)
    eps: Number = number(1e-6)
    clip_exponent: Number = number(0.25)

    def scalars(self, step: int) -> tuple[float, ...]:
        clip = (step - 1) ** self.clip_exponent if step > 1 else 0.0
        return self.lr, 1 - self.beta1, 1 - self.beta2 if step > 1 else 1.0, self.eps, clip
