"""Transforms: scalar functions on gradient and parameter before the rule, in the same pass over memory.

Each is a function `(p, g, scalar) -> (p, g)` of scalars, bound when a kernel is built; what is not bound costs nothing.
They are applied in the order of `TRANSFORMS`. What `centralize` takes is no scalar but an element of an array, as the
gradient is. Those of `caution.py` come after the rule and look at its step.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fastopt.kernels.caution import CAUTION
from fastopt.kernels.constraints import COLUMNS, CONSTRAINTS


def scale(p, g, factor):
    """Gradient scale, -1 to maximize, and clipping by norm, whose factor is the same for all elements."""
    return p, g * factor


def clip(p, g, bound):
    """Clipping by value, to [-bound, bound]; NaN goes through."""
    return p, -bound if g < -bound else bound if g > bound else g


def centralize(p, g, mean):
    """Gradient centralization (Yong et al., arXiv:2004.01461)."""
    return p, g - mean


def weight_decay(p, g, decay):
    """Weight decay as the gradient of an L2 penalty; without any the gradient is left alone, to the sign of a zero."""
    return p, g + decay * p if decay else g


def decoupled_weight_decay(p, g, kept):
    """Weight decay beside the rule (Loshchilov and Hutter, arXiv:1711.05101); kept = 1 - lr weight_decay."""
    return p * kept, g


TRANSFORMS: dict[str, Callable[..., Any]] = {
    **{function.__name__: function for function in (scale, clip, centralize, weight_decay, decoupled_weight_decay)},
    **CONSTRAINTS,
    **CAUTION,
}
"""Those before the rule in their order; what is done after the rule in the reverse of it."""


def with_scalars(transforms: tuple[str, ...]) -> tuple[str, ...]:
    """The transforms that take a scalar."""
    return tuple(transform for transform in transforms if transform != centralize.__name__ and transform not in COLUMNS)
