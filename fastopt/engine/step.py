"""A step, from `Optimizer.update` to the kernels: its phases in their order."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import chain
from time import perf_counter_ns
from typing import Any, cast

from fastopt import checks, combinations, threads, tuning
from fastopt.engine import (
    averaging,
    catch_up,
    containers,
    gradient_sums,
    gradients,
    kept_plans,
    one_call,
    reports,
    transform_scalars,
)
from fastopt.engine.again import Again, again
from fastopt.engine.execute import NOTHING
from fastopt.engine.plan import Plan
from fastopt.engine.step_counts import Counts, counted
from fastopt.engine.transform_scalars import PROXIMAL, TooLarge, with_prox
from fastopt.groups import NO_GROUPS, Groups
from fastopt.kernels import arena
from fastopt.kernels.squares import squares
from fastopt.report import Report
from fastopt.settings import Asked


def in_one_call(optimizer: Any, attributes: dict[str, Any], params: Any, grads: Any) -> bool:
    """Makes a step like those before in one call of C, or writes nothing and returns False.

    attributes : the optimizer's `__dict__`, whose `_calls` are there as long as nothing was assigned to it
    """
    calls = attributes["_calls"]
    if not calls:  # since a signal handler, or another thread, assigned something
        return False
    if isinstance(calls[0], Again):
        return bool(calls[0](attributes, params, grads))
    if attributes["groups"].data or threads._exactly is not None or tuning.is_forced:
        return False
    step, counts = attributes["_steps"] + 1, attributes["_counts"]
    for call, cohorts in calls:
        if len(counts) == 1:
            after: Counts = (counts[0] + 1,)
            scalars = optimizer.scalars(after[0])
        else:
            scalars, after = _next(optimizer, cohorts, counts)
        if call(params, grads, scalars, attributes, step, after):
            return True
    plan, assigned = attributes["_plan"], optimizer._assigned
    if plan is None or plan.call not in calls:
        return False
    attributes["_calls"] = ()  # if Ctrl-C comes now the plan is not to be used
    has_taken_over = plan.takes_over(params)
    attributes["_calls"] = calls if optimizer._assigned is assigned else ()
    if not has_taken_over or not attributes["_calls"]:
        return False
    kept_plans.let_go(attributes, plan)
    call, cohorts = plan.call
    if len(calls) > 1:  # otherwise they are at hand
        scalars, after = _next(optimizer, cohorts, counts)
    return bool(call(params, grads, scalars, attributes, step, after))


def make(optimizer: Any, params: Any, grads: Any, report: bool, summed: int = 0) -> Report | None:
    """Makes a step of any kind: its phases, in this order. Nothing of the user's is written before `run`.

    summed : of how many gradients `grads` are the sums that were accumulated; 0 of gradients that are handed in
    """
    step = Step(optimizer, params, grads, report, summed)
    step.ask_settings()
    step.take_plan()
    step.find_rule_scalars()
    unfit = step.unfit_gradients()
    if unfit is not None:
        return _skip_or_raise(optimizer, step.plan, grads, report, unfit)
    step.add_averages()
    step.add_catch_up()
    step.prepare_next()
    step.run()
    return reports.of_last_step(step.plan.table) if report else None


class Step:
    """A step on its way: what a phase has found out for those after it."""

    __slots__ = (
        *"optimizer attributes params grads wants_report number asked previous_calls settings".split(),
        *"groups by_array plan others is_reused settings_by_row transforms all_transforms scalars".split(),
        *"counts averages counts_steps cohorts writes averaging sparse_step calls summed more".split(),
        *"assigned changes".split(),
    )

    def __init__(self, optimizer: Any, params: Any, grads: Any, report: bool, summed: int) -> None:
        if optimizer._accumulated and not summed:
            raise RuntimeError(gradient_sums.with_gradients(type(optimizer).__name__, optimizer._accumulated))
        self.optimizer, self.params, self.grads, self.wants_report = optimizer, params, grads, report
        self.summed, self.more = summed, cast("dict[str, Any]", {})
        self.attributes: dict[str, Any] = optimizer.__dict__
        self.assigned, self.changes = optimizer._assigned, optimizer.groups.changes
        self.number = optimizer._steps + 1
        plan = self.attributes.get("_plan")
        if plan is not None and plan.tuner is not None:
            plan.tuner.entered = perf_counter_ns()
        # Calls of the step before do not fit where this one ends halfway.
        self.previous_calls, self.attributes["_calls"] = self.attributes.get("_calls", ()), ()

    def ask_settings(self) -> None:
        """Asks schedules, and whether arrays must be told apart."""
        optimizer = self.optimizer
        self.asked: Asked = {}
        self.settings = optimizer._at(self.number, NO_GROUPS, self.asked) if optimizer._scheduled else optimizer
        self.groups: Groups | None = optimizer.groups if optimizer.groups.data else None
        settings = self.settings
        self.by_array = optimizer._rule.is_by_array or settings.clip_array_norm != math.inf or settings.cautious
        if self.groups is not None and not self.by_array:
            self.by_array = self.groups.are_by_array()

    def take_plan(self) -> None:
        """Finds the plan that fits the arguments, or makes one; then settings and step counts of its rows."""
        optimizer, attributes, settings = self.optimizer, self.attributes, self.settings
        self.plan, self.others, self.is_reused = kept_plans.take(
            optimizer, settings, self.params, self.grads, self.wants_report, self.groups, self.by_array
        )
        plan = self.plan
        self.settings_by_row, self.transforms = [settings], settings._transforms
        if self.groups is not None or self.by_array:
            self.settings_by_row, self.transforms = optimizer._settings_by_row(
                plan, self.number, self.asked, begins=not self.is_reused
            )
        elif self.transforms is None:
            self.transforms = settings._needed_transforms()
            if optimizer._assigned is self.assigned:
                settings.__dict__["_transforms"] = self.transforms
        for row in plan.table.complex_rows:
            combinations.check_complex(type(optimizer), self.settings_by_row[min(row, len(self.settings_by_row) - 1)])
        plan.summed = self.summed or 1
        if self.summed > 1 and "scale" not in self.transforms:
            self.transforms = ("scale", *self.transforms)
        self.counts: Counts = attributes["_counts"] if self.is_reused else plan.table.counted.counts[1]
        self.averages: Counts = attributes["_averages"] if self.is_reused else plan.table.counted.counts[2]
        if not plan.table.counted.are_counted:
            self.counts = (optimizer._steps,)
        if len(self.settings_by_row) < len(plan.table.cohorts):
            self.settings_by_row = self.settings_by_row * len(plan.table.cohorts)

    def find_rule_scalars(self) -> None:
        """Works out the scalars of the formula, for each row."""
        if self.plan.table.rule.totals:
            self.plan.estimates = estimates = self.optimizer._estimates
            for settings in self.settings_by_row:
                settings.__dict__["_estimates"] = estimates
        if self.plan.table.rule.factors:
            self.plan.factors = self.optimizer._factors
        self.scalars = _scalars(self.settings_by_row, self.plan.table.cohorts, self.counts)

    def unfit_gradients(self) -> str | None:
        """Checks the gradients, where that is asked for, and adds the scalars of transforms and norms.

        Returns None where the step can be made, else why not: an error text, empty where gradients are not finite.
        """
        optimizer, plan = self.optimizer, self.plan
        checks_them = optimizer.on_nonfinite != "propagate"
        squared = checks_them and squares(optimizer._rule)
        all_fit = not checks_them or plan.passes.finite(squared)
        if not all_fit and not (squared and plan.passes.finite()):
            return ""
        is_proximal = any(name in self.transforms for name in PROXIMAL)
        self.counts_steps = is_proximal or plan.projections is not None
        counts_them = self.counts_steps or plan.table.rule.prepare is not None
        steps = [self.counts[cohort] + 1 for cohort in plan.table.cohorts] if counts_them else []
        try:
            if squared and (not all_fit or self.settings.gradient_scale > 1):
                transform_scalars.check_squares(self.settings, plan, self.grads, self.settings_by_row, self.transforms)
            if self.transforms or self.by_array:
                self.scalars = transform_scalars.added(
                    self.settings, plan, self.params, self.settings_by_row, self.scalars, self.transforms, steps
                )
        except TooLarge as error:
            return str(error)
        if is_proximal:
            self.scalars = with_prox(optimizer._rule, self.scalars, self.settings_by_row, steps, self.transforms)
        if plan.projections is not None:
            plan.projections.write_amounts(self.settings_by_row, steps)
        if checks_them:
            self.attributes["_skips_in_a_row"] = 0
        return None

    def add_averages(self) -> None:
        """Adds the scalars of averages of the weights."""
        optimizer = self.optimizer
        self.writes, self.all_transforms = NOTHING, self.transforms
        self.averaging = optimizer.averaging is not None or optimizer.lookahead is not None
        if self.averaging:
            self.scalars, self.all_transforms, self.averages, self.writes = _averages(
                optimizer, self.plan, self.params, self.number, self.scalars, self.transforms, self.averages
            )

    def add_catch_up(self) -> None:
        """Finds the steps that sparse rows have skipped; counts this one."""
        optimizer, plan = self.optimizer, self.plan
        self.sparse_step = (
            catch_up.SparseStep(optimizer, plan.table, self.params, self.settings_by_row)
            if optimizer._skipped_rows or plan.table.rows_launches
            else None
        )
        if self.sparse_step:
            self.writes = chain(self.writes, self.sparse_step.marks())
        self.counts, self.cohorts = counted(self.counts, plan.table.counted.stepping), plan.table.counted.counts.cohorts

    def prepare_next(self) -> None:
        """Decides whether the next step may be one call, or one like this again."""
        optimizer, plan = self.optimizer, self.plan
        self.calls: tuple[Any, ...] = ()
        can_check = self.is_reused and plan.checked
        if (
            self.wants_report
            or self.summed
            or self.averaging
            or self.sparse_step
            or self.by_array
            or optimizer.on_nonfinite != "propagate"
        ):
            return
        if self.groups or optimizer._scheduled or self.counts_steps or self.settings.clip_norm != math.inf:
            if can_check:
                settings = optimizer._step_settings()
                is_same = settings.changes == self.changes and optimizer._assigned is self.assigned
                next_one = again(plan, settings, self.transforms, self.number, self.asked) if is_same else None
                self.calls = (next_one,) if next_one else ()
            return
        if self.others:  # of which some may have calls of other settings
            previous, cohorts = self.previous_calls, self.cohorts
            kept = [
                other.call for other in self.others if other.call in previous and other.table.counted.follow(cohorts)
            ]
            self.calls = tuple(kept)
        call = one_call.call_for(plan, self.transforms) if can_check else None
        if call:
            self.calls = (call, *self.calls)

    def run(self) -> None:
        """Runs the kernels, and notes state and counts; both, or neither, also under Ctrl-C."""
        attributes, plan, sparse_step = self.attributes, self.plan, self.sparse_step
        for launch in plan.table.stored_launches:
            launch.begin_step(self.optimizer.storage_seed, self.number)
        plan.stepped, node = False, containers.joined(attributes.get("_node"), plan.table.container.node)
        try:
            if sparse_step:
                sparse_step.before()
            self.execute()
        finally:
            if plan.stepped:  # also where Ctrl-C came during the step, which is then complete
                # No calls, between which Ctrl-C could come. What a signal handler, or another thread, has assigned
                # meanwhile goes for the next step, for which nothing is kept then.
                is_kept = self.optimizer._assigned is self.assigned
                attributes["_report_plan" if self.wants_report else "_plan"] = plan if is_kept else None
                attributes["_steps"] = self.number
                attributes["_cohorts"], attributes["_counts"], attributes["_averages"] = (
                    self.cohorts,
                    self.counts,
                    self.averages,
                )
                attributes["_state"] = plan.table.state if plan.table.state.slots else None
                attributes["_node"] = node
                attributes["_skipped_rows"] = sparse_step.skipped_steps if sparse_step else {}
                attributes["_calls"], attributes["_accumulated"] = self.calls if is_kept else (), 0
                if plan.table.rule.totals:
                    attributes["_estimates"] = plan.estimates
                if plan.table.rule.factors:
                    attributes["_factors"] = plan.factors
                attributes.update(self.more)
                if not self.wants_report:
                    attributes["_others"] = self.others if is_kept else ()

    def execute(self) -> None:
        """Runs the kernels; then gives back the memory of directions that nobody needs any more."""
        plan = self.plan
        writes = chain(plan.passes.means(), self.writes) if plan.table.stand_ins else self.writes
        plan.run(self.params, self.scalars, self.wants_report, self.all_transforms, writes)
        plan.passes.let_go_of_means()
        for array in plan.passes.unused:
            arena.release(array)


def _next(optimizer: Any, cohorts: Counts, counts: Counts) -> tuple[tuple[float, ...], Counts]:
    """The scalars of the next step of some cohorts, one after the other, and the counts after it."""
    if len(cohorts) == 1:
        (cohort,) = cohorts
        count = counts[cohort] + 1
        return optimizer.scalars(count), (*counts[:cohort], count, *counts[cohort + 1 :])
    rows = _scalars([optimizer] * len(cohorts), list(cohorts), counts)
    return tuple([value for row in rows for value in row]), counted(counts, cohorts)


def _scalars(settings_by_row: list[Any], cohorts: list[int], steps: Counts) -> list[tuple[float, ...]]:
    """The scalars of the formula for each row: those of its settings at the next step of its cohort."""
    if len(settings_by_row) == 1:
        return [settings_by_row[0].scalars(steps[cohorts[0]] + 1)]
    scalars_at: dict[tuple[int, int], tuple[float, ...]] = {}
    rows = []
    for settings, cohort in zip(settings_by_row, cohorts, strict=True):
        at = id(settings), steps[cohort] + 1
        if at not in scalars_at:
            scalars_at[at] = settings.scalars(at[1])
        rows.append(scalars_at[at])
    return rows


def _skip_or_raise(optimizer: Any, plan: Plan, grads: Any, report: bool, too_large: str = "") -> Report | None:
    """Raises, or leaves the step out, because of gradients that are NaN or infinite, or too large by an error text."""
    if optimizer.on_nonfinite == "raise":
        if too_large:
            plan.table.gradients = []
            raise FloatingPointError(too_large)
        gradients.refuse_nonfinite(plan.table, grads, plan.processes)
    most = optimizer._at(optimizer._steps + 1).max_skips
    if optimizer._skips_in_a_row >= most:
        try:
            if too_large:
                plan.table.gradients = []
                raise FloatingPointError(too_large)
            gradients.refuse_nonfinite(plan.table, grads, plan.processes)
        except FloatingPointError as error:
            raise FloatingPointError(checks.too_many_skips(str(error), most)) from None
    nothing = reports.of_skipped_step(plan.table) if report else None
    plan.table.gradients = []
    optimizer.__dict__["_skipped"] = optimizer._skipped + 1
    optimizer.__dict__.update(_skips_in_a_row=optimizer._skips_in_a_row + 1, _accumulated=0)
    return nothing


def _averages(
    optimizer: Any,
    plan: Plan,
    params: Any,
    step: int,
    scalars: list[tuple[float, ...]],
    transforms: tuple[str, ...],
    averaged: Counts,
) -> tuple[list[tuple[float, ...]], tuple[str, ...], Counts, Iterator[None]]:
    """Scalars and transforms with those of averages, how many there are, and calls that move the other averages."""
    writes = NOTHING
    if plan.table.rows_launches or optimizer._skipped_rows:
        averaging.check_rows(optimizer, plan.table)
    after = averaging.amounts(optimizer, step, averaged)
    if after:
        rows = [tuple([weights[cohort] for weights in after.values()]) for cohort in plan.table.cohorts]
        scalars, transforms = (
            [of_rule + more for of_rule, more in zip(scalars, rows, strict=True)],
            (*transforms, *after),
        )
    if "averaging" in after:
        writes = averaging.of_left_out(plan.table, params, after["averaging"])
        averaged = counted(averaged, (*plan.table.counted.stepping, *plan.table.counted.left_out))
    return scalars, transforms, averaged, writes
