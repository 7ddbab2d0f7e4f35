"""Step counts of leaves: what joins late, is unfrozen or has no gradient for a while moves as if it were alone."""

import copy
import pickle

import numpy as np
import pytest

import fastopt
from fastopt.kernels import RULES
from fastopt.optimizers import OPTIMIZERS
from tests.conftest import Pair, assert_same_bits

ACTIVE = (4, 5, 7)
"""The steps, of the first nine, in which the late leaf is updated."""


def arrays(seed, keys=("a", "late", "b"), dtype="float32"):
    rng = np.random.default_rng(seed)
    return {key: rng.standard_normal((3, 4)).astype(dtype) for key in keys}


def given(how, step, params, grads):
    """Parameters and gradients of a step, in which the late leaf rests in one way or another."""
    if step in ACTIVE or how == "frozen":
        return params, grads
    if how == "None":
        return params, {**grads, "late": None}
    return {key: p for key, p in params.items() if key != "late"}, grads


@pytest.mark.parametrize("how", ["joins", "frozen", "None"])
@pytest.mark.parametrize("rule", [rule for rule in OPTIMIZERS if not RULES[rule].totals])
def test_a_late_leaf_moves_as_in_an_optimizer_of_its_own(rule, how):
    pair, alone = Pair(rule), OPTIMIZERS[rule]()
    params, plain, own = arrays(0), arrays(0), arrays(0)
    for step in range(1, 10):
        grads = arrays(step)
        if how == "frozen":
            frozen = {"late": {"frozen": step not in ACTIVE}}
            pair.fast.groups, pair.plain.groups = frozen, frozen
        mine, others = given(how, step, params, grads), given(how, step, plain, grads)
        pair.update(mine[0], others[0], mine[1])
        if step in ACTIVE:
            alone.update({"late": own["late"]}, {"late": grads["late"]})
    for key in params:
        assert_same_bits(params[key], plain[key])
    assert_same_bits(params["late"], own["late"])
    pair.assert_same_state()
    for slot in pair.fast._rule.state:
        assert_same_bits(getattr(pair.fast, slot)["late"], getattr(alone, slot)["late"])
    assert pair.fast.iter == 9 and alone.iter == len(ACTIVE)


def test_schedules_see_the_calls_of_update():
    def lr(step):
        return 0.5 / step

    optimizer, params = fastopt.Adam(lr=lr), {"a": np.zeros(1), "late": np.zeros(1)}
    for _ in range(3):
        optimizer.update(params, {"a": np.ones(1), "late": None})
    alone, own = fastopt.Adam(lr=lambda step: lr(step + 3)), {"late": np.zeros(1)}
    for _ in range(4):
        optimizer.update(params, {"a": np.ones(1), "late": np.full(1, 2.0)})
        alone.update(own, {"late": np.full(1, 2.0)})
    assert_same_bits(params["late"], own["late"])


def test_unfrozen_after_a_thousand_steps():
    optimizer = fastopt.NAdam(lr=0.01, groups={"late": {"frozen": True}})
    params = {"a": np.zeros(1), "late": np.zeros(1)}
    for _ in range(1000):
        optimizer.update(params, {"a": np.ones(1)})
    optimizer.groups["late"]["frozen"] = False
    optimizer.update(params, {"a": np.ones(1), "late": np.ones(1)})
    assert params["late"] == pytest.approx(-0.0105645, rel=1e-5)


def test_array_by_array():
    """`iter` counts calls, each array its own steps."""
    optimizer, params, one = fastopt.Adam(lr=0.1), {"a": np.zeros(1), "b": np.zeros(1)}, np.ones(1)
    optimizer.update(params, {"a": one, "b": one})
    for key in params:
        optimizer.update({key: params[key]}, {key: one})
    assert optimizer.iter == 3
    assert params["a"] == params["b"] == pytest.approx(-0.2, rel=1e-5)


def test_leaves_of_equal_counts_share_a_row_of_scalars(monkeypatch):
    asked = []
    scalars = fastopt.Adam.scalars
    monkeypatch.setattr(fastopt.Adam, "scalars", lambda self, step: (asked.append(step), scalars(self, step))[1])
    optimizer, params = fastopt.Adam(on_nonfinite="raise"), arrays(0)  # which is no step in one call
    for step in range(3):
        optimizer.update(params, arrays(step))
    assert asked == [1, 2, 3]
    optimizer.update(params, {**arrays(3), "b": None})
    optimizer.update(params, {**arrays(4), "b": None})
    assert asked == [1, 2, 3, 4, 5]
    optimizer.update(params, arrays(5))
    assert asked == [1, 2, 3, 4, 5, 6, 4] and optimizer.iter == 6


def test_parts_in_turns_become_steps_of_one_call():
    optimizer, params = fastopt.NAdam(), arrays(0)
    reference, plain = fastopt.reference.NAdam(), arrays(0)
    for step in range(12):
        for keys in (["a", "late"], ["b"]):
            grads = arrays(step, keys)
            optimizer.update({key: params[key] for key in keys}, grads)
            reference.update({key: plain[key] for key in keys}, grads)
    assert len(optimizer._calls) == 2 and optimizer._counts == (12, 12) and optimizer.iter == 24
    for key in params:
        assert_same_bits(params[key], plain[key])


@pytest.mark.parametrize("how", ["joins", "None"])
def test_a_part_after_steps_of_one_call_of_all(how):
    """The call of all leaves counts them together, which it may not any more."""
    pair, params, plain = Pair("nadam"), arrays(0), arrays(0)
    for step in range(1, 25):
        mine, others = (params, plain), arrays(step)
        if step in (7, 8, 9, 16, 20):
            if how == "None":
                others["late"] = None
            else:
                mine = [{key: p for key, p in every.items() if key != "late"} for every in mine]
        pair.update(*mine, others)
        assert pair.fast._leaf_counts() == {key: (count, 0) for key, count in pair.plain.counts.items()}
    for key in params:
        assert_same_bits(params[key], plain[key])


def test_a_step_that_is_refused_counts_nothing():
    optimizer, params = fastopt.Adam(on_nonfinite="raise"), arrays(0)
    optimizer.update(params, arrays(1))
    with pytest.raises(FloatingPointError):
        optimizer.update(params, {**arrays(2), "a": np.full((3, 4), np.nan), "b": None})
    with pytest.raises(ValueError, match="shape"):
        optimizer.update(params, {**arrays(2), "a": np.ones(7), "b": None})
    assert optimizer._leaf_counts() == dict.fromkeys(params, (1, 0))


def stepped(**settings):
    optimizer, params = fastopt.NAdam(**settings), arrays(0)
    for step in range(1, 8):
        optimizer.update(*given("None", step, params, arrays(step)))
    return optimizer, params


def again(how, optimizer, path):
    other = fastopt.NAdam()
    if how == "file":
        optimizer.save(path / "state")
        other.load(path / "state")
    elif how == "dict":
        other.load_state_dict(optimizer.state_dict())
    else:
        other = copy.deepcopy(optimizer) if how == "deepcopy" else pickle.loads(pickle.dumps(optimizer))
    return other


@pytest.mark.parametrize("how", ["file", "dict", "pickle", "deepcopy"])
def test_checkpoints_have_the_counts(how, tmp_path):
    optimizer, params = stepped(averaging=fastopt.SWA(1))
    other, copied = again(how, optimizer, tmp_path), copy.deepcopy(params)
    assert other._leaf_counts() == {"a": (7, 7), "late": (3, 7), "b": (7, 7)}
    for step in range(2):
        optimizer.update(params, arrays(step))
        other.update(copied, arrays(step))
    for key in params:
        assert_same_bits(params[key], copied[key])


def test_a_bare_array_that_counts_from_elsewhere(tmp_path):
    optimizer, p = fastopt.Adam(), np.zeros(2)
    optimizer.iter = 5
    optimizer.update(p, np.ones(2))
    optimizer.save(tmp_path / "state")
    other = fastopt.Adam()
    other.load(tmp_path / "state")
    assert other.iter == 6 and list(other._leaf_counts().values()) == [(1, 0)]


def test_old_files_give_all_leaves_the_optimizers_count():
    optimizer, _ = stepped()
    saved = optimizer.state_dict()
    assert saved.pop("counts") == {"late": {"steps": 3, "averages": 0}}
    other = fastopt.NAdam()
    other.load_state_dict(saved)
    assert other._leaf_counts() == dict.fromkeys(["a", "late", "b"], (7, 0))
    whole = fastopt.NAdam()
    whole.update(arrays(0), arrays(1))
    assert "counts" not in whole.state_dict()


@pytest.mark.parametrize(
    ("counts", "words"),
    [
        ([1], "counts are .*expected a dict"),
        ({"a": 3}, "counts are .*expected a dict of dicts with steps and averages"),
        ({"a": {"steps": -1, "averages": 0}}, "steps of 'a' must be a whole number"),
        ({"a": {"steps": 1}}, "averages of 'a' must be a whole number"),
        ({"c": {"steps": 1, "averages": 0}}, "counts in state_dict have 'c', of which there is no state"),
    ],
)
def test_damaged_counts(counts, words):
    optimizer, _ = stepped()
    before = optimizer._leaf_counts()
    with pytest.raises(fastopt.CheckpointError, match=words):
        optimizer.load_state_dict(optimizer.state_dict() | {"counts": counts})
    assert optimizer._leaf_counts() == before


def test_what_did_not_fit_keeps_its_count():
    saved = stepped()[0].state_dict()
    for views in saved["state"].values():
        del views["b"]
    other = fastopt.NAdam()
    other.update(arrays(0), arrays(1))
    assert other.load_state_dict(saved, strict=False).missing == ["b"]
    assert other._leaf_counts() == {"a": (7, 0), "late": (3, 0), "b": (1, 0)}


def test_an_assigned_iter_is_the_count_of_every_leaf():
    optimizer, params = stepped()
    optimizer.iter = 20
    assert optimizer._leaf_counts() == dict.fromkeys(params, (20, 0))
    reference, plain = fastopt.reference.NAdam(), copy.deepcopy(params)
    for slot in "mv":
        setattr(reference, slot, {key: view.copy() for key, view in getattr(optimizer, slot).items()})
    reference.iter, reference.counts = 20, dict.fromkeys(params, 20)
    optimizer.update(params, arrays(1))
    reference.update(plain, arrays(1))
    for key in params:
        assert_same_bits(params[key], plain[key])


def test_an_averaged_leaf_that_joins_late_begins_as_itself():
    for averaging in (fastopt.EMA(0.75), fastopt.SWA(2, every=2)):
        pair, params, plain = Pair("adam", averaging=averaging), arrays(0), arrays(0)
        for step in range(1, 10):
            mine, others = given("joins", step, params, arrays(step)), given("joins", step, plain, arrays(step))
            pair.update(mine[0], others[0], mine[1])
            if step == 4:
                assert_same_bits(pair.fast.averaged(params)["late"], params["late"])
        for key in params:
            assert_same_bits(pair.fast.averaged(params)[key], pair.plain.weight_average[key])


def test_rows_count_the_steps_of_their_table(rng):
    pair, params, plain = Pair("adam"), arrays(0), arrays(0)
    for step in range(1, 10):
        grads = arrays(step)
        grads["late"] = fastopt.Rows(np.array([0, 2]), grads["late"][:2]) if step in ACTIVE else None
        pair.update(params, plain, grads)
    for key in params:
        assert_same_bits(params[key], plain[key])
    assert pair.fast._leaf_counts()["late"] == (3, 0)
