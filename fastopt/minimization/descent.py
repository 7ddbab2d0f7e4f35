"""The loop of `minimize`: evaluate, decide, step, project, report."""

from __future__ import annotations

import copy
import inspect
import math
from collections.abc import Callable
from typing import Any

from fastopt.minimization import stopping
from fastopt.minimization.bounds import Limits, project
from fastopt.minimization.objective import Objective, OutOfBatches
from fastopt.minimization.options import Options
from fastopt.minimization.points import Form
from fastopt.minimization.stopping import Progress, Reason, gradient_norm
from fastopt.optimizer import Optimizer
from fastopt.optimizers import ScheduleFreeAdamW, ScheduleFreeSGD


class Descent:
    """One minimization: the point, its value and gradient, and what was counted."""

    def __init__(
        self,
        objective: Objective,
        form: Form,
        x: Any,
        limits: Limits,
        chosen: Options,
        callback: Any,
        result_type: Any,
    ) -> None:
        self.objective, self.form, self.x, self.limits, self.chosen = objective, form, x, limits, chosen
        self.optimizer, self.result_type = chosen.optimizer, result_type
        self.maxiter = 10_000 if chosen.maxiter is None and chosen.batches is None else chosen.maxiter
        self._callback = _as_called(callback, result_type)
        assert chosen.smoothing is not None
        self._progress = Progress(chosen.smoothing, chosen.ftol)
        self._best: tuple[Any, float, Any] | None = None
        self.value, self.gradient, self.nit = math.nan, None, 0

    def run(self, show: Callable[[float], None] = lambda value: None) -> Any:
        """Steps until there is a reason to stop; returns an OptimizeResult. `show` is called with each step's value."""
        return self._result(self._steps(show))

    def _steps(self, show: Callable[[float], None]) -> Reason:
        try:
            self._evaluate()
        except OutOfBatches:
            raise ValueError("minimize: batches is empty; hand in an iterable that was not used up") from None
        while True:
            reason = self._reason_to_stop()
            if reason is not None:
                return reason
            self.optimizer.update(self.x, self.gradient)
            project(self.form.leaves(self.x), self.limits)
            self.nit += 1
            ended = None
            try:
                self._evaluate()
            except OutOfBatches:
                ended = stopping.OUT_OF_BATCHES
            show(self.value)
            try:
                self._callback(self.x, self.value)
            except StopIteration:
                ended = stopping.STOPPED
            if ended is not None:
                return ended

    def _evaluate(self) -> None:
        self.value, self.gradient = self.objective.evaluate(self.x)
        if self._progress.add(self.value) and self.chosen.keep_best:
            self._best = copy.deepcopy((self.x, self.value, self.gradient))

    def _reason_to_stop(self) -> Reason | None:
        chosen = self.chosen
        norm = gradient_norm(self.form, self.x, self.gradient, self.limits)
        if self.optimizer.on_nonfinite == "propagate" and (math.isnan(self.value) or math.isnan(norm)):
            return stopping.NOT_FINITE
        if chosen.gtol is not None and norm <= chosen.gtol:
            return stopping.SMALL_GRADIENT
        if chosen.patience is not None and self._progress.stale >= chosen.patience:
            return stopping.NO_PROGRESS
        if self.maxiter is not None and self.nit >= self.maxiter:
            return stopping.TOO_MANY_STEPS
        return None

    def _result(self, reason: Reason) -> Any:
        """Return the result as SciPy's methods do."""
        x, value, gradient = self.x, self.value, self.gradient
        if self._best is not None:
            x, value, gradient = self._best
        elif self.nit and _averages(self.optimizer):
            x = self.optimizer.averaged(x)
            project(self.form.leaves(x), self.limits)
            if self.objective.can_go_on:
                value, gradient = self.objective.evaluate(x)
        return self.result_type(
            x=x,
            fun=value,
            jac=gradient,
            nit=self.nit,
            nfev=self.objective.nfev,
            njev=self.objective.njev,
            success=reason.success,
            status=reason.status,
            message=reason.message,
            optimizer=self.optimizer,
        )


def _averages(optimizer: Optimizer) -> bool:
    """Whether the result is an average."""
    return bool(optimizer._averaged) or isinstance(optimizer, ScheduleFreeSGD | ScheduleFreeAdamW)


def _as_called(callback: Callable[..., Any] | None, result_type: Any) -> Callable[[Any, float], Any]:
    """The callback as a function of point and value; SciPy tells its two forms apart by the argument's name."""
    if callback is None:
        return lambda x, value: None
    if not callable(callback):
        raise TypeError(f"minimize: callback must be a function, got {type(callback).__name__}")
    try:
        names = set(inspect.signature(callback).parameters)
    except ValueError:  # some functions of C have no signature
        names = set()
    if names == {"intermediate_result"}:
        return lambda x, value: callback(intermediate_result=result_type(x=copy.deepcopy(x), fun=value))
    return lambda x, value: callback(copy.deepcopy(x))
