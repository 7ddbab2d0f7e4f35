"""Flags of numba, here alone, and whether kernels are compiled at all."""

from __future__ import annotations

import os
import warnings
from typing import Any

from numba.core import config

FLAGS: dict[str, Any] = {
    # Division as in NumPy. "python" checks every divisor for zero and leaves the loop scalar: 2.34 against 0.31 ns
    # per element of Adam. No fastmath: it folds isnan to False and gains nothing in memory.
    "error_model": "numpy",
    # Two Python threads may step two optimizers at once.
    "nogil": True,
}

# Of functions that only compiled ones call. Without their forms for Python and C a kernel compiles in three quarters of
# the time.
INNER = {"no_cpython_wrapper": True, "no_cfunc_wrapper": True}

# FASTOPT_CHECK=1: every address is looked at before a launch, and kernels run in pure Python, to find memory errors.
CHECK = os.environ.get("FASTOPT_CHECK", "").strip() == "1"
if os.environ.get("FASTOPT_CHECK", "").strip() not in ("", "0", "1"):
    warnings.warn("FASTOPT_CHECK must be 0 or 1; it is taken as 0", RuntimeWarning, stacklevel=2)


def compiles() -> bool:
    """Whether kernels are compiled, and not in pure Python."""
    return not (config.DISABLE_JIT or CHECK)
