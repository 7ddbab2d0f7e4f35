"""Bounds and masks: in the step's own pass, with the reference's bits."""

import copy
import math
import pickle

import numpy as np
import pytest

import fastopt
from fastopt import EMA, Lookahead, Rows, combinations, reference, threads
from fastopt.optimizers import OPTIMIZERS
from tests.conftest import ONE_OF_EACH_KIND, THREAD_COUNTS, Pair, assert_same_bits

SHAPES = {"W": (130, 70), "b": (70,), "none": (0,), "one": ()}


def model(dtype, seed=0):
    rng = np.random.default_rng(seed)
    return {key: np.asarray(rng.standard_normal(shape)).astype(dtype) for key, shape in SHAPES.items()}


LOW = -np.random.default_rng(1).random((130, 1))
MASK = {"W": np.random.default_rng(2).random((130, 70)) < 0.5, "b": np.arange(70) % 3 > 0}
EVERYTHING = {
    "weight_decay": 0.1,
    "gradient_scale": 0.5,
    "mask": MASK,
    "nonnegative": True,
    "groups": {"W": {"bounds": (LOW, 0.9), "nonnegative": False}, "b": {"bounds": (-0.3, 0.3), "nonnegative": False}},
}


def is_allowed(rule, settings):
    try:
        optimizer = OPTIMIZERS[rule](**settings)
        optimizer.update(model("float32"), model("float32"))
    except ValueError as error:
        assert "do not go together" in str(error)
        return False
    return True


def assert_equals_reference(rule, settings, dtype="float32", count=1, steps=4, order="C"):
    pair, fast = Pair(rule, **settings), {key: np.array(x, order=order) for key, x in model(dtype).items()}
    fast["W"][0, 3:6] = -0.0, np.nan, 50.0
    plain, before = copy.deepcopy(fast), copy.deepcopy(fast)
    with threads.exactly(count):
        for step in range(steps):
            grads = model(dtype, step + 1)
            grads["W"][0, :3] = 0.0, -0.0, 1e5
            pair.update(fast, plain, grads)
    for key in fast:
        assert_same_bits(fast[key], plain[key])
        for slot in ("weight_average", "slow_weights"):
            if getattr(pair.fast, slot) is not None:
                assert_same_bits(getattr(pair.fast, slot)[key], getattr(pair.plain, slot)[key])
    pair.assert_same_state()
    return pair.fast, before, fast


@pytest.mark.parametrize("rule", ONE_OF_EACH_KIND)
def test_everything_equals_the_reference(rule):
    settings = EVERYTHING if is_allowed(rule, EVERYTHING) else {**EVERYTHING, "mask": None}
    optimizer, before, after = assert_equals_reference(rule, settings)
    low = np.broadcast_to(LOW, (130, 70)).astype(np.float32)
    moved = MASK["W"] if optimizer.mask else np.ones((130, 70), bool)
    moved = moved & ~np.isnan(before["W"])
    assert np.all((low <= after["W"])[moved]) and np.all(after["W"][moved] <= np.float32(0.9))
    if optimizer.mask:
        for key, mask in MASK.items():
            assert_same_bits(after[key][~mask], before[key][~mask])
            for slot in optimizer._rule.state:
                start = optimizer.start_values()[slot]
                assert np.all(getattr(optimizer, slot)[key][~mask] == start)
    assert after["one"] >= 0


@pytest.mark.parametrize("count", THREAD_COUNTS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_any_threads_dtypes_and_orders(count, dtype):
    assert_equals_reference("adam", EVERYTHING, dtype, count, order="F" if count == 2 else "C")


@pytest.mark.parametrize(
    "settings",
    [
        {"bounds": (-0.5, 0.5)},
        {"bounds": (None, 0.25)},
        {"nonnegative": True},
        {"nonnegative": True, "bounds": (-1, math.inf)},
        {"mask": MASK, "averaging": EMA(0.5), "lookahead": Lookahead(2), "weight_decay": 0.1, "decoupled": True},
        {"bounds": (0, 1), "averaging": EMA(0.5), "clip_norm": 1.0},
    ],
)
def test_settings_of_all_parameters(settings):
    optimizer, before, after = assert_equals_reference("momentum", settings)
    if "mask" in settings:
        for key, mask in MASK.items():
            assert_same_bits(after[key][~mask], before[key][~mask])
            assert_same_bits(optimizer.slow_weights[key][~mask], before[key][~mask])
            assert np.array_equal(optimizer.weight_average[key][~mask], before[key][~mask], equal_nan=True)


def test_a_bound_is_that_of_clip():
    values = np.array([-0.0, 0.0, np.nan, np.inf, -np.inf, -1.0, 2.0] * 11)
    for low, high in [(0.0, 1.0), (-0.0, 1.0), (-1.0, 0.0), (-1.0, -0.0), (-np.inf, 1.0), (1.0, 1.0)]:
        params = values.copy()
        fastopt.SGD(lr=0.0, bounds=(low, high)).update(params, np.ones_like(values))
        np.testing.assert_array_equal(params, np.clip(values, low, high))
        # Of zeros alike to a bound np.clip keeps one or the other by its version, here it is the parameter's.
        assert_same_bits(params, np.where(values < low, low, np.where(values > high, high, values)))


def test_every_container_and_kind_of_step():
    steps = [model("float64", seed) for seed in range(1, 5)]
    runs = {}
    for name in ("dict", "flat", "report", "nested", "strided"):
        optimizer = fastopt.Adam(lr=0.1, mask={"W": MASK["W"]}, bounds=(-0.5, 0.5))
        params = model("float64")
        if name == "flat":
            params = fastopt.flatten(params)
        if name == "strided":
            params["W"] = np.repeat(params["W"], 2, axis=1)[:, ::2]
        for grads in steps:
            flat = fastopt.flatten(grads) if name == "flat" else grads
            if name == "nested":
                optimizer.mask = {"0.W": MASK["W"]}
                optimizer.update([params], [grads])
            else:
                optimizer.update(params, flat, report=name == "report")
        runs[name] = {key: np.array(params[key]) for key in SHAPES}
    for run in runs.values():
        for key in SHAPES:
            assert_same_bits(run[key], runs["dict"][key])


def test_one_array():
    params = np.linspace(-1, 1, 9)
    optimizer, before = fastopt.Adam(lr=0.1, mask=params > 0, bounds=(np.full(9, -0.5), 0.5)), params.copy()
    for _ in range(3):
        optimizer.update(params, np.full(9, -1.0))
    assert_same_bits(params[before <= 0], before[before <= 0])
    assert params.max() == 0.5
    assert repr(optimizer).endswith("bounds=(<9 numbers from -0.5 to -0.5>, 0.5), mask=<9 booleans, 4 True>)")


def test_what_is_assigned_counts_from_the_next_step_on():
    params, optimizer = {"W": np.zeros(4)}, fastopt.SGD(lr=1.0)
    step = {"W": np.full(4, -1.0)}
    optimizer.update(params, step)
    optimizer.bounds = (None, np.array([1.5, 2.5, 3.5, 4.5]))
    for _ in range(3):
        optimizer.update(params, step)
    assert params["W"].tolist() == [1.5, 2.5, 3.5, 4.0]
    optimizer.bounds = (None, 5)
    optimizer.mask = {"W": np.array([True, False, True, True])}
    for _ in range(2):
        optimizer.update(params, step)
    assert params["W"].tolist() == [3.5, 2.5, 5.0, 5.0]
    optimizer.mask = optimizer.bounds = None
    optimizer.update(params, step)
    assert params["W"].tolist() == [4.5, 3.5, 6.0, 6.0]
    optimizer.groups["W"] = {"bounds": (0, 1)}
    optimizer.update(params, step)
    assert params["W"].tolist() == [1.0] * 4
    optimizer.groups["W"]["bounds"] = (0, np.full(4, 0.5))
    optimizer.update(params, step)
    assert params["W"].tolist() == [0.5] * 4


def test_the_arrays_are_copies_that_nobody_writes():
    mask, low = np.array([True, False]), np.array([0.0, 0.0])
    optimizer = fastopt.SGD(mask={"W": mask}, bounds=(low, None))
    mask[:], low[:] = True, 9.0
    assert optimizer.mask["W"].tolist() == [True, False] and optimizer.bounds[0].tolist() == [0.0, 0.0]
    for other in (optimizer, copy.deepcopy(optimizer), pickle.loads(pickle.dumps(optimizer))):
        with pytest.raises(ValueError, match="read-only"):
            other.mask["W"][0] = False
        with pytest.raises(ValueError, match="read-only"):
            other.bounds[0][0] = 1.0
        with pytest.raises(TypeError):
            other.mask["W"] = mask
        assert other.mask == optimizer.mask and other.bounds == optimizer.bounds


def test_rows_stay_within_bounds():
    params, low = {"e": np.zeros((5, 2))}, np.arange(10.0).reshape(5, 2) / 10
    optimizer = fastopt.Adam(lr=1.0, bounds=(low, 1.0))
    optimizer.update(params, {"e": Rows(np.array([1, 3, 1]), np.ones((3, 2)))})
    assert np.array_equal(params["e"][[1, 3]], low[[1, 3]]) and not params["e"][[0, 2, 4]].any()
    plain, slow = {"e": np.zeros((5, 2))}, reference.Adam(lr=1.0, bounds=(low, 1.0))
    slow.update(plain, {"e": Rows(np.array([1, 3, 1]), np.ones((3, 2)))})
    assert_same_bits(params["e"], plain["e"])


def test_compact_state_of_what_is_masked_stays_float32():
    params = {key: np.zeros(5000, np.float32) for key in "ab"}
    optimizer = fastopt.Adam(state_storage="int8", mask={"a": np.arange(5000) > 9})
    optimizer.update(params, {key: np.ones(5000, np.float32) for key in "ab"})
    assert [optimizer._state.layouts[key].storage for key in "ab"] == ["float32", "int8"]
    assert not optimizer.m["a"][:10].any()


def test_nothing_where_unused():
    optimizer = fastopt.Adam(bounds=(None, None), nonnegative=False, mask=None)
    assert optimizer._needed_transforms() == () and "bounds" in repr(optimizer) and "bounds" not in repr(fastopt.Adam())


@pytest.mark.parametrize(
    ("settings", "kind", "text"),
    [
        ({"bounds": 3}, TypeError, r"bounds must be a pair \(low, high\), .* got 3"),
        ({"bounds": {"W": (0, 1)}}, TypeError, r"go into groups={'W': {'bounds': \(low, high\)}}"),
        ({"bounds": (0, "1")}, TypeError, "high of bounds must be a number"),
        ({"bounds": (True, None)}, TypeError, "low of bounds must be a number"),
        ({"bounds": (2, 1)}, ValueError, "low <= high"),
        ({"bounds": (np.nan, 1)}, ValueError, "must not be NaN"),
        ({"bounds": (np.array([0.0, 2.0]), 1)}, ValueError, "low <= high"),
        ({"bounds": (np.zeros(2), np.ones(3))}, ValueError, r"shapes \(2,\) and \(3,\), which do not broadcast"),
        ({"mask": {"W": np.ones(3)}}, TypeError, r"mask\['W'\] must be an array of booleans.* got dtype float64"),
        ({"mask": [True]}, TypeError, "mask must be an array of booleans"),
        ({"nonnegative": 1}, TypeError, "nonnegative must be True or False"),
        ({"groups": {"W": {"mask": {}}}}, ValueError, "cannot have 'mask'"),
        ({"groups": {"W": {"bounds": (2, 1)}}}, ValueError, "low <= high"),
    ],
)
def test_bad_settings(settings, kind, text):
    with pytest.raises(kind, match=text):
        fastopt.SGD(**settings)


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"bounds": (np.zeros(3), 1)}, r"the lower bound has shape \(3,\), which does not broadcast to that of params"),
        ({"mask": {"W": np.ones(3, bool)}}, r"the mask has shape \(3,\)"),
        ({"mask": {"V": np.ones(2, bool)}}, r"mask\['V'\] belongs to no parameter"),
        ({"mask": np.ones(2, bool)}, r"mask is one array.*there are \['W'\]. Name whose it is: mask={'W': array}"),
    ],
)
def test_what_does_not_fit_is_found_before_anything_is_written(settings, text):
    params, optimizer = {"W": np.zeros(2)}, fastopt.Adam(**settings)
    with pytest.raises(ValueError, match=text):
        optimizer.update(params, {"W": np.ones(2)})
    assert optimizer.iter == 0 and not params["W"].any() and not optimizer.m


def test_what_does_not_go_together():
    bounds, mask = (0, 1), {"W": np.ones((2, 2), bool)}
    made = [
        lambda: fastopt.SGD(bounds=bounds, lookahead=Lookahead()),
        lambda: fastopt.SGD(lookahead=Lookahead(), groups={"W": {"nonnegative": True}}),
        lambda: fastopt.ASGD(bounds=bounds),
        lambda: fastopt.ScheduleFreeSGD(groups={"W": {"bounds": bounds}}),
        lambda: fastopt.LAMB(mask=mask),
        lambda: fastopt.ASGD(mask=mask),
        lambda: fastopt.SGD(mask=mask, centralize=True),
        lambda: fastopt.SGD(mask=mask, groups={"W": {"centralize": True}}),
    ]
    for make in made:
        params = {"W": np.full((2, 2), 0.5)}
        with pytest.raises(ValueError, match=r"do not go together: .*; "):
            make().update(params, {"W": np.ones((2, 2))})
        assert np.all(params["W"] == 0.5)
    rows = {"W": Rows(np.array([1]), np.ones((1, 2)))}
    with pytest.raises(ValueError, match="mask and gradients that are Rows"):
        fastopt.SGD(mask=mask).update({"W": np.zeros((2, 2))}, rows)
    with pytest.raises(ValueError, match="exact=True"):
        fastopt.SGD(bounds=bounds).update(
            {"W": np.zeros((2, 2))}, {"W": Rows(np.array([1]), np.ones((1, 2)), exact=True)}
        )
    optimizer = fastopt.SGD(bounds=bounds)
    with pytest.raises(ValueError, match="bounds and lookahead"):
        optimizer.lookahead = Lookahead()
    assert optimizer.lookahead is None


def test_the_table_of_combinations():
    """Each side has a name that is known; no row is there twice."""
    pairs = [frozenset(row[:2]) for row in combinations.TABLE]
    assert len(set(pairs)) == len(pairs)
    assert {name for pair in pairs for name in pair} == set(combinations.FEATURES)
    fields = fastopt.Adam._hyperparameters()
    assert combinations.SETTINGS <= set(fields)


@pytest.mark.parametrize("is_bare", [False, True])
def test_checkpoints(tmp_path, is_bare):
    def trained(optimizer, steps=2):
        params = {key: np.full((3, 2), 0.5) for key in "ab"}
        for _ in range(steps):
            optimizer.update(
                params["a"] if is_bare else params, params["b"] * 1.0 if is_bare else copy.deepcopy(params)
            )
        return optimizer

    mask = np.arange(6).reshape(3, 2) % 2 > 0
    groups = {} if is_bare else {"a": {"bounds": (np.zeros((3, 1)), 2)}}
    settings = {"l1": 0.01, "bounds": (None, 0.75), "mask": mask if is_bare else {"b": mask}, "groups": groups}
    optimizer = trained(fastopt.Adam(**settings))
    optimizer.save(tmp_path / "file")
    loaded = fastopt.Adam()
    loaded.load(tmp_path / "file")
    assert loaded.bounds == (-math.inf, 0.75) and loaded.mask == optimizer.mask and loaded.l1 == 0.01
    if not is_bare:
        assert loaded.groups["a"]["bounds"] == optimizer.groups["a"]["bounds"]
    moments = [trained(one).m if is_bare else trained(one).m["b"] for one in (loaded, optimizer)]
    assert_same_bits(*moments)
    fresh = fastopt.Adam()
    fresh.load_state_dict(optimizer.state_dict())
    assert fresh.mask == optimizer.mask and fresh.bounds == optimizer.bounds


def test_files_without_constraints_are_as_they_were(tmp_path):
    fastopt.Adam().save(tmp_path / "file")
    text = (tmp_path / "file").read_bytes()
    assert b"bounds" not in text and b"mask" not in text and b'"format":"1"' in text


def test_the_hessian_of_sophia_is_masked_too():
    params, optimizer = {"W": np.zeros(2)}, fastopt.Sophia(mask={"W": np.array([True, False])}, bounds=(np.ones(2), 2))
    optimizer.update_hessian(params, {"W": np.ones(2)})
    assert optimizer.h["W"][0] > 0 and optimizer.h["W"][1] == 0 and not params["W"].any()
