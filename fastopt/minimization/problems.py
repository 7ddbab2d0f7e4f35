"""Many problems minimized at once: each stops by itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from fastopt.flat import Array
from fastopt.minimization import stopping
from fastopt.minimization.descent import Descent
from fastopt.minimization.stopping import Reason

GOING_ON = -1
"""The status of a problem that has not stopped."""


class ProblemDescent(Descent):
    """The minimization of the problems along axis 0, which evaluates all and steps those that have not stopped."""

    def run(self, show: Callable[[float], None] = lambda value: None) -> Any:
        chosen = self.chosen
        for name, is_there in (
            ("patience", chosen.patience is not None),
            ("keep_best", chosen.keep_best),
            ("bounds", bool(self.limits)),
        ):
            if is_there:
                raise ValueError(f"minimize: {name} is not supported with batch_axis=0; leave it out")
        if isinstance(self.objective._jac, str):
            raise ValueError(
                "minimize: with batch_axis=0 finite differences are not supported; hand in jac=True, where fun "
                "returns the values of all problems and their gradients, or a function"
            )
        shapes = [np.shape(leaf) for leaf in self.form.leaves(self.x).values()]
        sizes = {shape[0] if shape else 0 for shape in shapes}
        if len(sizes) != 1 or 0 in sizes:
            raise ValueError(
                f"minimize: with batch_axis=0 x0 must be of shape (problems, ...), got {shapes!r:.200}; give all "
                "arrays the same first axis"
            )
        self.objective.problems = self.size = sizes.pop()
        self.status = np.full(self.size, GOING_ON)
        self.optimizer.active = None
        return super().run(lambda value: show(float(np.mean(value))))

    def _evaluate(self) -> None:
        self.value, self.gradient = self.objective.evaluate(self.x)

    def _reason_to_stop(self) -> Reason | None:
        norms, going_on = self._norms(), self.status == GOING_ON
        if self.optimizer.on_nonfinite == "propagate":
            self.status[going_on & ~(np.isfinite(norms) & ~np.isnan(self.value))] = stopping.NOT_FINITE.status
        if self.chosen.gtol is not None:
            self.status[(self.status == GOING_ON) & (norms <= self.chosen.gtol)] = stopping.SMALL_GRADIENT.status
        still = self.status == GOING_ON
        if not still.any():
            bad = int((self.status == stopping.NOT_FINITE.status).sum())
            if bad:
                text = f"{stopping.NOT_FINITE.message} That is so of {bad} of {self.size} problems."
                return Reason(stopping.NOT_FINITE.status, False, text)
            return stopping.SMALL_GRADIENT
        if self.maxiter is not None and self.nit >= self.maxiter:
            return stopping.TOO_MANY_STEPS
        if (still != going_on).any():
            self.optimizer.active = still
        return None

    def _norms(self) -> Array:
        """The largest magnitude in the gradient of each problem; NaN where there is one."""
        parts = [np.abs(part).reshape(self.size, -1) for part in self.form.gradients(self.gradient, self.x).values()]
        norms: Array = np.max([part.max(axis=1, initial=0.0) for part in parts], axis=0)
        return norms

    def _result(self, reason: Reason) -> Any:
        self.status[self.status == GOING_ON] = reason.status
        result = super()._result(reason)
        result.status = self.status
        return result
