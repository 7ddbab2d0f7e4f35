"""Averages of the weights: scalar functions after the rule, in the same pass over memory.

Each is a function `(p, average, weight) -> (p, average)` of scalars with a state slot of its own, bound when a kernel
is built; what is not bound costs nothing. They are applied in the order of `AVERAGES`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def lookahead(p, slow, alpha):
    """Slow weights go part of the way to the fast ones, which start from there (Zhang et al., arXiv:1907.08610)."""
    slow = slow + alpha * (p - slow)
    return slow, slow


def averaging(p, average, weight):
    """The average goes part of the way to the new weights; with weight 1, an average of zero becomes the weights."""
    return p, average + weight * (p - average)


def unchanged(p, g):
    """Stands for a formula where only an average moves."""
    return (p,)


AVERAGES: dict[str, Callable[..., Any]] = {function.__name__: function for function in (lookahead, averaging)}

SLOTS = {"lookahead": "slow_weights", "averaging": "weight_average"}
"""The state slot of each."""
