"""State dicts that say less than the optimizer knows, or know other leaves: what is taken, and what begins anew."""

import numpy as np
import pytest

import fastopt
from tests.checkpoint.test_state_dict import stepped, through_file
from tests.conftest import assert_same_bits


def test_the_dict_of_an_older_version_says_less():
    optimizer, other = stepped(W=3), fastopt.Adam(averaging=fastopt.EMA(), on_nonfinite="skip")
    other.update({"W": np.ones(3)}, {"W": np.ones(3)})
    other.update({"W": np.ones(3)}, {"W": np.full(3, np.nan)})
    assert (other.skipped, other._averaged) == (1, 1)
    saved = optimizer.state_dict()
    assert not {"counts", "rows", "estimates", "factors", "problems", "accumulated"} & set(saved)
    other.load_state_dict({name: saved[name] for name in ("rule", "hyperparameters", "step", "state")})
    assert (other.iter, other.skipped, other._averaged) == (1, 0, 0)
    assert other._leaf_counts() == {"W": (1, 0)} and other._estimates == {}


def test_only_leaves_that_are_counted_otherwise_are_in_the_dict(tmp_path):
    optimizer, params = fastopt.Adam(averaging=fastopt.EMA()), {"W": np.ones(3)}
    for _ in range(3):
        optimizer.update(params, {key: np.ones(3) for key in params})
        params |= {"late": np.ones(3)}
    saved = optimizer.state_dict()
    assert saved["counts"] == {"late": {"steps": 2, "averages": 2}}
    optimizer.iter = 1
    counts = optimizer._leaf_counts()
    other = through_file(optimizer, tmp_path)
    assert other._leaf_counts() == counts and other.iter == 1


def test_a_bare_array_is_an_array_in_the_dict():
    optimizer = fastopt.Adam()
    optimizer.update(np.ones(3), np.ones(3))
    assert all(isinstance(value, np.ndarray) for value in optimizer.state_dict()["state"].values())


def test_what_is_not_set_in_the_dict_is_not_set_afterwards():
    """But averages, which an older version does not know."""
    for name, value in {"averaging": fastopt.EMA(), "lookahead": fastopt.Lookahead(2), "bounds": (-1, 1)}.items():
        optimizer = fastopt.Adam(**{name: value})
        optimizer.load_state_dict(fastopt.Adam().state_dict())
        assert (getattr(optimizer, name) is None) == (name == "bounds")


@pytest.mark.parametrize("form", ["file", "dict"])
def test_what_is_saved_without_groups_takes_those_of_the_other_away(form, tmp_path):
    optimizer, other = fastopt.SGD(), fastopt.SGD(groups={"W": {"bounds": (0.0, None)}})
    params = {"W": np.ones(2)}
    optimizer.update(params, {"W": np.ones(2)})
    if form == "file":
        optimizer.save(tmp_path / "state")
        other.load(tmp_path / "state")
    else:
        other.load_state_dict(optimizer.state_dict())
    assert not other.groups
    other.update(params, {"W": np.full(2, 1e3)})
    assert (params["W"] < 0).all()


@pytest.mark.parametrize("steps", [0, 1])
def test_groups_that_selected_something_before_may_select_nothing_now(steps):
    optimizer = fastopt.Adam(groups={"late*": {"lr_scale": 0.5}})
    params = {"W": np.ones(3), "late": np.ones(3)}
    for _ in range(steps):
        optimizer.update(params, {key: np.ones(3) for key in params})
    if steps:
        optimizer.forget("late")
    other = fastopt.Adam()
    other.load_state_dict(optimizer.state_dict())
    if steps:
        other.update({"W": np.ones(3)}, {"W": np.ones(3)})
        assert other.iter == 2
    else:
        with pytest.raises(ValueError, match=r"late\*"):
            other.update({"W": np.ones(3)}, {"W": np.ones(3)})


@pytest.mark.parametrize("smaller", [True, False])
def test_part_of_the_state_keeps_its_counts_and_begins_no_average(smaller):
    """Averages that are not known of all leaves begin anew, and so do their counts; those of steps go on."""
    there, here = fastopt.Momentum(averaging=fastopt.EMA()), fastopt.Momentum()
    shapes = {"a": 3, "b": 2 if smaller else 4}
    for _ in range(5):
        there.update(
            {key: np.ones(shape) for key, shape in shapes.items()},
            {key: np.ones(shape) for key, shape in shapes.items()},
        )
    for keys in ("ab", "a"):
        here.update({key: np.ones(3) for key in keys}, {key: np.ones(3) for key in keys})
    assert here.load_state_dict(there.state_dict(), strict=False).reshaped == ["b"]
    assert here._leaf_counts() == {"a": (5, 0), "b": (1, 0)} and not here.weight_average and here.iter == 5
    both = fastopt.Momentum(averaging=fastopt.EMA())
    for _ in range(2):
        both.update({key: np.ones(3) for key in "ab"}, {key: np.ones(3) for key in "ab"})
    kept = both.weight_average["b"].copy()
    both.load_state_dict(there.state_dict(), strict=False)
    assert both._leaf_counts() == {"a": (5, 5), "b": (2, 2)}
    assert_same_bits(both.weight_average["a"], there.weight_average["a"])
    assert_same_bits(both.weight_average["b"], kept)


@pytest.mark.parametrize(("saved_begun", "begun"), [(True, True), (True, False), (False, True), (False, False)])
@pytest.mark.parametrize("whole", [True, False])
def test_averages_that_have_not_begun(saved_begun, begun, whole):
    """With SWA(start) there is a slot before there is an average."""

    def stepped_with(steps, **shapes):
        optimizer = fastopt.Momentum(averaging=fastopt.SWA(start=3, every=1), lookahead=fastopt.Lookahead(100))
        for _ in range(steps):
            optimizer.update(
                {key: np.ones(n) for key, n in shapes.items()}, {key: np.ones(n) for key, n in shapes.items()}
            )
        return optimizer

    there, here = (
        stepped_with(4 if saved_begun else 1, a=3, b=2),
        stepped_with(4 if begun else 1, a=3, b=2 if whole else 4),
    )
    mine = here.state_dict()["state"]
    here.load_state_dict(there.state_dict(), strict=False)
    theirs, now = there.state_dict()["state"], here.state_dict()["state"]
    assert ("weight_average" in now) == (saved_begun and (whole or begun))
    for slot in now:
        assert_same_bits(now[slot]["a"], theirs[slot]["a"])
        assert_same_bits(now[slot]["b"], (theirs if whole else mine)[slot]["b"])
    assert "slow_weights" in now
