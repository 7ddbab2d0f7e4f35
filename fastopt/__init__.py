"""Fused, compiled optimizer steps for plain-NumPy training loops.

>>> import numpy as np
>>> from fastopt import Adam
>>> params, optimizer = {"W": np.ones(3)}, Adam(lr=0.001)
>>> optimizer.update(params, {"W": np.ones(3)})  # in place, one fused pass over memory
"""

import typing as _typing
from importlib.metadata import PackageNotFoundError as _PackageNotFoundError
from importlib.metadata import version as _version

import numpy as np  # the book's scripts have no import of NumPy but `from common.optimizer import *`

from fastopt import names as _names
from fastopt import optimizers, schedules
from fastopt.averages import EMA, SWA, Lookahead
from fastopt.checkpoint.state_dict import CheckpointError
from fastopt.compare import check
from fastopt.custom_rule import rule
from fastopt.flat import FlatDict, flatten
from fastopt.groups import NO_DECAY_ON_VECTORS, Groups, is_vector
from fastopt.minimization import minimize
from fastopt.optimizer import Optimizer
from fastopt.optimizers import *  # noqa: F403
from fastopt.profiling import profile
from fastopt.rows import Rows
from fastopt.threads import num_threads, set_num_threads
from fastopt.tuning import set_tuning

__all__ = [
    "EMA",
    "NO_DECAY_ON_VECTORS",
    "SWA",
    "CheckpointError",
    "FlatDict",
    "Groups",
    "Lookahead",
    "Optimizer",
    "Rows",
    "check",
    "flatten",
    "is_vector",
    "minimize",
    "np",
    "num_threads",
    "profile",
    "rule",
    "schedules",
    "set_num_threads",
    "set_tuning",
]
__all__ += optimizers.__all__  # type: ignore[attr-defined]  # which type checkers need not see

try:
    __version__ = _version("fastopt")
except _PackageNotFoundError:  # a zip file of the package alone
    __version__ = "unknown"


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])


if not _typing.TYPE_CHECKING:  # to which it would make every name known

    def __getattr__(name: str) -> object:
        raise AttributeError(_names.unknown_class(__name__, name, __all__))
