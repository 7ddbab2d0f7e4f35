"""The limit: kernels with the reads and writes of a rule and no arithmetic, made by the same machinery."""

from fastopt.kernels.traffic import traffic_of

LIMITS = {slots: traffic_of(slots) for slots in range(5)}
"""By the number of state slots."""


def bytes_per_element(slots: int, itemsize: int) -> int:
    """Read p and g, write p, read and write each state slot."""
    return (3 + 2 * slots) * itemsize
