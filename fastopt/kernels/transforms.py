"""Transforms: scalar functions on gradient and parameter before the rule, in the same pass over memory.

Each is a function `(p, g, amount) -> (p, g)` of scalars, bound when a kernel is built; what is not bound costs nothing.
They are applied in the order of `TRANSFORMS`. What `centralize` takes is no amount but an element of an array, as the
gradient is.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def scale(p, g, amount):
    """Gradient scale, -1 to maximize, and clipping by norm, whose factor is the same for all elements."""
    return p, g * amount


def clip(p, g, amount):
    """Clipping by value, to [-amount, amount]; NaN goes through."""
    return p, -amount if g < -amount else amount if g > amount else g


def centralize(p, g, mean):
    """Gradient centralization (Yong et al., arXiv:2004.01461)."""
    return p, g - mean


def weight_decay(p, g, amount):
    """Weight decay as the gradient of an L2 penalty; without any the gradient is left alone, to the sign of a zero."""
    return p, g + amount * p if amount else g


def decoupled_weight_decay(p, g, amount):
    """Weight decay beside the rule (Loshchilov and Hutter, arXiv:1711.05101); amount = 1 - lr weight_decay."""
    return p * amount, g


TRANSFORMS: dict[str, Callable[..., Any]] = {
    function.__name__: function for function in (scale, clip, centralize, weight_decay, decoupled_weight_decay)
}


def with_scalars(transforms: tuple[str, ...]) -> tuple[str, ...]:
    """The transforms that take an amount."""
    return tuple(transform for transform in transforms if transform != centralize.__name__)
