"""Constraints: scalar functions on the new parameter, after the rule, in the same pass over memory.

Each is a function `(p, amount) -> p` of scalars, bound when a kernel is built; what is not bound costs nothing. They
are applied in the reverse of the order of `CONSTRAINTS`, so that the amount of the first one applied stands next to the
rule's scalars. Bounds of an array of their own come from a column of the table, as state does, and so does a mask.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def lower(p, low):
    """The lower bound, as recent `np.clip` has it: a zero of either sign stays where the bound is zero; NaN stays."""
    return low if p < low else p


def upper(p, high):
    """The upper bound, likewise."""
    return high if p > high else p


def l1(p, threshold):
    """The proximal step of an L1 penalty: soft thresholding, which leaves exact zeros; NaN goes through."""
    return p - threshold if p > threshold else (p + threshold if p < -threshold else (p - p if threshold else p))


def l1_by_metric(p, metric, amount):
    """The same with a threshold for each element, of amount over metric."""
    threshold = amount / metric
    return p - threshold if p > threshold else (p + threshold if p < -threshold else (p - p if amount else p))


def l2_prox(p, share):
    """The proximal step of a squared L2 penalty, p / (1 + amount), by share = amount / (1 + amount)."""
    return p - share * p if share else p


def l2_prox_by_metric(p, metric, amount):
    """The same with an amount for each element, of amount over metric."""
    return p * (metric / (metric + amount)) if amount else p


BY_METRIC: dict[str, Callable[..., Any]] = {"l2_prox": l2_prox_by_metric, "l1": l1_by_metric}
"""`(p, metric, amount) -> p`, in the place of those of the same name in a rule that has a metric."""

CONSTRAINTS: dict[str, Callable[..., Any]] = {"upper": upper, "lower": lower, "l2_prox": l2_prox, "l1": l1}
"""Those that take an amount."""

BOUND_COLUMNS: dict[str, Callable[..., Any]] = {"lower_array": lower, "upper_array": upper}
"""Those that take an element of an array, in the order in which they are applied, after all that take an amount."""

COLUMNS = (*BOUND_COLUMNS, "mask")
"""Constraints that have a column of the table, in the order of these columns."""
