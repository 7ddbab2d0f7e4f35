"""`updated` makes the step of `update` on copies."""

import collections
import copy

import numpy as np
import pytest

import fastopt


@pytest.mark.parametrize(
    "params",
    [
        {"W": np.ones((2, 3)), "b": 0.5},
        collections.OrderedDict(W=np.asfortranarray(np.ones((2, 3), np.float32))),
        fastopt.flatten({"W": np.ones((2, 3)), "b": np.ones(3)}),
        np.ones(5)[::2],
    ],
    ids=["dict", "ordered", "flat", "array"],
)
def test_new_parameters_and_old_ones_as_they_were(params):
    grads, kept, expected = copy.deepcopy(params), copy.deepcopy(params), copy.deepcopy(params)
    one, two = fastopt.Adam(lr=0.1), fastopt.Adam(lr=0.1)
    two.update(expected, grads)
    new = one.updated(params, grads)
    assert type(new) is type(params) and one.iter == 1
    for found, wanted in ((params, kept), (new, expected)):
        if isinstance(params, dict):
            assert list(found) == list(wanted)
            assert all(np.asarray(found[key]).tobytes() == np.asarray(wanted[key]).tobytes() for key in wanted)
        else:
            assert found.tobytes() == wanted.tobytes()
    new = one.updated(new, grads)
    two.update(expected, grads)
    key = "W" if isinstance(params, dict) else ...
    assert new[key].tobytes() == expected[key].tobytes()


def test_nested_containers():
    old = [(np.ones(2), np.ones(1)), {"W": np.ones(3)}]
    new = fastopt.SGD(lr=0.5).updated(old, copy.deepcopy(old))
    assert type(new[0]) is tuple and new[0][1].tolist() == [0.5] and new[1]["W"].tolist() == [0.5] * 3
    assert old[0][1].tolist() == [1.0] and old[1]["W"].tolist() == [1.0] * 3


def test_read_only_and_shared_arrays():
    W = np.ones(3)
    W.flags.writeable = False
    new = fastopt.SGD(lr=0.25).updated({"in": W, "out": W}, {"in": np.ones(3), "out": np.ones(3)})
    assert new["in"] is new["out"] and new["in"].tolist() == [0.5] * 3 and W.tolist() == [1.0] * 3


def test_after_an_error_nothing_has_changed():
    optimizer, params = fastopt.SGD(), {"W": np.ones(3)}
    with pytest.raises(ValueError, match="has shape"):
        optimizer.updated(params, {"W": np.ones(4)})
    assert optimizer.iter == 0 and params["W"].tolist() == [1.0] * 3
