"""Plans that are kept from step to step, for loops that update different arrays in turns."""

from __future__ import annotations

from typing import Any

from fastopt import combinations, constraints
from fastopt.engine import containers, one_call
from fastopt.engine.address_table import Table
from fastopt.engine.norms import ONE_PROCESS
from fastopt.engine.plan import Plan
from fastopt.engine.projections import Projections
from fastopt.groups import Groups

# How many: for the halves of a GAN, or gradients that are None by turns.
MOST_PLANS = 4


def take(
    optimizer: Any, settings: Any, params: Any, grads: Any, report: bool, groups: Groups | None, by_array: bool
) -> tuple[Plan, tuple[Plan, ...], bool]:
    """The plan for these arguments, which it has taken up; others that are worth keeping; whether it was kept."""
    attributes = optimizer.__dict__
    # A report has a plan of its own, in which the arrays of a FlatDict are told apart.
    first, others = (
        (attributes.get("_report_plan"), ()) if report else (attributes.get("_plan"), attributes.get("_others", ()))
    )
    plans = () if first is None else (first, *others)
    for plan in plans:
        if plan.accepts(params, grads, groups, by_array) and plan.follows(attributes["_cohorts"], attributes["_state"]):
            if not plan.is_prepared:
                one_call.prepare(plan)
            moved = plan.moved
            if moved:
                if plan.check is not None and isinstance(plan.table.container, containers.Buffers):
                    one_call.watch(plan)
                let_go(attributes, plan)
            if not report and (moved or plan is not first):
                plans = attributes.get("_plan"), *attributes.get("_others", ())
                others = tuple([other for other in plans if other is not plan and other is not None])
            return plan, others, True
    if plans:  # arrays of the past should not be kept alive
        attributes["_plan"] = attributes["_report_plan"] = None
        attributes["_others"] = ()
    columns = constraints.columns_for(optimizer)
    if columns is not None and optimizer._processes is not ONE_PROCESS:
        there = {"mask": bool(columns.mask), "bounds that are arrays": not columns.mask, "Sharded": True}
        combinations.check_step(type(optimizer).__name__, there)
    projects = constraints.has_projections(optimizer)
    if projects and optimizer._processes is not ONE_PROCESS:
        combinations.check_step(type(optimizer).__name__, {constraints.ON_GROUPS: True, "Sharded": True})
    table = Table(
        type(optimizer).__name__,
        optimizer._rule,
        params,
        grads,
        settings._start(),
        optimizer._state,
        by_key=report or projects,
        groups=groups,
        by_array=by_array,
        centralize=optimizer.centralize,
        storage=optimizer.state_storage,
        counts=optimizer._step_counts(),
        constraints=columns,
        modulus=optimizer.modulus,
    )
    if optimizer._state is not None and table.state is not optimizer._state:  # others have the state as it was
        attributes["_plan"] = attributes["_report_plan"] = None
        attributes["_others"] = plans = ()
    plan = Plan(table, optimizer._processes)
    if projects:
        plan.projections = Projections(table, optimizer)
    plan.tuned_by(attributes.setdefault("_tuners", {}))
    return plan, () if report else _with_arrays_of(plans, plan), False


def let_go(attributes: dict[str, Any], plan: Plan) -> None:
    """Lets go of plans that would keep arrays of the past alive, after one has taken over others."""
    plan.moved = False
    for name in ("_plan", "_report_plan"):
        other = attributes.get(name)
        if other is not None and other is not plan and not other.has_the_arrays_of(plan):
            attributes[name] = None
    if attributes.get("_others"):
        attributes["_others"] = others = _with_arrays_of(attributes["_others"], plan)
        attributes["_calls"] = tuple([other.call for other in (plan, *others) if other.call in attributes["_calls"]])


def _with_arrays_of(others: Any, plan: Plan) -> tuple[Plan, ...]:
    """The other plans that have the same arrays under the same keys."""
    return tuple([other for other in others if other.table.is_plain and other.has_the_arrays_of(plan)])[
        : MOST_PLANS - 1
    ]
