"""Ways to store state in 16 and 8 bits, in plain NumPy, beside fastopt's own: `python -m bench.storage maps`.

"float" is fastopt's codes of 8 bits. "root" and "softsign" are those that they were chosen among: `sqrt(|x|)` and
`2 |x| / (1 + |x|)` of a value over its group's largest (FlashOptim, arXiv:2602.23349, which takes the root for v).
Adam steps in float32, and after each step m and v become what would have been stored.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from time import perf_counter
from typing import Any

import numpy as np
from numba import njit

from bench.storage_training import Digits, summary
from fastopt.engine.columns import SMALLEST
from fastopt.kernels import codecs
from fastopt.optimizers import OPTIMIZERS

Array = np.ndarray[Any, np.dtype[Any]]


def float_code(share: Any, last: int) -> Any:
    """Between codes as fastopt's stochastic rounding is: in proportion to the value."""
    bits = (share * codecs.range_of(last) + codecs.OFFSET).astype(np.float32).view(np.uint32) - np.uint32(codecs.BASE)
    return bits / np.float32(1 << codecs.SHIFT)


def float_share(code: Any, last: int) -> Any:
    """The share of the largest that a code stands for."""
    bits = (code.astype(np.uint32) << codecs.SHIFT) + np.uint32(codecs.BASE)
    return (bits.view(np.float32) - codecs.OFFSET) / codecs.range_of(last)


Map = tuple[Callable[[Any, int], Any], Callable[[Any, int], Any]]
FLOAT: Map = float_code, float_share
ROOT: Map = lambda share, last: np.sqrt(share) * last, lambda code, last: (code / np.float32(last)) ** 2
SOFTSIGN: Map = (
    lambda share, last: 2 * share / (1 + share) * last,
    lambda code, last: code / (2 * np.float32(last) - code),
)
MAPS = {"float": (FLOAT, FLOAT), "root": (ROOT, ROOT), "softsign": (SOFTSIGN, ROOT)}
"""Of m, and of v."""


def in_8_bits(values: Array, one: Map, group: int, nonnegative: bool, random: np.random.Generator) -> Array:
    """The values as stored in groups with a scale, rounded stochastically; of v none becomes zero that is not."""
    last, size = 255 if nonnegative else 127, values.size
    whole = np.zeros(-(-size // group) * group, np.float32)
    whole[:size] = np.abs(values).ravel()
    groups = whole.reshape(-1, group)
    scales = groups.max(axis=1, keepdims=True)
    to_code, to_share = one
    codes = to_code(groups / np.maximum(scales, codecs.SMALLEST), last)
    codes = np.minimum(np.floor(codes + random.random(groups.shape, np.float32)), last)
    if nonnegative:
        codes = np.maximum(codes, groups > 0)
    return np.copysign((to_share(codes, last) * scales).ravel()[:size].reshape(values.shape), values)


def in_16_bits(values: Array, is_nearest: bool, random: np.random.Generator) -> Array:
    """The values as bfloat16, to nearest even or stochastically."""
    bits = values.view(np.uint32)
    added = (bits >> 16 & 1) + 0x7FFF if is_nearest else random.integers(0, 1 << 16, bits.shape, np.uint32)
    return ((bits + added.astype(np.uint32)) & np.uint32(0xFFFF0000)).view(np.float32)


Rounding = Callable[[Array, Array, np.random.Generator], tuple[Array, Array]]


def roundings() -> dict[str, tuple[float, Rounding]]:
    """By name: bytes of an element of a slot, and the function that rounds m and v."""
    found: dict[str, tuple[float, Rounding]] = {
        "bfloat16": (2, lambda m, v, random: (in_16_bits(m, False, random), in_16_bits(v, False, random))),
        "bfloat16, m to nearest": (2, lambda m, v, random: (in_16_bits(m, True, random), in_16_bits(v, False, random))),
    }
    for name, (of_m, of_v) in MAPS.items():
        for group in (64, 32):

            def both(
                m: Array, v: Array, random: np.random.Generator, of_m: Map = of_m, of_v: Map = of_v, group: int = group
            ) -> tuple[Array, Array]:
                return in_8_bits(m, of_m, group, False, random), in_8_bits(v, of_v, group, True, random)

            found[f"{name}, groups of {group}"] = 1 + 4 / group, both
    return found


def errors(checkpoints: int = 5, steps: int = 200) -> Iterator[tuple[str, float, float, float, float]]:
    """Of each way, bytes of an element and medians over states of Adam in training: relative errors (root mean squares
    over an array) of m, sqrt(v) and m / sqrt(v)."""
    digits, optimizer, random = Digits(0), OPTIMIZERS["adam"](), np.random.default_rng(0)
    states: list[tuple[Array, Array]] = []
    for _ in range(checkpoints):
        digits.train(optimizer, steps)
        states += [(optimizer.m[key].copy(), optimizer.v[key].copy()) for key in ("W1", "W2", "W4")]
    for name, (size, rounding) in roundings().items():
        found = []
        for m, v in states:
            stored, (root, direction) = rounding(m, v, random), directions(m, v)
            stored_root, stored_direction = directions(*stored)
            pairs = (m, stored[0]), (root, stored_root), (direction, stored_direction)
            found.append([np.linalg.norm(one - other) / np.linalg.norm(one) for one, other in pairs])
        m_error, root_error, step_error = np.median(found, axis=0)
        yield name, size, m_error, root_error, step_error


def directions(m: Array, v: Array, eps: float = 1e-8) -> tuple[Array, Array]:
    """The root of v, and what Adam goes along."""
    root = np.sqrt(v)
    return root, m / (root + np.float32(eps))


def trained(rounding: Rounding | None, seed: int, steps: int) -> tuple[float, float]:
    """Mean of the last 100 losses, and test accuracy, with m and v rounded after each step."""
    digits, optimizer, random = Digits(seed), OPTIMIZERS["adam"](), np.random.default_rng(seed)

    def stored() -> None:
        if rounding is not None:
            for key, value in digits.params.items():
                if value.size >= SMALLEST:
                    optimizer.m[key][...], optimizer.v[key][...] = rounding(optimizer.m[key], optimizer.v[key], random)

    losses = digits.train(optimizer, steps, stored)
    return float(np.mean(losses[-100:])), digits.accuracy()


def sticking(is_nearest: bool, share: float, spread: float, steps: int = 4000) -> float:
    """How far off a running mean in bfloat16 of numbers about 1 is in the end: root mean square, from 0 on."""
    random, mean, exact = np.random.default_rng(0), np.zeros(4096, np.float32), np.zeros(4096)
    for _ in range(steps):
        numbers = 1 + np.float32(spread) * random.standard_normal(4096, np.float32)
        mean = in_16_bits(mean + np.float32(share) * (numbers - mean), is_nearest, random)
        exact += share * (numbers - exact)
    return float(np.sqrt(np.mean((mean - exact) ** 2) / np.mean(exact**2)))


def neighbours(small: float, storage: str, steps: int = 100) -> float:
    """How far Adam takes elements from 0 towards 1 whose gradients are so small beside those of their neighbours."""
    params, share = {"W": np.zeros(4096, np.float32)}, np.ones(4096, np.float32)
    share[::2] = small
    optimizer = OPTIMIZERS["adam"](lr=0.01, eps=1e-12, state_storage=storage)
    for _ in range(steps):
        optimizer.update(params, {"W": share * (params["W"] - 1)})
    return float(params["W"][::2].mean())


# -- what the arithmetic of signed codes costs, without noise and scales -----------------------------------------------

SHIFT, BASE, HALF_A_CODE = np.uint32(codecs.SHIFT), np.uint32(codecs.BASE), np.uint32(1 << codecs.SHIFT - 1)
OFFSET, RANGE, SHARE = codecs.OFFSET, codecs.range_of(127), np.float32(1) / codecs.range_of(127)
LAST, STEP, ONE, TWO, HALF = (np.float32(number) for number in (127, 1 / 127, 1, 2, 0.5))

compiled = njit(fastmath={"nsz", "contract", "arcp", "afn"}, error_model="numpy")


@compiled
def float_encode(shares, codes):  # type: ignore[no-untyped-def]
    for place in range(codes.size):
        bits = np.float32(shares[place] * RANGE + OFFSET).view(np.uint32)
        codes[place] = np.uint8(np.uint32(bits + HALF_A_CODE) >> SHIFT)


@compiled
def float_decode(codes, shares):  # type: ignore[no-untyped-def]
    for place in range(codes.size):
        bits = np.uint32(np.uint32(np.uint32(codes[place]) << SHIFT) | BASE)
        shares[place] = np.float32(bits.view(np.float32) - OFFSET) * SHARE


@compiled
def root_encode(shares, codes):  # type: ignore[no-untyped-def]
    for place in range(codes.size):
        codes[place] = np.uint8(np.int32(np.sqrt(shares[place]) * LAST + HALF))


@compiled
def root_decode(codes, shares):  # type: ignore[no-untyped-def]
    for place in range(codes.size):
        root = np.float32(codes[place]) * STEP
        shares[place] = root * root


@compiled
def softsign_encode(shares, codes):  # type: ignore[no-untyped-def]
    for place in range(codes.size):
        codes[place] = np.uint8(np.int32(TWO * shares[place] / (ONE + shares[place]) * LAST + HALF))


@compiled
def softsign_decode(codes, shares):  # type: ignore[no-untyped-def]
    for place in range(codes.size):
        share = np.float32(codes[place]) * STEP
        shares[place] = share / (TWO - share)


def costs() -> dict[str, tuple[float, ...]]:
    """Nanoseconds an element, in the first cache, to encode and to decode by each map."""
    shares, codes = np.random.default_rng(0).random(4096, np.float32), np.empty(4096, np.uint8)
    functions = {
        "float": (float_encode, float_decode),
        "root": (root_encode, root_decode),
        "softsign": (softsign_encode, softsign_decode),
    }
    found = {}
    for name, (encode, decode) in functions.items():
        seconds = []
        for arguments in ((encode, shares, codes), (decode, codes, shares)):
            function, *arrays = arguments
            function(*arrays)
            turns = []
            for _ in range(300):
                start = perf_counter()
                for _ in range(20):
                    function(*arrays)
                turns.append((perf_counter() - start) / 20 / codes.size)
            seconds.append(1e9 * min(turns))
        found[name] = tuple(seconds)
    return found


def maps(seeds: int, steps: int = 1000) -> None:
    """Prints what is stored how exactly, and what training makes of it."""
    for name, (encode, decode) in costs().items():
        print(f"{name}: {encode:.3f} ns an element to encode, {decode:.3f} to decode", flush=True)
    for share in (0.1, 0.01, 0.001):
        for spread in (1.0, 0.0):
            nearest, stochastic = (100 * sticking(way, share, spread) for way in (True, False))
            print(
                f"bfloat16, a running mean with 1 - beta = {share} of numbers that are 1 +- {spread:g}: "
                f"off by {nearest:.2f} % to nearest, {stochastic:.2f} % stochastically",
                flush=True,
            )
    for small in (1e-3, 1e-4, 1e-5):
        found = ", ".join(f"{storage} {neighbours(small, storage):.3f}" for storage in codecs.STORAGES)
        print(f"elements with gradients of {small:g} of their neighbours' come to {found}", flush=True)
    print("errors of m, sqrt(v), m / sqrt(v)")
    for name, size, *found in errors():
        print(f"  {name:24} {size:.4g} bytes: " + ", ".join(f"{100 * error:5.2f} %" for error in found), flush=True)
    print(f"Adam, {steps} steps, {seeds} seeds: last losses, test accuracy")
    for name, rounding in {"float32": None, **{name: way for name, (_, way) in roundings().items()}}.items():
        (loss, accuracy), spread = summary([list(trained(rounding, seed, steps)) for seed in range(seeds)])
        print(f"  {name:24} {loss:.4f} +- {spread[0]:.4f}, {accuracy:.4f} +- {spread[1]:.4f}", flush=True)
