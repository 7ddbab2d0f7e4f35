"""Random models, values and memory layouts for Hypothesis. FASTOPT_EXAMPLES sets how many examples are tried."""

import os
from contextlib import contextmanager

import numpy as np
from hypothesis import HealthCheck, note, settings
from hypothesis import strategies as st

from fastopt.pairs import is_complex, joined, part_dtype

USUAL = 40
EXAMPLES = int(os.environ.get("FASTOPT_EXAMPLES", USUAL))
try_many = settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize=EXAMPLES <= USUAL,  # the same examples in every run of CI
    suppress_health_check=list(HealthCheck),
    print_blob=False,
    database=None,
)

KEYS = ["W", "b", "", 3, ("deep", 1), None]
SHAPES = [(), (0,), (1,), (7,), (3, 5), (2, 0, 3), (4, 3, 2), (130,)]
SIZES = (1, 2, 3, 4, 0, 2, 3, 4)
VALUES = ["normal", "huge", "tiny", "subnormal", "special", "zero"]
REAL, COMPLEX = ("float32", "float64"), ("complex64", "complex128", "float32", "float64")
LAYOUTS = ["C", "F", "strided", "backwards", "unaligned", "transposed"]


def values(kind, shape, dtype, seed):
    if is_complex(np.dtype(dtype)):
        return joined(values(kind, (*shape, 2), part_dtype(np.dtype(dtype)), seed))
    rng, info = np.random.default_rng(seed), np.finfo(dtype)
    x = np.asarray(rng.standard_normal(shape))
    if kind == "special":
        x = rng.choice([np.nan, np.inf, -np.inf, 0.0, -0.0, 1.0, float(info.max), float(info.tiny)], size=shape)
    scale = {"huge": float(info.max) / 8, "tiny": float(info.tiny) * 4, "subnormal": float(info.tiny) / 64, "zero": 0.0}
    with np.errstate(all="ignore"):
        return np.asarray(x * scale.get(kind, 1.0)).astype(dtype)


def lay_out(x, layout):
    """The same values, lying in memory in another way."""
    if layout == "F":
        return np.asfortranarray(x) if x.ndim else x
    if layout == "unaligned":
        packed = np.zeros(x.shape, dtype=[("odd", "i1"), ("value", x.dtype)])["value"]
        packed[...] = x
        return packed
    if x.ndim == 0:
        return x
    if layout == "strided":
        wide = np.zeros((*x.shape[:-1], 2 * x.shape[-1]), x.dtype)[..., ::2]
        wide[...] = x
        return wide
    if layout == "backwards":
        return np.ascontiguousarray(x[::-1])[::-1]
    return np.ascontiguousarray(x.T).T if layout == "transposed" else x


def make(shape, dtype, kind, layout, seed):
    return lay_out(values(kind, shape, dtype, seed), layout)


@contextmanager
def told(*tapes):
    """Shows the choices of a sequence that fails."""
    try:
        yield tapes
    except BaseException:
        for tape in tapes:
            note(str(tape.read))
        raise


class Tape:
    """Choices read from random bytes, one for each, of which zero is the first choice.

    Hypothesis draws the bytes of an operation at once, which is many times as fast as a draw for each choice, and shrinks
    them one by one. `read` has the choices, for `told`.
    """

    def __init__(self, content):
        self._bytes, self.read = iter(content), []

    def draw(self, choices):
        choices = tuple(choices)
        self.read.append(choices[next(self._bytes, 0) % len(choices)])
        return self.read[-1]

    def flag(self):
        return self.draw((False, True))

    def seed(self):
        self.read.append(int.from_bytes(next(self._bytes, 0) for _ in range(3)))
        return self.read[-1]

    def array(self, dtypes=REAL):
        """Shape, dtype, kind of values, layout and seed, as `make` takes them."""
        return self.draw(SHAPES), self.draw(dtypes), self.draw(VALUES), self.draw(LAYOUTS), self.seed()

    def model(self, dtypes=REAL):
        """Up to four arrays by key, in any order, most often some."""
        keys, specs = list(KEYS), {}
        for _ in range(self.draw(SIZES)):
            key = self.draw(keys)
            keys.remove(key)
            specs[key] = self.array(dtypes)
        return {key: make(*spec) for key, spec in specs.items()}


tapes = st.binary(min_size=40, max_size=40)
operations = st.lists(tapes, min_size=1, max_size=8)
