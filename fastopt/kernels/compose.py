"""A formula and its transforms as one function on scalars."""

from __future__ import annotations

import inspect
import types
from collections.abc import Callable
from typing import Any

from fastopt.kernels.averages import AVERAGES
from fastopt.kernels.caution import CAUTION, aligned
from fastopt.kernels.transforms import TRANSFORMS

# What the functions below find under these names in their globals; every clone of them has its own.
rule: Any = None  # a formula, or one of these functions about it
transform: Any = None  # a function of transforms.py or averages.py


def with_transform(p, g, *values):
    """A rule with a transform before it, whose scalar stands behind the rule's."""
    p, g = transform(p, g, values[-1])
    return rule(p, g, *values[:-1])


def with_average(p, g, average, *values):
    """A rule with an average after it, whose slot stands before the rule's and whose scalar stands last."""
    new = rule(p, g, *values[:-1])
    p, average = transform(new[0], average, values[-1])
    return p, average, *new[1:]


def with_mean(p, g, mean, *values):
    """A rule with a transform before it that takes an element of an array, which stands before the state slots."""
    p, g = transform(p, g, mean)
    return rule(p, g, *values)


def with_step(p, g, *values):
    """A rule with a transform after it that takes the step, whose scalar comes after the rule's scalars."""
    new = rule(p, g, *values[:-1])
    return transform(p, g, new[0], values[-1]), *new[1:]


def of_step(p, g, *values):
    """What a transform finds of the step of a rule; its scalar comes after the rule's."""
    return transform(p, g, rule(p, g, *values[:-1])[0], values[-1])


def without(p, g, *values):
    """A rule without a transform whose scalar comes after the rule's."""
    return rule(p, g, *values[:-1])


def clone(function: Any, name: str, names: dict[str, Any]) -> types.FunctionType:
    """A copy of a function that finds `names` in its globals."""
    names = {**function.__globals__, **names}
    copied = types.FunctionType(function.__code__, names, name, function.__defaults__, function.__closure__)
    copied.__qualname__ = name
    return copied


def composed(
    formula: Any, transforms: tuple[str, ...], name: str, compile: Callable[[Any], Any], which: str = "step"
) -> Any:
    """The formula with the transforms before and after it; what `name` is for, see `compile.callback`.

    which : as in `compile.kernel`; in a pass before the step there is no caution
    """
    inner = compile(clone(formula, f"rule_{name}", helpers(formula, name, compile)))
    before = [transform for transform in transforms if transform in TRANSFORMS]
    for transform in reversed(before):  # the last one lies innermost
        function, around = _around(transform, which)
        names = {"rule": inner, "transform": compile(clone(function, f"{transform}_{name}", {}))}
        inner = compile(clone(around, f"with_{transform}_{name}", names))
    for transform in [transform for transform in transforms if transform in AVERAGES]:
        names = {"rule": inner, "transform": compile(clone(AVERAGES[transform], f"{transform}_{name}", {}))}
        inner = compile(clone(with_average, f"with_{transform}_{name}", names))
    return inner


def _around(transform: str, which: str) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """The function of a transform, and how it is put around a rule."""
    if transform in CAUTION and which not in ("step", "report"):
        return (
            (aligned, of_step) if which == "aligned" and transform == "cautious" else (TRANSFORMS[transform], without)
        )
    around = with_step if transform in CAUTION else with_mean if transform == "centralize" else with_transform
    return TRANSFORMS[transform], around


def helpers(function: Any, name: str, compile: Callable[[Any], Any]) -> dict[str, Any]:
    """The plain functions that a function calls, compiled under names of their own."""
    called = inspect.getclosurevars(function).globals
    return {
        helper: compile(clone(value, f"{helper}_{name}", helpers(value, name, compile)))
        for helper, value in called.items()
        if isinstance(value, types.FunctionType)
    }
