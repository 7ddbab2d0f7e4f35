"""A formula and its transforms as one function on scalars."""

from __future__ import annotations

import inspect
import types
from collections.abc import Callable
from typing import Any

from fastopt.kernels.averages import AVERAGES
from fastopt.kernels.loops import with_average, with_mean, with_transform
from fastopt.kernels.transforms import TRANSFORMS


def clone(function: Any, name: str, names: dict[str, Any]) -> types.FunctionType:
    """A copy of a function that finds `names` in its globals."""
    names = {**function.__globals__, **names}
    copied = types.FunctionType(function.__code__, names, name, function.__defaults__, function.__closure__)
    copied.__qualname__ = name
    return copied


def composed(formula: Any, transforms: tuple[str, ...], name: str, compile: Callable[[Any], Any]) -> Any:
    """The formula with the transforms before and after it; what `name` is for, see `compile.callback`."""
    inner = compile(clone(formula, f"rule_{name}", helpers(formula, name, compile)))
    for which in reversed(
        [transform for transform in transforms if transform in TRANSFORMS]
    ):  # the last one applied lies innermost
        names = {"rule": inner, "transform": compile(clone(TRANSFORMS[which], f"{which}_{name}", {}))}
        around = with_mean if which == "centralize" else with_transform
        inner = compile(clone(around, f"with_{which}_{name}", names))
    for which in [transform for transform in transforms if transform in AVERAGES]:
        names = {"rule": inner, "transform": compile(clone(AVERAGES[which], f"{which}_{name}", {}))}
        inner = compile(clone(with_average, f"with_{which}_{name}", names))
    return inner


def helpers(function: Any, name: str, compile: Callable[[Any], Any]) -> dict[str, Any]:
    """The plain functions that a function calls, compiled under names of their own."""
    called = inspect.getclosurevars(function).globals
    return {
        helper: compile(clone(value, f"{helper}_{name}", helpers(value, name, compile)))
        for helper, value in called.items()
        if isinstance(value, types.FunctionType)
    }
