"""Sums of gradients over micro-batches."""

from __future__ import annotations

from fastopt.kernels.rule import Rule


def gradient_sum(p, g, has_begun):
    """A sum and the next gradient; the first one is taken as it is, to the sign of a zero."""
    return (p + g if has_begun else g,)


GRADIENT_SUM = Rule(gradient_sum)
