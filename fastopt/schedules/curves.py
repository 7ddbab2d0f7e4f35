"""The schedules that are a formula."""

from __future__ import annotations

import math
from bisect import bisect_right
from dataclasses import dataclass

from fastopt.schedules import checks
from fastopt.schedules.base import Schedule


@dataclass(frozen=True)
class Step(Schedule):
    """Step decay: multiplies by gamma every `every` steps, `start gamma^floor(t / every)`. PyTorch's StepLR.

    >>> schedule = Step(1.0, every=2, gamma=0.5)
    >>> [schedule(step) for step in range(1, 6)]
    [1.0, 1.0, 0.5, 0.5, 0.25]
    """

    start: float
    every: int
    gamma: float = 0.1

    def _after(self, taken: int) -> float:
        return self.start * _power(self.gamma, taken // self.every)


@dataclass(frozen=True)
class Milestones(Schedule):
    """Step decay at given steps: multiplies by gamma at each milestone, `start gamma^n`, n of them being at most t.

    He et al., Deep residual learning for image recognition, arXiv:1512.03385, section 3.4. PyTorch's MultiStepLR.

    >>> schedule = Milestones(1.0, at=(2, 3), gamma=0.5)
    >>> [schedule(step) for step in range(1, 6)]
    [1.0, 1.0, 0.5, 0.25, 0.25]
    """

    start: float
    at: tuple[int, ...]
    gamma: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        words = f"at must be increasing numbers of steps, got {self.at}"
        checks.fits("Milestones", checks.increasing(self.at), words)

    def _after(self, taken: int) -> float:
        return self.start * _power(self.gamma, bisect_right(self.at, taken))


@dataclass(frozen=True)
class Exponential(Schedule):
    """Exponential decay: multiplies by gamma at every step, `start gamma^t`. PyTorch's ExponentialLR.

    >>> Exponential(1.0, gamma=0.5)(4)
    0.125
    """

    start: float
    gamma: float

    def _after(self, taken: int) -> float:
        return self.start * _power(self.gamma, taken)


@dataclass(frozen=True)
class InverseTime(Schedule):
    """Inverse time decay: `start / (1 + decay t)`.

    Robbins and Monro's rate; Keras's InverseTimeDecay, and what `lr_decay` of `AdaGrad` does.

    >>> schedule = InverseTime(1.0, decay=1.0)
    >>> [schedule(step) for step in (1, 2, 4)]
    [1.0, 0.5, 0.25]
    """

    start: float
    decay: float

    def _after(self, taken: int) -> float:
        return self.start / (1 + taken * self.decay)


@dataclass(frozen=True)
class Linear(Schedule):
    """Linear change from start to end: `start + (end - start) t / steps`.

    `end` is reached after `steps`. PyTorch's LinearLR.

    >>> schedule = Linear(1.0, 0.0, steps=4)
    >>> [schedule(step) for step in range(1, 7)]
    [1.0, 0.75, 0.5, 0.25, 0.0, 0.0]
    """

    start: float
    end: float
    steps: int

    def _after(self, taken: int) -> float:
        return _between(self.start, self.end, taken / self.steps, "linear")


@dataclass(frozen=True)
class Polynomial(Schedule):
    """Polynomial decay: `end + (start - end) (1 - t / steps)^power`.

    Chen et al., DeepLab, arXiv:1606.00915, section 4.1.2, with power 0.9. PyTorch's PolynomialLR.

    >>> schedule = Polynomial(1.0, steps=4, power=2.0)
    >>> [schedule(step) for step in range(1, 7)]
    [1.0, 0.5625, 0.25, 0.0625, 0.0, 0.0]
    """

    start: float
    steps: int
    power: float = 1.0
    end: float = 0.0

    def _after(self, taken: int) -> float:
        left = max(0.0, 1 - taken / self.steps)
        return self.end + (self.start - self.end) * math.pow(left, self.power)


@dataclass(frozen=True)
class Warmup(Schedule):
    """Linear warm-up: `peak k / steps` at step k, so that the first step is not wasted on a value of 0.

    Goyal et al., Accurate, large minibatch SGD, arXiv:1706.02677, section 2.2.

    >>> schedule = Warmup(1.0, steps=4).then(Step(1.0, every=2, gamma=0.5))
    >>> [schedule(step) for step in range(1, 9)]
    [0.25, 0.5, 0.75, 1.0, 1.0, 1.0, 0.5, 0.5]
    """

    peak: float
    steps: int

    def _after(self, taken: int) -> float:
        return self.peak * min(1.0, (taken + 1) / self.steps)


@dataclass(frozen=True)
class Cosine(Schedule):
    """Cosine decay: `end + (peak - end) (1 + cos(pi (t - warmup) / (steps - warmup))) / 2`.

    It begins with `warmup` steps as in `Warmup`; `steps` is the total, including warm-up. Loshchilov and Hutter, SGDR,
    arXiv:1608.03983, equation 5, without restarts. PyTorch's CosineAnnealingLR, which rises again after `steps`.

    >>> schedule = Cosine(1.0, steps=6, warmup=2)
    >>> [round(schedule(step), 3) for step in range(1, 8)]
    [0.5, 1.0, 1.0, 0.854, 0.5, 0.146, 0.0]
    """

    peak: float
    steps: int
    warmup: int = 0
    end: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        words = f"steps, which counts warmup too, must be more than warmup, {self.warmup}, got {self.steps}"
        checks.fits("Cosine", self.warmup < self.steps, words)

    def _after(self, taken: int) -> float:
        if taken < self.warmup:
            return self.peak * ((taken + 1) / self.warmup)
        return _between(self.peak, self.end, (taken - self.warmup) / (self.steps - self.warmup), "cosine")


@dataclass(frozen=True)
class CosineRestarts(Schedule):
    """Repeated cosine decay, with warm restarts.

    The first cycle has `period` steps, each later one `growth` times as many as the one before, with the formula of
    `Cosine`. They begin after `warmup` steps as in `Warmup`. Loshchilov and Hutter, SGDR, arXiv:1608.03983, equation 5,
    whose T_0 is `period` and T_mult `growth`. PyTorch's CosineAnnealingWarmRestarts.

    >>> schedule = CosineRestarts(1.0, period=2, growth=2)
    >>> [round(schedule(step), 3) for step in range(1, 8)]
    [1.0, 0.5, 1.0, 0.854, 0.5, 0.146, 1.0]
    """

    peak: float
    period: int
    growth: int = 1
    warmup: int = 0
    end: float = 0.0

    def _after(self, taken: int) -> float:
        if taken < self.warmup:
            return self.peak * ((taken + 1) / self.warmup)
        taken, length = taken - self.warmup, self.period
        if self.growth == 1:
            taken %= length
        while taken >= length:
            taken -= length
            length *= self.growth
        return _between(self.peak, self.end, taken / length, "cosine")


@dataclass(frozen=True)
class OneCycle(Schedule):
    """One-cycle policy: rises to the peak, then decays to almost zero.

    From `peak / start_divisor` up in the first `rise` (a share) of all steps, then down to `1 / end_divisor` of that
    start at the last step: with x from 0 to 1 on the way from a to b `b + (a - b) (1 + cos(pi x)) / 2`, or with shape
    "linear" `a + (b - a) x`.

    Smith and Topin, Super-convergence, arXiv:1708.07120. The peak lies at t = rise steps - 1 and the end at
    t = steps - 1, as in PyTorch's OneCycleLR with two phases.

    >>> schedule = OneCycle(1.0, steps=10, shape="linear", start_divisor=5, end_divisor=2)
    >>> [round(schedule(step), 3) for step in (1, 2, 3, 10, 11)]
    [0.2, 0.6, 1.0, 0.1, 0.1]
    """

    peak: float
    steps: int
    rise: float = 0.3
    start_divisor: float = 25.0
    end_divisor: float = 10_000.0
    shape: str = "cosine"

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.fits("OneCycle", self.shape != "square-root", "shape must be 'linear' or 'cosine', got 'square-root'")

    def _after(self, taken: int) -> float:
        start, last = self.peak / self.start_divisor, self.steps - 1
        top = max(0.0, self.rise * self.steps - 1)
        if taken < top:
            return _between(start, self.peak, taken / top, self.shape)
        return _between(self.peak, start / self.end_divisor, (taken - top) / (last - top) if last else 1.0, self.shape)


@dataclass(frozen=True)
class WSD(Schedule):
    """Warm-up, stable, decay (WSD): linear warm-up, a constant, then decay.

    `warmup` steps as in `Warmup`, then the peak, and in the last `decay` of all `steps` down to `end`:
    `end + (peak - end) y`, where x is the share of the decay that is over and y is `1 - x` (shape "linear"),
    `(1 + cos(pi x)) / 2` ("cosine") or `1 - sqrt(x)` ("square-root").

    Hu et al., MiniCPM, arXiv:2404.06395, section 4; shapes: Haegele et al., arXiv:2405.18392, section 3.

    >>> schedule = WSD(1.0, steps=8, warmup=2, decay=4)
    >>> [schedule(step) for step in range(1, 11)]
    [0.5, 1.0, 1.0, 1.0, 1.0, 0.75, 0.5, 0.25, 0.0, 0.0]
    """

    peak: float
    steps: int
    warmup: int
    decay: int
    end: float = 0.0
    shape: str = "linear"

    def __post_init__(self) -> None:
        super().__post_init__()
        words = f"warmup and decay together must be at most steps, {self.steps}, got {self.warmup} and {self.decay}"
        checks.fits("WSD", self.warmup + self.decay <= self.steps, words)

    def _after(self, taken: int) -> float:
        if taken < self.warmup:
            return self.peak * ((taken + 1) / self.warmup)
        over = taken - (self.steps - self.decay)
        if over < 0:
            return self.peak
        return _between(self.peak, self.end, over / self.decay if self.decay else 1.0, self.shape)


@dataclass(frozen=True)
class InverseSquareRoot(Schedule):
    """Inverse square root decay: rises to the peak at step `warmup`, then decays as 1/sqrt(step).

    At step k it is `peak min(k / warmup, sqrt(warmup / k))`.
    Vaswani et al., Attention is all you need, arXiv:1706.03762, equation 3, whose peak is 1 / sqrt(d_model warmup).

    >>> schedule = InverseSquareRoot(1.0, warmup=4)
    >>> [schedule(step) for step in (1, 2, 4, 16)]
    [0.25, 0.5, 1.0, 0.5]
    """

    peak: float
    warmup: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.fits("InverseSquareRoot", self.warmup > 0, "warmup must be at least 1, got 0")

    def _after(self, taken: int) -> float:
        step = taken + 1
        return self.peak * (step / self.warmup if step < self.warmup else math.sqrt(self.warmup / step))


def _power(base: float, exponent: int) -> float:
    try:
        return base**exponent
    except OverflowError:
        return math.inf


def _between(start: float, end: float, share: float, shape: str) -> float:
    """Return the value at a share of the way from start to end."""
    if share >= 1:
        return end
    if shape == "cosine":
        return end + (start - end) * ((1 + math.cos(math.pi * share)) / 2)
    return start + (end - start) * (math.sqrt(share) if shape == "square-root" else share)
