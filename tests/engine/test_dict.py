"""The dict API: what may stand in params and grads, and that everything is found again at the next step."""

from collections import OrderedDict, UserDict
from types import MappingProxyType

import numpy as np
import pytest

import fastopt
from fastopt import threads
from fastopt.kernels import RULES, array_scan
from tests.conftest import ELEMENTWISE, ROOT, THREAD_COUNTS, Pair, assert_same_bits, python


def arrays(rng, dtype="float64"):
    return {"W": rng.standard_normal((4, 5)).astype(dtype), "b": rng.standard_normal(5).astype(dtype)}


def ones(params):
    return {key: np.ones(np.shape(value)) for key, value in params.items()}


@pytest.mark.parametrize("rule", RULES)
def test_plain_numbers_are_replaced_as_in_the_textbook(rule, rng):
    fast = {"x": -7.0, "y": 2, "i": np.int64(3), "z": np.float32(0.5), "n": np.float64(1.5), "a": np.array(3.0)}
    plain = {**fast, "a": fast["a"].copy()}
    pair, same_array = Pair(rule), fast["a"]
    for _ in range(5):
        pair.update(fast, plain, {key: float(rng.standard_normal()) for key in fast})
    assert {key: type(value) for key, value in fast.items()} == {
        "x": float, "y": float, "i": float, "z": np.float32, "n": np.float64, "a": np.ndarray,
    }  # fmt: skip
    for key in fast:
        assert_same_bits(fast[key], plain[key])
    assert fast["a"] is same_array
    pair.assert_same_state()


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize(
    "dtype", [np.float32, np.float64, np.float16, np.int32, np.uint8, np.bool_, ">f4", ">f8", np.longdouble]
)
def test_gradients_of_other_dtypes_are_converted(rule, dtype, rng):
    for parameter_dtype in ("float32", "float64"):
        fast = arrays(rng, parameter_dtype)
        plain = {key: value.copy() for key, value in fast.items()}
        pair = Pair(rule)
        for _ in range(3):
            grads = {key: (rng.standard_normal(value.shape) * 3).astype(dtype) for key, value in fast.items()}
            pair.update(fast, plain, grads)
        for key in fast:
            assert_same_bits(fast[key], plain[key])


@pytest.mark.parametrize("rule", RULES)
def test_none_leaves_parameter_and_state_alone(rule, rng):
    fast = {**arrays(rng), "x": 1.0}
    plain = {key: np.copy(value) if isinstance(value, np.ndarray) else value for key, value in fast.items()}
    pair = Pair(rule)
    for missing in ({"W", "b", "x"}, {"b"}, {"b"}, {"W", "x"}, set(), {"x"}):
        grads = {key: None if key in missing else rng.standard_normal(np.shape(fast[key])) for key in fast}
        pair.update(fast, plain, grads)
        for key in fast:
            assert_same_bits(fast[key], plain[key])
        pair.assert_same_state()


@pytest.mark.parametrize("rule", RULES)
def test_replaced_arrays_are_found(rule, rng):
    fast = arrays(rng)
    plain = {key: value.copy() for key, value in fast.items()}
    pair = Pair(rule)
    for step in range(8):
        if step % 2:
            fast["W"] = np.asfortranarray(fast["W"]) if step == 3 else fast["W"].copy()
        if step == 5:
            fast = dict(fast)
        if step == 6:
            fast = {"b": fast["b"], "W": fast["W"]}  # another order
        pair.update(fast, plain, {key: rng.standard_normal(value.shape) for key, value in fast.items()})
        for key in fast:
            assert_same_bits(np.ascontiguousarray(fast[key]), plain[key])
    for slot in RULES[rule].state:
        for key in fast:
            assert_same_bits(np.ascontiguousarray(getattr(pair.fast, slot)[key]), getattr(pair.plain, slot)[key])


def test_swapped_arrays_keep_the_state_of_their_key():
    optimizer, params = fastopt.Momentum(lr=1.0), {"a": np.zeros(3), "b": np.zeros(3)}
    optimizer.update(params, {"a": np.ones(3), "b": np.zeros(3)})
    params["a"], params["b"] = params["b"], params["a"]
    optimizer.update(params, {"a": np.zeros(3), "b": np.zeros(3)})
    assert params["a"].tolist() == [-0.9] * 3 and params["b"].tolist() == [-1.0] * 3


def test_a_subset_of_the_parameters_may_be_stepped(rng):
    pair, fast = Pair("adam"), arrays(rng)
    plain = {key: value.copy() for key, value in fast.items()}
    for keys in (["W", "b"], ["b"], ["W"], ["W", "b"]):
        pair.update({k: fast[k] for k in keys}, {k: plain[k] for k in keys}, ones(fast))
    for key in fast:
        assert_same_bits(fast[key], plain[key])


def changed_in_place(kind, change):
    """An array of 12 elements, contiguous or not, and a function that changes its header."""
    array = {"contiguous": np.ones(12), "strided": np.ones(24)[::2], "F": np.ones((12, 2), order="F").T[0]}[kind]

    def reshape():
        array.shape = (3, 4)

    def dtype():
        array.dtype = np.int64

    def resize():
        array.resize(40_000, refcheck=False)

    def lock():
        array.flags.writeable = False

    return array, locals()[change]


@pytest.mark.filterwarnings("ignore")  # NumPy has begun to advise against setting shape and dtype
@pytest.mark.parametrize("change", ["reshape", "dtype", "resize", "lock"])
@pytest.mark.parametrize("kind", ["contiguous", "strided", "F"])
def test_an_array_whose_header_changes_is_noticed(kind, change):
    array, act = changed_in_place(kind, change)
    params, grads = {"W": array}, {"W": np.ones(12)}
    optimizer = fastopt.Momentum()
    for _ in range(2):
        optimizer.update(params, grads)
    if change == "resize" and array.base is not None:
        with pytest.raises(ValueError, match=r"own its data|single-segment"):
            act()
        return
    act()
    before = array.tobytes()
    with pytest.raises((ValueError, TypeError), match=r"Momentum: params\['W'\]"):
        optimizer.update(params, grads)
    assert optimizer.iter == 2 and array.tobytes() == before


@pytest.mark.parametrize("layout", ["contiguous", "strided"])
@pytest.mark.parametrize("rule", ELEMENTWISE)
def test_arrays_tied_after_the_first_step(rule, layout, rng):
    """The state of the keys lies in different orders, the array cannot fit both."""
    fast = {"a": np.ones((4, 3)), "b": np.ones((4, 3), order="F"), "c": 2.0}
    plain, pair = {key: np.copy(value) if key != "c" else value for key, value in fast.items()}, Pair(rule)
    for step in range(6):
        if step == 2:
            tied = rng.standard_normal((4, 6))[:, ::2] if layout == "strided" else rng.standard_normal((4, 3))
            fast["a"] = fast["b"] = tied
            plain["a"] = plain["b"] = tied.copy()
        pair.update(fast, plain, {key: rng.standard_normal(np.shape(value)) for key, value in fast.items()})
        for key in fast:
            assert_same_bits(np.ascontiguousarray(fast[key]), np.ascontiguousarray(plain[key]))


def test_an_empty_view_inside_another_parameter_hides_no_overlap():
    whole = np.zeros(100)
    inner = whole[10:30]
    params = {"x0": whole[0:3], "W": inner, "e": inner.reshape(4, 5)[1:3, 2:2], "b": whole[40:43], "x2": whole[50:53]}
    optimizer = fastopt.SGD()
    optimizer.update(params, ones(params))
    for _ in range(2):
        with pytest.raises(ValueError, match=r"grads\['b'\] shares memory with params\['W'\]"):
            optimizer.update(params, {**ones(params), "b": inner[10:13]})


def test_a_gradient_may_lie_in_a_parameter_that_is_not_updated():
    params = {"a": np.ones(3), "b": np.zeros(3)}
    fastopt.SGD(lr=1.0).update(params, {"a": None, "b": params["a"]})
    assert params["b"].tolist() == [-1.0] * 3


@pytest.mark.parametrize("count", THREAD_COUNTS[:2])
@pytest.mark.parametrize("rule", ELEMENTWISE)
def test_one_array_under_several_keys_is_updated_once_per_key(rule, count, rng):
    tied_fast, tied_plain = np.ones((6, 4))[:, ::2], np.ones((6, 2))
    fast = {"a": np.ones(7), "b": np.ones(3), "d": tied_fast, "e": tied_fast}
    plain = {"a": np.ones(7), "b": np.ones(3), "d": tied_plain, "e": tied_plain}
    fast["c"], plain["c"] = fast["a"], plain["a"]
    fast["f"], plain["f"] = fast["a"][:], plain["a"]  # another view of the very same memory
    pair = Pair(rule)
    with threads.exactly(count):
        for _ in range(4):
            pair.update(fast, plain, {key: rng.standard_normal(value.shape) for key, value in fast.items()})
    for key in fast:
        assert_same_bits(np.ascontiguousarray(fast[key]), plain[key])
    pair.assert_same_state()


def test_interleaved_views_of_one_array_do_not_overlap(rng):
    whole = rng.standard_normal((6, 6))
    fast = {"even": whole[:, ::2], "odd": whole[:, 1::2]}
    plain = {key: value.copy() for key, value in fast.items()}
    pair = Pair("adam")
    for _ in range(3):
        pair.update(fast, plain, ones(fast))
    for key in fast:
        assert_same_bits(np.ascontiguousarray(fast[key]), plain[key])


def test_the_parameter_itself_as_its_gradient():
    """The gradient is what it was when `update` was called."""
    params = {"W": np.array([1.0, 2.0]), "V": np.array([[1.0, 2.0], [3.0, 4.0]])}
    fastopt.Nesterov(lr=0.1).update(params, {"W": params["W"], "V": params["V"].T})
    np.testing.assert_allclose(params["W"], [0.81, 1.62])
    np.testing.assert_allclose(params["V"], [[1 - 0.19, 2 - 0.19 * 3], [3 - 0.19 * 2, 4 - 0.19 * 4]])


def test_gradients_may_share_memory_with_one_another(rng):
    fast, buffer = arrays(rng), rng.standard_normal(20)
    plain = {key: value.copy() for key, value in fast.items()}
    pair = Pair("adam")
    for _ in range(3):
        pair.update(fast, plain, {"W": buffer.reshape(4, 5), "b": buffer[:5]})
    for key in fast:
        assert_same_bits(fast[key], plain[key])


@pytest.mark.parametrize("kind", [OrderedDict, UserDict, dict])
def test_other_mappings(kind, rng):
    params, grads = kind(arrays(rng)), MappingProxyType({"b": np.ones(5), "W": np.ones((4, 5)), "more": None})
    expected = {key: value - 0.01 for key, value in params.items()}
    params["x"] = 2.0
    fastopt.SGD().update(params, {**grads, "x": 1.0})
    for key, value in expected.items():
        assert_same_bits(params[key], value)
    assert params["x"] == 2.0 - 0.01


def test_keys_may_be_anything_hashable():
    params = {0: np.ones(2), ("layer", 1): np.ones(3), None: np.ones(1)}
    optimizer = fastopt.Momentum()
    for _ in range(2):
        optimizer.update(params, ones(params))
    assert set(optimizer.v) == set(params)


def test_an_empty_dict_is_a_step():
    optimizer = fastopt.Adam()
    empty = fastopt.flatten({})
    for params in ({}, {}, empty, empty):
        optimizer.update(params, params)
    assert optimizer.iter == 4


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("shape", [(), (0,), (50,), (4, 6)])
def test_a_bare_array(rule, shape, rng):
    fast = np.asarray(rng.standard_normal(shape))
    plain, pair = fast.copy(), Pair(rule)
    for _ in range(4):
        pair.update(fast, plain, np.asarray(rng.standard_normal(shape)))
    assert_same_bits(fast, plain)
    pair.assert_same_state()
    strided, expected, pair = np.ones(20)[::2], np.ones(10), Pair(rule)
    for _ in range(2):
        pair.update(strided, expected, np.full(10, 0.5, np.float32))
    assert_same_bits(strided.copy(), expected)


@pytest.mark.parametrize("rule", RULES)
def test_flat_plain_and_flat_again(rule, rng):
    """State is found by key whichever way parameters and gradients come."""
    start = {
        "W": rng.standard_normal((4, 5)),
        "b": rng.standard_normal(5),
        "x": np.array(2.0),
        "none": np.zeros((0, 3)),
    }
    plain, flat = {key: value.copy() for key, value in start.items()}, fastopt.flatten(start)
    pair = Pair(rule)
    for step in range(8):
        grads = {key: np.asarray(rng.standard_normal(value.shape)) for key, value in start.items()}
        given = [grads, fastopt.flatten(grads), fastopt.flatten(grads, dtype="float32")][step % 3]
        pair.update(dict(flat) if step == 5 else flat, plain, given)
        for key in plain:
            assert_same_bits(flat[key], plain[key])
        pair.assert_same_state()


@pytest.mark.parametrize("rule", RULES)
def test_without_a_known_memory_layout_everything_still_works(rule, rng, monkeypatch):
    monkeypatch.setattr(array_scan, "layout_is_known", lambda: False)
    pair, fast = Pair(rule), arrays(rng)
    plain = {key: value.copy() for key, value in fast.items()}
    for _ in range(3):
        pair.update(fast, plain, {key: rng.standard_normal(value.shape) for key, value in fast.items()})
    for key in fast:
        assert_same_bits(fast[key], plain[key])


def test_unpickled_arrays_take_the_fast_way(monkeypatch):
    """Their dtype object is not np.dtype(np.float32) itself."""
    import pickle

    params = pickle.loads(pickle.dumps({"W": np.ones(5, np.float32)}))
    optimizer = fastopt.Adam()
    optimizer.update(params, {"W": np.ones(5, np.float32)})
    plan = optimizer._plan
    monkeypatch.setattr(plan.table, "place_gradient", lambda *args: pytest.fail("the slow way"))
    for _ in range(2):
        optimizer.update(params, pickle.loads(pickle.dumps({"W": np.ones(5, np.float32)})))
    assert optimizer._plan is plan


def test_no_gradient_is_kept_after_the_step():
    import weakref

    optimizer, params = fastopt.Adam(), {"W": np.ones(5)}
    for _ in range(2):
        gradient = np.ones(5)
        alive = weakref.ref(gradient)
        optimizer.update(params, {"W": gradient})
        del gradient
        assert alive() is None


def test_many_arrays(rng):
    fast = {f"p{number}": rng.standard_normal(number % 7) for number in range(500)}
    plain, pair = {key: value.copy() for key, value in fast.items()}, Pair("adam")
    for _ in range(3):
        pair.update(fast, plain, {key: rng.standard_normal(value.shape) for key, value in fast.items()})
    for key in fast:
        assert_same_bits(fast[key], plain[key])


def test_a_key_of_none_is_a_key_like_any_other():
    optimizer = fastopt.Momentum()
    optimizer.update({None: np.ones(1)}, {None: np.ones(1)})
    assert list(optimizer.v) == [None]


WITHOUT_COMPILER = """
from itertools import product
import numpy as np
from fastopt.kernels import RULES
from tests.conftest import Pair, assert_same_bits
rng = np.random.default_rng(0)
for rule, dtype in product(RULES, ("float32", "float64")):
    print(rule, dtype)
    fast = {"W": rng.standard_normal((5, 4)).astype(dtype), "x": 1.0, "F": np.ones((3, 2), dtype, order="F")}
    plain = {key: np.copy(value) if key != "x" else value for key, value in fast.items()}
    pair = Pair(rule)
    for _ in range(3):
        pair.update(fast, plain, {key: rng.standard_normal(np.shape(value)) for key, value in fast.items()})
    for key in fast:
        assert_same_bits(np.ascontiguousarray(fast[key]), np.ascontiguousarray(plain[key]))
    for slot in pair.plain.slots:
        for key in fast:
            mine, yours = (getattr(optimizer, slot)[key] for optimizer in (pair.fast, pair.plain))
            assert_same_bits(np.ascontiguousarray(mine), np.ascontiguousarray(yours))
"""


def test_with_numbas_compiler_off():
    """NUMBA_DISABLE_JIT=1, which people set to debug their own code: slow, with the same bits."""
    printed = python(WITHOUT_COMPILER, cwd=ROOT, NUMBA_DISABLE_JIT="1").stdout
    assert len(printed.splitlines()) == 2 * len(RULES)
