"""Schedule-free optimizers: an average of the parameters instead of a falling learning rate."""

from __future__ import annotations

import math
from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Any

from fastopt import averages
from fastopt.flat import Array
from fastopt.optimizer import Optimizer
from fastopt.typed import Number, number

__all__ = ["ScheduleFreeAdamW", "ScheduleFreeSGD"]


class _ScheduleFree(Optimizer):
    """The average, which both have."""

    def averaged(self, params: Any) -> Any:
        """The averaged parameters x, for evaluation and for use after training, as copies.

        Parameters
        ----------
        params : as in `update`
            The parameters that are trained: containers, a model, or objects with `.data`.

        Returns
        -------
        as `params`
            Of a model or objects, a dict of arrays by name.

        Raises
        ------
        TypeError, ValueError, KeyError
            as `update` does of its parameters.
        RuntimeError
            in the middle of a step.
        """
        return super().averaged(params)

    def _copies_of_average(self, params: Any) -> Any:
        state = self._state

        def average(key: Hashable, array: Array) -> Array:
            return array if state is None else array + state.views["offset"][key]

        return averages.copies(type(self).__name__, state, params, average)


@dataclass(eq=False)
class ScheduleFreeSGD(_ScheduleFree):
    """SGD without a schedule: gradients are taken between a fast sequence z and its average x.

    At step t `z = z - lr_t g`, `x = (1 - c_t) x + c_t z`, `p = (1 - beta1) z + beta1 x`, where all start at the
    parameters and `lr_t = lr min(1, t / warmup)`. Training updates p, which is in `params`; evaluate and keep x, which
    `averaged` returns. `c_t = lr_t^2 / (lr_1^2 + ... + lr_t^2)`, which without warmup is `1 / t`, knows of warmup only:
    an lr that is a schedule or is changed between steps counts in lr_t, not in c_t.

    `weight_decay` is added to the gradient, decoupled or not, which for z is the same.

    Parameters
    ----------
    lr : float, default 1
        Learning rate, 0 or more; larger than that of SGD.
    beta1 : float, default 0.9
        The share of x in p, in [0, 1).
    warmup : float, default 0
        The number of steps in which lr_t grows to lr, 0 or more.

    State: `offset`, x - p.

    Examples
    --------
    >>> import numpy as np
    >>> params, optimizer = {"W": np.array([1.0])}, ScheduleFreeSGD(lr=0.25, beta1=0.5)
    >>> for _ in range(2):
    ...     optimizer.update(params, {"W": np.array([1.0])})
    >>> params["W"], optimizer.averaged(params)["W"]  # z is 0.75, then 0.5
    (array([0.5625]), array([0.625]))

    References
    ----------
    Defazio et al., The road less scheduled, NeurIPS 2024, arXiv:2405.15682.

    Differences
    -----------
    PyTorch: has none.
    Keras: has none.
    optax: `contrib.schedule_free_sgd`, the same formula, but warmup starts with lr 0 and schedules count in c_t.
    """

    rule = "schedule_free_sgd"
    lr: Number = number(1.0)
    beta1: Number = number(0.9)
    warmup: Number = number(0.0)

    def scalars(self, step: int) -> tuple[float, ...]:
        return _scalars(step, self.lr, self.beta1, self.warmup)

    def _needed_transforms(self) -> tuple[str, ...]:
        transforms = super()._needed_transforms()
        return tuple("weight_decay" if transform == "decoupled_weight_decay" else transform for transform in transforms)


@dataclass(eq=False)
class ScheduleFreeAdamW(_ScheduleFree):
    """AdamW without a schedule: ScheduleFreeSGD along gradients divided by the root of their mean square.

    `v = v + (1 - beta2)(g^2 - v)`, `d = g / (sqrt(v_hat) + eps) + weight_decay p` with `v_hat = v / (1 - beta2^t)`;
    then d is what g is to `ScheduleFreeSGD`. Evaluate and keep what `averaged` returns. Weight decay is decoupled by
    default, and 0; `decoupled=False` adds it to g.

    Parameters
    ----------
    lr : float, default 0.0025
        Learning rate, 0 or more; larger than that of AdamW.
    beta1 : float, default 0.9
        The share of the average in p, in [0, 1).
    beta2 : float, default 0.999
        Decay rate of the running mean, in [0, 1).
    eps : float, default 1e-8
        Added to the root, 0 or more.
    warmup : float, default 0
        The number of steps in which lr_t grows to lr, 0 or more.

    State: `v`, the running mean of squared gradients, uncorrected; `offset`, the average minus p.

    Examples
    --------
    >>> import numpy as np
    >>> params, optimizer = {"W": np.array([1.0])}, ScheduleFreeAdamW(lr=0.25, beta1=0.5)
    >>> for _ in range(2):
    ...     optimizer.update(params, {"W": np.array([5.0])})
    >>> params["W"].round(6), optimizer.averaged(params)["W"].round(6)
    (array([0.5625]), array([0.625]))

    References
    ----------
    Defazio et al., The road less scheduled, NeurIPS 2024, arXiv:2405.15682.

    Differences
    -----------
    PyTorch: has none.
    Keras: `ScheduleFreeAdamW`, c_t is 1 / t in warmup too; weight decay is taken from p and not from z.
    optax: `contrib.schedule_free_adamw`, the same formula, but warmup starts with lr 0 and schedules count in c_t.
    """

    rule = "schedule_free_adamw"
    _decays_itself = True
    lr: Number = number(0.0025)
    beta1: Number = number(0.9)
    beta2: Number = number(0.999)
    eps: Number = number(1e-8)
    warmup: Number = number(0.0)
    decoupled: bool = field(default=True, kw_only=True, repr=False)

    def scalars(self, step: int) -> tuple[float, ...]:
        root = math.sqrt(1.0 - self.beta2**step)
        decay = self._formula_decay()
        return 1 - self.beta2, root, self.eps * root, decay, *_scalars(step, self.lr, self.beta1, self.warmup)


def _scalars(step: int, lr: float, beta1: float, warmup: float) -> tuple[float, ...]:
    """The scalars that move p and offset: pull, gradient_step, kept and offset_step."""
    factor, share = _averaging(step, warmup)
    lr = lr * factor
    return share * beta1 / (1 - beta1), lr * (1 - beta1 * (1 - share)), 1 - share, (1 - beta1) * lr


def _averaging(step: int, warmup: float) -> tuple[float, float]:
    """The factor of lr at a step, min(1, step / warmup), and its square over the sum of those of all steps so far.

    The sum is of the step alone, so that no checkpoint need hold it.
    """
    if step <= warmup:
        return step / warmup, 6 * step / ((step + 1) * (2 * step + 1))
    rising = math.floor(warmup)
    squares = rising * (rising + 1) * (2 * rising + 1) / (6 * max(warmup, 1.0) ** 2)
    return 1.0, 1 / (squares + (step - rising))
