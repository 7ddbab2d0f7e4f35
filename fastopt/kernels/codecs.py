"""State in 16 or 8 bits, in plain NumPy: what each code means and how a value becomes one.

`storage.py` has the same compiled; `fastopt.reference` uses these. All arithmetic is in float32.

bfloat16
    The upper half of a float32: uint16. Rounded stochastically: 16 random bits are added below it, then they are cut.
int8
    Groups of 64 elements with a float32 scale, the largest magnitude of the group. The largest becomes RANGE, and to
    all magnitudes OFFSET is added; the code is what their upper bits are above those of OFFSET itself, rounded
    stochastically as above. So codes are even steps up to the offset, and from there on 16 to every power of two: int8
    with the sign of the value spans seven of them, uint8 in a slot that is never negative fifteen. Only additions and
    shifts take a value to its code and back: codes at the roots of values cost two roots and a division more.
    Zero is code 0. In a slot that is never negative no other value is: what is divided by its root must not be divided
    by zero. A scale under `SMALLEST` is zero, so that nothing decodes to a subnormal number.
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

SMALLEST = np.float32(2.0**-106)
"""The smallest scale besides zero."""

NOISE_BITS = {BFLOAT16: 16, INT8: 19}
"""The bits of a float32 that are cut."""

SHIFT = NOISE_BITS[INT8]
OFFSET = np.float32(2)
BASE = int(OFFSET.view(np.uint32))  # the bits of it, of which none is among those of a code


def range_of(last: int) -> np.float32:
    """The number that the largest of a group becomes, from its code."""
    return np.uint32(BASE + (last << SHIFT)).view(np.float32) - OFFSET


SIGNED_LAST, NONNEGATIVE_LAST = 127, 255
SIGNED_LAST_SPECIAL, NONNEGATIVE_LAST_SPECIAL = 126, 253  # of a group with NaN or infinity

BELOW_ONE = np.float32(1 - 2.0**-22)
"""Keeps the largest of a group from being rounded up beyond the last code, and what it decodes to from infinity."""

GOLDEN, FIRST, SECOND = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB  # Steele et al., SplitMix64
WEYL, MIX = np.uint32(0x9E3779B1), np.uint32(0x85EBCA6B)
MASK = (1 << 64) - 1


def mixed(value: Any) -> Any:
    """The hash of a 64-bit number, SplitMix64's finalizer; or of an array of uint64."""
    value = value & MASK
    value = (value ^ (value >> 30)) * FIRST & MASK
    value = (value ^ (value >> 27)) * SECOND & MASK
    return value ^ (value >> 31)


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
    """The key of the noise of an array of a slot, from `step_key`, `name_key` and the number of the slot.

    Two slots share a hash, of which one takes the upper bits and one, whose key is odd, the lower ones.
    """
    return int(pair_key(mixed(step ^ name_hash(name, slot)), slot))


def name_hash(name: int, slot: int) -> int:
    """The hash of an array of a slot, and of the other slot that shares noise."""
    return int(mixed(name + slot // 2 * GOLDEN))


def pair_key(key: Any, slot: int) -> Any:
    """The key of a slot, from that of the two that share a hash."""
    return key & (MASK - 1) | slot % 2


def noise(key: int, first: int, count: int, bits: int) -> Array:
    """Random uint32 numbers of so many bits for `count` elements from element `first` on."""
    values = np.arange(first, first + count, dtype=np.uint64).astype(np.uint32) * WEYL + np.uint32(key >> 32)
    values = (values ^ (values >> np.uint32(16))) * MIX
    values ^= values >> np.uint32(15)
    cut = np.uint32(32 - bits)
    random: Array = (values << cut if key % 2 else values) >> cut
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
        random = noise(key, begin, whole.size, NOISE_BITS[storage]).reshape(-1, GROUP)
        end = begin + whole.size
        if storage == BFLOAT16:
            bits = groups.view(np.uint32)
            rounded = np.where(bits & 0x7FFFFFFF <= 0x7F800000, bits + random, bits | 0x400000)
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
    known = np.where(regular, np.abs(values), np.float32(0))
    scales = known.max(axis=1)
    scales = np.where(scales < SMALLEST, np.float32(0), scales)
    factor = np.where(scales > 0, _ranges(special, nonnegative) / scales * BELOW_ONE, np.float32(0))
    codes = ((known * factor[:, None] + OFFSET).view(np.uint32) + random - np.uint32(BASE) >> SHIFT).astype(np.int32)
    if nonnegative:
        codes = np.maximum(codes, known > 0)
        codes = np.where(values == np.inf, 254, np.where(regular, codes, 255))
    else:
        codes = np.where(values < 0, -codes, codes)
        codes = np.where(np.isinf(values), np.where(values < 0, -127, 127), np.where(regular, codes, -128))
    return codes, np.where(special, -scales, scales)


def _ranges(special: Any, nonnegative: bool) -> Array:
    """The number that the largest becomes in each group."""
    usual, other = (NONNEGATIVE_LAST, NONNEGATIVE_LAST_SPECIAL) if nonnegative else (SIGNED_LAST, SIGNED_LAST_SPECIAL)
    return np.where(special, range_of(other), range_of(usual))


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
    special = np.signbit(scales)
    share = np.abs(scales) * (np.float32(1) / _ranges(special, nonnegative) * BELOW_ONE)
    codes, special = codes.astype(np.int32), special[:, None]
    magnitudes = ((np.abs(codes).astype(np.uint32) << SHIFT) + np.uint32(BASE)).view(np.float32) - OFFSET
    values = np.copysign(magnitudes * share[:, None], codes.astype(np.float32))
    infinite, nan = (codes == 254, codes == 255) if nonnegative else (np.abs(codes) == 127, codes == -128)
    values = np.where(special & infinite, np.copysign(np.float32(np.inf), codes.astype(np.float32)), values)
    return np.where(special & nan, np.float32(np.nan), values)
