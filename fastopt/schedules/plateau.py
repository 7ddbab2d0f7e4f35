"""The schedule that depends on what it is told."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from fastopt import representation
from fastopt.schedules import checks
from fastopt.schedules.base import Schedule


@dataclass
class ReduceOnPlateau(Schedule):
    """Multiplies by `factor` when an observed value stops improving.

    That is: when more than `patience` observations in a row were no better than the best so far. Better is lower (or
    `better="higher"`) by more than `threshold` times the best; NaN and infinity never are. `patience` and `cooldown`
    are in observations: those of the cooldown after a reduction do not count. The value, kept in `current`, never falls
    below `lowest`; it is the same for any step. PyTorch's ReduceLROnPlateau.

    It is the only schedule that changes. A loaded optimizer holds a copy of its own: call `optimizer.lr.observe`.

    >>> from fastopt import SGD
    >>> optimizer = SGD(lr=ReduceOnPlateau(1.0, factor=0.5, patience=1))
    >>> for loss in (3.0, 2.0, 2.0, 2.0):
    ...     optimizer.lr.observe(loss)
    >>> optimizer.lr(1)
    0.5
    """

    start: float
    factor: float = 0.1
    patience: int = 10
    threshold: float = 1e-4
    cooldown: int = 0
    lowest: float = 0.0
    better: str = "lower"
    current: float | None = field(default=None, kw_only=True)
    """The value; at first `start`."""
    best: float | None = field(default=None, kw_only=True, repr=False)
    bad: int = field(default=0, kw_only=True, repr=False)
    """How many observations in a row were no better."""
    waiting: int = field(default=0, kw_only=True, repr=False)
    """How many observations are left of the cooldown."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.current is None:
            self.current = self.start

    def __repr__(self) -> str:
        """All settings, and what was observed so far."""
        return representation.of(self)

    def observe(self, value: float) -> None:
        """Records a value that training should lower (or raise), such as the loss on held-out data."""
        observed = checks.observed("ReduceOnPlateau", value)
        sign = 1 if self.better == "lower" else -1
        margin = 0.0 if self.best is None else self.threshold * abs(self.best)
        if math.isfinite(observed) and (self.best is None or sign * observed < sign * self.best - margin):
            self.best, self.bad = observed, 0
        else:
            self.bad += 1
        if self.waiting > 0:
            self.waiting, self.bad = self.waiting - 1, 0
        if self.bad > self.patience:
            self.current = max(self.lowest, self.factor * self._after(0))
            self.waiting, self.bad = self.cooldown, 0

    def _after(self, taken: int) -> float:
        return self.start if self.current is None else self.current
