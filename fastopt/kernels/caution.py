"""Caution: scalar functions after the rule that compare its step with the gradient or the parameter, in the same pass.

Each is a function `(p, g, new, scalar) -> new` of the parameter and gradient that the rule was given and the new
parameter that it gave; bound when a kernel is built. A step against the gradient is one of `new < p` where `g > 0` and
the other way round. Comparisons are such that NaN goes through.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def cautious_decay(p, g, new, scalar):
    """Decoupled weight decay of elements that the step brings nearer to zero; scalar = lr weight_decay.

    Of Chen et al., arXiv:2510.12402; a step or parameter of zero does not disagree.
    """
    zero = scalar - scalar  # of their dtype, which a literal would not have
    return new - scalar * p if (new <= p and p >= zero) or (new >= p and p <= zero) else new


def cautious(p, g, new, scalar):
    """The step where it goes against the gradient, times scalar; no step elsewhere (Liang et al., arXiv:2411.16085).

    Scalar 0, which no share comes to, leaves all steps as they are.
    """
    zero = scalar - scalar
    stays = (new >= p and g >= zero) or (new <= p and g <= zero)
    return (p if stays else p + scalar * (new - p)) if scalar else new


def aligned(p, g, new, scalar):
    """Whether a step goes against the gradient; in the place of `cautious` in the pass that counts such elements."""
    zero = scalar - scalar
    return not ((new >= p and g >= zero) or (new <= p and g <= zero))


CAUTION: dict[str, Callable[..., Any]] = {function.__name__: function for function in (cautious_decay, cautious)}

LEAST_SHARE = 1e-3
"""Steps are scaled by one over the share of the aligned elements, but by no more than one over this."""


def scale_of_share(count: int, size: int) -> float:
    """The scalar of `cautious` for an array of `size` elements, of which `count` are aligned."""
    return 0.0 if count == size else 1 / max(count / size, LEAST_SHARE)
