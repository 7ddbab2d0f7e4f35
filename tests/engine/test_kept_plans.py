"""Parameters that are other arrays at each step, and plans that are kept for those that come back."""

import copy
import gc
import weakref

import numpy as np
import pytest

import fastopt
from fastopt import Rows
from fastopt.engine import kept_plans
from fastopt.engine.plan import Plan
from tests.conftest import Pair, assert_same_bits
from tests.engine.test_one_call import like, model, warmed


@pytest.mark.parametrize("settings", [{}, {"clip_norm": 1.0}, {"averaging": fastopt.EMA()}])
@pytest.mark.parametrize("form", ["dict", "array"])
def test_other_arrays_at_each_step_need_no_new_plan(settings, form, rng, monkeypatch):
    pair = Pair("adam", **settings)
    fast = model(rng) if form == "dict" else rng.standard_normal(4)
    plain, kept = copy.deepcopy(fast), []
    for number in range(8):
        if number == 2:
            monkeypatch.setattr(Plan, "__init__", lambda *given: pytest.fail("a new plan"))
        grads = like(fast, rng) if form == "dict" else rng.standard_normal(4)
        pair.update(fast, plain, grads)
        if form == "array":
            fast, plain = np.clip(fast, -0.5, 0.5), np.clip(plain, -0.5, 0.5)
        else:
            for key in list(fast)[number % 2 :: 1 + number % 3]:
                kept.append(fast[key])  # so that addresses differ
                fast[key], plain[key] = np.clip(fast[key], -0.5, 0.5), np.clip(plain[key], -0.5, 0.5)
                kept.append(np.empty(number))
    for key in fast if form == "dict" else [...]:
        assert_same_bits(fast[key], plain[key])
    pair.assert_same_state()


def test_two_arrays_may_change_places():
    params = {"a": np.zeros(3), "b": np.zeros(3), "c": np.zeros(3)}
    optimizer = warmed(fastopt.SGD(lr=1.0), params, dict.fromkeys(params, np.ones(3)))
    first = params["a"]
    params["a"], params["b"], params["c"] = params["c"], first, params["b"]
    optimizer.update(params, {"a": np.full(3, 10.0), "b": np.full(3, 20.0), "c": np.full(3, 30.0)})
    assert [params[key][0] for key in "abc"] == [-12, -22, -32] and params["b"] is first


def test_other_arrays_that_overlap_are_refused():
    whole = np.zeros(10)
    params = {"a": whole[:4], "b": np.zeros(4)}
    grads = {"a": np.ones(4), "b": np.ones(4)}
    optimizer = warmed(fastopt.Momentum(lr=1.0), params, grads)
    good, before = params["b"], optimizer.v["a"].copy()
    for bad in (whole[2:6], optimizer.v["a"]):
        params["b"] = bad
        for _ in range(2):
            with pytest.raises(ValueError, match=r"memory|overlap"):
                optimizer.update(params, grads)
    assert optimizer.iter == 2 and optimizer.v["a"].tolist() == before.tolist()
    params["b"] = good
    optimizer.update(params, grads)
    with pytest.raises(ValueError, match="memory"):
        optimizer.update(params, {"a": np.ones(4), "b": whole[2:6]})
    params["b"] = params["a"]  # the very same one is updated twice
    before = params["a"].copy()
    optimizer.update(params, grads)
    assert (params["a"] != before).all() and optimizer.iter == 4


def test_gradients_may_lie_where_a_parameter_was_and_not_where_it_is():
    params = {"a": np.zeros(3), "b": np.zeros(3)}
    optimizer = warmed(fastopt.SGD(lr=1.0), params, {"a": np.ones(3), "b": np.ones(3)})
    old, params["a"] = params["a"], np.zeros(3)
    optimizer.update(params, {"a": np.ones(3), "b": old})
    assert params["a"].tolist() == [-1] * 3 and params["b"].tolist() == [0] * 3 and old.tolist() == [-2] * 3
    with pytest.raises(ValueError, match="memory"):
        optimizer.update(params, {"a": np.ones(3), "b": params["a"]})


def test_reports_of_other_arrays_at_each_step():
    params, optimizer = {"W": np.zeros(3)}, fastopt.Momentum(lr=1.0)
    for _ in range(4):
        assert optimizer.update(params, {"W": np.ones(3)}, report=True).gradient_norm > 1
        params["W"] = params["W"].copy()
    assert optimizer.iter == 4


@pytest.mark.parametrize("report", [False, True])
def test_arrays_of_the_past_are_let_go(report):
    params, grads = {"a": np.zeros(3), "b": np.zeros(3)}, {"a": np.ones(3), "b": np.ones(3)}
    optimizer = fastopt.Adam()
    for _ in range(3):
        optimizer.update(params, grads)
        optimizer.update(params, {**grads, "b": None})
        optimizer.update(params, grads, report=report)
    for _ in range(3):
        old, params["a"] = weakref.ref(params["a"]), params["a"].copy()
        optimizer.update(params, grads)
        gc.collect()
        assert old() is None
    new = weakref.ref(grads["a"])
    optimizer.update(params, grads)
    del grads
    assert new() is None


def test_different_arrays_in_turns_need_a_plan_each(rng, monkeypatch):
    pair, fast = Pair("adam"), model(rng)
    plain, made, make = copy.deepcopy(fast), [], Plan.__init__
    monkeypatch.setattr(Plan, "__init__", lambda self, *given: (made.append(1), make(self, *given))[1])
    for number in range(12):
        grads = like(fast, rng)
        keys = list(fast)
        if number % 3 == 0:
            grads[keys[number % 2]] = None
            pair.update(fast, plain, grads)
        else:
            some = keys[:3] if number % 3 == 1 else keys[3:]
            if number == 1:
                pair.update(fast, plain, grads)
            halves = [{key: every[key] for key in some} for every in (fast, plain, grads)]
            pair.update(*halves)
    assert len(made) <= 7  # one each, and those of before the leaves were counted apart
    for key in fast:
        assert_same_bits(fast[key], plain[key])
    pair.assert_same_state()


@pytest.mark.parametrize("what", ["turns", "other arrays"])
def test_turns_and_other_arrays_are_steps_in_one_call(what, rng, in_one_call):
    pair, fast = Pair("adam"), model(rng)
    plain = copy.deepcopy(fast)
    for number in range(24):
        if number == 12:
            in_one_call()
        grads = like(fast, rng)
        if what == "turns":
            grads["W1"] = grads["W1"] if number % 2 else None
        else:
            fast["b1"], plain["b1"] = fast["b1"].copy(), plain["b1"].copy()
        pair.update(fast, plain, grads)
    for key in fast:
        assert_same_bits(fast[key], plain[key])


def test_only_some_plans_are_kept():
    params = {f"p{number}": np.zeros(2) for number in range(9)}
    optimizer = fastopt.SGD(lr=1.0)
    for turn in range(3):
        for key in params:
            optimizer.update(params, {**dict.fromkeys(params), key: np.ones(2)})
        assert all(value.tolist() == [-turn - 1] * 2 for value in params.values())
    assert len(optimizer._others) < kept_plans.MOST_PLANS


def test_plans_of_other_settings_do_not_count(rng):
    pair, fast = Pair("adam"), model(rng)
    plain = copy.deepcopy(fast)
    for number in range(24):
        if number % 8 == 5:
            pair.fast.weight_decay = pair.plain.weight_decay = number / 100
        grads = like(fast, rng)
        pair.update(fast, plain, {**grads, "W1": None} if number % 2 else grads)
    for key in fast:
        assert_same_bits(fast[key], plain[key])


def arguments():
    params = {"W": np.ones((2, 3)), "b": np.zeros(3), "s": np.ones((2, 4))[:, ::2], "x": 1.5}
    return params, {"W": np.ones((2, 3)), "b": np.ones(3), "s": np.ones((2, 2)), "x": 0.5}


def change(params=(), grads=()):
    """Puts others in the place of some parameters and gradients."""
    return lambda p, g: (p | dict(params() if callable(params) else params), g | dict(grads))


SITUATIONS = {  # what comes after some steps; how many new plans that takes
    "as before": (change(), 0),
    "gradients": (change(grads={"W": np.full((2, 3), 2.0), "b": np.full(3, 3.0)}), 0),
    "dtype of a gradient": (change(grads={"W": np.full((2, 3), 2, np.float32), "b": np.full(3, 3)}), 0),
    "order of a gradient": (change(grads={"W": np.full((3, 2), 2.0).T}), 0),
    "shape of a gradient": (change(grads={"b": np.full((1, 3), 2.0)}), 0),
    "array for a number": (change(grads={"x": np.array(2.0)}), 0),
    "None": (change(grads={"W": None}), 1),
    "None for a strided one": (change(grads={"s": None}), 1),
    "None for a number": (change(grads={"x": None}), 1),
    "rows": (change(grads={"W": Rows(np.array([1]), np.full((1, 3), 2.0))}), 1),
    "another array": (change(lambda: {"W": np.full((2, 3), 7.0)}), 0),
    "another order": (change(lambda: {"W": np.full((3, 2), 7.0).T}), 1),
    "another strided array": (change(lambda: {"s": np.full((2, 4), 7.0)[:, ::2]}), 1),
    "contiguous": (change(lambda: {"s": np.full((2, 2), 7.0)}), 1),
    "another number": (change({"x": 2.5}), 0),
    "another kind of number": (change({"x": np.float64(2.5)}), 1),
    "array in the place of a number": (change(lambda: {"x": np.array(2.5)}), 1),
    "tied": (lambda p, g: (p | {"W": p["V"]} if "V" in p else p | {"V": p["W"]}, g | {"V": g["W"]}), 1),
    "one less": (lambda p, g: ({key: p[key] for key in p if key != "b"}, g), 1),
    "one more": (change(lambda: {"V": np.ones(2)}, {"V": np.ones(2)}), 1),
    "another order of keys": (lambda p, g: ({key: p[key] for key in reversed(p)}, g), 1),
}


OF_STRIDED = {"None for a strided one", "another strided array", "contiguous"}


@pytest.mark.parametrize(
    ("situation", "checked"),
    [(each, "with one that is strided") for each in SITUATIONS]
    + [(each, checked) for each in SITUATIONS if each not in OF_STRIDED for checked in ("compiled", "one by one")],
)
def test_when_a_plan_fits(situation, checked, monkeypatch):
    """Either way the step has the same bits; another plan costs a hundred times as much."""
    changed, expected = SITUATIONS[situation]
    pair, (fast, grads), (plain, _) = Pair("momentum"), arguments(), arguments()
    plain["s"] = plain["s"].copy()
    if checked != "with one that is strided":
        for each in (fast, plain, grads):
            del each["s"]
    for _ in range(2):
        pair.update(fast, plain, grads)
    if checked == "one by one":
        pair.fast._plan.check = None
    assert (pair.fast._plan.check is not None) == (checked == "compiled")
    made, make = [], Plan.__init__
    monkeypatch.setattr(Plan, "__init__", lambda self, *given: (made.append(1), make(self, *given))[1])
    (fast, grads), (plain, _) = changed(fast, grads), changed(plain, grads)
    for _ in range(2):
        pair.update(fast, plain, grads)
        assert len(made) == expected
        for key in fast:
            assert_same_bits(np.ascontiguousarray(fast[key]), np.ascontiguousarray(plain[key]))
        for key in pair.plain.v:
            assert_same_bits(np.ascontiguousarray(pair.fast.v[key]), np.ascontiguousarray(pair.plain.v[key]))
