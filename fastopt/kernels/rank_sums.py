"""Sums of the gradients of several processes, in the order of their ranks.

The order is fixed here and not left to the MPI library, whose reductions add in an order that depends on the number of
processes, the size of the message and the network.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from numba import types

from fastopt.kernels.compile import compiled

BLOCK = 2048
"""Elements that are added up at a time, so that the sum stays in the first-level cache."""


def add_ranks(summands, total, factor):
    """Writes `((summands[0] + summands[1]) + summands[2] ...) * factor` to `total`.

    summands : float[ranks, n]
    total : float[n]
    factor : of the same dtype
    """
    ranks, size = summands.shape
    for start in range(0, size, BLOCK):
        stop = min(start + BLOCK, size)
        block = total[start:stop]
        block[:] = summands[0, start:stop]
        for rank in range(1, ranks):
            summand = summands[rank, start:stop]
            for i in range(len(block)):
                block[i] += summand[i]
        for i in range(len(block)):
            block[i] *= factor


def add_ranks_of_bfloat16(summands, total, factor):
    """`add_ranks` of numbers that travelled as bfloat16, the upper halves of float32.

    summands : uint16[ranks, n]
    total : float32[n]
    """
    ranks, size = summands.shape
    words = np.zeros(BLOCK, np.uint32)
    for start in range(0, size, BLOCK):
        stop = min(start + BLOCK, size)
        block, bits = total[start:stop], words[: stop - start]
        numbers = bits.view(np.float32)
        for rank in range(ranks):
            summand = summands[rank, start:stop]
            for i in range(len(bits)):
                bits[i] = summand[i] << 16
            if rank == 0:
                block[:] = numbers
            else:
                for i in range(len(block)):
                    block[i] += numbers[i]
        for i in range(len(block)):
            block[i] *= factor


def round_to_bfloat16(numbers, words, residual):
    """Writes `numbers + residual` to `words`, rounded to bfloat16 (nearest, ties to even), and what that took to it.

    A residual that is NaN or infinite, as of a gradient that is, is forgotten.

    numbers, residual : float32[n]
    words : uint16[n]
    """
    both, sent = np.zeros(BLOCK, np.float32), np.zeros(BLOCK, np.uint32)
    for start in range(0, len(words), BLOCK):
        stop = min(start + BLOCK, len(words))
        gradient, remainder, word = numbers[start:stop], residual[start:stop], words[start:stop]
        exact, bits = both[: stop - start], sent[: stop - start]
        exact_bits, values = exact.view(np.uint32), bits.view(np.float32)
        for i in range(len(exact)):
            exact[i] = gradient[i] + remainder[i]
        for i in range(len(exact)):
            whole = np.int64(exact_bits[i])
            is_nan = (whole & 0x7FFFFFFF) > 0x7F800000
            half = (whole | 0x400000) if is_nan else whole + 0x7FFF + ((whole >> 16) & 1)
            word[i] = half >> 16
            bits[i] = (half >> 16) << 16
        for i in range(len(exact)):
            missing = exact[i] - values[i]
            remainder[i] = missing if abs(missing) < np.inf else np.float32(0)


@cache
def compiled_sum(dtype: str, bfloat16: bool) -> Any:
    """`add_ranks`, or `add_ranks_of_bfloat16`, for totals of a dtype."""
    number = getattr(types, dtype)
    if bfloat16:
        words = types.Array(types.uint16, 2, "C")
        return compiled(add_ranks_of_bfloat16, words, types.Array(number, 1, "C"), number)
    return compiled(add_ranks, types.Array(number, 2, "C"), types.Array(number, 1, "C"), number)


@cache
def compiled_rounding() -> Any:
    """`round_to_bfloat16`, compiled."""
    numbers = types.Array(types.float32, 1, "C")
    return compiled(round_to_bfloat16, numbers, types.Array(types.uint16, 1, "C"), numbers)
