"""Random models, values and memory layouts for Hypothesis. FASTOPT_EXAMPLES sets how many examples are tried."""

import os

import numpy as np
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

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
VALUES = ["normal", "huge", "tiny", "subnormal", "special", "zero"]
LAYOUTS = ["C", "F", "strided", "backwards", "unaligned", "transposed"]


def values(kind, shape, dtype, seed):
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


arrays = st.tuples(st.sampled_from(SHAPES), st.sampled_from(["float32", "float64"]), st.sampled_from(VALUES), st.sampled_from(LAYOUTS), st.integers(0, 2**32 - 1))  # fmt: skip


def make(shape, dtype, kind, layout, seed):
    return lay_out(values(kind, shape, dtype, seed), layout)
