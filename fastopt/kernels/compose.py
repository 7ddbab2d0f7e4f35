"""A formula and its transforms as one function on scalars."""

from __future__ import annotations

import inspect
import types
from collections.abc import Callable
from typing import Any

from fastopt.kernels.averages import AVERAGES
from fastopt.kernels.caution import CAUTION, aligned
from fastopt.kernels.loops import of_step, with_average, with_mean, with_option, with_step, without
from fastopt.kernels.transforms import OPTIONS


def clone(function: Any, name: str, names: dict[str, Any]) -> types.FunctionType:
    """A copy of a function that finds `names` in its globals."""
    names = {**function.__globals__, **names}
    copied = types.FunctionType(function.__code__, names, name, function.__defaults__, function.__closure__)
    copied.__qualname__ = name
    return copied


def composed(
    formula: Any, options: tuple[str, ...], name: str, compile: Callable[[Any], Any], which: str = "step"
) -> Any:
    """The formula with the options before and after it; what `name` is for, see `compile.callback`.

    which : as in `compile.kernel`; in a pass before the step there is no caution
    """
    inner = compile(clone(formula, f"rule_{name}", helpers(formula, name, compile)))
    for option in reversed([option for option in options if option in OPTIONS]):  # the last one lies innermost
        function, around = _around(option, which)
        names = {"rule": inner, "option": compile(clone(function, f"{option}_{name}", {}))}
        inner = compile(clone(around, f"with_{option}_{name}", names))
    for option in [option for option in options if option in AVERAGES]:
        names = {"rule": inner, "option": compile(clone(AVERAGES[option], f"{option}_{name}", {}))}
        inner = compile(clone(with_average, f"with_{option}_{name}", names))
    return inner


def _around(option: str, which: str) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """The function of an option, and how it is put around a rule."""
    if option in CAUTION and which not in ("step", "report"):
        return (aligned, of_step) if which == "aligned" and option == "cautious" else (OPTIONS[option], without)
    around = with_step if option in CAUTION else with_mean if option == "centralize" else with_option
    return OPTIONS[option], around


def helpers(function: Any, name: str, compile: Callable[[Any], Any]) -> dict[str, Any]:
    """The plain functions that a function calls, compiled under names of their own."""
    called = inspect.getclosurevars(function).globals
    return {
        helper: compile(clone(value, f"{helper}_{name}", helpers(value, name, compile)))
        for helper, value in called.items()
        if isinstance(value, types.FunctionType)
    }
