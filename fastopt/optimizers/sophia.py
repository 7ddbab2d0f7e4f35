"""Sophia: steps divided by estimates of the Hessian's diagonal, and clipped."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from fastopt import constraints
from fastopt.engine import containers, gradients
from fastopt.engine.address_table import Table
from fastopt.engine.plan import Plan
from fastopt.kernels import RULES
from fastopt.kernels.rule import Rule
from fastopt.kernels.rules.sophia import sophia_hessian
from fastopt.optimizer import Optimizer
from fastopt.typed import Number, number

__all__ = ["Sophia"]

HESSIAN = Rule(sophia_hessian, RULES["sophia"].state)
"""The rule of `update_hessian`, which writes h."""


@dataclass(eq=False)
class Sophia(Optimizer):
    """A running mean of gradients over one of the Hessian's diagonal, of which no element moves by more than lr.

    `m = m + (1 - beta1)(g - m)`, `p = p - lr clip(m / max(gamma h, eps), -1, 1)`. You estimate the diagonal every few
    steps (10 in the paper) and pass it to `update_hessian` before the step: `h = h + (1 - beta2)(estimate - h)`. Where
    h is not positive, as it is not before the first estimate, elements move by lr, as Signum's do.

    Two estimates are in the paper. Sophia-H: u times the product of the Hessian with u, for u of random normal numbers.
    Sophia-G, for a mean cross-entropy: the batch size times the square of the gradient for labels that are drawn from
    the network's own output. It is used with weight decay: `Sophia(weight_decay=0.1, decoupled=True)`.

    Parameters
    ----------
    lr : float, default 0.0001
        Learning rate, 0 or more.
    beta1, beta2 : float, default 0.96 and 0.99
        Decay rates of the running means, by step and by estimate, in [0, 1).
    gamma : float, default 0.01
        The weight of h, 0 or more: the larger, the fewer elements are clipped. The paper has 0.01 for Sophia-H and 0.05
        for Sophia-G.
    eps : float, default 1e-12
        The least divisor, 0 or more.

    State: `m` and `h`, the running means, uncorrected.

    Examples
    --------
    >>> import numpy as np
    >>> params, optimizer = {"W": np.array([1.0, 1.0])}, Sophia(lr=0.5, beta1=0.5, beta2=0.5, gamma=1.0)
    >>> optimizer.update_hessian(params, {"W": np.array([8.0, 0.0])})
    >>> optimizer.update(params, {"W": np.array([2.0, 2.0])})
    >>> params["W"]
    array([0.875, 0.5  ])

    References
    ----------
    Liu, Li, Hall, Liang and Ma, Sophia: a scalable stochastic second-order optimizer for language model pre-training,
    ICLR 2024, arXiv:2305.14342.

    Differences
    -----------
    PyTorch: has none.
    Keras: has none.
    optax: `contrib.sophia`, m corrected for its start at zero; makes its own estimates, at every tenth step, which
        count from the next one on; beta1 0.965, eps 1e-8, decoupled weight decay of 1e-4.
    """

    rule = "sophia"
    lr: Number = number(0.0001)
    beta1: Number = number(0.96)
    beta2: Number = number(0.99)
    gamma: Number = number(0.01)
    eps: Number = number(1e-12)

    def scalars(self, step: int) -> tuple[float, ...]:
        return self.lr, 1 - self.beta1, self.gamma, self.eps, 1.0

    def update_hessian(self, params: Any, estimates: Any) -> None:
        """Takes estimates of the Hessian's diagonal into `h`, in place; is not a step and leaves `params` as they are.

        Parameters
        ----------
        params : as in `update`
            The parameters that are trained.
        estimates : as `grads` in `update`
            Estimates of the shapes of the parameters; None leaves `h` of that key as it is. They are taken as they
            are: what is done to gradients (scale, clipping, decay, `maximize`) is not done to them.

        Raises
        ------
        TypeError, ValueError, KeyError, RuntimeError
            as `update` does, and in its words, in which the estimates are called grads.
        FloatingPointError
            if an estimate is NaN or infinite and `on_nonfinite` is "raise"; with "skip" none of them is taken.

        Everything is checked before anything is written.
        """
        with self._not_stepping():
            columns = constraints.masks_for(self)
            common = type(self).__name__, HESSIAN, params, estimates, self._start(), self._state
            table = Table(*common, groups=self.groups, storage=self.state_storage, constraints=columns)
            plan = Plan(table, self._processes)
            step = self._steps + 1
            for launch in plan.table.stored_launches:
                launch.begin_step(self.storage_seed, -step)  # noise of its own
            settings_by_row, _ = self._settings_by_row(plan, step, {})
            if self.on_nonfinite != "propagate" and not plan.passes.finite():
                if self.on_nonfinite == "raise":
                    gradients.refuse_nonfinite(plan.table, estimates, plan.processes)
                return
            node = containers.joined(self._node, plan.table.container.node)
            try:
                plan.run(params, [(1 - settings.beta2,) for settings in settings_by_row], report=False)
            finally:
                if plan.stepped:
                    self.__dict__["_state"], self.__dict__["_node"] = plan.table.state, node
