"""Learning-rate-free optimizers: sums over all parameters, from a pass before the step, set the learning rate."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from fastopt.optimizer import Optimizer
from fastopt.typed import Number, number

__all__ = ["DAdaptAdam", "DoG", "DoWG", "Prodigy"]


class _LearningRateFree(Optimizer):
    _decays_itself = True

    @property
    def estimates(self) -> dict[str, float]:
        """The running estimates, by name; empty before the first step."""
        return dict(self._estimates)


@dataclass(eq=False)
class Prodigy(_LearningRateFree):
    """Adam whose learning rate is a growing estimate of the distance to the solution.

    Adam of the gradients `d g` with lr `d lr`, where d grows from d0: `d = max(d, d_coef r / sum(|s|))` with
    `r = beta3 r + d^2 lr / d0 sum(g (p_0 - p))`, `s = beta3 s + d^2 lr / d0 g` and `beta3 = sqrt(beta2)`. The sums
    run over all parameters, which share one d; they are exact, so the bits do not depend on the number of threads or
    processes. Weight decay is decoupled by default, and 0.

    Parameters
    ----------
    lr : float, default 1
        Multiplies the learning rate that is found, 0 or more; takes schedules, such as `schedules.Cosine(1.0, steps)`.
    beta1, beta2 : float, default 0.9 and 0.999
        Decay rates of the running means, in [0, 1).
    eps : float, default 1e-8
        Added to the root, times d, 0 or more.
    d0 : float, default 1e-6
        The initial d, 1e-12 or more; its value hardly matters as long as it is too small.
    d_coef : float, default 1
        Multiplies the estimate of d, 0 or more: 0.5 where steps are too long, 2 where they are too short.
    growth_rate : float, default infinity
        The largest factor by which d may grow in a step, 1 or more.
    bias_correction : bool, default False
        Whether lr is multiplied by Adam's correction, `sqrt(1 - beta2^t) / (1 - beta1^t)` at step t.
    safeguard_warmup : bool, default False
        Whether to leave lr out of s, for schedules that start with warm-up.

    State: `m`, `v` and `s`, the means and the sum of scaled gradients; `start`, the initial parameters; and for all
    arrays together `estimates`, a dict of d, d_max (the largest estimate, without `growth_rate`) and numerator (r).

    Examples
    --------
    >>> import numpy as np
    >>> params, optimizer = {"W": np.array([10.0, -10.0])}, Prodigy()
    >>> for _ in range(200):
    ...     optimizer.update(params, {"W": params["W"]})
    >>> bool(np.abs(params["W"]).max() < 1.0), bool(optimizer.estimates["d"] > 1e-3)
    (True, True)

    References
    ----------
    Mishchenko and Defazio, Prodigy: an expeditiously adaptive parameter-free learner, ICML 2024, arXiv:2306.06101.

    Differences
    -----------
    PyTorch: has none; `prodigyopt`, the authors' package, is the same formula.
    Keras: has none.
    optax: `contrib.prodigy` steps with the d of the next step; weights decay by lr alone.
    """

    rule = "prodigy"
    lr: Number = number(1.0)
    beta1: Number = number(0.9)
    beta2: Number = number(0.999)
    eps: Number = number(1e-8)
    d0: Number = number(1e-6)
    d_coef: Number = number(1.0)
    growth_rate: Number = number(math.inf)
    bias_correction: bool = False
    safeguard_warmup: bool = False
    decoupled: bool = field(default=True, kw_only=True, repr=False)

    def start_values(self) -> dict[str, Any]:
        return {"m": 0.0, "v": 0.0, "s": 0.0, "start": None}

    def scalars(self, step: int) -> tuple[float, ...]:
        d, lr = self._estimates.get("d", self.d0), self.lr
        if self.bias_correction:
            lr *= math.sqrt(1.0 - self.beta2**step) / (1.0 - self.beta1**step)
        weight = d / self.d0 * d * lr
        s_weight = d / self.d0 * d if self.safeguard_warmup else weight
        shares = 1 - self.beta1, 1 - self.beta2, math.sqrt(self.beta2)
        return d, *shares, weight, s_weight, d * lr, self._formula_decay()

    def estimated(self, one: float, other: float, estimates: Mapping[str, float]) -> dict[str, float]:
        d, largest = estimates.get("d", self.d0), estimates.get("d_max", self.d0)
        numerator = math.sqrt(self.beta2) * estimates.get("numerator", 0.0) + one
        if other > 0 and self.lr > 0:
            estimate = self.d_coef * numerator / other
            d = max(d, estimate) if d == self.d0 else d
            largest = max(largest, estimate)
            d = min(largest, d * self.growth_rate)
        return {"d": d, "d_max": largest, "numerator": numerator}

    def total_scalars(self, estimates: Mapping[str, float]) -> tuple[float, ...]:
        return (estimates["d"] * self.eps,)


@dataclass(eq=False)
class DAdaptAdam(_LearningRateFree):
    """Adam whose learning rate is a lower bound of the distance to the solution; the forerunner of Prodigy.

    `m = m + (1 - beta1)(d lr g - m)`, `v = v + (1 - beta2)(g^2 - v)`, `p = p - m / (sqrt(v) + eps)`, where d grows from
    d0: `d = max(d, r / ((1 - beta3) sum(|s|)))` with `beta3 = sqrt(beta2)`,
    `r = beta3 r + (1 - beta3) d lr sum(g s / (sqrt(v) + eps))` of v and s before the step, and then
    `s = beta3 s + (1 - beta3) d lr g`. The sums run over all parameters. Weight decay is decoupled by default, and
    0.

    Parameters
    ----------
    lr : float, default 1
        Multiplies the learning rate that is found, 0 or more; takes schedules.
    beta1, beta2 : float, default 0.9 and 0.999
        Decay rates of the running means, in [0, 1).
    eps : float, default 1e-8
        Added to the root, 0 or more.
    d0 : float, default 1e-6
        The initial d, 1e-12 or more.
    growth_rate : float, default infinity
        The largest factor by which d may grow in a step, 1 or more.
    bias_correction : bool, default False
        Whether lr is multiplied by Adam's correction, `sqrt(1 - beta2^t) / (1 - beta1^t)` at step t.

    State: `m`, `v` and `s`, the running means; and for all arrays together `estimates`, a dict of d and numerator (r).

    Examples
    --------
    >>> import numpy as np
    >>> params, optimizer = {"W": np.array([10.0, -10.0])}, DAdaptAdam()
    >>> for _ in range(300):
    ...     optimizer.update(params, {"W": params["W"]})
    >>> bool(np.abs(params["W"]).max() < 1.0), bool(optimizer.estimates["d"] > 1e-3)
    (True, True)

    References
    ----------
    Defazio and Mishchenko, Learning-rate-free learning by D-adaptation, ICML 2023, arXiv:2301.07733.

    Differences
    -----------
    PyTorch: has none; `DAdaptAdam` of `dadaptation`, the authors' package, is the same formula.
    Keras: has none.
    optax: `contrib.dadapt_adamw`, the same idea, with d updated at another point of the step.
    """

    rule = "dadapt_adam"
    lr: Number = number(1.0)
    beta1: Number = number(0.9)
    beta2: Number = number(0.999)
    eps: Number = number(1e-8)
    d0: Number = number(1e-6)
    growth_rate: Number = number(math.inf)
    bias_correction: bool = False
    decoupled: bool = field(default=True, kw_only=True, repr=False)

    def scalars(self, step: int) -> tuple[float, ...]:
        lr = self._estimates.get("d", self.d0) * self.lr
        if self.bias_correction:
            lr *= math.sqrt(1.0 - self.beta2**step) / (1.0 - self.beta1**step)
        beta3 = math.sqrt(self.beta2)
        return lr, 1 - self.beta1, 1 - self.beta2, beta3, 1 - beta3, self.eps, lr * self._formula_decay()

    def estimated(self, one: float, other: float, estimates: Mapping[str, float]) -> dict[str, float]:
        d, beta3 = estimates.get("d", self.d0), math.sqrt(self.beta2)
        numerator = beta3 * estimates.get("numerator", 0.0) + (1 - beta3) * one
        denominator = (1 - beta3) * other  # which may vanish where `other` does not
        if denominator > 0 and self.lr > 0:
            d = max(d, min(numerator / denominator, d * self.growth_rate))
        return {"d": d, "numerator": numerator}


class _FromTheStart(_LearningRateFree):
    """SGD whose learning rate follows the distance from the start."""

    lr: Number
    initial_distance: Number

    def start_values(self) -> dict[str, Any]:
        return {"start": None}

    def scalars(self, step: int) -> tuple[float, ...]:
        return float(bool(self._estimates)), self._formula_decay()

    def total_scalars(self, estimates: Mapping[str, float]) -> tuple[float, ...]:
        return (self.lr * estimates["eta"],)

    def _distance(self, square: float, estimates: Mapping[str, float]) -> float:
        """The largest distance from the start so far; before the first step a share of the norm of the start.

        square : of the distance, or before the first step of that norm
        """
        distance = math.sqrt(square)
        return max(estimates["r"], distance) if estimates else self.initial_distance * (1 + distance)


@dataclass(eq=False)
class DoG(_FromTheStart):
    """SGD whose learning rate is the distance from the start over the root of the sum of squared gradients.

    `p = p - lr r / sqrt(G) g` with `r = max(r, |p - p_0|)` and `G = G + |g|^2`, norms of all parameters together; at
    first `r = initial_distance (1 + |p_0|)` and `G = |g|^2 + eps`. Evaluate the average of the iterates, not the last
    one: `averaging=fastopt.EMA(0.999)` and `averaged(params)`. Decoupled weight decay adds `weight_decay p` to g in the
    step, but not in G.

    Parameters
    ----------
    lr : float, default 1
        Multiplies the learning rate that is found, 0 or more.
    initial_distance : float, default 1e-6
        The initial r, relative to 1 + |p_0|, 1e-12 or more; 1e-4 for networks with batch normalization.
    eps : float, default 1e-8
        Added to the initial G, 0 or more.

    State: `start`, the initial parameters; and for all arrays together `estimates`, a dict of r, sum_of_squares (G) and
    eta, the last learning rate.

    Examples
    --------
    >>> import numpy as np
    >>> params, optimizer = {"W": np.array([10.0, -10.0])}, DoG()
    >>> for _ in range(200):
    ...     optimizer.update(params, {"W": params["W"]})
    >>> bool(np.abs(params["W"]).max() < 1.0)
    True

    References
    ----------
    Ivgi, Hinder and Carmon, DoG is SGD's best friend: a parameter-free dynamic step size schedule, ICML 2023,
    arXiv:2302.12022.

    Differences
    -----------
    PyTorch: has none; `DoG` of `dog-optimizer`, the authors' package, is the same formula.
    Keras: has none.
    optax: `contrib.dog`, the same formula; the initial r does not depend on p_0 by default.
    """

    rule = "dog"
    lr: Number = number(1.0)
    initial_distance: Number = number(1e-6)
    eps: Number = number(1e-8)

    def estimated(self, one: float, other: float, estimates: Mapping[str, float]) -> dict[str, float]:
        r, squares = self._distance(one, estimates), estimates.get("sum_of_squares", self.eps) + other
        return {"r": r, "sum_of_squares": squares, "eta": r / math.sqrt(squares) if squares else 0.0}


@dataclass(eq=False)
class DoWG(_FromTheStart):
    """`DoG` with squared gradients weighted by the squared distance from the start, so that it needs no bound of it.

    `p = p - lr r^2 / sqrt(v) g` with `v = v + r^2 |g|^2`, at first 0. The distance r, norms and weight decay are those
    of `DoG`.

    Parameters
    ----------
    lr : float, default 1
        Multiplies the learning rate that is found, 0 or more.
    initial_distance : float, default 1e-4
        The initial r, relative to 1 + |p_0|, 1e-12 or more.

    State: `start`, the initial parameters; and for all arrays together `estimates`, a dict of r, sum_of_squares (v) and
    eta, the last learning rate.

    Examples
    --------
    >>> import numpy as np
    >>> params, optimizer = {"W": np.array([10.0, -10.0])}, DoWG()
    >>> for _ in range(200):
    ...     optimizer.update(params, {"W": params["W"]})
    >>> bool(np.abs(params["W"]).max() < 1.0)
    True

    References
    ----------
    Khaled, Mishchenko and Jin, DoWG unleashed: an efficient universal parameter-free gradient descent method, NeurIPS
    2023, arXiv:2305.16284.

    Differences
    -----------
    PyTorch: has none.
    Keras: has none.
    optax: `contrib.dowg`, the same formula; the initial r does not depend on p_0, and 1e-4 is added to v.
    """

    rule = "dowg"
    lr: Number = number(1.0)
    initial_distance: Number = number(1e-4)

    def estimated(self, one: float, other: float, estimates: Mapping[str, float]) -> dict[str, float]:
        r = self._distance(one, estimates)
        squares = estimates.get("sum_of_squares", 0.0) + r * r * other
        return {"r": r, "sum_of_squares": squares, "eta": r * r / math.sqrt(squares) if squares else 0.0}
