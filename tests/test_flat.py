"""FlatDict and the dicts of state."""

import copy
import pickle

import numpy as np
import pytest

import fastopt
from fastopt.flat import FlatDict


@pytest.fixture
def flat():
    return fastopt.flatten({"W": np.arange(6.0).reshape(2, 3), "b": np.zeros(2), "x": 7, "none": np.zeros((0, 4))})


def is_one_buffer(flat):
    return all(view.base is not None and np.shares_memory(view, flat.buffer) for view in flat.values() if view.size)


def test_values_are_views_of_one_aligned_buffer(flat):
    assert isinstance(flat, dict) and list(flat) == ["W", "b", "x", "none"]
    assert flat.buffer.tolist() == [0, 1, 2, 3, 4, 5, 0, 0, 7]
    assert flat.buffer.ctypes.data % 64 == 0 and flat.buffer.flags.c_contiguous
    flat.buffer[:] = -1
    assert flat["W"].tolist() == [[-1] * 3] * 2 and flat["x"] == -1
    assert is_one_buffer(flat)


def test_flatten_copies():
    arrays = {"W": np.asfortranarray(np.arange(6.0).reshape(2, 3)), "m": np.zeros(2, np.float64).view(np.ndarray)}
    flat = fastopt.flatten(arrays)
    flat["W"] += 1
    assert arrays["W"][0, 0] == 0 and flat["W"][0, 0] == 1 and flat["W"].flags.c_contiguous


def test_assigning_copies_into_the_view(flat):
    view = flat["W"]
    flat["W"] = np.ones((2, 3), dtype=np.float32)
    flat["b"] = [1, 2]
    flat["x"] += 1
    flat.update({"b": 3.0})
    flat |= {"x": 2.5}
    assert flat["W"] is view and flat.buffer.tolist() == [1] * 6 + [3, 3] + [2.5]
    assert is_one_buffer(flat)


@pytest.mark.parametrize(
    "duplicate", [copy.copy, copy.deepcopy, FlatDict.copy, lambda x: pickle.loads(pickle.dumps(x))]
)
def test_copies_are_one_buffer_of_their_own(flat, duplicate):
    other = duplicate(flat)
    assert type(other) is FlatDict and other.layout == flat.layout and is_one_buffer(other)
    assert not np.shares_memory(other.buffer, flat.buffer)
    assert other.buffer.tolist() == flat.buffer.tolist() and other.buffer.ctypes.data % 64 == 0
    assert len(pickle.dumps(fastopt.flatten({"a": np.zeros(10_000)}))) < 81_000


def test_dtypes():
    mixed = {"a": np.zeros(2, np.float32), "b": np.ones(2)}
    assert fastopt.flatten({"a": mixed["a"]}).buffer.dtype == np.float32
    assert fastopt.flatten(mixed, dtype="float32").buffer.dtype == np.float32
    with pytest.raises(
        TypeError, match=r"arrays\['a'\] is of float32 and arrays\['b'\] of float64.*flatten\(arrays, dtype"
    ):
        fastopt.flatten(mixed)
    with pytest.raises(TypeError, match="dtype must be 'float32' or 'float64', got 'int32'"):
        fastopt.flatten(mixed, dtype="int32")
    with pytest.raises(TypeError, match=r"arrays\['c'\] has dtype int64"):
        fastopt.flatten({"c": np.zeros(2, int)})
    with pytest.raises(TypeError, match=r"arrays\['c'\] has type str"):
        fastopt.flatten({"c": "1.0"})
    with pytest.raises(TypeError, match="expected a dict or a list of arrays, got ndarray"):
        fastopt.flatten(np.zeros(3))
    assert fastopt.flatten({}).buffer.size == 0


def test_keys_are_fixed(flat):
    with pytest.raises(KeyError, match="FlatDict has no key 'V' and its keys are fixed; it has 'W', 'b'"):
        flat["V"] = 1
    for change in (
        lambda: flat.pop("W"),
        flat.clear,
        flat.popitem,
        lambda: flat.setdefault("W"),
        lambda: flat.__delitem__("W"),
    ):
        with pytest.raises(TypeError, match="the keys of a FlatDict are fixed"):
            change()
    assert list(flat) == ["W", "b", "x", "none"]


def test_values_must_fit(flat):
    before = flat.buffer.copy()
    with pytest.raises(ValueError, match=r"\['W'\] is a view of shape \(2, 3\), got values of shape \(4,\)"):
        flat["W"] = np.ones(4)
    with pytest.raises(TypeError, match=r"\['W'\] has dtype float64, to which values of dtype complex128"):
        flat["W"] = np.ones((2, 3), complex)
    assert (flat.buffer == before).all()


def test_state_is_a_dict_of_views():
    optimizer, params = fastopt.Adam(), {"a": np.ones(3), "b": np.ones(2, np.float32)}
    optimizer.update(params, params)
    with pytest.raises(KeyError, match="ViewDict has no key 'c'"):
        optimizer.m["c"] = 1
    copied = copy.deepcopy(optimizer.m)
    copied["a"] = 0
    assert (optimizer.m["a"] != 0).all() and list(pickle.loads(pickle.dumps(copied))) == ["a", "b"]


def test_a_flat_step_looks_at_two_arrays(flat):
    optimizer, grads = fastopt.Adam(), fastopt.flatten({key: np.ones(value.shape) for key, value in flat.items()})
    optimizer.update(flat, grads)
    assert len(optimizer._plan.table.leaves) == 1
    optimizer.update(flat, dict(grads))
    assert len(optimizer._plan.table.leaves) == 4
    assert optimizer.m["W"].shape == (2, 3)


def test_assigning_to_the_buffer_copies_into_it(flat):
    buffer = flat.buffer
    flat.buffer = np.arange(9.0)
    flat.buffer += 1
    assert flat.buffer is buffer and flat["b"].tolist() == [7, 8]
    with pytest.raises(ValueError, match=r"FlatDict.buffer is a view of shape \(9,\), got values of shape \(3,\)"):
        flat.buffer = np.ones(3)


def test_a_bad_update_writes_nothing(flat):
    before = flat.buffer.copy()
    with pytest.raises(KeyError, match="no key 'c'"):
        flat.update({"W": 1.0, "c": 2.0})
    with pytest.raises(ValueError, match="got values of shape"):
        flat.update({"W": 1.0, "b": np.ones(5)})
    assert (flat.buffer == before).all()
    with pytest.raises(TypeError, match="the keys of a FlatDict are fixed"):
        FlatDict.fromkeys("ab")


def test_deepcopy_keeps_what_is_shared(flat):
    both = copy.deepcopy({"params": flat, "theta": flat.buffer})
    both["theta"][...] = 4
    assert (both["params"]["W"] == 4).all() and flat["W"][0, 0] == 0


def test_two_empty_arrays_are_not_one_under_two_keys():
    params, optimizer = (
        fastopt.flatten({"a": np.zeros(0), "b": np.zeros((2, 0)), "c": np.ones(3)}),
        fastopt.LAMB(lr=0.5),
    )
    optimizer.update(params, fastopt.flatten({"a": np.zeros(0), "b": np.zeros((2, 0)), "c": np.ones(3)}))
    assert (params["c"] < 1).all() and optimizer.m["a"].size == optimizer.m["b"].size == 0
