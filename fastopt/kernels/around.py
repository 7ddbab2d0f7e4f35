"""A rule with one more option before or after it: what `compose` puts around a formula, from the inside out."""

from __future__ import annotations

from typing import Any

from fastopt.kernels.intrinsics import chosen

# What the functions below find under these names in their globals; every compiled clone of them has its own.
rule: Any = None  # the formula, compiled, with the options that lie within
option: Any = None  # a function of transforms.py, constraints.py or averages.py, compiled
BEFORE: Any = None  # how many of a rule's arguments behind the gradient are slots of Lookahead, which a mask keeps
BEHIND: Any = None  # where its other slots begin among them


def with_option(p, g, *rest):
    """A rule with an option before it, whose amount stands behind the rule's scalars."""
    p, g = option(p, g, rest[-1])
    return rule(p, g, *rest[:-1])


def with_average(p, g, average, *rest):
    """A rule with an average after it, whose slot stands before the rule's and whose amount stands last."""
    new = rule(p, g, *rest[:-1])
    p, average = option(new[0], average, rest[-1])
    return p, average, *new[1:]


def with_mean(p, g, mean, *rest):
    """A rule with an option before it that takes an element of an array, which stands before the state slots."""
    p, g = option(p, g, mean)
    return rule(p, g, *rest)


def with_constraint(p, g, *rest):
    """A rule with a constraint after it, whose amount stands behind the rule's scalars."""
    new = rule(p, g, *rest[:-1])
    return option(new[0], rest[-1]), *new[1:]


def without(p, g, *rest):
    """A rule that has no use for the amount behind its scalars."""
    return rule(p, g, *rest[:-1])


def with_bound(p, g, bound, *rest):
    """A rule with a constraint after it that takes an element of an array, which stands before the state slots."""
    new = rule(p, g, *rest)
    return option(new[0], bound), *new[1:]


def with_mask(p, g, mask, *rest):
    """A rule whose results count where the mask is not zero; elsewhere parameter and state stay."""
    return chosen(mask, rule(p, g, *rest), (p, *rest[:BEFORE], *rest[BEHIND:]))
