"""Settings for a part of the parameters: one launch, and the reference's bits."""

import copy
import pickle

import numpy as np
import pytest

import fastopt
from fastopt import reference, threads
from fastopt.groups import is_vector
from fastopt.optimizers import OPTIMIZERS
from fastopt.schedules import Linear
from tests.conftest import ONE_OF_EACH_KIND, THREAD_COUNTS, Pair, assert_same_bits

SHAPES = {"W1": (130, 70), "b1": (70,), "W2": (70, 10), "b2": (10,), "scale": (), "none": (0,)}


def model(dtype="float32", seed=0):
    rng = np.random.default_rng(seed)
    return {key: np.asarray(rng.standard_normal(shape)).astype(dtype) for key, shape in SHAPES.items()}


def assert_equals_reference(rule, groups, dtype="float32", count=1, flat=False, steps=4, **settings):
    pair, fast = Pair(rule, groups=groups, **settings), model(dtype)
    plain = copy.deepcopy(fast)
    fast = fastopt.flatten(fast) if flat else fast
    with threads.exactly(count):
        for step in range(steps):
            grads = model(dtype, step + 1)
            pair.update(fast, plain, fastopt.flatten(grads) if flat else grads)
    for key in fast:
        assert_same_bits(fast[key], plain[key])
    pair.assert_same_state()
    return fast


@pytest.mark.parametrize(
    "rule", [*ONE_OF_EACH_KIND, "schedule_free_sgd", "schedule_free_adamw", "sophia", "lamb", "muon"]
)
def test_each_kind_of_rule_with_groups_equals_its_reference(rule):
    own = {"weight_decay": 0.0} if rule == "rprop" else {"lr": 0.02, "weight_decay": 0.0}  # its lr is read once
    groups = {"b*": own, "W2": {"clip_value": 0.1}, "scale": {"frozen": True}}
    # With the options of tests/engine/test_processing.py, whose kernels these are.
    assert_equals_reference(rule, groups, weight_decay=0.1, decoupled=False, maximize=True)


@pytest.mark.parametrize("flat", [False, True])
@pytest.mark.parametrize("count", THREAD_COUNTS[:2])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_in_each_way_of_stepping(dtype, count, flat):
    groups = {
        is_vector: {"weight_decay": 0.0},
        "W?": {"lr": 0.1, "decoupled": True},
        "b2": {"lr": 0.2, "weight_decay": 0.3},
        lambda key, array: array.size > 5000: {"momentum": 0.5},
    }
    assert_equals_reference("momentum", groups, dtype, count, flat, weight_decay=0.2, clip_norm=0.5, maximize=True)


def test_what_a_group_does():
    params = {"W": np.array([[8.0]]), "b": np.array([8.0]), "frozen": np.array([8.0])}
    grads = {"W": np.array([[1.0]]), "b": np.array([1.0])}  # none is needed for what is frozen
    optimizer = fastopt.SGD(lr=0.5, weight_decay=0.5, groups=fastopt.NO_DECAY_ON_VECTORS)
    optimizer.groups["frozen"] = {"frozen": True}
    optimizer.update(params, grads)
    assert [float(value.item()) for value in params.values()] == [5.5, 7.5, 8.0]
    optimizer.groups["frozen"]["frozen"] = False
    with pytest.raises(KeyError, match="frozen"):
        optimizer.update(params, grads)
    optimizer.update(params, {**grads, "frozen": np.ones(1)})
    assert params["frozen"] == 7.5
    optimizer.groups[is_vector]["lr"] = 0.0
    optimizer.update(params, {**grads, "frozen": np.ones(1)})
    assert params["frozen"] == 7.5 and params["b"] == 7.0
    optimizer.groups = None
    optimizer.update(params, {**grads, "frozen": np.zeros(1)})
    assert params["frozen"] == 7.5 * 0.75


def test_later_groups_win_and_schedules_run_in_groups():
    params = {"a": np.zeros(1), "b": np.zeros(1)}
    optimizer = fastopt.SGD(lr=1.0, groups={"*": {"lr": 0.5}, "b": {"lr": Linear(4.0, 0.0, steps=2)}})
    found = []
    for _ in range(3):
        optimizer.update(params, {"a": -np.ones(1), "b": -np.ones(1)})
        found.append((params["a"].item(), params["b"].item()))
    schedule = Linear(4.0, 0.0, steps=2)
    assert found == [(0.5 * n, sum(schedule(step) for step in range(1, n + 1))) for n in (1, 2, 3)]


def test_vectors_are_what_has_fewer_than_two_dimensions():
    assert [is_vector("p", np.zeros((2,) * dimensions)) for dimensions in range(4)] == [True, True, False, False]


def test_one_launch_for_each_dtype():
    optimizer = fastopt.Adam(groups={"b*": {"lr": 0.1}, "W1": {"weight_decay": 0.1}})
    params = model()
    optimizer.update(params, model(seed=1))
    assert len(optimizer._plan.table.launches) == 1 and optimizer._plan.table.scalars.shape[0] == 3
    plan = optimizer._plan
    optimizer.groups["b*"]["lr"] = 0.2
    optimizer.update(params, model(seed=2))
    assert optimizer._plan is plan, "a new number needs no new plan"


def test_frozen_arrays_stay_as_they_are_whatever_their_gradient():
    for settings in ({}, {"on_nonfinite": "raise"}, {"clip_norm": 1.0}):
        params, grads = model(), model(seed=1)
        grads["W1"][:] = np.nan
        optimizer = fastopt.Adam(groups={"W1": {"frozen": True}}, **settings)
        report = optimizer.update(params, grads, report=True)
        assert_same_bits(params["W1"], model()["W1"])
        assert "W1" not in report.by_key and np.isfinite(params["W2"]).all()
    bare = np.ones(3)
    fastopt.SGD(groups={lambda key, array: True: {"frozen": True}}).update(bare, np.ones(3))
    assert (bare == 1).all()


def test_decay_in_one_group_leaves_the_bits_of_others_alone():
    with_decay = fastopt.SGD(lr=0.1, groups={"a": {"weight_decay": 0.1}})
    params = {"a": np.ones(4), "b": np.array([-0.0, np.inf, np.nan, 1e-310])}
    grads = {"a": np.ones(4), "b": np.array([-0.0, -0.0, 1.0, -0.0])}
    alone = {"b": params["b"].copy()}
    with_decay.update(params, grads)
    fastopt.SGD(lr=0.1).update(alone, {"b": grads["b"]})
    assert_same_bits(params["b"], alone["b"])


@pytest.mark.parametrize("rule", ONE_OF_EACH_KIND)
def test_saved_copied_and_pickled(rule, tmp_path):
    groups = {
        "b*": {"clip_value": Linear(0.1, 0.0, steps=9)},
        is_vector: {"weight_decay": 0.0},
        ("a", 1): {"frozen": True},
    }
    optimizer = OPTIMIZERS[rule](weight_decay=0.01, groups=groups)
    params = {**model(), ("a", 1): np.ones(3)}
    for step in range(2):
        optimizer.update(params, {**model(seed=step), ("a", 1): None})
    optimizer.save(tmp_path / "file")
    loaded = OPTIMIZERS[rule]()
    loaded.load(tmp_path / "file")
    other = OPTIMIZERS[rule]()
    other.load_state_dict(optimizer.state_dict())
    for again in (loaded, other, copy.deepcopy(optimizer), pickle.loads(pickle.dumps(optimizer))):
        assert again.groups == optimizer.groups and again.groups is not optimizer.groups
        continued = copy.deepcopy(params)
        expected = copy.deepcopy(params)
        copy.deepcopy(optimizer).update(expected, {**model(seed=7), ("a", 1): None})
        again.update(continued, {**model(seed=7), ("a", 1): None})
        for key in params:
            assert_same_bits(continued[key], expected[key])
    again.groups["b*"]["clip_value"] = 0.0
    assert callable(optimizer.groups["b*"]["clip_value"])


@pytest.mark.parametrize(
    ("groups", "error", "words"),
    [
        ([("b*", {})], TypeError, "Adam: groups must be a dict such as"),
        ({"b*": 0.1}, TypeError, r"Adam: the settings of groups\['b\*'\] must be a dict such as"),
        (
            {"b*": {"clip_norm": 1.0}},
            ValueError,
            r"Adam: groups\['b\*'\] cannot have 'clip_norm', which is a setting of all parameters together; a group can have lr",
        ),
        ({"b*": {"lr": -1.0}}, ValueError, r"Adam: lr must be in \[0, inf\), got -1.0"),
        ({"b*": {"frozen": 1}}, TypeError, "Adam: frozen must be True or False, got 1 of type int"),
    ],
)
def test_bad_groups(groups, error, words):
    optimizer = fastopt.Adam(groups={"W1": {"lr": 0.1}})
    with pytest.raises(error, match=words):
        optimizer.groups = groups
    assert list(optimizer.groups) == ["W1"]
    with pytest.raises(error, match=words):
        fastopt.Adam(groups=groups)


def test_bad_groups_are_found_before_anything_is_written(tmp_path):
    for groups, words in (
        ({"c*": {"lr": 0.1}}, r"Adam.*groups\['c\*'\] selects none of the parameters, which are 'W1'"),
        ({"b1": {"lr": lambda step: 2.0 - step}}, "lr at step 5 must be in"),
    ):
        params, optimizer = model(), fastopt.Adam(groups=groups)
        optimizer.iter = 4
        with pytest.raises(ValueError, match=words):
            optimizer.update(params, model(seed=1))
        assert optimizer.iter == 4 and not optimizer.m
        for key, value in model().items():
            assert_same_bits(params[key], value)
    with pytest.raises(ValueError, match="one of initial_accumulator in groups is read at the first step"):
        fastopt.AdaGrad(groups={"b1": {"initial_accumulator": 1.0}}).update(model(), model(seed=1))
    with pytest.raises(fastopt.CheckpointError, match="is selected by a function, and a file holds no code"):
        fastopt.SGD(groups={lambda key, array: True: {"lr": 0.1}}).save(tmp_path / "file")


def test_the_reference_takes_groups_too():
    params = {"W": np.ones((1, 1)), "b": np.ones(1)}
    reference.SGD(lr=1.0, groups={"b": {"lr": 0.5}}).update(params, {"W": np.ones((1, 1)), "b": np.ones(1)})
    assert params["W"] == 0 and params["b"] == 0.5


def test_clipping_by_the_norm_of_each_array():
    params = {"a": np.zeros(2), "b": np.zeros(2), "c": np.zeros(2)}
    grads = {"a": np.array([3.0, 4.0]), "b": np.array([0.3, 0.4]), "c": np.array([6.0, 8.0])}
    optimizer = fastopt.SGD(lr=1.0, clip_array_norm=1.0, gradient_scale=2.0, groups={"c": {"clip_array_norm": 2.5}})
    optimizer.update(params, grads)
    found = {key: -value for key, value in params.items()}
    np.testing.assert_allclose(found["a"], [0.6, 0.8])
    np.testing.assert_allclose(found["b"], [0.6, 0.8])
    np.testing.assert_allclose(found["c"], [1.5, 2.0])


@pytest.mark.parametrize("flat", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("rule", ["momentum", "lamb"])
def test_norms_of_arrays_are_the_references_bits(rule, dtype, flat):
    for count in THREAD_COUNTS[:2]:
        settings = {"clip_array_norm": 0.5, "clip_norm": 1.0, "maximize": True, "weight_decay": 0.1}
        groups = {"b1": {"clip_array_norm": 0.1, "lr": 0.3}, "W2": {"clip_array_norm": np.inf}}
        assert_equals_reference(rule, groups, dtype, count, flat, **settings)
    mixed = {"W": np.ones((3, 4), np.float32)[:, ::2], "b": np.ones(7), "x": 0.5}
    plain = copy.deepcopy(mixed)
    pair = Pair(rule, clip_array_norm=0.5)
    for _ in range(3):
        pair.update(mixed, plain, {"W": np.ones((3, 2)), "b": np.arange(7.0), "x": 3.0})
    for key in mixed:
        assert_same_bits(np.asarray(mixed[key]), np.asarray(plain[key]))


@pytest.mark.parametrize("own", [{"clip_value": 1e-3}, {"weight_decay": 0.5}, {"weight_decay": 0.5, "decoupled": True}])
@pytest.mark.parametrize("rule", ["novograd", "lars", "momentum"])
def test_the_only_part_may_be_that_of_a_group(rule, own):
    """Where arrays are told apart a model of one array has one part."""
    groups = {"W": {"clip_array_norm": 1e9, **own}}
    fast, plain = {"W": np.ones((3, 2))}, {"W": np.ones((3, 2))}
    pair = Pair(rule, groups=groups)
    for step in (1, 2):
        pair.update(fast, plain, {"W": np.full((3, 2), 0.3 * step)})
    assert_same_bits(fast["W"], plain["W"])
    without = {"W": np.ones((3, 2))}
    for step in (1, 2):
        OPTIMIZERS[rule]().update(without, {"W": np.full((3, 2), 0.3 * step)})
    assert not np.array_equal(fast["W"], without["W"])


def test_a_setting_that_is_merged_in_counts_at_once():
    params, optimizer = {"W": np.zeros(1)}, fastopt.SGD(lr=1.0, groups={"W": {"lr": 0.5}})
    optimizer.update(params, {"W": -np.ones(1)})
    group, groups = optimizer.groups["W"], optimizer.groups
    group |= {"lr": 0.25}
    optimizer.update(params, {"W": -np.ones(1)})
    groups |= {"*": {"lr": 2.0}}
    optimizer.update(params, {"W": -np.ones(1)})
    assert params["W"] == 2.75
    with pytest.raises(ValueError, match="lr must be in"):
        group |= {"lr": -1.0}
    del groups["*"]
    optimizer.update(params, {"W": -np.ones(1)})
    assert params["W"] == 3.0


def test_turning_norms_of_arrays_on_and_off():
    pair, fast = Pair("momentum"), model()
    plain = copy.deepcopy(fast)
    for step, most in enumerate((np.inf, 0.5, np.inf, 0.25)):
        pair.fast.clip_array_norm = pair.plain.clip_array_norm = most
        pair.update(fast, plain, model(seed=step + 1))
    for key in fast:
        assert_same_bits(fast[key], plain[key])


def test_a_rule_with_norms_takes_each_array_once():
    shared = np.ones(3)
    with pytest.raises(
        ValueError, match=r"LAMB: params\['b'\] is also there under another key, but a rule with norms needs"
    ):
        fastopt.LAMB().update({"a": shared, "b": shared}, {"a": np.ones(3), "b": np.ones(3)})
    assert (shared == 1).all()


def test_stable_adamw_takes_the_papers_path(rng):
    """Algorithm 2 of arXiv:2304.13013, with bias corrections written out."""
    start, gradients = rng.standard_normal(50), rng.standard_normal((20, 50)) * np.logspace(-2, 3, 20)[:, None]
    lr, beta1, beta2, eps, decay = 0.1, 0.9, 0.99, 1e-3, 0.1
    p, m, v = start.copy(), np.zeros(50), np.zeros(50)
    for t, g in enumerate(gradients, start=1):
        share1 = beta1 * (1 - beta1 ** (t - 1)) / (1 - beta1**t)
        share2 = beta2 * (1 - beta2 ** (t - 1)) / (1 - beta2**t)
        m, v = share1 * m + (1 - share1) * g, share2 * v + (1 - share2) * g * g
        rms = np.sqrt(np.mean(g * g / np.maximum(v, eps * eps)))
        step = lr / max(1, rms)
        p = p - step * decay * p - step * m / (np.sqrt(v) + eps)
    params, optimizer = {"W": start.copy()}, fastopt.StableAdamW(lr, beta1, beta2, eps, weight_decay=decay)
    for g in gradients:
        optimizer.update(params, {"W": g})
    np.testing.assert_allclose(params["W"], p, rtol=1e-10)


@pytest.mark.parametrize("rule", ["sgd", "adam", "lamb"])
def test_a_group_of_known_arrays_may_rest(rule):
    """A step of other arrays alone is none of the group's; a name that never matched is a mistake all the same."""
    pair = Pair(rule, groups={"b*": {"lr": 0.5}})
    fast, plain = ({"W": np.ones(3), "b1": np.ones(2)} for _ in range(2))
    for keys in (["W", "b1"], ["W"], ["b1"], ["W"]):
        for params, optimizer in ((fast, pair.fast), (plain, pair.plain)):
            some = {key: params[key] for key in keys}
            optimizer.update(some, {key: np.ones(params[key].shape) for key in keys})
    for key in fast:
        assert_same_bits(fast[key], plain[key])
    pair.fast.groups["c*"] = {"lr": 0.1}
    with pytest.raises(ValueError, match=r"groups\['c\*'\] selects none of the parameters"):
        pair.fast.update({"W": fast["W"]}, {"W": np.ones(3)})
    for key in fast:
        assert_same_bits(fast[key], plain[key])


def test_a_group_matches_what_has_state():
    """Of a copy, or one that was loaded: the state knows the arrays, whatever this step has."""
    params, optimizer = {"W": np.ones(3), "b": np.ones(2)}, fastopt.Adam()
    optimizer.update(params, {"W": np.ones(3), "b": np.ones(2)})
    other = fastopt.Adam(groups={"b": {"lr": 0.1}})
    other.m, state = None, optimizer.state_dict()
    other.load_state_dict({**state, "groups": other.state_dict()["groups"]} if "groups" in state else state)
    other.groups = {"b": {"lr": 0.1}}
    other.update({"W": params["W"]}, {"W": np.ones(3)})
    assert other.iter == 2


@pytest.mark.parametrize("rule", [rule for rule in OPTIMIZERS if rule != "rprop"])
def test_lr_scale_multiplies_lr(rule):
    groups = {"b*": {"lr_scale": 0.5, "weight_decay": 0.0}, "W2": {"lr": 0.3, "lr_scale": 0.1}, "b2": {"lr_scale": 2.0}}
    decay = {"weight_decay": 0.1, "decoupled": True} if rule in ONE_OF_EACH_KIND else {}
    assert_equals_reference(rule, groups, **decay)
    scaled, own = model(), model()
    lr = OPTIMIZERS[rule]().lr
    for params, settings in ((scaled, {"lr_scale": 0.25}), (own, {"lr": lr * 0.25})):
        optimizer = OPTIMIZERS[rule](groups={"W1": settings})
        for step in range(3):
            optimizer.update(params, model(seed=step + 1))
    for key in scaled:
        assert_same_bits(scaled[key], own[key])


def test_lr_scale_follows_schedules_and_assignments():
    schedule = Linear(4.0, 0.0, steps=4)
    params = {"a": np.zeros(1), "b": np.zeros(1), "c": np.zeros(1)}
    groups = {"b": {"lr_scale": 0.5}, "c": {"lr_scale": lambda step: 1 / step}}
    optimizer = fastopt.SGD(lr=schedule, groups=groups)
    before = {"a": 0.0, "b": 0.0, "c": 0.0}
    for step in range(1, 7):
        if step == 5:
            optimizer.lr = 8.0
        if step == 6:
            optimizer.groups["b"]["lr_scale"] = 0.25
        lr = optimizer.lr(step) if step < 5 else 8.0
        optimizer.update(params, {key: -np.ones(1) for key in params})
        moved = {key: value.item() - before[key] for key, value in params.items()}
        assert moved == pytest.approx({"a": lr, "b": lr * (0.25 if step == 6 else 0.5), "c": lr / step})
        before = {key: value.item() for key, value in params.items()}


def test_lr_scale_is_for_groups_and_is_saved(tmp_path):
    with pytest.raises(TypeError, match="SGD has no setting 'lr_scale'"):
        fastopt.SGD(lr_scale=0.5)
    for bad, error in ((-1.0, ValueError), ("x", TypeError)):
        with pytest.raises(error, match="SGD: lr_scale must be"):
            fastopt.SGD(groups={"b": {"lr_scale": bad}})
    with pytest.raises(ValueError, match="one of lr_scale in groups is read at the first step"):
        fastopt.Rprop(groups={"b1": {"lr_scale": 0.5}}).update(model(), model(seed=1))
    optimizer = fastopt.Adam(groups={"b*": {"lr_scale": Linear(1.0, 0.5, steps=3)}})
    optimizer.update(model(), model(seed=1))
    optimizer.save(tmp_path / "state")
    loaded = fastopt.Adam()
    loaded.load(tmp_path / "state")
    assert loaded.groups["b*"].data == optimizer.groups["b*"].data

    @fastopt.rule(rate=0.1)
    def without(p, g, rate):
        return (p - rate * g,)

    with pytest.raises(ValueError, match="cannot have 'lr_scale'"):
        without(groups={"b": {"lr_scale": 0.5}})

    @fastopt.rule(lr=0.1, lr_scale=0.5)
    def with_its_own(p, g, lr, lr_scale):
        return (p - lr * lr_scale * g,)

    params = {"a": np.zeros(1)}
    with_its_own(groups={"a": {"lr_scale": 2.0}}).update(params, {"a": -np.ones(1)})
    assert params["a"] == 0.1 * 2.0


def test_a_key_that_is_equal_is_the_key():
    """A selector need not be the same object: loaded from a file it is another."""
    key = "layers", 1
    params, optimizer = {key: np.zeros(2)}, fastopt.SGD(lr=1.0, groups={tuple(list(key)): {"lr": 0.5}})
    optimizer.update(params, {key: np.ones(2)})
    assert_same_bits(params[key], np.full(2, -0.5))


def test_only_lr_must_be_a_number_in_a_group():
    optimizer = fastopt.Adam(groups={"W": {"state_storage": "int8", "frozen": True}})
    assert dict(optimizer.groups["W"]) == {"state_storage": "int8", "frozen": True}
