"""A rule with one more function before or after it: what `compose` puts around a formula, from the inside out."""

from __future__ import annotations

from typing import Any

from fastopt.kernels.intrinsics import chosen

# What the functions below find under these names in their globals; every compiled clone of them has its own.
rule: Any = None  # the formula, compiled, with the transforms that lie within
transform: Any = None  # a function of transforms.py, constraints.py or averages.py, compiled
metric: Any = None  # that of the rule, compiled
STATE: Any = None  # how many state slots the formula has
SCALARS: Any = None  # where its scalars end
BEFORE: Any = None  # how many of a rule's arguments behind the gradient are slots of Lookahead, which a mask keeps
BEHIND: Any = None  # where its other slots begin among them


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


def with_constraint(p, g, *values):
    """A rule with a constraint after it, whose scalar stands behind the rule's."""
    new = rule(p, g, *values[:-1])
    return transform(new[0], values[-1]), *new[1:]


def with_prox(p, g, *values):
    """A rule with a constraint after it that takes the metric of its new state; its scalar stands behind the rule's."""
    new = rule(p, g, *values[:-1])
    return transform(new[0], metric(*new[1:], *values[STATE:SCALARS]), values[-1]), *new[1:]


def with_step(p, g, *values):
    """A rule with a transform after it that takes the step, whose scalar comes after the rule's scalars."""
    new = rule(p, g, *values[:-1])
    return transform(p, g, new[0], values[-1]), *new[1:]


def of_step(p, g, *values):
    """The result of a transform of the step of a rule; its scalar comes after the rule's."""
    return transform(p, g, rule(p, g, *values[:-1])[0], values[-1])


def without(p, g, *values):
    """A rule without a transform whose scalar comes after the rule's."""
    return rule(p, g, *values[:-1])


def with_bound(p, g, bound, *values):
    """A rule with a constraint after it that takes an element of an array, which stands before the state slots."""
    new = rule(p, g, *values)
    return transform(new[0], bound), *new[1:]


def with_mask(p, g, mask, *values):
    """A rule whose results count where the mask is not zero; elsewhere parameter and state stay."""
    return chosen(mask, rule(p, g, *values), (p, *values[:BEFORE], *values[BEHIND:]))
