"""The same optimizers in plain NumPy, to read beside the formulas and to check the compiled ones against.

Same names, same settings, same `update(params, grads)`, one NumPy expression per operation as in *Deep Learning from
Scratch*. Every number that a compiled optimizer gives is equal to the last bit to what these give, in float64 and, as
all scalars are Python floats, which NumPy takes in the dtype of the array, in float32.

They do not check their input. The one thing added to the textbook is `flush`: a state value smaller than the smallest
normal number becomes zero, as in the compiled kernels; with `optimizer.flush = False` the textbook stands alone, for a
fair comparison of times.
"""

from typing import TYPE_CHECKING

from fastopt.reference import (
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
from fastopt.reference.adagrad import *  # noqa: F403
from fastopt.reference.adam import *  # noqa: F403
from fastopt.reference.adam_variants import *  # noqa: F403
from fastopt.reference.base import Reference as Reference
from fastopt.reference.layerwise import *  # noqa: F403
from fastopt.reference.learning_rate_free import *  # noqa: F403
from fastopt.reference.matrix import *  # noqa: F403
from fastopt.reference.preconditioned import *  # noqa: F403
from fastopt.reference.schedule_free import *  # noqa: F403
from fastopt.reference.sgd import *  # noqa: F403
from fastopt.reference.sign_based import *  # noqa: F403
from fastopt.reference.sophia import *  # noqa: F403

if not TYPE_CHECKING:  # type checkers follow the imports above
    __all__ = [
        name
        for family in (
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
        for name in family.__all__
    ]
