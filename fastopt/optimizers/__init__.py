"""The optimizers: hyperparameters with their defaults, and how they become the scalars of a formula.

The defaults of SGD, Momentum, Nesterov, AdaGrad, RMSProp and Adam are those of *Deep Learning from Scratch* (O'Reilly
Japan, 2016, chapter 6): a script that is moved over by changing its import takes the same path. The formulas are in
`fastopt.kernels`, plain NumPy versions in `fastopt.reference`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastopt.optimizer import Optimizer
from fastopt.optimizers import (
    adagrad,
    adam,
    adam_variants,
    layerwise,
    learning_rate_free,
    matrix,
    preconditioned,
    schedule_free,
    sgd,
    sign_based,
    sophia,
)
from fastopt.optimizers.adagrad import *  # noqa: F403
from fastopt.optimizers.adam import *  # noqa: F403
from fastopt.optimizers.adam_variants import *  # noqa: F403
from fastopt.optimizers.layerwise import *  # noqa: F403
from fastopt.optimizers.learning_rate_free import *  # noqa: F403
from fastopt.optimizers.matrix import *  # noqa: F403
from fastopt.optimizers.preconditioned import *  # noqa: F403
from fastopt.optimizers.schedule_free import *  # noqa: F403
from fastopt.optimizers.sgd import *  # noqa: F403
from fastopt.optimizers.sign_based import *  # noqa: F403
from fastopt.optimizers.sophia import *  # noqa: F403

_FAMILIES = (
    sgd,
    sign_based,
    adagrad,
    adam,
    adam_variants,
    sophia,
    schedule_free,
    learning_rate_free,
    layerwise,
    matrix,
    preconditioned,
)

if not TYPE_CHECKING:  # type checkers follow the imports above
    __all__ = [name for family in _FAMILIES for name in family.__all__]

OPTIMIZERS: dict[str, type[Optimizer]] = {
    value.rule: value
    for family in _FAMILIES
    for name, value in vars(family).items()
    if name in family.__all__ and name == value.__name__
}
"""The optimizer of each rule, family by family."""
