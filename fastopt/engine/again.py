"""A step like the one before, where settings vary by step or by group, or gradients are clipped by their norm.

`step.make` asks every feature in turn. When a model of a megabyte has gone through the caches all that code must come
back from memory, which takes as long as half of the arithmetic; so here is the same without what cannot have changed.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, cast

from fastopt.engine.norms import ONE_PROCESS, clipped, quick_clipped
from fastopt.engine.plan import Plan
from fastopt.engine.step_counts import Counts, counted
from fastopt.engine.transform_scalars import NEUTRAL, PROXIMAL, SCALARS, unclipped, with_prox
from fastopt.groups import NO_GROUPS
from fastopt.kernels.passes import TOTAL
from fastopt.kernels.rule import NO_RULE
from fastopt.settings import Asked, StepSettings


class Again:
    """Steps of a plan of one launch, as long as nothing is assigned to the optimizer.

    transforms : those of the step before, which no schedule changes
    """

    def __init__(self, plan: Plan, settings: StepSettings, transforms: tuple[str, ...]) -> None:
        self.plan, self.settings, self.transforms = plan, settings, transforms
        self._whole, self._scales = settings.of_groups(NO_GROUPS), "scale" in transforms
        names = [transform for transform in reversed(transforms) if transform != "scale"]  # which is the first of them
        self._is_proximal = any(name in transforms for name in PROXIMAL)
        self._rows: list[tuple[Any, list[Callable[[Any], float]], int]] = []
        self._stepping, (self._launch,) = plan.table.counted.stepping, plan.table.launches
        for groups, cohort in zip(plan.table.row_groups, plan.table.cohorts, strict=True):
            row_settings = settings.of_groups(groups)
            needed = row_settings.values._transforms or ()
            scalars = [SCALARS[name] if name in needed else _always(NEUTRAL[name]) for name in names]
            self._rows.append((row_settings, scalars, cohort))

    def __call__(self, attributes: dict[str, Any], params: Any, grads: Any) -> bool:
        """Makes a step, or writes nothing and returns False; `attributes` is the optimizer's `__dict__`."""
        plan = self.plan
        if self.settings.changes != self.settings.groups.changes:
            return False
        if not plan.finds_all_as_before(params, grads):
            return False
        step, asked = attributes["_steps"] + 1, cast("Asked", {})
        whole, rows = self._whole.at(step, asked), cast("list[tuple[float, ...]]", [])
        counts = attributes["_counts"]
        for row_settings, scalars, cohort in self._rows:
            values = row_settings.at(step, asked)
            rows.append((*values.scalars(counts[cohort] + 1), *[scalar(values) for scalar in scalars]))
        if self._scales:
            factor = self._factor(whole)
            rows = [(*row, factor) for row in rows]
        if self._is_proximal or plan.projections is not None:
            rows = self._with_step_counts(rows, counts)
        counts, plan.stepped = counted(counts, self._stepping), False
        try:
            plan.run(params, rows, False, self.transforms)
        finally:
            if plan.stepped:
                attributes["_steps"], attributes["_counts"] = step, counts
        return True

    def _with_step_counts(self, rows: list[tuple[float, ...]], counts: Counts) -> list[tuple[float, ...]]:
        """The rows with the scalars of proximal steps; has constraints on rows take up those of theirs."""
        plan, settings = self.plan, [row_settings.values for row_settings, *_ in self._rows]
        steps = [counts[cohort] + 1 for cohort in plan.table.cohorts]
        if plan.projections is not None:
            plan.projections.write_amounts(settings, steps)
        return with_prox(plan.table.rule, rows, settings, steps, self.transforms) if self._is_proximal else rows

    def _factor(self, settings: Any) -> float:
        """As in `transform_scalars`, of one launch and one process."""
        factor, most = unclipped(settings), settings.clip_norm
        if most == math.inf:
            return factor
        launch, quick = self._launch, None
        if launch.dtype == "float32":
            kernel, table, starts, threads = launch.call(NO_RULE, "quick_norm")
            kernel(table, starts, threads)
            assert launch.statistics is not None
            quick = quick_clipped(factor, launch.statistics[:, TOTAL].tolist(), most)
        return clipped(factor, self.plan.passes.gradient_norm(), most) if quick is None else quick


def again(plan: Plan, settings: StepSettings, transforms: tuple[str, ...], step: int, asked: Asked) -> Again | None:
    """For a plan whose step had these transforms; None if it takes more to make the next."""
    previous: Again | None = plan.again
    if previous is not None and previous.settings is settings and previous.transforms == transforms:
        return previous
    if (
        len(plan.table.launches) != 1
        or not plan.table.is_plain
        or plan.table.launches[0].staged
        or plan.processes is not ONE_PROCESS
    ):
        return None
    if plan.table.stored_launches:  # whose rounding depends on the step
        return None
    if any(settings.of_groups(groups).transforms_vary for groups in (NO_GROUPS, *plan.table.row_groups)):
        return None
    settings.of_plan(plan, step, asked)  # so that each row knows its transforms
    new = plan.again = Again(plan, settings, transforms)
    return new


def _always(value: float) -> Callable[[Any], float]:
    return lambda settings: value
