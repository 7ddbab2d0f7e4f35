"""Adam and its kin: running means of the gradient and of its square, corrected for their start."""

from __future__ import annotations

import math
from dataclasses import dataclass

from fastopt.optimizer import Optimizer

__all__ = ["Adam"]


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
