"""Keys that come and go, and parameters whose rows change."""

import numpy as np
import pytest

import fastopt
from fastopt import EMA, Lookahead, Rows
from fastopt.optimizers import OPTIMIZERS
from tests.conftest import ONE_OF_EACH_KIND, Pair, assert_same_bits
from tests.engine.test_step_counts import arrays

WITH_FACTORS = "adafactor", "shampoo", "soap"  # whose rows are refused: tests/optimizers/test_matrix.py

BOTH = {"averaging": EMA(0.75), "lookahead": Lookahead(every=2)}


def test_new_keys_leave_the_state_of_others_where_it_lies():
    optimizer, params = fastopt.Adam(), arrays(0, ["a"])
    optimizer.update(params, arrays(1, ["a"]))
    held, params["b"] = optimizer.m["a"], np.zeros((2, 2))
    optimizer.update(params, {**arrays(2, ["a"]), "b": np.ones((2, 2))})
    assert optimizer.m["a"] is held and list(optimizer.m) == ["a", "b"]
    assert optimizer.v["b"].dtype == np.float64


@pytest.mark.parametrize("rule", ["momentum", "adam"])
def test_layers_made_late_and_dropped(rule):
    """Each step has another set of keys; state, averages and slow weights are those of the reference."""
    pair, params, plain = Pair(rule, **BOTH), arrays(0), arrays(0)
    for step, keys in enumerate([["a"], ["a", "late"], ["late"], ["b", "a", "late"], ["b"], ["a", "b"]]):
        mine, others = {key: params[key] for key in keys}, {key: plain[key] for key in keys}
        pair.update(mine, others, arrays(step))
        for key in params:
            assert_same_bits(params[key], plain[key])
        pair.assert_same_state()
        for slot in ("weight_average", "slow_weights"):
            for key, average in getattr(pair.plain, slot).items():
                assert_same_bits(getattr(pair.fast, slot)[key], average)


def test_flat_dicts_of_more_keys():
    pair, keys = Pair("adam"), []
    for step, key in enumerate(["b", "a", "late", None]):
        keys = [key, *keys] if key else keys
        start = arrays(0, keys)
        params, plain = fastopt.flatten(start), arrays(0, keys)
        pair.update(params, plain, fastopt.flatten(arrays(step, keys)), arrays(step, keys))
        for name in keys:
            assert_same_bits(params[name], plain[name])
    pair.assert_same_state()


def test_patterns_of_groups_see_new_keys():
    optimizer, params = fastopt.SGD(lr=1.0, groups={"b*": {"lr": 0.5}}), {"W1": np.zeros(1), "b1": np.zeros(1)}
    optimizer.update(params, dict.fromkeys(params, np.ones(1)))
    params["b2"] = np.zeros(1)
    optimizer.update(params, dict.fromkeys(params, np.ones(1)))
    assert (params["W1"], params["b1"], params["b2"]) == (-2, -1, -0.5)
    optimizer = fastopt.AdaGrad(groups={"b*": {"initial_accumulator": 1.0}})
    with pytest.raises(ValueError, match="one of initial_accumulator in groups is read at the first step"):
        optimizer.update(params, dict.fromkeys(params, np.ones(1)))


def test_gone_keys_are_kept_and_saved_until_they_are_forgotten(tmp_path):
    optimizer, params = fastopt.Adam(**BOTH), arrays(0)
    optimizer.update(params, arrays(1))
    kept = optimizer.m["b"].copy()
    del params["b"]
    for step in range(3):
        optimizer.update(params, arrays(step))
    assert_same_bits(optimizer.m["b"], kept)
    optimizer.save(tmp_path / "state")
    other = fastopt.Adam()
    other.load(tmp_path / "state")
    assert other._leaf_counts() == {"a": (4, 4), "late": (4, 4), "b": (1, 1)}
    for one in (optimizer, other):
        one.forget(["b", "late"])
        assert list(one.m) == list(one.weight_average) == ["a"] and one.iter == 4
        one.update(arrays(0), arrays(1))
        assert one._leaf_counts() == {"a": (5, 5), "late": (1, 1), "b": (1, 1)}
    optimizer.forget(list(optimizer.m))
    assert optimizer._state is None and optimizer.iter == 5


def test_keys_to_forget():
    optimizer = fastopt.Momentum()
    optimizer.update(
        {("deep", 1): np.ones(2), "b": np.ones(2), None: np.ones(2)},
        dict.fromkeys([("deep", 1), "b", None], np.ones(2)),
    )
    with pytest.raises(
        KeyError, match=r"Momentum: params\['c'\] has no state, .*; there is that of params\[\('deep', 1\)\]"
    ):
        optimizer.forget(["b", "c"])
    assert len(optimizer.v) == 3
    optimizer.forget(("deep", 1))
    optimizer.forget(None)
    assert list(optimizer.v) == ["b"]
    bare = fastopt.Momentum()
    bare.update(np.zeros(2), np.ones(2))
    bare.forget(None)
    bare.update({"a": np.zeros(2)}, {"a": np.ones(2)})


def test_groups_of_what_is_forgotten_select_nothing_after_a_resume_either(tmp_path):
    optimizer, params = fastopt.Momentum(groups={"late": {"lr": 0.5}}), arrays(0)
    with pytest.raises(ValueError, match=r"groups\['late'\] selects none"):
        optimizer.update(arrays(0, ["a"]), params)
    optimizer.update(params, params)
    optimizer.forget("late")
    optimizer.save(tmp_path / "state")
    resumed = fastopt.Momentum()
    resumed.load(tmp_path / "state")
    for one in (optimizer, resumed):
        one.update(arrays(0, ["a"]), params)


def test_a_group_of_the_only_leaf_that_is_gone():
    optimizer = fastopt.Momentum(groups={"late": {"lr": 0.5}})
    optimizer.update(arrays(0, ["late"]), arrays(1, ["late"]))
    optimizer.update({}, {})
    assert optimizer.iter == 2


def test_state_of_other_rows_lies_as_the_new_parameter_does():
    """So that rows of it may take steps, whose state lies in one piece then."""
    optimizer = fastopt.Momentum(lr=1.0)
    optimizer.update({"a": np.asfortranarray(np.zeros((3, 4)))}, {"a": np.ones((3, 4))})
    params = {"a": np.zeros((2, 4))}
    optimizer.reindex("a", [2, 0], params["a"])
    optimizer.update(params, {"a": Rows(np.array([1]), np.ones((1, 4)))})
    assert (optimizer.v["a"] == [[-1.0], [-1.9]]).all()
    for wrong in (np.zeros((3, 4)), np.zeros((2, 4), np.float32)):
        with pytest.raises(ValueError, match=r"a row for each number in the index"):
            optimizer.reindex("a", [1, 0], wrong)


def test_memory_of_what_is_forgotten_is_free():
    optimizer = fastopt.Adam()
    params = {"large": np.zeros(1000), "b": np.zeros(3)}
    optimizer.update(params, params | {"b": np.ones(3)} | {"large": np.ones(1000)})
    optimizer.forget("large")
    assert sum(block.size for block in optimizer._state.blocks) < 100


@pytest.mark.parametrize("rule", ["rprop", "nadam", "sgd"])
def test_reset_is_a_new_optimizer_with_the_same_settings(rule):
    optimizer, fresh = OPTIMIZERS[rule](lr=0.125, **BOTH), OPTIMIZERS[rule](lr=0.125, **BOTH)
    params, others = arrays(0), arrays(0)
    for step in range(3):
        optimizer.update(arrays(0), arrays(step))
    optimizer.reset()
    assert optimizer.iter == optimizer.skipped == 0
    for step in range(3):
        optimizer.update(params, arrays(step))
        fresh.update(others, arrays(step))
    for key in params:
        assert_same_bits(params[key], others[key])
    assert repr(optimizer) == repr(fresh)


def expected_rows(old, index, start, new):
    """Rows of state by index; those of -1 begin, averages with the parameter."""
    begun = [row if start is None else np.full_like(old[0], start) for row in new]
    return np.stack([old[i] if i >= 0 else row for i, row in zip(index, begun, strict=True)])


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("rule", [rule for rule in OPTIMIZERS if rule not in ("sgd", *WITH_FACTORS)])
def test_reindex_takes_the_rows_of_every_slot(rule, order):
    index = [4, 0, -1, 2, 2, -1]
    averages = BOTH if rule in ONE_OF_EACH_KIND else {}
    optimizer, params = OPTIMIZERS[rule](**averages), {"xyz": np.asarray(np.ones((5, 3)), order=order), "b": np.ones(2)}
    for seed in range(2):
        rng = np.random.default_rng(seed)
        optimizer.update(params, {"xyz": rng.standard_normal((5, 3)), "b": rng.standard_normal(2)})
    new = np.asarray(np.random.default_rng(5).standard_normal((6, 3)), order=order)
    starts = {**optimizer.start_values(), **dict.fromkeys(["weight_average", "slow_weights"] if averages else [])}
    expected = {slot: expected_rows(getattr(optimizer, slot)["xyz"], index, starts[slot], new) for slot in starts}
    others = {slot: getattr(optimizer, slot)["b"].copy() for slot in starts}
    optimizer.reindex("xyz", index, new)
    for slot in starts:
        assert_same_bits(getattr(optimizer, slot)["xyz"], expected[slot])
        assert_same_bits(getattr(optimizer, slot)["b"], others[slot])
        assert list(getattr(optimizer, slot)) == ["xyz", "b"]
    params["xyz"] = new
    optimizer.update(params, {"xyz": np.ones((6, 3)), "b": np.ones(2)})
    assert optimizer._leaf_counts()["xyz"] == (3, 3 if averages else 0)


def test_reindex_takes_rows_of_the_catch_up_clock():
    pair = [fastopt.Momentum(lr=0.5), fastopt.Momentum(lr=0.5)]
    tables, order = [np.zeros((3, 2)), np.zeros((3, 2))], np.array([2, 0, 1])
    for row in (0, 1, 1):
        for optimizer, table in zip(pair, tables, strict=True):
            optimizer.update(table, Rows(np.array([row]), np.ones((1, 2)), exact=True))
    moved = np.concatenate([tables[0][order], np.zeros((1, 2))])
    pair[0].reindex(None, [*order, -1])
    pair[0].catch_up(moved)
    pair[1].catch_up(tables[1])
    assert_same_bits(moved[:3], tables[1][order])
    assert (moved[3] == 0).all() and (pair[0].v[3] == 0).all()


def test_an_index_that_cannot_be():
    optimizer, params = fastopt.Adam(), {"a": np.zeros((3, 2)), "x": 1.0}
    optimizer.update(params, {"a": np.ones((3, 2)), "x": 1.0})
    before = optimizer.m["a"]
    for key, index, error, words in (
        ("c", [0], KeyError, r"Adam: params\['c'\] has no state"),
        ("x", [0], ValueError, r"params\['x'\] has no rows"),
        ("a", [0, 3], ValueError, r"index\[1\] is 3, but params\['a'\] had 3 rows .*0 to 2, or -1"),
        ("a", [-2], ValueError, r"index\[0\] is -2"),
        (
            "a",
            [True, False, True],
            TypeError,
            r"dtype bool and shape \(3,\), expected whole .* np\.flatnonzero\(mask\)",
        ),
        ("a", [[0]], TypeError, r"shape \(1, 1\)"),
        ("a", [0.5], TypeError, "dtype float64"),
    ):
        with pytest.raises(error, match=words):
            optimizer.reindex(key, index)
    assert optimizer.m["a"] is before
    optimizer.reindex("a", [])
    assert optimizer.m["a"].shape == (0, 2)
    with pytest.raises(ValueError, match=r"had \(0, 2\) and its state still has; `optimizer\.reindex` says which rows"):
        optimizer.update(params, {"a": np.ones((3, 2)), "x": 1.0})
    averaged = fastopt.Adam(averaging=EMA(0.5))
    averaged.update({"a": np.zeros((3, 2))}, {"a": np.ones((3, 2))})
    with pytest.raises(
        ValueError, match=r"weight_average of new rows of params\['a'\] begin as the parameter; hand it in"
    ):
        averaged.reindex("a", [0, -1])
    with pytest.raises(ValueError, match=r"is float32 of shape \(2, 2\), expected float64 of shape \(2, 2\)"):
        averaged.reindex("a", [0, -1], np.zeros((2, 2), np.float32))
    averaged.reindex("a", [0, 1])


def test_a_rule_without_state_has_no_rows():
    optimizer = fastopt.SGD()
    optimizer.update({"a": np.zeros(3)}, {"a": np.ones(3)})
    optimizer.reindex("a", [0])
    optimizer.forget("a")
    assert optimizer.iter == 1
    with pytest.raises(KeyError, match=r"Adam: params\['a'\] has no state"):
        fastopt.Adam().reindex("a", [0])


@pytest.mark.parametrize("kind", [fastopt.SGD, fastopt.Momentum])
def test_rows_that_skip_steps_are_reindexed_without_state_too(kind):
    optimizer, params = kind(lr=1.0), {"e": np.zeros((3, 2))}
    optimizer.update(params, {"e": fastopt.Rows(np.array([0]), np.ones((1, 2)), exact=True)})
    optimizer.catch_up(params)
    params["e"] = params["e"][[0, 2]]
    optimizer.reindex("e", [0, 2])
    optimizer.update(params, {"e": np.ones((2, 2))})
    assert params["e"][1].tolist() == [-1, -1]
