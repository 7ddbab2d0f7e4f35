"""A step, from `Optimizer.update` to the kernels: its phases in their order."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import chain
from typing import Any

from fastopt import averages, checks, threads, tuning
from fastopt.engine import catch_up, containers, one_call, transform_scalars
from fastopt.engine.again import Again, again
from fastopt.engine.execute import NOTHING
from fastopt.engine.plan import Plan
from fastopt.engine.step_counts import Counts, counted
from fastopt.engine.transform_scalars import TooLarge
from fastopt.groups import NO_GROUPS, Groups
from fastopt.kernels.squares import squares
from fastopt.report import Report
from fastopt.settings import Asked

# How many plans are kept, for loops that update different arrays in turns: halves of a GAN, gradients that are None.
MOST_PLANS = 4


def in_one_call(optimizer: Any, own: dict[str, Any], params: Any, grads: Any) -> bool:
    """Makes a step like those before in one call of C, or writes nothing and returns False.

    own : the optimizer's `__dict__`, whose `_calls` are there as long as nothing was assigned to it
    """
    first = own["_calls"][0]
    if type(first) is Again:
        return first(own, params, grads)
    if own["groups"].data or threads._exactly is not None or tuning.is_forced:
        return False
    step, counts = own["_steps"] + 1, own["_counts"]
    for call, cohorts in own["_calls"]:
        if len(counts) == 1:
            after: Counts = (counts[0] + 1,)
            scalars = optimizer.scalars(after[0])
        else:
            scalars, after = _in_a_row(optimizer, cohorts, counts), counted(counts, cohorts)
        if call(params, grads, scalars, own, step, after):
            return True
    plan, calls = own["_plan"], own["_calls"]
    if plan.call not in calls:
        return False
    own["_calls"] = ()  # if Ctrl-C comes now the plan is not to be used
    has_taken_over = plan.takes_over(params)
    own["_calls"] = calls
    if not has_taken_over:
        return False
    _let_go(own, plan)
    call, cohorts = plan.call
    scalars, after = _in_a_row(optimizer, cohorts, counts), counted(counts, cohorts)
    return bool(call(params, grads, scalars, own, step, after))


def make(optimizer: Any, params: Any, grads: Any, report: bool) -> Report | None:
    """Makes a step of any kind."""
    own, step = optimizer.__dict__, optimizer._steps + 1
    known_calls, own["_calls"] = own.get("_calls", ()), ()
    asked: Asked = {}
    settings = optimizer._at(step, NO_GROUPS, asked) if optimizer._scheduled else optimizer
    groups = optimizer.groups if optimizer.groups.data else None
    by_array = optimizer._rule.is_by_array or settings.clip_array_norm != math.inf
    if groups is not None and not by_array:
        by_array = groups.clips_arrays()

    plan, others, is_known = _plan_for(optimizer, settings, params, grads, report, groups, by_array)

    parts, options = [settings], settings._options
    if groups is not None or by_array:
        parts, options = optimizer._parts(plan, step, asked, begins=not is_known)
    elif options is None:
        options = settings.__dict__["_options"] = settings._wanted_options()
    steps, averaged = (own["_counts"], own["_averages"]) if is_known else plan.leaves.counts[1:]
    if not plan.leaves.are_known:
        steps = (optimizer._steps,)
    if len(parts) < len(plan.cohorts):
        parts = parts * len(plan.cohorts)
    scalars = _scalars(parts, plan.cohorts, steps)
    squared = optimizer.on_nonfinite != "propagate" and squares(optimizer._rule)
    all_fit = optimizer.on_nonfinite == "propagate" or plan.finite(squared)
    if not all_fit and not (squared and plan.finite()):
        return _not_made(optimizer, plan, grads, report)
    try:
        if squared and (not all_fit or settings.gradient_scale > 1):
            transform_scalars.check_squares(settings, plan, grads, parts, options)
        if options or by_array:
            scalars = transform_scalars.added(settings, plan, params, parts, scalars, options)
    except TooLarge as error:
        return _not_made(optimizer, plan, grads, report, str(error))
    if optimizer.on_nonfinite != "propagate":
        own["_skips_in_a_row"] = 0

    writes, after = NOTHING, options
    averaging = optimizer.averaging is not None or optimizer.lookahead is not None
    if averaging:
        scalars, after, averaged, writes = _averages(optimizer, plan, params, step, scalars, options, averaged)
    lagging = catch_up.Step(optimizer, plan, params, parts) if optimizer._lags or plan.rows_launches else None
    if lagging:
        writes = chain(writes, lagging.marks())
    steps, cohorts = counted(steps, plan.leaves.stepping), plan.leaves.counts.cohorts

    calls: tuple[Any, ...] = ()
    can_look = is_known and plan.looked
    if report or averaging or lagging or by_array or optimizer.on_nonfinite != "propagate":
        pass
    elif groups or optimizer._scheduled or settings.clip_norm != math.inf:
        next_one = again(plan, optimizer._step_settings(), options, step, asked) if can_look else None
        calls = (next_one,) if next_one else ()
    else:
        if others:  # of which some may have calls of other settings
            calls = tuple(
                [other.call for other in others if other.call in known_calls and other.leaves.follow(cohorts)]
            )
        call = one_call.call_for(plan, options) if can_look else None
        calls = (call, *calls) if call else calls
    for launch in plan.stored_launches:
        launch.begin_step(optimizer.storage_seed, step)
    plan.stepped, node = False, containers.joined(own.get("_node"), plan.container.node)
    try:
        if lagging:
            lagging.before()
        plan.run(params, scalars, report, after, writes)
    finally:
        if plan.stepped:  # also where Ctrl-C came during the step, which is then complete
            # No calls, between which Ctrl-C could come.
            own["_report_plan" if report else "_plan"], own["_steps"] = plan, step
            own["_cohorts"], own["_counts"], own["_averages"] = cohorts, steps, averaged
            own["_state"] = plan.state if plan.state.slots else None
            own["_node"] = node
            own["_lags"] = lagging.lags if lagging else {}
            own["_calls"] = calls
            if not report:
                own["_others"] = others
    return plan.report() if report else None


def _in_a_row(optimizer: Any, cohorts: Counts, counts: Counts) -> tuple[float, ...]:
    """The scalars of the next step of some cohorts, one after the other."""
    return tuple([value for row in _scalars([optimizer] * len(cohorts), list(cohorts), counts) for value in row])


def _scalars(parts: list[Any], cohorts: list[int], steps: Counts) -> list[tuple[float, ...]]:
    """The scalars of the formula for each row: those of its part at the next step of its cohort."""
    if len(parts) == 1:
        return [parts[0].scalars(steps[cohorts[0]] + 1)]
    known: dict[tuple[int, int], tuple[float, ...]] = {}
    rows = []
    for part, cohort in zip(parts, cohorts, strict=True):
        at = id(part), steps[cohort] + 1
        if at not in known:
            known[at] = part.scalars(at[1])
        rows.append(known[at])
    return rows


def _plan_for(
    optimizer: Any, settings: Any, params: Any, grads: Any, report: bool, groups: Groups | None, by_array: bool
) -> tuple[Plan, tuple[Plan, ...], bool]:
    """The plan that these arguments fit, which has taken them up; others that are worth keeping; is it one of old?"""
    own = optimizer.__dict__
    # A report has a plan of its own, in which the arrays of a FlatDict are told apart.
    first, others = (own.get("_report_plan"), ()) if report else (own.get("_plan"), own.get("_others", ()))
    plans = () if first is None else (first, *others)
    for plan in plans:
        if plan.accepts(params, grads, groups, by_array) and plan.follows(own["_cohorts"], own["_state"]):
            if not plan.is_prepared:
                one_call.prepare(plan)
            moved = plan.moved
            if moved:
                if plan.look is not None and isinstance(plan.container, containers.Buffers):
                    one_call.watch(plan)
                _let_go(own, plan)
            if not report and (moved or plan is not first):
                plans = own.get("_plan"), *own.get("_others", ())
                others = tuple([other for other in plans if other is not plan and other is not None])
            return plan, others, True
    if plans:  # arrays of the past should not be kept alive
        own["_plan"] = own["_report_plan"] = None
        own["_others"] = ()
    here = type(optimizer).__name__, optimizer._rule, params, grads, settings._start(), optimizer._state
    plan = Plan(
        *here, report, groups, by_array, optimizer.centralize, optimizer.state_storage, optimizer._step_counts()
    )
    if optimizer._state is not None and plan.state is not optimizer._state:  # others have the state as it was
        own["_plan"] = own["_report_plan"] = None
        own["_others"] = plans = ()
    plan.processes = optimizer._processes
    plan.tuned_by(own.setdefault("_tuners", {}))
    return plan, () if report else _of_today(plans, plan), False


def _let_go(own: dict[str, Any], plan: Plan) -> None:
    """Lets go of plans that would keep arrays of the past alive, after one has taken over others."""
    plan.moved = False
    for name in ("_plan", "_report_plan"):
        other = own.get(name)
        if other is not None and other is not plan and not other.has_the_arrays_of(plan):
            own[name] = None
    if own.get("_others"):
        own["_others"] = others = _of_today(own["_others"], plan)
        own["_calls"] = tuple([other.call for other in (plan, *others) if other.call in own["_calls"]])


def _of_today(others: Any, plan: Plan) -> tuple[Plan, ...]:
    """Those of other plans that have the same arrays, as far as they have the same keys."""
    return tuple([other for other in others if other.is_plain and other.has_the_arrays_of(plan)])[: MOST_PLANS - 1]


def _not_made(optimizer: Any, plan: Plan, grads: Any, report: bool, too_large: str = "") -> Report | None:
    """Raises, or leaves the step out, because of gradients that are NaN or infinite, or too large by an error text."""
    if optimizer.on_nonfinite == "raise":
        if too_large:
            plan.forget_gradients()
            raise FloatingPointError(too_large)
        plan.refuse_nonfinite(grads)
    most = optimizer._at(optimizer._steps + 1).max_skips
    if optimizer._skips_in_a_row >= most:
        try:
            if too_large:
                plan.forget_gradients()
                raise FloatingPointError(too_large)
            plan.refuse_nonfinite(grads)
        except FloatingPointError as error:
            raise FloatingPointError(checks.too_many_skips(str(error), most)) from None
    nothing = plan.report_of_nothing() if report else None
    plan.forget_gradients()
    optimizer.__dict__["_skipped"] = optimizer._skipped + 1
    optimizer.__dict__["_skips_in_a_row"] = optimizer._skips_in_a_row + 1
    return nothing


def _averages(
    optimizer: Any,
    plan: Plan,
    params: Any,
    step: int,
    scalars: list[tuple[float, ...]],
    options: tuple[str, ...],
    averaged: Counts,
) -> tuple[list[tuple[float, ...]], tuple[str, ...], Counts, Iterator[None]]:
    """Scalars and options with those of averages of the weights, how many there are, and what moves resting ones."""
    writes = NOTHING
    if plan.rows_launches or optimizer._lags:
        averages.check_rows(optimizer, plan)
    after = averages.amounts(optimizer, step, averaged)
    if after:
        rows = [tuple([own[cohort] for own in after.values()]) for cohort in plan.cohorts]
        scalars, options = [own + more for own, more in zip(scalars, rows, strict=True)], (*options, *after)
    if "averaging" in after:
        writes = averages.of_resting(plan, params, after["averaging"])
        averaged = counted(averaged, (*plan.leaves.stepping, *plan.leaves.resting))
    return scalars, options, averaged, writes
