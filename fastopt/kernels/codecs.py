"""State in 16 or 8 bits, in plain NumPy: what each code means and how a value becomes one.

`storage.py` has the same compiled; `fastopt.reference` uses these. All arithmetic is in float32.

bfloat16
    The upper half of a float32: uint16. Rounded stochastically: 16 random bits are added below it, then they are cut.
int8
    Groups of 64 elements with a float32 scale, the largest magnitude of the group. Codes are at the roots of values: k
    means k |k| / 127^2 * scale (int8), or k^2 / 255^2 * scale in a slot that is never negative (uint8). With x the
    value over the scale, times the square of the last code, and k the root of |x| rounded down, k + 1 is taken with the
    probability (|x| - k^2) / (2 k + 1) and k otherwise, so the mean of what is decoded is the value itself.
    Zero is code 0. In a slot that is never negative no other value is: what is divided by its root must not be divided
    by zero. A scale under `SMALLEST` is zero, as the store of state flushes smaller values.
    Groups with NaN or infinity have a negative scale: their last code is NaN, the one before it infinity.

Rounding is stochastic because a running mean moves by less than half a unit at a step: rounded to nearest it would stay
where it is. The noise is a hash of seed, step, name of the array, slot and element, so it is the same for any number of
threads and after any resume.
"""

from __future__ import annotations

import hashlib
from collections.abc import Hashable
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

FLOAT32, BFLOAT16, INT8 = STORAGES = ("float32", "bfloat16", "int8")

GROUP = 64
"""Elements with one scale: a cache line of codes."""

CHUNK = 1 << 16
"""Elements that are worked on at a time."""

SMALLEST = np.float32(2.0**-110)
"""The smallest scale besides zero."""

BELOW_ONE = np.float32(1 - 2.0**-22)
"""Keeps the largest of a group from being rounded up beyond the last code."""

GOLDEN, FIRST, SECOND = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB  # Steele et al., SplitMix64
MIX = np.uint32(0x9E3779B1)
MASK = (1 << 64) - 1


def mixed(value: Any) -> Any:
    """The hash of a 64-bit number, SplitMix64's finalizer; or of an array of uint64."""
    value = value & MASK
    value = (value ^ (value >> 30)) * FIRST & MASK
    value = (value ^ (value >> 27)) * SECOND & MASK
    return value ^ (value >> 31)


# Random numbers that tell the elements of a group apart.
NOISE = np.array([mixed((number + 1) * GOLDEN) >> 32 for number in range(GROUP)], np.uint32)


def name_key(name: Hashable) -> int:
    """The hash of the name of an array: of text, a number, or a tuple of them; None where parameters are one array."""
    return int.from_bytes(hashlib.blake2b(_text(name).encode(), digest_size=8).digest(), "little")


def _text(name: Hashable) -> str:
    if isinstance(name, tuple):
        return f"({''.join(f'{_text(part)},' for part in name)})"
    return repr(name) if isinstance(name, str) else str(hash(name)) if isinstance(name, int | float) else str(name)


def step_key(seed: int, step: int) -> int:
    """The hash of seed and step."""
    return int(mixed(mixed(seed + GOLDEN) + step * GOLDEN))


def slot_key(step: int, name: int, slot: int) -> int:
    """The key of the noise of an array of a slot, from `step_key`, `name_key` and the number of the slot."""
    return int(mixed(step ^ mixed(name + slot * GOLDEN)))


def noise(key: int, first: int, groups: int) -> Array:
    """Random uint32[groups, GROUP] from group `first` on, of which the upper half is the better one."""
    keys = mixed(np.arange(first, first + groups, dtype=np.uint64) * np.uint64(GOLDEN) + np.uint64(key)) >> 32
    values = NOISE + keys.astype(np.uint32)[:, None]
    random: Array = (values ^ (values >> np.uint32(16))) * MIX
    return random


def padded(size: int) -> int:
    """The number of elements with those that fill the last group."""
    return -(-size // GROUP) * GROUP


def run_bytes(storage: str, size: int) -> int:
    """The bytes of an array of a slot: its codes, then its scales."""
    return {BFLOAT16: 2 * padded(size), INT8: padded(size) + 4 * padded(size) // GROUP}[storage]


def empty_run(storage: str, size: int) -> Array:
    """A run of bytes for so many elements."""
    return np.empty(run_bytes(storage, size), np.uint8)


def parts(storage: str, nonnegative: bool, run: Array, size: int) -> tuple[Array, Array]:
    """Codes, without those that fill the last group, and scales of a run of bytes, as views of it."""
    if storage == BFLOAT16:
        return run.view(np.uint16)[:size], np.empty(0, np.float32)
    codes = run[:size] if nonnegative else run[:size].view(np.int8)
    return codes, run[padded(size) :].view(np.float32)


def encode(storage: str, nonnegative: bool, values: Array, key: int, run: Array) -> None:
    """Writes float32 values, 1-D in memory order, to a run of bytes; `key` as of `slot_key`."""
    size = padded(values.size)
    for begin in range(0, size, CHUNK):
        part = values[begin : begin + CHUNK]
        whole = np.zeros(padded(part.size), np.float32)
        whole[: part.size] = part
        groups = whole.reshape(-1, GROUP)
        random = noise(key, begin // GROUP, len(groups))
        end = begin + whole.size
        if storage == BFLOAT16:
            bits = groups.view(np.uint32)
            rounded = np.where(bits & 0x7FFFFFFF <= 0x7F800000, bits + (random >> 16), bits | 0x400000)
            run.view(np.uint16)[begin:end] = (rounded >> 16).ravel()
        else:
            codes, scales = _int8(groups, random, nonnegative)
            run[begin:end] = codes.astype(np.uint8 if nonnegative else np.int8).view(np.uint8).ravel()
            run[size:].view(np.float32)[begin // GROUP : end // GROUP] = scales


@np.errstate(all="ignore")
def _int8(values: Array, random: Array, nonnegative: bool) -> tuple[Array, Array]:
    regular = np.isfinite(values)
    if nonnegative:
        regular &= ~np.signbit(values) | (values == 0)
        special = ~np.isfinite(values).all(axis=1) | np.signbit(values).any(axis=1)
    else:
        special = ~regular.all(axis=1)
    last = np.where(
        special, *((np.float32(253), np.float32(255)) if nonnegative else (np.float32(126), np.float32(127)))
    )
    known = np.where(regular, np.abs(values), np.float32(0))
    scales = known.max(axis=1)
    scales = np.where(scales < SMALLEST, np.float32(0), scales)
    factor = np.where(scales > 0, last * last / scales * BELOW_ONE, np.float32(0)).astype(np.float32)
    x = known * factor[:, None]
    lower = np.sqrt(x).astype(np.int32)
    root = lower.astype(np.float32)
    above = x - root * root
    gap = root * np.float32(2.0**-23) + np.float32(2.0**-24)
    codes = lower + ((random >> 8).astype(np.float32) * gap < above)
    if nonnegative:
        codes = np.maximum(codes, x > 0)
    else:
        codes = np.where(values < 0, -codes, codes)
    if nonnegative:
        codes = np.where(values == np.inf, 254, np.where(regular, codes, 255))
    else:
        codes = np.where(np.isinf(values), np.where(values < 0, -127, 127), np.where(regular, codes, -128))
    return codes, np.where(special, -scales, scales)


def decode(storage: str, nonnegative: bool, run: Array, size: int) -> Array:
    """The float32 values of a run of bytes, 1-D in memory order."""
    if storage == BFLOAT16:
        return np.left_shift(run.view(np.uint16)[:size], 16, dtype=np.uint32).view(np.float32)
    whole = padded(size)
    values = np.empty(whole, np.float32)
    scales = run[whole:].view(np.float32)
    for begin in range(0, whole, CHUNK):
        codes = run[begin : min(begin + CHUNK, whole)].view(np.uint8 if nonnegative else np.int8).reshape(-1, GROUP)
        values[begin : begin + CHUNK] = _values(codes, scales[begin // GROUP :][: len(codes)], nonnegative).ravel()
    return values[:size]


@np.errstate(all="ignore")
def _values(codes: Array, scales: Array, nonnegative: bool) -> Array:
    codes, scales = codes.astype(np.int32), scales[:, None]
    special = np.signbit(scales)
    if nonnegative:
        infinite, nan, scale_factors = codes == 254, codes == 255, (np.float32(1 / 253**2), np.float32(1 / 255**2))
    else:
        infinite, nan, scale_factors = (
            np.abs(codes) == 127,
            codes == -128,
            (np.float32(1 / 126**2), np.float32(1 / 127**2)),
        )
    values = (codes * np.abs(codes)).astype(np.float32) * np.where(special, *scale_factors) * np.abs(scales)
    values = np.where(special & infinite, np.copysign(np.float32(np.inf), codes.astype(np.float32)), values)
    return np.where(special & nan, np.float32(np.nan), values)
