"""Sums over all leaves of numbers of either sign, for rules whose steps depend on them."""

from __future__ import annotations

from typing import Any

import numpy as np

from fastopt.kernels.intrinsics import addresses, load, numbers, plus, put
from fastopt.kernels.stores import stack_block

BLOCK = 512
"""Elements whose numbers wait in a block on the stack to be added up; two blocks fit there."""

# What the loop finds under these names in its globals; every compiled clone has its own, see `loops.py`.
rule: Any = None
DTYPE: Any = None
COLUMNS: Any = None
SCALARS: Any = None


def totals_loop(row, scalars, parameter, statistics, form, first, last):
    """Writes to the statistics the sums of the two results of the formula, and what rounding took from each.

    The numbers of a block are cut at one place, far below the sum of their magnitudes: the upper parts are multiples of
    one number, so their sum is exact in any order, and what rounding takes from the sum of the lower parts is as small
    beside the whole as in `intrinsics.add_squares`. So the number nearest to the sum over a model is the same however
    it is cut into pieces.
    """
    stack = stack_block()
    where = addresses(row, COLUMNS)
    constants = numbers(scalars, SCALARS, DTYPE)
    for cell in range(4):
        put(statistics, cell, 0.0)
    for block in range(first, last, BLOCK):
        size = min(BLOCK, last - block)
        for place in range(size):
            one, other = rule(*(load(where, block + place, DTYPE) + constants))
            put(stack, place, np.float64(one))
            put(stack, BLOCK + place, np.float64(other))
        for which in range(2):
            begin = stack + 8 * BLOCK * which
            magnitude = coarse = fine = 0.0
            for place in range(size):
                magnitude = plus(magnitude, abs(load((begin,), place, np.float64)[0]))
            grid = 4 * magnitude
            cut = size if grid < np.inf else 0
            for place in range(cut):
                number = load((begin,), place, np.float64)[0]
                part = (number + grid) - grid
                coarse = plus(coarse, part)
                fine = plus(fine, number - part)
            # Numbers so large that no place lies above them are added one by one; the sum may be infinite or NaN.
            for place in range(cut, size):
                number = load((begin,), place, np.float64)[0]
                new = coarse + number
                part = new - coarse
                fine += (coarse - (new - part)) + (number - part)
                coarse = new
            total = load((statistics,), 2 * which, np.float64)[0]
            compensation = load((statistics,), 2 * which + 1, np.float64)[0]
            new = total + coarse
            part = new - total
            lost = (total - (new - part)) + (coarse - part)
            put(statistics, 2 * which, new)
            put(statistics, 2 * which + 1, compensation + (lost + fine))
