"""The numbers contract: equal to the textbook's bits, whatever the dtype, shape, layout, threads and cuts."""

import numpy as np
import pytest

import fastopt
from fastopt import threads
from fastopt.commands.verify import cases
from fastopt.kernels import RULES
from fastopt.kernels.intrinsics import smallest_state
from tests.conftest import ELEMENTWISE, THREAD_COUNTS, Pair, assert_same_bits, cases_of

CASES = [pytest.param(rule, settings, id="-".join([rule, *settings])) for rule, settings in cases()]
DTYPES = ["float32", "float64"]


@pytest.mark.parametrize("count", THREAD_COUNTS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("rule", "settings"), CASES)
def test_equals_the_reference(rule, settings, dtype, count, rng):
    shapes = [(), (0,), (1,), (15,), (64, 3), (3, 5, 7), (1000,), (257, 129)]
    fast = {f"p{number}": np.asarray(rng.standard_normal(shape)).astype(dtype) for number, shape in enumerate(shapes)}
    plain = {key: value.copy() for key, value in fast.items()}
    pair = Pair(rule, **settings)
    with threads.exactly(count):
        for step in range(7):
            grads = {
                k: np.asarray(rng.standard_normal(v.shape) * 10.0 ** (3 - step)).astype(dtype) for k, v in fast.items()
            }
            pair.update(fast, plain, grads)
    for key in fast:
        assert_same_bits(fast[key], plain[key])
    pair.assert_same_state()
    assert pair.fast.iter == pair.plain.iter == 7


def layouts(dtype):
    """Arrays of shape (6, 10) that lie in memory in every way NumPy knows."""
    packed = np.zeros((6, 10), dtype=[("odd", "i1"), ("value", dtype)])
    return {
        "C": np.zeros((6, 10), dtype),
        "F": np.zeros((6, 10), dtype, order="F"),
        "transposed": np.zeros((10, 6), dtype).T,
        "columns": np.zeros((6, 30), dtype)[:, ::3],
        "rows": np.zeros((12, 10), dtype)[::2],
        "backwards": np.zeros((6, 10), dtype)[::-1, ::-1],
        "unaligned": packed["value"],
        "sliced F": np.zeros((12, 10), dtype, order="F")[::2],
        "subclass": np.zeros((6, 10), dtype).view(np.matrix),
    }


@pytest.mark.filterwarnings("ignore:the matrix subclass")
@pytest.mark.parametrize(
    ("rule", "gradient_layout", "dtype", "count"),
    cases_of(RULES, ["C", "F", "columns", "backwards", "unaligned", "subclass"], DTYPES, THREAD_COUNTS[:2]),
)
def test_any_layout(rule, dtype, count, gradient_layout, rng):
    fast, plain = layouts(dtype), {key: np.zeros((6, 10), dtype) for key in layouts(dtype)}
    pair = Pair(rule)
    with threads.exactly(count):
        for _ in range(4):
            values = {key: rng.standard_normal((6, 10)).astype(dtype) for key in fast}
            grads = {key: layouts(dtype)[gradient_layout] for key in fast}
            for key in fast:
                grads[key][...] = values[key]
            pair.update(fast, plain, grads, values)
            for key in fast:
                np.testing.assert_array_equal(np.asarray(grads[key]), values[key])  # never modified
    for key in fast:
        assert_same_bits(np.array(fast[key]), plain[key])
    pair.assert_same_state()


@pytest.mark.parametrize("rule", RULES)
def test_permuted_axes(rule, rng):
    fast = {"W": np.zeros((10, 2, 3)).transpose(1, 2, 0), "V": np.zeros((4, 3, 2)).transpose(0, 2, 1)}
    plain, pair = {key: np.zeros(value.shape) for key, value in fast.items()}, Pair(rule)
    for _ in range(3):
        grads = {"W": rng.standard_normal((3, 2, 10)).transpose(1, 0, 2), "V": rng.standard_normal((4, 2, 3))}
        pair.update(fast, plain, grads)
    for key in fast:
        assert_same_bits(np.ascontiguousarray(fast[key]), plain[key])
    pair.assert_same_state()


@pytest.mark.parametrize("rule", RULES)
def test_neighbours_of_a_strided_parameter_stay(rule, rng):
    whole = rng.standard_normal((6, 30)).astype(np.float32)
    before = whole.copy()
    optimizer = fastopt.optimizers.OPTIMIZERS[rule]()
    for _ in range(2):  # ADOPT's first step moves nothing
        optimizer.update({"W": whole[:, ::3]}, {"W": np.ones((6, 10), np.float32)})
    changed = whole != before
    assert changed[:, ::3].all() and changed.sum() == 60


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rule", ELEMENTWISE)
def test_same_bits_for_any_cut_of_the_model(rule, dtype, rng):
    size, steps = 100_003, 5
    start = rng.standard_normal(size).astype(dtype)
    gradients = rng.standard_normal((steps, size)).astype(dtype)
    results = []
    for count in THREAD_COUNTS:
        for cuts in ([], [1, 2, 50_000], sorted(rng.choice(size, 200, replace=False))):
            optimizer, params = fastopt.optimizers.OPTIMIZERS[rule](), dict(enumerate(np.split(start.copy(), cuts)))
            with threads.exactly(count):
                for g in gradients:
                    optimizer.update(params, dict(enumerate(np.split(g, cuts))))
            results.append(np.concatenate(list(params.values())))
    flat, optimizer = fastopt.flatten({"a": start[:70_000], "b": start[70_000:]}), fastopt.optimizers.OPTIMIZERS[rule]()
    for g in gradients:
        optimizer.update(flat, fastopt.flatten({"a": g[:70_000], "b": g[70_000:]}))
    results.append(flat.buffer)
    for result in results[1:]:
        assert_same_bits(result, results[0])


@pytest.mark.parametrize("count", THREAD_COUNTS[:2])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("rule", "settings"), CASES)
def test_nan_and_infinity_go_through_as_in_numpy(rule, settings, dtype, count):
    info = np.finfo(dtype)
    special = [np.nan, np.inf, -np.inf, 0.0, -0.0, info.max, -info.max, info.tiny, info.smallest_subnormal, 1.0, -1e-3]
    p, g = (np.array(x, dtype).ravel() for x in np.meshgrid(special, special))
    fast, plain, pair = {"p": p.copy()}, {"p": p.copy()}, Pair(rule, **settings)
    with threads.exactly(count):
        for _ in range(3):
            pair.update(fast, plain, {"p": g})
    assert_same_bits(fast["p"], plain["p"])
    pair.assert_same_state()


@pytest.mark.parametrize("settings", [{"eps": 0.0}, {}])
@pytest.mark.parametrize("rule", ["adagrad", "rmsprop", "adam"])
def test_division_by_zero_is_numpys(rule, settings):
    fast, plain, pair = {"p": np.ones(3)}, {"p": np.ones(3)}, Pair(rule, **settings)
    pair.update(fast, plain, {"p": np.zeros(3)})
    assert_same_bits(fast["p"], plain["p"])
    assert np.isnan(fast["p"]).all() == (settings == {"eps": 0.0})


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rule", [rule for rule in RULES if RULES[rule].state])
def test_state_never_becomes_subnormal(rule, dtype, rng):
    tiny, smallest = np.finfo(dtype).tiny, smallest_state(dtype)
    pair, settings = Pair(rule), {"momentum": 0.5, "decay_rate": 0.5, "beta1": 0.5, "beta2": 0.5}
    for name, value in settings.items():
        if hasattr(pair.plain, name):
            setattr(pair.fast, name, value)
            setattr(pair.plain, name, value)
    start = rng.standard_normal(500).astype(dtype)
    fast, plain = {"p": start.copy()}, {"p": start.copy()}
    # Gradients near the bottom of the range, of both signs, then none at all: the state falls through the subnormals.
    grads = (rng.standard_normal(500) * np.sqrt(float(tiny)) * 10 ** rng.uniform(-3, 3, 500)).astype(dtype)
    for step in range(60):
        pair.update(fast, plain, {"p": grads if step == 0 else np.zeros_like(grads)})
        for slot in pair.plain.slots:
            state = getattr(pair.fast, slot)["p"]
            assert slot in RULES[rule].exact or not ((np.abs(state) < smallest) & (state != 0)).any()
    assert_same_bits(fast["p"], plain["p"])
    pair.assert_same_state()


@pytest.mark.parametrize(
    "rule", [name for name, rule in RULES.items() if (rule.exact or rule.signed) and not rule.totals]
)
def test_steps_by_sign_take_the_textbook_path_when_gradients_die(rule, rng):
    """Where the sign of state decides a step, what is small keeps it: the parameters are those of the plain formula."""
    pair = Pair(rule)
    pair.plain.flush = False
    start = rng.standard_normal(300).astype(np.float32)
    fast, plain = {"p": start.copy()}, {"p": start.copy()}
    grads = (rng.standard_normal(300) * 10.0 ** rng.integers(-36, 0, 300)).astype(np.float32)
    for step in range(9000 if rule == "lion" else 1200):
        pair.update(fast, plain, {"p": grads if step < 2 or step == 1100 else np.zeros_like(grads)})
    assert_same_bits(fast["p"], plain["p"])


def test_a_decaying_state_reaches_zero():
    """Without the flush it stays at 5.6e-45 for ever, as 0.9 times that rounds to itself."""
    optimizer, params = fastopt.Momentum(), {"p": np.zeros(4, np.float32)}
    optimizer.update(params, {"p": np.full(4, 1e-30, np.float32)})
    for _ in range(200):
        optimizer.update(params, {"p": np.zeros(4, np.float32)})
    assert (optimizer.v["p"] == 0).all() and np.signbit(optimizer.v["p"]).all()


@pytest.mark.parametrize("rule", RULES)
def test_mixed_dtypes_are_each_their_own(rule, rng):
    fast = {
        "a": np.ones((3, 4), np.float32),
        "b": np.ones(5),
        "c": np.ones(2, np.float32),
        "d": 2.0,
        "e": np.float32(3),
    }
    plain = {key: value.copy() if isinstance(value, np.ndarray) else value for key, value in fast.items()}
    pair = Pair(rule)
    for _ in range(5):
        grads = {key: rng.standard_normal(np.shape(value)) for key, value in fast.items()}
        pair.update(fast, plain, grads)
    for key in fast:
        assert_same_bits(fast[key], plain[key])
        assert type(fast[key]) is type(plain[key])
    pair.assert_same_state()


def test_arrays_without_dimensions():
    """Of which NumPy makes scalars, whose squares are not always those of arrays."""
    pair, unlike = Pair("adam", weight_decay=0.1, gradient_scale=0.5), (2.232176, 0.2840814, 1.3657904)
    grads = {number: np.array(2 * value, np.float32) for number, value in enumerate(unlike)}
    fast, plain = ({number: np.zeros((), np.float32) for number in grads} for _ in range(2))
    pair.update(fast, plain, grads)
    pair.assert_same_state()
