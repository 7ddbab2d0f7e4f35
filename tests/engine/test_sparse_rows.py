"""Gradients of some rows of a table: the named rows take the reference's step to the last bit, all others stay."""

import copy
import pickle

import numpy as np
import pytest
from numba.core import config

import fastopt
from fastopt import Rows, threads
from fastopt.kernels import RULES
from fastopt.optimizers import OPTIMIZERS
from tests.conftest import ROOT, THREAD_COUNTS, Pair, assert_same_bits, python

BY_ROWS = [name for name, rule in RULES.items() if rule.rows]


def model(dtype="float32"):
    rng = np.random.default_rng(0)
    shapes = {"in": (60, 7), "W": (5, 3), "out": (40, 2, 3), "wide": (3, 9000)}
    params = {key: rng.standard_normal(shape).astype(dtype) for key, shape in shapes.items()}
    return params | {"other": rng.standard_normal((30, 4)), "number": 1.5}


def some_rows(array, seed, count):
    rng = np.random.default_rng(seed)
    return Rows(rng.integers(0, len(array), count), rng.standard_normal((count, *array.shape[1:])))


def gradients(params, seed):
    counts = {"in": 50 + 10 * seed, "out": 20 * (seed % 2), "wide": 4, "other": 9}
    grads = {key: some_rows(params[key], seed + 7 * n, count) for n, (key, count) in enumerate(counts.items())}
    return grads | {"W": np.random.default_rng(seed).standard_normal((5, 3)), "number": 0.5}


def assert_equals_reference(rule, dtype="float32", count=1, flat=False, **settings):
    pair, fast = Pair(rule, **settings), model(dtype)
    plain = copy.deepcopy(fast)
    fast = fastopt.flatten(fast, dtype) if flat else fast
    plain = dict(fast.copy()) if flat else plain
    plans = set()
    with threads.exactly(count):
        for seed in range(4):
            pair.update(fast, plain, gradients(fast, seed))
            plans.add(pair.fast._plan)
    assert len(plans) == 1 or config.DISABLE_JIT, "rows need no new plan"
    for key in fast:
        assert_same_bits(fast[key], plain[key])
    pair.assert_same_state()


@pytest.mark.parametrize("rule", BY_ROWS)
def test_each_rule_equals_its_reference(rule):
    assert_equals_reference(rule)
    assert_equals_reference(rule, "float64", THREAD_COUNTS[-1])


@pytest.mark.parametrize("flat", [False, True])
def test_with_all_options(flat):
    groups = {"out": {"lr": 0.3, "weight_decay": 0.0}, "other": {"frozen": True}}
    decay = {"weight_decay": 0.1, "maximize": True, "gradient_scale": 0.5}
    assert_equals_reference("momentum", flat=flat, groups=groups, clip_norm=3.0, clip_value=0.4, **decay)
    assert_equals_reference("momentum", flat=flat, clip_array_norm=0.7, decoupled=True, **decay)


@pytest.mark.parametrize("rule", ["sgd", "adagrad"])
def test_these_equal_the_dense_step_to_the_last_bit(rule):
    sparse, dense = OPTIMIZERS[rule](lr=0.1), OPTIMIZERS[rule](lr=0.1)
    first, second = np.ones((50, 3), np.float32), np.ones((50, 3), np.float32)
    for seed in range(5):
        rows, whole = some_rows(first, seed, 80), np.zeros_like(first)
        np.add.at(whole, rows.indices, rows.values.astype(np.float32))
        sparse.update(first, rows)  # one bare array
        dense.update(second, whole)
        assert_same_bits(first, second)


def test_other_rows_and_their_state_stay():
    params, optimizer = {"e": np.ones((6, 2))}, fastopt.AdamW(lr=0.1, weight_decay=0.5)
    optimizer.update(params, {"e": np.ones((6, 2))})
    before, m = params["e"].copy(), optimizer.m["e"].copy()
    indices, values = np.array([4, 1, 4], np.uint8), np.ones((3, 2))
    kept = indices.copy(), values.copy()
    optimizer.update(params, {"e": Rows(indices, values)})
    changed = (params["e"] != before).any(axis=1)
    assert changed.tolist() == [False, True, False, False, True, False] == (optimizer.m["e"] != m).any(axis=1).tolist()
    assert (indices == kept[0]).all() and (values == kept[1]).all()


def test_the_gradient_may_change_its_kind():
    pair, fast, plain = Pair("momentum"), model(), model()
    for seed in range(6):
        grads = gradients(fast, seed)
        grads["in"] = [grads["in"], None, np.ones((60, 7)), grads["in"], Rows(np.zeros(0, int), np.ones((0, 7)))][
            seed % 5
        ]
        if seed == 4:
            grads["W"] = Rows(np.array([3]), np.ones((1, 3)))
        pair.update(fast, plain, grads)
    for key in fast:
        assert_same_bits(fast[key], plain[key])
    pair.assert_same_state()


def test_a_table_under_two_keys_and_replaced_by_another():
    table, plain = np.ones((5, 2)), np.ones((5, 2))
    fast, slow = Pair("momentum").fast, Pair("momentum").plain
    for seed in range(4):
        table, plain = (table.copy(), plain.copy()) if seed == 2 else (table, plain)
        grads = {"in": some_rows(table, seed, 4), "out": np.ones((5, 2)), "b": some_rows(table, seed + 9, 3)}
        fast.update(dict.fromkeys(grads, table), grads)
        slow.update(dict.fromkeys(grads, plain), grads)
    assert_same_bits(table, plain)


def test_values_may_lie_anywhere():
    table = np.arange(12.0).reshape(6, 2)
    expected = table.copy()
    rows = Rows(np.array([[5, 0], [1, 0], [5, 0]])[:, 0], table.copy()[::-2])
    np.subtract.at(expected, rows.indices, 0.5 * table[::-2])
    fastopt.SGD(lr=0.5).update(table, Rows(rows.indices, table[::-2]))  # its own memory, reversed
    np.testing.assert_allclose(table, expected, rtol=1e-15)


def test_reports_and_clipping_are_of_the_sums():
    params, optimizer = {"e": np.zeros((4, 1)), "f": np.zeros((2, 1)), "W": np.zeros(1)}, fastopt.SGD(lr=1.0)
    grads = {"e": Rows(np.array([1, 3, 1]), np.array([[1.0], [0.0], [2.0]])), "W": np.array([4.0])}
    grads["f"] = Rows(np.zeros(0, int), np.zeros((0, 1)))
    for _ in range(2):
        report = optimizer.update(params, grads, report=True)
        assert report.gradient_norm == report.update_norm == 5.0 and report.size == 3
        assert list(report.by_key) == ["e", "f", "W"]
        assert report.by_key["e"].gradient_norm == 3.0 and report.by_key["e"].zero_share == 0.5
        assert report.by_key["f"].size == 0 == report.by_key["f"].gradient_norm
    params["e"][:] = 0
    optimizer.clip_norm = 2.5
    optimizer.update(params, grads)
    assert params["e"].ravel().tolist() == [0, -1.5, 0, 0]


def test_gradients_that_are_not_finite():
    params = {"W": np.ones(2), "e": np.ones((9, 2))}
    grads = {"W": np.ones(2), "e": Rows(np.array([3, 7, 3]), np.array([[1.0, 1.0], [1.0, np.nan], [1.0, 1.0]]))}
    optimizer = fastopt.Adam(on_nonfinite="raise")
    with pytest.raises(FloatingPointError, match=r"Adam: the sum of row 7 of grads\['e'\] has 1 of 2 .* nan, at 1"):
        optimizer.update(params, grads)
    optimizer.on_nonfinite = "skip"
    report = optimizer.update(params, grads, report=True)
    assert report.skipped and report.by_key["e"].nonfinite_share == 0.25 and report.by_key["e"].parameter_norm == 2.0
    assert (params["e"] == 1).all() and optimizer.iter == 0
    optimizer.on_nonfinite = "propagate"
    optimizer.update(params, grads)
    assert np.isnan(params["e"]).sum() == 1


def test_copies_and_pickles_go_on():
    params, optimizer = model(), fastopt.Adam()
    optimizer.update(params, gradients(params, 1))
    for again in (copy.deepcopy(optimizer), pickle.loads(pickle.dumps(optimizer))):
        one, other = copy.deepcopy(params), copy.deepcopy(params)
        copy.deepcopy(optimizer).update(one, gradients(params, 2))
        again.update(other, gradients(params, 2))
        assert_same_bits(one["in"], other["in"])


VALUES = np.ones((2, 3))


@pytest.mark.parametrize(
    ("gradient", "error", "words"),
    [
        (Rows([0, 1], VALUES), TypeError, r"SGD: grads\['e'\].indices is of type list, expected a NumPy array"),
        (Rows(np.array([0, 1]), None), TypeError, r"grads\['e'\].values is of type NoneType"),
        (Rows(np.array([0.0, 1.0]), VALUES), TypeError, "indices has dtype float64, expected integers"),
        (Rows(np.array([True, False]), VALUES), TypeError, r"indices has dtype bool.*np.flatnonzero\(mask\)"),
        (Rows(np.array([[0], [1]]), VALUES), ValueError, r"indices has shape \(2, 1\), expected one dimension"),
        (Rows(np.array(0), VALUES[0]), ValueError, r"indices has shape \(\), expected one dimension"),
        (
            Rows(np.array([0, 5]), VALUES),
            ValueError,
            r"indices has 5 at 1, but params\['e'\] has 5 rows, counted from 0",
        ),
        (
            Rows(np.array([-1, 0]), VALUES),
            ValueError,
            "indices has -1 at 0.*negative indices do not count from the end",
        ),
        (Rows(np.array([0, 2**63 + 1], np.uint64), VALUES), ValueError, "indices has 9223372036854775809 at 1"),
        (
            Rows(np.array([0]), VALUES),
            ValueError,
            r"values has shape \(2, 3\), expected \(1, 3\): for each of 1 indices",
        ),
        (Rows(np.array([0, 1]), VALUES[:, :2]), ValueError, r"values has shape \(2, 2\), expected \(2, 3\)"),
        (Rows(np.array([0, 1]), VALUES * 1j), TypeError, "values has dtype complex128, which does not convert"),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_written(gradient, error, words):
    for first in (True, False):
        params, optimizer = {"W": np.ones(2), "e": np.ones((5, 3))}, fastopt.SGD()
        if not first:
            optimizer.update(params, {"W": np.zeros(2), "e": Rows(np.array([1]), np.zeros((1, 3)))})
        with pytest.raises(error, match=words):
            optimizer.update(params, {"W": np.ones(2), "e": gradient})
        assert (params["W"] == 1).all() and (params["e"] == 1).all() and optimizer.iter == int(not first)
    optimizer.update(params, {"W": np.ones(2), "e": Rows(np.array([4, 4]), VALUES)})
    assert (params["e"][4] < 1).all()


def test_what_cannot_be_updated_by_rows():
    rows = Rows(np.array([0]), np.ones((1, 3)))
    for table, words in (
        (np.ones(5), r"params\['e'\] is of shape \(5,\), expected an array of two or more dimensions"),
        (1.0, r"params\['e'\] is of type float, expected an array of two"),
        (np.ones((5, 3), order="F"), r"must lie in one piece; .* np.ascontiguousarray\(params\['e'\]\)"),
        (np.ones((5, 6))[:, ::2], "must lie in one piece"),
    ):
        with pytest.raises(ValueError, match=words):
            fastopt.SGD().update({"e": table}, {"e": rows})
    for rule in set(RULES) - set(BY_ROWS):
        with pytest.raises(
            TypeError, match=r"no form in which some rows only.* use one of the rules \w+, .* own by fastopt\.rule"
        ):
            OPTIMIZERS[rule]().update({"e": np.ones((5, 3))}, {"e": rows})
    for params, grads in ((rows, rows), ({"e": np.ones((5, 3))}, rows)):
        with pytest.raises(
            TypeError, match=r"SGD: (params must be a dict|params is of type dict and grads of type Rows)"
        ):
            fastopt.SGD().update(params, grads)


@pytest.mark.parametrize("setting", ["NUMBA_DISABLE_JIT", "FASTOPT_CHECK"])
def test_in_pure_python(setting):
    code = (
        "import tests.engine.test_sparse_rows as t, numpy as np; whole, all = t.model, t.gradients\n"
        "def without(made): return {k: v for k, v in made.items() if k != 'wide'}\n"
        "t.model = lambda dtype='float32': without(whole(dtype))\n"
        "t.gradients = lambda params, seed: without(all({**params, 'wide': np.ones((3, 1))}, seed))\n"
        "t.assert_equals_reference('adam', clip_norm=1.0); t.test_reports_and_clipping_are_of_the_sums(); print('same')"
    )
    assert python(code, cwd=ROOT, **{setting: "1"}).stdout == "same\n"


# -- exact ------------------------------------------------------------------------------------------------------------

EXACT = [
    ("sgd", {}),
    ("sgd", {"weight_decay": 0.3, "decoupled": True}),
    ("momentum", {}),
    ("momentum", {"lr": 0.1, "weight_decay": 1.0, "decoupled": True}),  # both rates are 0.9
    ("momentum", {"lr": 10.0, "weight_decay": 0.12, "decoupled": True, "clip_norm": 1.0}),  # one rate is negative
    ("momentum", {"momentum": 1.0, "groups": {"f": {"momentum": 0.0}}}),
    ("adagrad", {}),
    ("rmsprop", {"weight_decay": 0.3, "decoupled": True}),
]


def exactly(array, seed, count=5):
    rows = some_rows(array, seed, count)
    return Rows(rows.indices, rows.values, exact=True)


def assert_close_state(pair):
    for slot in pair.plain.slots:
        for key, plain in getattr(pair.plain, slot).items():
            np.testing.assert_allclose(getattr(pair.fast, slot)[key], plain, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize(("rule", "settings"), EXACT)
def test_exact_rows_equal_the_dense_step_up_to_rounding(rule, settings):
    pair, rng = Pair(rule, **settings), np.random.default_rng(0)
    fast = {"e": rng.standard_normal((50, 3)), "f": np.ones((4, 2, 2))}
    plain = copy.deepcopy(fast)
    for step in range(40):
        grads = {"e": exactly(fast["e"], step), "f": exactly(fast["f"], step, 1)}
        grads["e"] = {11: np.ones((50, 3)), 20: None}.get(step, grads["e"])
        pair.update(fast, plain, grads)
    pair.fast.catch_up(fast)
    for key in fast:
        np.testing.assert_allclose(fast[key], plain[key], rtol=1e-12, atol=1e-13)
    assert_close_state(pair)
    again = copy.deepcopy(fast)
    pair.fast.catch_up(fast)
    assert (fast["e"] == again["e"]).all()


def test_skipped_steps_are_made_at_the_settings_of_their_time():
    pair, fast, plain = Pair("momentum"), np.ones((20, 2)), np.ones((20, 2))
    pair.fast.momentum = lambda step: 0.9 if step < 5 else 0.5 / step
    for step in range(9):
        pair.plain.momentum = pair.fast.momentum(step + 1)
        pair.update(fast, plain, exactly(fast, step))
    pair.fast.catch_up(fast)
    np.testing.assert_allclose(fast, plain, rtol=1e-12)


def test_lazy_and_flat_steps_of_a_table_that_skipped_some():
    optimizer, params = (
        fastopt.Momentum(lr=1.0, momentum=0.5),
        fastopt.flatten({"e": np.zeros((3, 1)), "b": np.zeros(1)}),
    )
    one = np.ones((1, 1))
    optimizer.update(params, {"e": Rows(np.array([0]), one, exact=True), "b": np.zeros(1)})
    optimizer.update(params, {"e": Rows(np.array([1]), one, exact=True), "b": np.zeros(1)})
    optimizer.update(params, {"e": Rows(np.array([2]), one), "b": np.zeros(1)})  # for row 2 alone
    assert params["e"].ravel().tolist() == [-1.0, -1.0, -1.0]
    optimizer.update(params, fastopt.flatten({"e": np.zeros((3, 1)), "b": np.zeros(1)}))
    assert params["e"].ravel().tolist() == [-1.75, -1.5, -1.5]


def test_skipped_steps_are_saved(tmp_path):
    for table in ({"e": np.ones((30, 2), np.float32), "W": np.ones((2, 2))}, np.ones((30, 2))):
        bare, optimizer = isinstance(table, np.ndarray), fastopt.Momentum(momentum=0.99)
        for step in range(6):
            rows = exactly(table if bare else table["e"], step)
            optimizer.update(table, rows if bare else {"e": rows, "W": np.ones((2, 2))})
        optimizer.save(tmp_path / "file")
        loaded, other = fastopt.Momentum(), fastopt.Momentum()
        loaded.load(tmp_path / "file")
        other.load_state_dict(optimizer.state_dict())
        expected = copy.deepcopy(table)
        copy.deepcopy(optimizer).catch_up(expected)
        for again in (loaded, other, copy.deepcopy(optimizer), pickle.loads(pickle.dumps(optimizer))):
            continued = copy.deepcopy(table)
            again.catch_up(continued)
            for key in [...] if bare else table:
                assert_same_bits(continued[key], expected[key])
        assert "rows" in optimizer.state_dict() and "rows" not in again.state_dict()
        saved = optimizer.state_dict()
        (key,) = saved["rows"]
        for wrong in ({"behind": np.ones(29, np.int64), "rates": (1, 1)}, {"behind": -saved["rows"][key]["behind"]}, 3):
            with pytest.raises(fastopt.CheckpointError):
                other.load_state_dict({**saved, "rows": {key: wrong}})


def test_what_cannot_be_exact():
    table, rows = np.ones((5, 3)), Rows(np.array([0]), np.ones((1, 3)), exact=True)
    for optimizer in (fastopt.Adam(), fastopt.AdamW()):
        with pytest.raises(
            TypeError, match=r"grads is Rows with exact=True, but no closed form .* adagrad, momentum, rmsprop, sgd"
        ):
            optimizer.update(table, rows)
    with pytest.raises(ValueError, match="Rows with exact=True need decoupled weight decay"):
        fastopt.SGD(weight_decay=0.1).update(table, rows)
    with pytest.raises(
        ValueError, match=r"params\['a'\] is Rows with exact=True, but the array is there under another key"
    ):
        fastopt.SGD().update({"a": table, "b": table}, {"a": rows, "b": np.ones((5, 3))})
    assert (table == 1).all()
    optimizer = fastopt.Momentum()
    optimizer.catch_up({})  # no row has skipped a step yet
    optimizer.update({"e": table}, {"e": rows})
    with pytest.raises(KeyError, match=r"Momentum: params\['e'\] is missing, of which rows have skipped steps"):
        optimizer.catch_up({"W": table})
    with pytest.raises(ValueError, match=r"params\['e'\] has shape \(4, 3\), but at the first step"):
        optimizer.catch_up({"e": np.ones((4, 3))})
    optimizer.v = None
    optimizer.catch_up({})


def test_a_step_that_is_interrupted_before_it_is_made_counts_for_no_row(monkeypatch):
    optimizer, table = fastopt.Momentum(lr=1.0, momentum=0.5), np.zeros((2, 1))
    first, second = (Rows(np.array([row]), np.ones((1, 1)), exact=True) for row in range(2))
    optimizer.update(table, first)
    run = fastopt.engine.plan.Plan.run

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(fastopt.engine.plan.Plan, "run", interrupted)
    with pytest.raises(KeyboardInterrupt):
        optimizer.update(table, first)
    monkeypatch.setattr(fastopt.engine.plan.Plan, "run", run)
    optimizer.update(table, second)
    optimizer.catch_up(table)
    # The interrupted one had caught up with the steps that it touches, of which there were none.
    assert table.ravel().tolist() == [-1.5, -1.0] and optimizer.iter == 2


def test_rows_are_told_apart_by_identity_and_take_no_other_attribute():
    """As arrays have no one truth value, two Rows of equal content are not compared; a misspelt name is an error."""
    rows = Rows(np.array([0, 1]), VALUES)
    assert rows == rows and rows != Rows(rows.indices, rows.values) and hash(rows) == hash(rows)
    with pytest.raises(AttributeError):
        rows.value = VALUES
