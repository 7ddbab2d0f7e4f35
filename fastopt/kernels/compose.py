"""A formula and its transforms as one function on scalars."""

from __future__ import annotations

import inspect
import types
from collections.abc import Callable
from typing import Any

from fastopt.kernels.around import with_average, with_bound, with_constraint, with_mask, with_mean, with_option, without
from fastopt.kernels.averages import AVERAGES
from fastopt.kernels.constraints import BOUND_COLUMNS, CONSTRAINTS
from fastopt.kernels.transforms import OPTIONS


def clone(function: Any, name: str, names: dict[str, Any]) -> types.FunctionType:
    """A copy of a function that finds `names` in its globals."""
    names = {**function.__globals__, **names}
    copied = types.FunctionType(function.__code__, names, name, function.__defaults__, function.__closure__)
    copied.__qualname__ = name
    return copied


def composed(
    formula: Any, options: tuple[str, ...], name: str, compile: Callable[[Any], Any], is_step: bool = True
) -> Any:
    """The formula with the options before and after it; what `name` is for, see `compile.callback`.

    is_step : whether it returns new parameters; before a step the amounts of constraints are there and not used
    """
    inner = compile(clone(formula, f"rule_{name}", helpers(formula, name, compile)))
    for which in reversed([option for option in options if option in CONSTRAINTS]):
        names = {"rule": inner, "option": compile(clone(CONSTRAINTS[which], f"{which}_{name}", {}))}
        inner = compile(clone(with_constraint if is_step else without, f"with_{which}_{name}", names))
    for which in reversed([option for option in options if option in OPTIONS]):  # the last one applied lies innermost
        names = {"rule": inner, "option": compile(clone(OPTIONS[which], f"{which}_{name}", {}))}
        around = with_mean if which == "centralize" else with_option
        inner = compile(clone(around, f"with_{which}_{name}", names))
    for which in [option for option in BOUND_COLUMNS if option in options]:
        names = {"rule": inner, "option": compile(clone(BOUND_COLUMNS[which], f"{which}_{name}", {}))}
        inner = compile(clone(with_bound, f"with_{which}_{name}", names))
    for which in ("lookahead", "mask", "averaging"):
        if which not in options:
            continue
        names = {"rule": inner}
        if which == "mask":
            around, before = with_mask, sum(option == "lookahead" for option in options)
            names |= {"BEFORE": before, "BEHIND": before + sum(option in BOUND_COLUMNS for option in options)}
        else:
            around, names["option"] = with_average, compile(clone(AVERAGES[which], f"{which}_{name}", {}))
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
