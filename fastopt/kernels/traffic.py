"""The reads and writes of a rule without its arithmetic, by the same machinery: what memory alone takes.

One addition remains, without which the compiler would not read the gradient.
"""

from __future__ import annotations

from functools import cache

from fastopt.kernels.rule import Rule


def traffic0(p, g):
    return (p + g,)


def traffic(p, g, *state):
    return *state, p + g  # each slot is written with what stood in another place


@cache
def traffic_of(slots: int) -> Rule:
    """Reads parameter, gradient and so many state slots, and writes parameter and state."""
    if not slots:
        return Rule(traffic0)
    return Rule(traffic, tuple(f"slot{number}" for number in range(slots)))
