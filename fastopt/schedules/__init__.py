"""Hyperparameters that change from step to step: objects that are called with the step and return a number.

>>> from fastopt import Adam, schedules
>>> optimizer = Adam(lr=schedules.Cosine(0.001, steps=10_000, warmup=500))

Steps are counted from 1, as in `Optimizer.update`: the value at step k is what PyTorch's schedulers give to the k-th
`optimizer.step()`. In the formulas t = k - 1 is the number of steps taken before. All lengths are in steps, not epochs.
After its last step a schedule keeps its value. A schedule is a pure function of the step and is never changed (except
`ReduceOnPlateau`, which depends on what it observes); it can be compared, copied and pickled, and `to_dict` and
`from_dict` turn it into plain JSON values and back.
"""

import typing as _typing

from fastopt import names as _names
from fastopt.schedules.base import Constant, Product, Schedule, Sequence
from fastopt.schedules.curves import (
    WSD,
    Cosine,
    CosineRestarts,
    Exponential,
    InverseSquareRoot,
    InverseTime,
    Linear,
    Milestones,
    OneCycle,
    Polynomial,
    Step,
    Warmup,
)
from fastopt.schedules.plain import SCHEDULES, from_dict, to_dict
from fastopt.schedules.plateau import ReduceOnPlateau

__all__ = [
    "SCHEDULES",
    "WSD",
    "Constant",
    "Cosine",
    "CosineRestarts",
    "Exponential",
    "InverseSquareRoot",
    "InverseTime",
    "Linear",
    "Milestones",
    "OneCycle",
    "Polynomial",
    "Product",
    "ReduceOnPlateau",
    "Schedule",
    "Sequence",
    "Step",
    "Warmup",
    "from_dict",
    "to_dict",
]


def __dir__() -> list[str]:
    return sorted(__all__)


if not _typing.TYPE_CHECKING:  # to which it would make every name known

    def __getattr__(name: str) -> object:
        raise AttributeError(_names.unknown_class(__name__, name, __all__))
