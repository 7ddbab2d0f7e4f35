"""Groups that change between steps."""

import copy

import numpy as np
import pytest

import fastopt
from tests.conftest import assert_same_bits


def merged(groups, name, value):
    groups["b"][name] = value


LATER = {  # what is done to the groups after a step, and the rows of scalars of three arrays then
    "nothing": (lambda groups: None, 2),
    "value": (lambda groups: merged(groups, "lr", 0.25), 2),
    "norm of each array": (lambda groups: merged(groups, "clip_array_norm", 0.5), 3),
    "frozen": (lambda groups: merged(groups, "frozen", True), 1),
    "deleted": (lambda groups: groups["b"].__delitem__("lr"), 2),
    "another": (lambda groups: groups.update(W={"frozen": True}), 2),
    "gone": (lambda groups: groups.pop("b"), 1),
    "replaced": (lambda groups: groups.update(b={"clip_array_norm": 0.5, "lr": 2.0}), 3),
}


@pytest.mark.parametrize("twice", [False, True])
@pytest.mark.parametrize("what", LATER)
def test_groups_that_change_later_count_at_once(what, twice):
    """As a new optimizer with such groups steps; one of a rule without state."""
    act, rows = LATER[what]
    start = {"W": np.zeros(2), "b": np.zeros(3), "c": np.zeros(1)}
    grads = {key: np.ones_like(value) for key, value in start.items()}
    optimizer = fastopt.SGD(lr=1.0, groups={"b": {"lr": 0.5}})
    optimizer.update(copy.deepcopy(start), grads)
    if twice:
        optimizer.groups["b"]["frozen"] = True
        optimizer.update(copy.deepcopy(start), grads)
        del optimizer.groups["b"]["frozen"]
    act(optimizer.groups)
    params, expected = copy.deepcopy(start), copy.deepcopy(start)
    optimizer.update(params, grads)
    groups = {selector: dict(group) for selector, group in optimizer.groups.items()}
    fastopt.SGD(lr=1.0, groups=groups).update(expected, grads)
    for key in params:
        assert_same_bits(params[key], expected[key])
    assert len(optimizer._plan.table.scalars) == rows


def test_settings_that_do_not_go_together_are_refused_in_a_group_at_once():
    optimizer = fastopt.SGD(groups={"b": {"bounds": (0, 1)}})
    optimizer.groups["b"]["lr"] = 0.5
    with pytest.raises(ValueError, match="do not go together"):
        optimizer.groups["b"]["simplex"] = True
    assert dict(optimizer.groups["b"]) == {"bounds": (0.0, 1.0), "lr": 0.5}
