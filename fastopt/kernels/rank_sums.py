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


def add_ranks(parts, total, factor):  # type: ignore[no-untyped-def]
    """Writes `((parts[0] + parts[1]) + parts[2] ...) * factor` to `total`.

    parts : float[ranks, n]
    total : float[n]
    factor : of the same dtype
    """
    ranks, size = parts.shape
    for start in range(0, size, BLOCK):
        stop = min(start + BLOCK, size)
        for i in range(start, stop):
            total[i] = parts[0, i]
        for rank in range(1, ranks):
            for i in range(start, stop):
                total[i] = total[i] + parts[rank, i]
        for i in range(start, stop):
            total[i] = total[i] * factor


def add_ranks_of_bfloat16(parts, total, factor):  # type: ignore[no-untyped-def]
    """`add_ranks` of numbers that travelled as bfloat16, the upper halves of float32.

    parts : uint16[ranks, n]
    total : float32[n]
    """
    ranks, size = parts.shape
    words = np.empty(BLOCK, np.uint32)
    numbers = words.view(np.float32)
    for start in range(0, size, BLOCK):
        count = min(BLOCK, size - start)
        for rank in range(ranks):
            for i in range(count):
                words[i] = np.uint32(parts[rank, start + i]) << np.uint32(16)
            for i in range(count):
                total[start + i] = numbers[i] if rank == 0 else total[start + i] + numbers[i]
        for i in range(start, start + count):
            total[i] = total[i] * factor


def round_to_bfloat16(numbers, words, residual):  # type: ignore[no-untyped-def]
    """Writes `numbers + residual` to `words`, rounded to bfloat16 (nearest, ties to even), and the rest to `residual`.

    A rest that is NaN or infinite, as of a gradient that is, is forgotten.

    numbers, residual : float32[n]
    words : uint16[n]
    """
    both = np.empty(BLOCK, np.float32)
    bits = both.view(np.uint32)
    sent = np.empty(BLOCK, np.uint32)
    values = sent.view(np.float32)
    half, one, shift = np.uint32(0x7FFF), np.uint32(1), np.uint32(16)
    for start in range(0, len(words), BLOCK):
        count = min(BLOCK, len(words) - start)
        for i in range(count):
            both[i] = numbers[start + i] + residual[start + i]
        for i in range(count):
            word = bits[i]
            if word & np.uint32(0x7FFFFFFF) > np.uint32(0x7F800000):
                word = (word >> shift) | np.uint32(0x40)  # NaN stays NaN
            else:
                word = (word + half + ((word >> shift) & one)) >> shift
            words[start + i] = np.uint16(word)
            sent[i] = word << shift
        for i in range(count):
            rest = both[i] - values[i]
            residual[start + i] = rest if abs(rest) < np.inf else np.float32(0)


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
