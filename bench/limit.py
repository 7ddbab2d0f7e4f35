"""The limit: kernels with the reads and writes of a rule and no arithmetic, made by the same machinery.

One addition remains, without which the compiler would not read the gradient.
"""

from fastopt.kernels.build import Rule


def traffic0(p, g):
    return (p + g,)


def traffic1(p, g, a):
    return a, p + g


def traffic2(p, g, a, b):
    return a, b, p + g


def traffic3(p, g, a, b, c):
    return a, b, c, p + g


def traffic4(p, g, a, b, c, d):
    return a, b, c, d, p + g


LIMITS = {
    0: Rule(traffic0),
    1: Rule(traffic1, state=("a",)),
    2: Rule(traffic2, state=("a", "b")),
    3: Rule(traffic3, state=("a", "b", "c")),
    4: Rule(traffic4, state=("a", "b", "c", "d")),
}
"""By the number of state slots."""


def bytes_per_element(slots: int, itemsize: int) -> int:
    """Read p and g, write p, read and write each state slot."""
    return (3 + 2 * slots) * itemsize
