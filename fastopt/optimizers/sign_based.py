"""Steps by the sign of a gradient or of its running mean."""

from __future__ import annotations

from dataclasses import dataclass

from fastopt.optimizer import Optimizer
from fastopt.typed import Number, number

__all__ = ["Lion", "Rprop", "Signum"]


@dataclass(eq=False)
class Rprop(Optimizer):
    """Resilient backpropagation: every element has its own step size, and only the signs of gradients count.

    Where a gradient has the sign it had before, the step size is multiplied by eta_plus; where the sign has changed, by
    eta_minus, and the element stays where it is. Else `p = p - sign(g) step_size`. For gradients of the whole training
    set: those of small batches change sign by chance.

    Parameters
    ----------
    lr : float, default 0.01
        The step size of the first step, 0 or more; read at the first step.
    eta_minus, eta_plus : float, default 0.5 and 1.2
        The factors of the step size, in [0, 1) and 1 or more.
    min_step_size, max_step_size : float, default 1e-6 and 50
        The limits of the step size, 0 or more; should they cross, the upper one holds.

    State: `previous`, the gradient of the step before, 0 after a change of sign; `step_size`. The sign of 0 is 0, that
    of NaN is NaN.

    Examples
    --------
    >>> import numpy as np
    >>> params, optimizer = {"W": np.array([1.0])}, Rprop(lr=0.25)
    >>> for g in (3.0, 2.0, -1.0):
    ...     optimizer.update(params, {"W": np.array([g])})
    >>> params["W"].round(6), optimizer.step_size["W"].round(6)
    (array([0.45]), array([0.15]))

    References
    ----------
    Riedmiller and Braun, A direct adaptive method for faster backpropagation learning: the RPROP algorithm, ICNN 1993.
    Igel and Huesken, Empirical evaluation of the improved Rprop learning algorithms, Neurocomputing 50, 2003.

    Differences
    -----------
    PyTorch: `Rprop`, the same.
    Keras: has none.
    optax: `rprop` moves by the step of the gradient before, so at the first step not at all.
    """

    rule = "rprop"
    lr: Number = number(0.01)
    eta_minus: Number = number(0.5)
    eta_plus: Number = number(1.2)
    min_step_size: Number = number(1e-6)
    max_step_size: Number = number(50.0)

    def start_values(self) -> dict[str, float]:
        return {"previous": 0.0, "step_size": self.lr}

    def scalars(self, step: int) -> tuple[float, ...]:
        return self.eta_minus, self.eta_plus, self.min_step_size, self.max_step_size, 0.0, 1.0


@dataclass(eq=False)
class Signum(Optimizer):
    """The sign of a running mean: `m = m + (1 - beta1)(g - m)`, `p = p - lr sign(m)`.

    Parameters
    ----------
    lr : float, default 0.001
        Learning rate, 0 or more.
    beta1 : float, default 0.9
        Decay rate of the running mean, in [0, 1); 0 takes the sign of the gradient.

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
    lr: Number = number(0.001)
    beta1: Number = number(0.9)

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
        Decay rate of the running mean, in [0, 1).

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
    lr: Number = number(0.0001)
    beta1: Number = number(0.9)
    beta2: Number = number(0.99)

    def scalars(self, step: int) -> tuple[float, ...]:
        return self.lr, 1 - self.beta1, 1 - self.beta2, 0.0
