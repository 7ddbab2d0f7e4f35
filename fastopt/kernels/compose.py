"""A formula and its transforms as one function on scalars."""

from __future__ import annotations

import inspect
import types
from collections.abc import Callable
from typing import Any

from fastopt.kernels.around import (
    with_average,
    with_bound,
    with_constraint,
    with_mask,
    with_mean,
    with_transform,
    without,
)
from fastopt.kernels.averages import AVERAGES
from fastopt.kernels.constraints import BOUND_COLUMNS, CONSTRAINTS
from fastopt.kernels.transforms import TRANSFORMS


def clone(function: Any, name: str, names: dict[str, Any]) -> types.FunctionType:
    """A copy of a function that finds `names` in its globals."""
    names = {**function.__globals__, **names}
    copied = types.FunctionType(function.__code__, names, name, function.__defaults__, function.__closure__)
    copied.__qualname__ = name
    return copied


def composed(
    formula: Any, transforms: tuple[str, ...], name: str, compile: Callable[[Any], Any], is_step: bool = True
) -> Any:
    """The formula with the transforms before and after it; what `name` is for, see `compile.callback`.

    is_step : whether it returns new parameters; before a step the scalars of constraints are there and not used
    """
    inner = compile(clone(formula, f"rule_{name}", helpers(formula, name, compile)))
    for which in reversed([transform for transform in transforms if transform in CONSTRAINTS]):
        names = {"rule": inner, "transform": compile(clone(CONSTRAINTS[which], f"{which}_{name}", {}))}
        inner = compile(clone(with_constraint if is_step else without, f"with_{which}_{name}", names))
    before = [transform for transform in transforms if transform in TRANSFORMS]
    for which in reversed(before):  # the last one applied lies innermost
        names = {"rule": inner, "transform": compile(clone(TRANSFORMS[which], f"{which}_{name}", {}))}
        around = with_mean if which == "centralize" else with_transform
        inner = compile(clone(around, f"with_{which}_{name}", names))
    for which in [transform for transform in BOUND_COLUMNS if transform in transforms]:
        names = {"rule": inner, "transform": compile(clone(BOUND_COLUMNS[which], f"{which}_{name}", {}))}
        inner = compile(clone(with_bound, f"with_{which}_{name}", names))
    for which in ("lookahead", "mask", "averaging"):
        if which not in transforms:
            continue
        names = {"rule": inner}
        if which == "mask":
            slots, bounds = (
                sum(name == "lookahead" for name in transforms),
                sum(name in BOUND_COLUMNS for name in transforms),
            )
            around = with_mask
            names |= {"BEFORE": slots, "BEHIND": slots + bounds}
        else:
            around, names["transform"] = with_average, compile(clone(AVERAGES[which], f"{which}_{name}", {}))
        inner = compile(clone(around, f"with_{which}_{name}", names))
    return inner


def helpers(function: Any, name: str, compile: Callable[[Any], Any]) -> dict[str, Any]:
    """The plain functions that a function calls, compiled under names of their own."""
    called = inspect.getclosurevars(function).globals
    return {
        helper: compile(clone(value, f"{helper}_{name}", helpers(value, name, compile)))
        for helper, value in called.items()
        if isinstance(value, types.FunctionType)
    }
