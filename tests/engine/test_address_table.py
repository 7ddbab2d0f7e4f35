"""The table of addresses: which leaves share a row of scalars and a launch, and in which order launches go."""

import numpy as np
import pytest

import fastopt
from fastopt import Rows
from fastopt.kernels import RULES, averages
from fastopt.kernels.transforms import TRANSFORMS
from fastopt.optimizers import OPTIMIZERS
from tests.conftest import Pair, assert_same_bits


def table_of(params, rule="sgd", grads=None, **settings):
    optimizer = OPTIMIZERS[rule](**settings)
    optimizer.update(params, grads or {key: np.ones(np.shape(value)) for key, value in params.items()})
    return optimizer._plan.table


def test_each_launch_has_its_rows_and_one_for_the_statistics():
    params = {"a": np.ones(3), "b": np.ones(4, np.float32), "c": np.ones((2, 2)), "x": 1.5, "s": np.ones(6)[::2]}
    table = table_of(params)
    ends = np.cumsum([len(launch.table) for launch in table.launches])
    assert [launch.dtype for launch in table.launches] == ["float64", "float32"] and ends.tolist() == [5, 7]
    assert len(table.addresses) == 7
    for launch, end in zip(table.launches, ends, strict=True):
        assert launch.table.ctypes.data == table.addresses[end - len(launch.table)].ctypes.data
        assert not launch.table[-1].any() and launch.table[:-1, 0].all()
    rows = {leaf.key: leaf.row for leaf in table.leaves}
    assert rows == {"a": 0, "c": 1, "x": 2, "s": 3, "b": 5}
    assert all(table.addresses[rows[key], 0] == params[key].ctypes.data for key in "abc")
    assert [int(size) for size in np.diff(table.launches[0].starts)] == [3, 4, 1, 3]
    assert table.order.tolist() == [0, 4, 1, 2, 3]


def test_rows_of_scalars_are_of_groups_and_step_counts():
    params = {key: np.ones(2) for key in "abcd"}
    assert {leaf.scalar_row for leaf in table_of(params).leaves} == {0}
    groups = {"a": {"lr": 0.5}, "[cd]": {"lr": 0.25}}
    table = table_of(params, groups=groups)
    assert [leaf.scalar_row for leaf in table.leaves] == [0, 1, 2, 2] and table.row_groups == [(0,), (), (1,)]
    assert len(table.scalars) == 3 and table.launches[0].scalar_rows == [0, 1, 2, 2]
    for leaf in table.leaves:
        assert table.addresses[leaf.row, -1] == table.scalars[leaf.scalar_row :].ctypes.data
    table = table_of(params, clip_array_norm=1.0)
    assert [leaf.scalar_row for leaf in table.leaves] == [0, 1, 2, 3]
    optimizer = fastopt.Adam()
    for keys in ("ac", "abcd"):
        optimizer.update({key: params[key] for key in keys}, params)
    assert [leaf.scalar_row for leaf in optimizer._plan.table.leaves] == [0, 1, 0, 1]


def test_a_step_without_a_gradient_has_a_row_of_scalars_that_nobody_reads():
    table = table_of({"a": np.ones(2)}, grads={"a": None})
    assert (table.cohorts, table.row_groups, len(table.scalars)) == ([0], [()], 1) and table.launches == []


@pytest.mark.parametrize("rule", ["sgd", "adam", "adamw"])
def test_a_row_of_scalars_has_room_for_all(rule):
    table = table_of({"a": np.ones(2)}, rule)
    least = len(RULES[rule].scalars) + len(TRANSFORMS) + len(averages.SLOTS)
    assert table.scalars.shape[1] >= least and table.scalars_stride == table.scalars.strides[0]
    table.write_scalars([tuple(range(least))])
    assert table.scalars[0, :least].tolist() == list(range(least))


def test_an_array_under_several_keys_is_updated_in_their_order():
    """Also where another one's second key is the first of its kind of launch."""
    params = {"a": np.zeros(2), "c": np.zeros(2)}
    params |= {"b": params["a"], "d": params["c"]}
    params = {key: params[key] for key in "abcd"}
    plain = {key: value.copy() for key, value in params.items()}
    plain |= {"b": plain["a"], "d": plain["c"]}
    grads = {"a": -np.ones(2), "b": -np.ones(2), "c": np.full(2, 5.0), "d": -np.ones(2)}
    pair = Pair("sgd", lr=1.0, groups={"c": {"bounds": (0.0, np.full(2, np.inf))}})
    for _ in range(3):
        pair.update(params, plain, grads)
    assert params["c"].tolist() == [1, 1], "to 0, where it is bounded, then to 1"
    for key in params:
        assert_same_bits(params[key], plain[key])
    assert len(pair.fast._plan.table.launches) == 3


def test_tied_arrays_that_move_together_stay_tied():
    params, optimizer = {"a": np.zeros(2), "c": np.zeros(3)}, fastopt.Momentum(lr=1.0)
    params["b"] = params["a"]
    grads = {"a": np.ones(2), "b": np.ones(2), "c": np.ones(3)}
    for _ in range(3):
        optimizer.update(params, grads)
        params["a"] = params["b"] = params["a"].copy()
    assert (params["a"] == 2 * params["c"][0]).all() and optimizer.v["a"][0] == optimizer.v["c"][0]


@pytest.mark.parametrize("first", ["an array", "a dict"])
def test_state_is_of_an_array_or_of_a_dict(first):
    array, whole = np.ones(2), {"W": np.ones(2), "b": np.ones(3)}
    before, after = (array, whole) if first == "an array" else (whole, array)
    optimizer = fastopt.Momentum()
    optimizer.update(before, before)
    words = r"params\['W'\]" if first == "an array" else r"params\['W'\], params\['b'\]"
    with pytest.raises(KeyError, match=words + r".* one bare array, or a dict of arrays: use a new one for the other"):
        optimizer.update(after, after)
    assert optimizer.iter == 1


@pytest.mark.parametrize("shape", [(), (1,), (3,), (1, 3), (6,), (3, 2)])
def test_a_gradient_that_fits_neither_rows_nor_the_whole(shape):
    params, optimizer = {"e": np.ones((6, 3)), "b": np.ones(3)}, fastopt.SGD(lr=1.0)
    rows = Rows(np.array([1]), np.ones((1, 3)))
    for _ in range(2):
        optimizer.update(params, {"e": rows, "b": np.ones(3)})
    before = params["e"].copy()
    with pytest.raises(ValueError, match=r"grads\['e'\] has shape"):
        optimizer.update(params, {"e": np.ones(shape), "b": np.ones(3)})
    assert_same_bits(params["e"], before)
    optimizer.update(params, {"e": np.ones((6, 3)), "b": np.ones(3)})
    assert_same_bits(params["e"], before - 1)


def test_gradients_of_shapes_that_differ_by_ones_are_read_where_they_lie():
    params, optimizer = {"a": np.zeros((1, 4)), "b": np.zeros((2, 1, 3), order="F")}, fastopt.SGD(lr=1.0)
    grads = {"a": np.arange(4.0), "b": np.arange(6.0).reshape(3, 2).T}
    optimizer.update(params, grads)
    table = optimizer._plan.table
    assert [table.addresses[row, 1] == grads[key].ctypes.data for row, key in enumerate("ab")] == [True, True]
    optimizer.update(params, {"a": np.arange(8.0)[::2], "b": np.arange(6.0).reshape(2, 3)})
    assert params["a"].tolist() == [[0, -3, -6, -9]]
    assert params["b"][:, 0].tolist() == [[0, -3, -6], [-4, -7, -10]]
