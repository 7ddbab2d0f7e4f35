"""Codecs of compact state: compiled against plain NumPy, over all codes and all exponents."""

import ctypes
import re

import numpy as np
import pytest

from fastopt.kernels import RULES, cache, codecs, storage
from fastopt.kernels.codecs import BFLOAT16, GROUP, INT8, SMALLEST
from fastopt.kernels.compile import c_function, callback, compiled_for_c

FORMS = [(BFLOAT16, False), (INT8, False), (INT8, True)]
EACH = pytest.mark.parametrize(("stored", "nonnegative"), FORMS, ids=["bfloat16", "signed", "nonnegative"])
INT64 = ctypes.c_int64
KEYS = [codecs.slot_key(codecs.step_key(0, step), 5, step % 2) for step in range(8)]
LANES = r"(4|8|16)"
FLOAT64_ARITHMETIC = re.compile(r"= (fadd|fsub|fmul|fdiv|fneg|fpext)\b.*double|@llvm\.\w+\.(v\d+)?f64")
rng = np.random.default_rng(0)


def function(which):
    return ctypes.CFUNCTYPE(INT64, *[INT64] * 7)(compiled_for_c(which, 7))


def encoded(stored, nonnegative, values, key=KEYS[1]):
    """The run of bytes, from both."""
    values = np.ascontiguousarray(values, np.float32)
    expected = codecs.empty_run(stored, values.size)
    codecs.encode(stored, nonnegative, values, key, expected)
    source = np.zeros(codecs.padded(values.size), np.float32)
    source[: values.size] = values
    run = codecs.empty_run(stored, values.size)
    kind = storage.kind(stored, nonnegative)
    place = run.ctypes.data, values.size, source.ctypes.data, 0, values.size
    function(storage.encode)(kind, *place, key - (key >> 63 << 64))
    np.testing.assert_array_equal(run, expected)
    return run


def decoded(stored, nonnegative, run, size):
    """The values of a run, from both."""
    target = np.empty(codecs.padded(size), np.float32)
    kind = storage.kind(stored, nonnegative)
    function(storage.decode)(kind, run.ctypes.data, size, target.ctypes.data, 0, size, 0)
    expected = codecs.decode(stored, nonnegative, run, size)
    np.testing.assert_array_equal(target[:size].view(np.uint32), expected.view(np.uint32))
    return target[:size]


def test_every_bfloat16_is_its_own_code():
    codes = np.arange(65536, dtype=np.uint16)
    values = decoded(BFLOAT16, False, codes.view(np.uint8), codes.size)
    np.testing.assert_array_equal(values.view(np.uint32), codes.astype(np.uint32) << 16)
    again = encoded(BFLOAT16, False, values).view(np.uint16)
    nan = np.isnan(values)
    np.testing.assert_array_equal(again[~nan], codes[~nan])
    assert np.isnan(decoded(BFLOAT16, False, again.view(np.uint8), codes.size)[nan]).all()


def meaning(codes):
    """The numbers of codes, the last one as what `codecs.range_of` says: 16 steps to each power of two, from 2 on."""
    return np.ldexp(2 + (codes % 16) / 8, codes // 16) - 2


@pytest.mark.parametrize(
    "scale", [2 * SMALLEST, 1e-30, 1.0, 0.3, 3e38, np.finfo(np.float32).max, np.float32(1e-42), 0.0]
)
@pytest.mark.parametrize("nonnegative", [False, True])
def test_every_code_at_every_scale(nonnegative, scale):
    last = 255 if nonnegative else 127
    known = np.arange(0 if nonnegative else -127, last + 1)
    codes = np.zeros(5 * GROUP, np.int64)
    codes[: known.size] = known
    codes[::GROUP] = last  # so that each group has the scale
    kind = np.uint8 if nonnegative else np.int8
    run = codecs.empty_run(INT8, codes.size)
    run[: codes.size].view(kind)[:], run[codes.size :].view(np.float32)[:] = codes, scale
    values = decoded(INT8, nonnegative, run, codes.size)
    exact = np.sign(codes) * meaning(np.abs(codes)) / meaning(last) * float(np.float32(scale))
    np.testing.assert_allclose(values, exact, rtol=8e-7, atol=1.1e-42)
    assert (values[codes == 0] == 0).all()
    assert (values <= np.float32(scale)).all()
    if scale > SMALLEST:  # a code is that of what it means, as nearly always as the noise has bits
        same = [encoded(INT8, nonnegative, values, key)[: codes.size].view(kind) == codes for key in KEYS]
        assert np.mean(same) > 0.999


@EACH
def test_every_exponent_and_random_bits(stored, nonnegative):
    exponents = np.ldexp(1.0 + rng.random((277, 5)), np.arange(-149, 128)[:, None])
    values = [exponents.ravel(), rng.standard_normal(1000), np.zeros(100), np.full(70, 3e38)]
    for kind in (values, [rng.integers(0, 2**32, 5000, dtype=np.uint32).view(np.float32)]):
        with np.errstate(over="ignore"):
            numbers = np.concatenate(kind).astype(np.float32)
        for sign in (1, -1):
            for key in (0, KEYS[0], 2**64 - 1):
                with np.errstate(invalid="ignore"):
                    signed = numbers * np.float32(sign)
                run = encoded(stored, nonnegative, signed, key)
                decoded(stored, nonnegative, run, numbers.size)


def gaps(stored, nonnegative, values):
    """How far apart the two codes are between which each value lies."""
    magnitudes = np.abs(values).astype(np.float64)
    if stored == BFLOAT16:
        return np.ldexp(2.0**-7, np.floor(np.log2(magnitudes)).astype(int))
    scale = magnitudes.reshape(-1, GROUP).max(axis=1, keepdims=True).repeat(GROUP, axis=1).ravel()
    last = 255 if nonnegative else 127
    return (
        np.ldexp(2.0**-4, np.floor(np.log2(magnitudes / scale * meaning(last) + 2)).astype(int)) / meaning(last) * scale
    )


@EACH
def test_errors_are_within_a_step_and_zero_stays_zero(stored, nonnegative):
    values = (rng.standard_normal(64 * GROUP) * np.exp(3 * rng.standard_normal(64 * GROUP))).astype(np.float32)
    values = np.abs(values) if nonnegative else values
    values[::7] = 0
    back = decoded(stored, nonnegative, encoded(stored, nonnegative, values), values.size)
    assert (back[values == 0] == 0).all()
    if stored == BFLOAT16:
        np.testing.assert_allclose(back, values, rtol=2.0**-7)
        return
    assert (np.abs(back - values) <= gaps(stored, nonnegative, values) * (1 + 1e-5)).all()
    if nonnegative:
        assert (back[values > 0] > 0).all(), "what is divided by its root must not become zero"


@EACH
def test_the_mean_over_the_noise_is_the_value(stored, nonnegative):
    values = np.abs(rng.standard_normal(4 * GROUP)).astype(np.float32)
    keys = [codecs.slot_key(codecs.step_key(0, step), 5, 0) for step in range(2000)]
    runs = [encoded(stored, nonnegative, values, key) for key in keys]
    every = np.array([codecs.decode(stored, nonnegative, run, values.size) for run in runs], np.float64)
    bound = 5 * gaps(stored, nonnegative, values) / 2 / np.sqrt(len(keys)) + 1e-6 * values
    assert (np.abs(every.mean(axis=0) - values) < bound).all()
    # neighbours are rounded independently of one another
    ups = every > values
    together = np.corrcoef(ups[:, ups.std(axis=0) > 0.1].T)
    assert np.abs(together - np.eye(len(together))).max() < 0.15


@pytest.mark.parametrize("nonnegative", [False, True])
def test_what_is_not_finite_stays_so_and_nothing_else_becomes_so(nonnegative):
    values = np.abs(rng.standard_normal(3 * GROUP)).astype(np.float32)
    values[[3, 70, 71]] = np.nan, np.inf, 0.0 if nonnegative else -np.inf
    back = decoded(INT8, nonnegative, encoded(INT8, nonnegative, values), values.size)
    np.testing.assert_array_equal(np.isnan(back), np.isnan(values))
    np.testing.assert_array_equal(back[np.isinf(values)], values[np.isinf(values)])
    finite = np.isfinite(values)
    np.testing.assert_allclose(back[finite], values[finite], atol=0.1)


def test_negative_values_where_none_can_be_are_not_hidden():
    values = np.full(GROUP, 0.5, np.float32)
    values[5], values[6] = -0.1, -0.0
    back = decoded(INT8, True, encoded(INT8, True, values), GROUP)
    assert np.flatnonzero(np.isnan(back)).tolist() == [5]
    assert back[6] == 0


def test_noise_depends_on_seed_step_name_slot_and_element():
    base = codecs.slot_key(codecs.step_key(0, 1), codecs.name_key("W"), 0)
    others = [
        codecs.slot_key(codecs.step_key(1, 1), codecs.name_key("W"), 0),
        codecs.slot_key(codecs.step_key(0, 2), codecs.name_key("W"), 0),
        codecs.slot_key(codecs.step_key(0, 1), codecs.name_key("V"), 0),
        codecs.slot_key(codecs.step_key(0, 1), codecs.name_key("W"), 1),
    ]
    for bits in codecs.NOISE_BITS.values():
        noise = codecs.noise(base, 0, 4096, bits)
        for other in others:
            assert (codecs.noise(other, 0, 4096, bits) == noise).mean() < 1e-3
        np.testing.assert_array_equal(codecs.noise(base, 192, 320, bits), noise[192:512])
        assert noise.max() < 2**bits
        assert len(np.unique(noise)) > 0.9 * noise.size
    assert codecs.name_key(1) == codecs.name_key(1.0) != codecs.name_key("1")
    assert codecs.name_key(("a", 1)) != codecs.name_key(("a", 2))


@pytest.mark.parametrize("which", [storage.decode, storage.encode])
def test_loops_over_a_group_are_vectors_of_32_bits(which):
    callback = c_function(which, 7)
    cache.enable(callback)
    callback.compile()
    code = str(callback._library._get_module_for_linking())
    assert re.search(rf"= fmul <{LANES} x float>", code)
    assert "gather" not in code
    assert not [line for line in code.splitlines() if FLOAT64_ARITHMETIC.search(line)]
    if which is storage.encode:
        assert "sqrt" not in code
        assert re.search(rf"= mul <{LANES} x i32>", code), "the noise"
        assert re.search(r"@llvm\.umax\.v\d+i32|icmp ugt <\d+ x i32>", code), "the largest magnitude"


@pytest.mark.parametrize("stored", [BFLOAT16, INT8])
def test_the_loop_of_a_rule_with_its_codecs_is_vectors(stored):
    compiled = callback(RULES["adam"], "float32", stored)
    cache.enable(compiled)
    compiled.compile()
    code = str(compiled._library._get_module_for_linking())
    for operation in ("fdiv", "mul", "lshr"):  # the formula, the noise, the codes
        assert re.search(rf"= {operation}( exact)? <{LANES} x (float|i32)>", code), operation
    assert re.search(rf"trunc( nuw)? <{LANES} x i32> .* to <{LANES} x i{16 if stored == BFLOAT16 else 8}>", code)
    assert "gather" not in code
    arithmetic = [line for line in code.splitlines() if re.search(r"= (fadd|fsub|fmul|fdiv)\b.*double", line)]
    assert not arithmetic
