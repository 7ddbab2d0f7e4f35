"""Constraints: scalar functions on the new parameter, after the rule, in the same pass over memory.

Each is a function `(p, amount) -> p` of scalars, bound when a kernel is built; what is not bound costs nothing. They
are applied in the reverse of the order of `CONSTRAINTS`, so that the amount of the first one applied stands next to the
rule's scalars. Bounds of an array of their own come from a column of the table, as state does, and so does a mask.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def lower(p, low):
    """The lower bound, as `np.clip` has it: a zero of either sign stays where the bound is zero, and NaN stays."""
    return low if p < low else p


def upper(p, high):
    """The upper bound, likewise."""
    return high if p > high else p


CONSTRAINTS: dict[str, Callable[..., Any]] = {"upper": upper, "lower": lower}
"""Those that take an amount."""

BOUND_COLUMNS: dict[str, Callable[..., Any]] = {"lower_array": lower, "upper_array": upper}
"""Those that take an element of an array, in the order in which they are applied, after all that take an amount."""

COLUMNS = (*BOUND_COLUMNS, "mask")
"""What has a column of the table, in the order of these columns."""
