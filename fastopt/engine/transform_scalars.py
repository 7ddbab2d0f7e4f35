"""The scalars of transforms at a step, and trust ratios from norms of arrays."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from fastopt import constraints
from fastopt.engine.arguments import nonfinite_estimates, nonfinite_squared_norm, nonfinite_squares, nonfinite_sums
from fastopt.engine.gradients import first_bad
from fastopt.engine.launch import Leaf
from fastopt.engine.norms import ONE_PROCESS, Norm, clipped, quick_clipped
from fastopt.engine.plan import Plan
from fastopt.kernels.caution import scale_of_share
from fastopt.kernels.constraints import BY_METRIC
from fastopt.kernels.rule import Factors, Rule
from fastopt.kernels.squares import largest
from fastopt.pairs import part_dtype

PROXIMAL = tuple(BY_METRIC)
"""Transforms whose scalars take the step count of each leaf."""

SCALARS: dict[str, Callable[[Any], float]] = {
    "clip": lambda settings: settings.clip_value,
    "weight_decay": lambda settings: settings.weight_decay,
    "decoupled_weight_decay": lambda settings: 1 - _lr(settings) * settings.weight_decay,
    "lower": lambda settings: _number(constraints.lowest(settings), -math.inf),
    "upper": lambda settings: _number(constraints.highest(settings), math.inf),
    "cautious_decay": lambda settings: _lr(settings) * settings.weight_decay,
    "cautious": lambda settings: 0.0,  # until aligned elements are counted
    **dict.fromkeys(PROXIMAL, lambda settings: 0.0),  # until the effective learning rate is known
}
"""From settings; "scale" needs norms."""

NEUTRAL = {
    **{"clip": math.inf, "weight_decay": 0.0, "decoupled_weight_decay": 1.0},
    **{"lower": -math.inf, "upper": math.inf, "cautious_decay": 0.0, "cautious": 0.0},
    **dict.fromkeys(PROXIMAL, 0.0),
}
"""The scalar with which a transform does nothing, for rows that do not call for it where another does."""


def added(
    settings: Any,
    plan: Plan,
    params: Any,
    settings_by_row: list[Any],
    scalars: list[tuple[float, ...]],
    transforms: tuple[str, ...],
    steps: list[int],
) -> list[tuple[float, ...]]:
    """The scalars of each row: of the rule, the trust ratio where it has measures, and of the transforms.

    steps : the step count of each row
    """
    of_transforms = _scalars_of_transforms(settings, plan, settings_by_row, transforms)
    rows = [of_rule + more for of_rule, more in zip(scalars, of_transforms, strict=True)]
    if plan.table.rule.prepare:
        checks_them = plan.table.rule.factors is not None and settings.on_nonfinite != "propagate"
        directions = plan.table.state.views[plan.table.rule.state[-1]]
        before = {leaf.key: directions[leaf.key].copy() for leaf in plan.table.active} if checks_them else {}
        new = plan.passes.prepare(params, rows, transforms, settings_by_row, steps, plan.factors)
        try:
            if checks_them:
                _check_factors(plan, new)
        except TooLarge:  # no step, so the last slot is to be as it was
            for key, direction in before.items():
                directions[key][...] = direction
            raise
        plan.factors = {**plan.factors, **new}
    if plan.table.rule.totals and plan.processes.any(bool(plan.table.active)):
        estimates = settings.estimated(*plan.passes.totals(params, rows, transforms), plan.estimates)
        if settings.on_nonfinite != "propagate" and not all(map(math.isfinite, estimates.values())):
            raise TooLarge(nonfinite_estimates(plan.table.owner, estimates))
        plan.estimates = estimates
        rows = [
            (*of_rule, *settings_of_row.total_scalars(plan.estimates), *more)
            for of_rule, settings_of_row, more in zip(scalars, settings_by_row, of_transforms, strict=True)
        ]
    if plan.table.rule.measure is None:
        return _with_caution(plan, params, settings_by_row, rows, transforms)
    norms = plan.passes.measures(params, rows, transforms)
    ratios = [
        settings_of_row.trust_ratio(*norms[row]) if row in norms else 0.0
        for row, settings_of_row in enumerate(settings_by_row)
    ]
    if plan.table.rule.squares_norms and settings.on_nonfinite != "propagate":
        _check_squared_norms(plan, norms, ratios)
    rows = [(*of_rule, ratio, *more) for of_rule, ratio, more in zip(scalars, ratios, of_transforms, strict=True)]
    return _with_caution(plan, params, settings_by_row, rows, transforms)


def _with_caution(
    plan: Plan, params: Any, settings_by_row: list[Any], rows: list[tuple[float, ...]], transforms: tuple[str, ...]
) -> list[tuple[float, ...]]:
    """The same with the scalar of `cautious`, for which aligned elements are counted in a pass before the step."""
    if "cautious" not in transforms:
        if _is_of_others(plan, settings_by_row, "cautious"):
            plan.passes.none_aligned()
        return rows
    before, counts = (
        len(plan.table.rule.scalars),
        plan.passes.aligned(params, rows, transforms),
    )  # it is the last of `TRANSFORMS`
    of_transforms = {
        row: scale_of_share(*count) if settings_by_row[row].cautious else NEUTRAL["cautious"]
        for row, count in counts.items()
    }
    return [(*row[:before], of_transforms.get(number, 0.0), *row[before + 1 :]) for number, row in enumerate(rows)]


def with_prox(
    rule: Rule,
    rows: list[tuple[float, ...]],
    settings_by_row: list[Any],
    steps: list[int],
    transforms: tuple[str, ...],
) -> list[tuple[float, ...]]:
    """The scalars of rows with those of proximal steps.

    steps : the step count of each row
    """
    extended = []
    for row, settings, step in zip(rows, settings_by_row, steps, strict=True):
        scalars = list(row)
        for name in PROXIMAL:
            weight = getattr(settings, name)
            if name in transforms and weight:
                amount = weight * settings.effective_lr(step)
                if name == "l2_prox" and rule.metric is None:
                    amount /= 1 + amount
                scalars[len(rule.scalars) + transforms[::-1].index(name)] = amount
        extended.append(tuple(scalars))
    return extended


class TooLarge(ArithmeticError):
    """Finite gradients are too large for the rule; the text says which."""


def check_squares(
    settings: Any, plan: Plan, grads: Any, settings_by_row: list[Any], transforms: tuple[str, ...]
) -> None:
    """Raises `TooLarge` where a gradient, after scale and clipping, has no finite square.

    A pass over all squares has found that of one without these; so this is rare, and in NumPy.
    """
    named = [
        dict(zip(reversed(transforms), row, strict=True))
        for row in _scalars_of_transforms(settings, plan, settings_by_row, transforms)
    ]

    def is_bad(seen: Any, leaf: Leaf) -> Any:
        of_leaf = named[leaf.scalar_row]
        factor, most = of_leaf.get("scale", 1.0), of_leaf.get("clip", math.inf)
        with np.errstate(all="ignore"):
            factor, most = seen.dtype.type(factor), seen.dtype.type(most)
            squares = np.square(np.minimum(np.abs(seen * factor), most))
            return ~np.isfinite(squares.sum(axis=-1, keepdims=True) if leaf.modulus else squares)

    bad = first_bad(plan.table, grads, is_bad)
    text = None if bad is None else nonfinite_squares(plan.table.owner, *bad, largest(part_dtype(bad[1].dtype)))
    if plan.processes.any(text is not None):
        raise TooLarge(plan.processes.first(text))


def _check_squared_norms(plan: Plan, norms: dict[int, tuple[Norm, Norm, int]], squares: list[float]) -> None:
    text = None
    for leaf in plan.table.active:
        dtype = leaf.layout.part_dtype
        if text is None and leaf.scalar_row in norms and not squares[leaf.scalar_row] <= float(np.finfo(dtype).max):
            name, norm = plan.table.name(leaf.key, "grads"), norms[leaf.scalar_row][0]
            text = nonfinite_squared_norm(plan.table.owner, name, norm, dtype, largest(dtype))
    if plan.processes.any(text is not None):
        raise TooLarge(plan.processes.first(text))


def _check_factors(plan: Plan, factors: Mapping[Any, Factors]) -> None:
    text = None
    for leaf in plan.table.active:
        arrays = factors.get(leaf.key, {}).values()
        if text is None and not all(np.isfinite(array).all() for array in arrays):
            text = nonfinite_sums(plan.table.owner, plan.table.name(leaf.key, "grads"), leaf.layout.dtype)
    if plan.processes.any(text is not None):
        raise TooLarge(plan.processes.first(text))


def _scalars_of_transforms(
    settings: Any, plan: Plan, settings_by_row: list[Any], transforms: tuple[str, ...]
) -> list[tuple[float, ...]]:
    """That of the last transform first."""
    if "scale" not in transforms and _is_of_others(plan, settings_by_row, "clip_array_norm"):
        plan.passes.gradient_norms()
    if len(settings_by_row) == 1 and "scale" not in transforms:  # one that a group may have settings for
        return [tuple([SCALARS[transform](settings_by_row[0]) for transform in reversed(transforms)])]
    if "scale" in transforms:  # which is the first of them
        by_array = plan.table.by_array and any(
            settings_of_row.clip_array_norm < math.inf for settings_of_row in settings_by_row
        )
        by_array = by_array or _is_of_others(plan, settings_by_row, "clip_array_norm")
        factors = (
            _factors(settings, plan, settings_by_row) if by_array else [_factor(settings, plan)] * len(settings_by_row)
        )
    else:
        factors = []
    others = transforms[len(factors) > 0 :][::-1]
    rows = [
        tuple(
            [
                SCALARS[transform](settings_of_row) if transform in settings_of_row._transforms else NEUTRAL[transform]
                for transform in others
            ]
        )
        for settings_of_row in settings_by_row
    ]
    return [(*row, factor) for row, factor in zip(rows, factors, strict=True)] if factors else rows


def _is_of_others(plan: Plan, settings_by_row: list[Any], name: str) -> bool:
    """Whether a group has a setting, so that processes with its arrays add something up: then all take part."""
    groups = getattr(settings_by_row[0], "groups", {})
    return plan.processes is not ONE_PROCESS and any(name in group for group in groups.values())


def _factor(settings: Any, plan: Plan) -> float:
    """The factor of all gradients, of which kernels see no more than a float of their dtype."""
    factor = unclipped(settings) / plan.summed
    if settings.clip_norm == math.inf:
        return factor
    sums = plan.passes.quick_sums()
    quick = None if sums is None else quick_clipped(factor, sums, settings.clip_norm)
    return clipped(factor, plan.passes.gradient_norm(), settings.clip_norm) if quick is None else quick


def _factors(settings: Any, plan: Plan, settings_by_row: list[Any]) -> list[float]:
    """The factor of the gradient of each array, where some have a largest norm of their own."""
    factor = unclipped(settings) / plan.summed
    if settings.clip_norm < math.inf:
        factor = clipped(factor, plan.passes.gradient_norm(), settings.clip_norm)
    factors = [factor] * len(settings_by_row)
    for row, norm in plan.passes.gradient_norms().items():
        factors[row] = clipped(factor, norm, settings_by_row[row].clip_array_norm)
    return factors


def unclipped(settings: Any) -> float:
    """Scale and direction."""
    return float(-settings.gradient_scale if settings.maximize else settings.gradient_scale)


def _number(bound: Any, otherwise: float) -> float:
    """A bound that is a number; one that is an array has a column of the table."""
    return otherwise if isinstance(bound, np.ndarray) else float(bound)


def _lr(settings: Any) -> Any:
    """A number, or an array where each of many problems has one."""
    return getattr(settings, "lr", 1.0)  # a rule of one's own may have none
