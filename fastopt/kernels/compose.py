"""A formula and its transforms as one function on scalars."""

from __future__ import annotations

import inspect
import types
from collections.abc import Callable
from typing import Any

from fastopt.kernels.around import (
    of_step,
    with_average,
    with_bound,
    with_constraint,
    with_mask,
    with_mean,
    with_prox,
    with_step,
    with_transform,
    without,
)
from fastopt.kernels.averages import AVERAGES
from fastopt.kernels.caution import CAUTION, aligned
from fastopt.kernels.constraints import BOUND_COLUMNS, BY_METRIC, CONSTRAINTS
from fastopt.kernels.modulus import COMPILED, in_pairs
from fastopt.kernels.rule import Rule
from fastopt.kernels.transforms import TRANSFORMS


def clone(function: Any, name: str, names: dict[str, Any]) -> types.FunctionType:
    """A copy of a function that finds `names` in its globals."""
    names = {**function.__globals__, **names}
    copied = types.FunctionType(function.__code__, names, name, function.__defaults__, function.__closure__)
    copied.__qualname__ = name
    return copied


def composed(
    rule: Rule,
    transforms: tuple[str, ...],
    name: str,
    compile: Callable[[Any], Any],
    which: str = "step",
    modulus: bool = False,
) -> Any:
    """The formula of a rule with the transforms before and after it; what `name` is for, see `compile.callback`.

    which : as in `compile.kernel`; in a pass before the step there is no caution and no constraint
    modulus : whether the rule, and so all that is put around it, takes pairs of numbers
    """
    inner = compile(clone(rule.formula, f"rule_{name}", helpers(rule.formula, name, compile)))

    def put_around(transform: str, function: Any, around: Any, **names: Any) -> None:
        nonlocal inner
        if function and modulus:  # of parameter and gradient or average, and a scalar
            function = in_pairs(function, 2)
        function = function and compile(clone(function, f"{transform}_{name}", {}))
        inner = compile(clone(around, f"with_{transform}_{name}", {"rule": inner, "transform": function, **names}))

    before = [transform for transform in transforms if transform in TRANSFORMS]
    for transform in reversed(before):  # the last one lies innermost
        if transform in BY_METRIC and rule.metric and which in ("step", "report"):
            metric = compile(clone(rule.metric, f"metric_{name}", helpers(rule.metric, name, compile)))
            places = {"STATE": len(rule.state), "SCALARS": len(rule.state) + len(rule.scalars)}
            put_around(transform, BY_METRIC[transform], with_prox, metric=metric, **places)
        else:
            put_around(transform, *_around(transform, which))
    bounds = [transform for transform in BOUND_COLUMNS if transform in transforms]
    for transform in bounds:
        put_around(transform, BOUND_COLUMNS[transform], with_bound)
    if "lookahead" in transforms:
        put_around("lookahead", AVERAGES["lookahead"], with_average)
    if "mask" in transforms:
        slots = int("lookahead" in transforms)
        put_around("mask", None, with_mask, BEFORE=slots, BEHIND=slots + len(bounds))
    if "averaging" in transforms:
        put_around("averaging", AVERAGES["averaging"], with_average)
    return inner


def _around(transform: str, which: str) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """The function of a transform, and how it is put around a rule."""
    function = TRANSFORMS[transform]
    if transform in CAUTION or transform in CONSTRAINTS:
        if which not in ("step", "report", "problems"):
            return (aligned, of_step) if which == "aligned" and transform == "cautious" else (function, without)
        return function, with_step if transform in CAUTION else with_constraint
    return function, with_mean if transform == "centralize" else with_transform


def helpers(
    function: Any, name: str, compile: Callable[[Any], Any], names: dict[str, Any] | None = None
) -> dict[str, Any]:
    """The plain functions that a function calls, compiled under names of their own; they too find `names`."""
    called = inspect.getclosurevars(function).globals
    return {
        helper: COMPILED.get(value)
        or compile(clone(value, f"{helper}_{name}", {**helpers(value, name, compile, names), **(names or {})}))
        for helper, value in called.items()
        if isinstance(value, types.FunctionType)
    }
