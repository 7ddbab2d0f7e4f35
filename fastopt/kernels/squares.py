"""Which rules square gradients, found from their formulas."""

from __future__ import annotations

from functools import cache

import numpy as np

from fastopt.kernels.pure_python import on_arrays
from fastopt.kernels.rule import Rule

# Beyond the root of the largest float64; half as many digits again would be beyond float64 itself.
PROBE = 1e200


@cache
def squares(rule: Rule) -> bool:
    """Whether a finite gradient whose square is not finite makes parameter, state or totals so."""
    if rule.totalling and squares(rule.totalling):
        return True
    ordinary = [np.float64(0.5)] * (len(rule.state) + len(rule.scalars))
    try:
        with np.errstate(all="ignore"):
            results = on_arrays(rule.formula)(np.float64(1.0), np.float64(PROBE), *ordinary)
        return not np.isfinite(np.array(results, np.float64)).all()
    except (ArithmeticError, TypeError, ValueError):  # a formula of one's own may refuse these numbers
        return False


def largest(dtype: np.dtype) -> float:
    """The bound beyond which numbers of a dtype have no finite square."""
    return float(np.sqrt(np.finfo(dtype).max))
