"""What the options of `fastopt.kernels.gradients` take at a step, and what norms of arrays come to."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from fastopt.plan import Plan

AMOUNTS: dict[str, Callable[[Any], float]] = {
    "clip": lambda settings: settings.clip_value,
    "weight_decay": lambda settings: settings.weight_decay,
    "decoupled_weight_decay": lambda settings: 1 - _lr(settings) * settings.weight_decay,
}
"""Of the settings of a part; "scale" needs norms."""

NOTHING = {"clip": math.inf, "weight_decay": 0.0, "decoupled_weight_decay": 1.0}
"""With what an option does nothing, for a part that does not call for it where another does."""


def added(
    settings: Any,
    plan: Plan,
    params: Any,
    parts: list[Any],
    scalars: list[tuple[float, ...]],
    options: tuple[str, ...],
) -> list[tuple[float, ...]]:
    """The scalars of each part of a plan with the ratio of its norms, where the rule has measures, and its amounts."""
    amounts = _amounts(settings, plan, parts, options)
    rows = [own + more for own, more in zip(scalars, amounts, strict=True)]
    if plan.rule.prepare:
        plan.prepare(params, rows, options, parts)
    if plan.rule.measure is None:
        return rows
    norms = plan.measures(params, rows, options)
    ratios = [part.ratio(*norms[row]) if row in norms else 0.0 for row, part in enumerate(parts)]
    return [(*own, ratio, *more) for own, ratio, more in zip(scalars, ratios, amounts, strict=True)]


def _amounts(settings: Any, plan: Plan, parts: list[Any], options: tuple[str, ...]) -> list[tuple[float, ...]]:
    """That of the last option first."""
    if len(parts) == 1 and "scale" not in options:  # which may be a group's part, with settings of its own
        return [tuple([AMOUNTS[option](parts[0]) for option in reversed(options)])]
    first = int("scale" in options)  # which is the first of them
    scales = [scale(settings, plan) if first else 1.0] * len(parts)
    if first and any(part.clip_array_norm < math.inf for part in parts):
        for row, norm in plan.gradient_norms().items():
            most, scaled = parts[row].clip_array_norm, norm * abs(scales[row])
            if not scaled <= most:
                scales[row] *= most / scaled
    amounts = []
    for part, factor in zip(parts, scales, strict=True):
        wanted = options if part._options is None else part._options
        own = {option: AMOUNTS[option](part) if option in wanted else NOTHING[option] for option in options[first:]}
        amounts.append((*reversed(own.values()), *[factor] * first))
    return amounts


def scale(settings: Any, plan: Plan) -> float:
    """The factor of all gradients: scale, direction, and clipping by their norm."""
    factor = -settings.gradient_scale if settings.maximize else settings.gradient_scale
    if settings.clip_norm < math.inf:
        norm = plan.gradient_norm() * settings.gradient_scale
        if not norm <= settings.clip_norm:
            factor *= settings.clip_norm / norm
    return float(factor)


def _lr(settings: Any) -> float:
    return float(getattr(settings, "lr", 1.0))  # a rule of one's own may have none
