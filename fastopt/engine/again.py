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
from fastopt.engine.step_counts import counted
from fastopt.engine.transform_scalars import AMOUNTS, NOTHING, unclipped
from fastopt.groups import NO_GROUPS
from fastopt.kernels.loops import TOTAL
from fastopt.kernels.rule import NO_RULE
from fastopt.settings import Asked, StepSettings


class Again:
    """Steps of a plan of one launch, as long as nothing is assigned to the optimizer.

    options : those of the step before, which no schedule changes
    """

    def __init__(self, plan: Plan, settings: StepSettings, options: tuple[str, ...]) -> None:
        self.plan, self.settings, self.options = plan, settings, options
        self._whole, self._scales = settings.part(NO_GROUPS), "scale" in options
        wanted = [option for option in reversed(options) if option != "scale"]  # which is the first of them
        self._parts: list[tuple[Any, list[Callable[[Any], float]]]] = []
        for part in map(settings.part, plan.parts):
            own = part.values._options or ()
            self._parts.append((part, [AMOUNTS[o] if o in own else _always(NOTHING[o]) for o in wanted]))

    def __call__(self, own: dict[str, Any], params: Any, grads: Any) -> bool:
        """Makes a step, or writes nothing and returns False; `own` is the optimizer's `__dict__`."""
        plan = self.plan
        if self.settings.changes != self.settings.groups.changes:
            return False
        if not plan.finds_all_as_before(params, grads):
            return False
        step, asked = own["_steps"] + 1, cast("Asked", {})
        whole, rows = self._whole.at(step, asked), cast("list[tuple[float, ...]]", [])
        counts = own["_counts"]
        for (part, amounts), cohort in zip(self._parts, plan.cohorts, strict=True):
            values = part.at(step, asked)
            rows.append((*values.scalars(counts[cohort] + 1), *[amount(values) for amount in amounts]))
        if self._scales:
            factor = self._factor(whole)
            rows = [(*row, factor) for row in rows]
        counts, plan.stepped = counted(counts, plan.leaves.stepping), False
        try:
            plan.run(params, rows, False, self.options)
        finally:
            if plan.stepped:
                own["_steps"], own["_counts"] = step, counts
        return True

    def _factor(self, settings: Any) -> float:
        """As in `transform_scalars`, of one launch and one process."""
        factor, most = unclipped(settings), settings.clip_norm
        if most == math.inf:
            return factor
        (launch,) = self.plan._launches
        quick = None
        if launch.dtype == "float32":
            kernel, table, starts, threads = launch.call(NO_RULE, "quick_norm")
            kernel(table, starts, threads)
            assert launch.tally is not None
            quick = quick_clipped(factor, launch.tally[:, TOTAL].tolist(), most)
        return clipped(factor, self.plan.gradient_norm(), most) if quick is None else quick


def again(plan: Plan, settings: StepSettings, options: tuple[str, ...], step: int, asked: Asked) -> Again | None:
    """For a plan whose step had these options; None if it takes more to make the next."""
    known: Again | None = plan.again
    if known is not None and known.settings is settings and known.options == options:
        return known
    if len(plan._launches) != 1 or not plan.is_plain or plan._launches[0].staged or plan.processes is not ONE_PROCESS:
        return None
    if plan.stored_launches:  # whose rounding depends on the step
        return None
    if any(settings.part(part).options_vary for part in (NO_GROUPS, *plan.parts)):
        return None
    settings.of_plan(plan, step, asked)  # so that each part knows its options
    found = plan.again = Again(plan, settings, options)
    return found


def _always(value: float) -> Callable[[Any], float]:
    return lambda settings: value
