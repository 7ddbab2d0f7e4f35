"""Gradient centralization: the mean is taken from gradients in the step's pass, with the reference's bits."""

import copy
import math

import numpy as np
import pytest
from numba.core import config

import fastopt
from fastopt import Rows, reference, threads
from fastopt.engine import centralized_launch, containers
from fastopt.kernels import column_means, flags
from fastopt.kernels.transforms import OPTIONS
from tests.conftest import ONE_OF_EACH_KIND, THREAD_COUNTS, Pair, assert_same_bits, python

BY_ARRAY = ["lars", "lamb", "novograd", "stable_adamw", "muon"]
DTYPES = ["float32", "float64"]
SHAPES = {
    "one": (1, 1),
    "small": (3, 4),
    "tall": (1000, 7),
    "wide": (7, 1000),
    "W": (300, 400),
    "conv": (4, 3, 5, 5),
    "deep": (3, 40, 10),
    "row": (1, 9),
    "column": (9, 1),
    "b": (5000,),
    "scalar": (),
    "empty": (0, 5),
    "empty too": (5, 0, 2),
}
OTHERS = {
    "weight_decay": 0.1,
    "decoupled": True,
    "maximize": True,
    "gradient_scale": 0.3,
    "clip_value": 0.4,
    "clip_norm": 40.0,
    "clip_array_norm": 30.0,
}


def model(dtype="float32", seed=0, shapes=None, order="C"):
    rng = np.random.default_rng(seed)
    return {
        key: np.array(rng.standard_normal(shape), dtype=dtype, order=order) for key, shape in (shapes or SHAPES).items()
    }


def assert_equals_reference(rule, dtype="float32", shapes=None, steps=3, lay_out=lambda x: x, **settings):
    pair = Pair(rule, **({"centralize": True} | settings))
    fast = {key: lay_out(value) for key, value in model(dtype, 0, shapes).items()}
    plain = model(dtype, 0, shapes)
    for step in range(steps):
        grads = model(dtype, step + 1, shapes)
        pair.update(fast, plain, {key: lay_out(value) for key, value in grads.items()}, grads)
    for key in fast:
        assert_same_bits(fast[key], plain[key])
    pair.assert_same_state()
    return pair.fast, fast


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rule", [*ONE_OF_EACH_KIND, *BY_ARRAY])
def test_each_kind_of_rule_equals_its_reference(rule, dtype):
    _, changed = assert_equals_reference(rule, dtype)
    _, without = assert_equals_reference(rule, dtype, centralize=False)
    alike = {key for key in changed if np.array_equal(changed[key], without[key])}
    own_norms = {"one", "column", "row"} & alike  # without a gradient that is left some rules do the same
    assert alike - own_norms == {"b", "scalar", "empty", "empty too"}


@pytest.mark.parametrize("rule", ["adam", "lamb", "muon"])
@pytest.mark.parametrize("count", THREAD_COUNTS)
def test_with_all_other_settings(rule, count):
    settings = {**OTHERS, "decoupled": rule != "lamb", "lookahead": fastopt.Lookahead(2, 0.3)}
    with threads.exactly(count):
        assert_equals_reference(rule, **settings, averaging=fastopt.EMA(0.9))


LAYOUTS = {
    "F": np.asfortranarray,
    "strided": lambda x: np.repeat(x, 2, axis=-1)[..., ::2],
    "backwards": lambda x: x[::-1].copy()[::-1],
    "transposed": lambda x: np.ascontiguousarray(x.T).T,
    "middle": lambda x: np.ascontiguousarray(np.moveaxis(x, 1, -1)).swapaxes(-1, 1) if x.ndim == 3 else x,
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_memory_order_does_not_matter(layout, dtype):
    shapes = {key: shape for key, shape in SHAPES.items() if shape}
    assert_equals_reference("momentum", dtype, shapes, lay_out=LAYOUTS[layout])


def test_the_formula():
    def step(shape, g, **settings):
        params = {"p": np.zeros(shape)}
        fastopt.SGD(lr=1.0, centralize=True, **settings).update(params, {"p": np.reshape(g, shape).astype(float)})
        return (-params["p"]).ravel().tolist()

    assert step((3,), [1, 2, 6]) == [1, 2, 6]
    assert step((3, 1), [1, 2, 6]) == [-2, -1, 3]
    assert step((1, 3), [1, 2, 6]) == [0, 0, 0]
    assert step((2, 2), [1, 2, 3, 8]) == [-1, -3, 1, 3]
    assert step((2, 2, 1), [1, 2, 3, 8]) == [-0.5, 0.5, -2.5, 2.5]
    assert step((2, 1, 1, 2), [1, 2, 3, 8]) == [-0.5, 0.5, -2.5, 2.5]
    # After scale and clipping by value, 1, 2 and 3, and before decay.
    assert step((3, 1), [1, 2, 6], clip_value=3) == [-1, 0, 1]
    assert step((3, 1), [2, 4, 12], clip_value=3, gradient_scale=0.5, maximize=True) == [1, 0, -1]
    params = {"p": np.array([[1.0], [3.0]])}
    fastopt.SGD(lr=1.0, centralize=True, weight_decay=0.5).update(params, {"p": np.array([[1.0], [3.0]])})
    assert params["p"].ravel().tolist() == [1.5, 0.5]


def test_norms_are_of_the_gradient_as_it_was_given():
    params = {"p": np.zeros((2, 1))}
    report = fastopt.SGD(lr=1.0, centralize=True, clip_norm=2.5).update(
        params, {"p": np.array([[3.0], [4.0]])}, report=True
    )
    assert report.gradient_norm == 5 and params["p"].ravel().tolist() == [0.25, -0.25]


def test_optax_takes_the_same_means():
    optax = pytest.importorskip("optax")
    rng = np.random.default_rng(0)
    grads = {"W": rng.standard_normal((20, 30)), "conv": rng.standard_normal((4, 3, 5, 5)), "b": rng.standard_normal(6)}
    params = {key: np.zeros_like(value) for key, value in grads.items()}
    fastopt.SGD(lr=1.0, centralize=True).update(params, grads)
    theirs = {key: (value.T if key == "W" else value).astype(np.float32) for key, value in grads.items()}
    made = optax.centralize()
    found, _ = made.update(theirs, made.init(theirs))
    for key, value in found.items():
        value = np.asarray(value).T if key == "W" else value
        np.testing.assert_allclose(-params[key], value, rtol=1e-4, atol=1e-6)


# -- exact sums -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_threads_and_splits_do_not_change_a_bit(dtype, order, monkeypatch):
    rng = np.random.default_rng(0)
    g = (rng.standard_normal((260, 310)) * 10 ** rng.uniform(-12, 12, (260, 310))).astype(dtype, order=order)
    conv, found = g.ravel()[:80_000].reshape(4, 20, 20, 50), set()
    for count in (1, 2, *THREAD_COUNTS[-1:]):
        for job, block, lanes, run, copies in (
            (1 << 18, 1024, 128, 2048, 256),
            (5000, 40, 8, 100, 7),
            (1, 512, 1, 1, 1),
        ):
            monkeypatch.setattr(column_means, "JOB", job)
            monkeypatch.setattr(column_means, "BLOCK", block)
            monkeypatch.setattr(column_means, "LANES", lanes)
            monkeypatch.setattr(centralized_launch, "RUN", run)
            monkeypatch.setattr(centralized_launch, "COPIES", copies)
            if threads.layer() or count == 1:
                params = {"W": np.zeros_like(g), "conv": np.zeros_like(conv)}
                with threads.exactly(count):
                    fastopt.SGD(lr=1.0, centralize=True).update(params, {"W": g, "conv": conv})
                found.add(params["W"].tobytes() + params["conv"].tobytes())
    plain = {"W": np.zeros_like(g), "conv": np.zeros_like(conv)}
    reference.SGD(lr=1.0, centralize=True).update(plain, {"W": g, "conv": conv})
    assert found == {plain["W"].tobytes() + plain["conv"].tobytes()}


@pytest.mark.parametrize("count", THREAD_COUNTS)
def test_a_flat_dict_equals_a_dict(count):
    shapes = {key: SHAPES[key] for key in ("tall", "b", "conv", "wide", "W")}
    results = []
    for flat in (False, True):
        params, optimizer = model(shapes=shapes), fastopt.Adam(centralize=True)
        params = fastopt.flatten(params) if flat else params
        for step in (1, 2):
            grads = model(seed=step, shapes=shapes)
            with threads.exactly(count):
                optimizer.update(params, fastopt.flatten(grads) if flat else grads)
        assert len(optimizer._plan._launches) == 1
        results.append([*params.values(), *optimizer.m.values(), *optimizer.v.values()])
    for one, other in zip(*results, strict=True):
        assert_same_bits(one, other)


HARD = {
    "cancels": [1e30, 1.0, -1e30, 1e-8],
    "cancels twice": [1e30, 1.0, 1e-20, -1e30, -1.0],
    "half": [1.0, 2.0**-53, 2.0**-106],
    "half to even": [1.0, 2.0**-53, 0.0],
    "below half": [1.0, 2.0**-53, -(2.0**-106)],
    "half of float32, down": [1.0, 1.0 + 2.0**-23],
    "half of float32, up": [1.0 + 2.0**-23, 1.0 + 2.0**-22],
    "half of float32, below": [1.0 + 2.0**-23, 1.0 + 2.0**-22, 0.0, -(2.0**-45)],
    "zero": [1.0, -1.0],
    "negative zero": [-0.0, -0.0, -0.0],
    "subnormal": [5e-324, 1e-310, -5e-324, 1e-45],
    "nan": [1.0, np.nan, 2.0],
    "infinite": [1.0, np.inf, np.inf, -1.0],
    "both": [np.inf, -np.inf, 1.0],
    "largest": [3.4028234e38, 3.4028234e38, -1.0],
    "overflows": [1.7e308, 1.7e308, -1.7e308, 1.0],
    "too large": [1.7e308, 1.7e308, 1.7e308],
}


@pytest.mark.parametrize("settings", [{}, {"clip_value": 1e35}, {"gradient_scale": 3.0}], ids=["", "clip", "scale"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", HARD)
def test_sums_that_are_hard(case, dtype, settings):
    with np.errstate(all="ignore"):
        column = np.array(HARD[case]).astype(dtype)
    for order in ([*range(len(column))], [*range(len(column))][::-1]):
        mixed = np.stack([column[order], np.ones_like(column), column], axis=1)
        for g in (mixed, np.asfortranarray(mixed), np.ascontiguousarray(mixed.T)[:, :, None]):
            fast, plain = {"p": np.zeros_like(g)}, {"p": np.zeros_like(g)}
            Pair("sgd", lr=1.0, centralize=True, **settings).update(fast, plain, {"p": g})
            assert_same_bits(fast["p"], plain["p"])
            if case == "nan":
                assert np.isnan(fast["p"]).sum() == 2 * len(column)


@pytest.mark.skipif(flags.CHECK or bool(config.DISABLE_JIT), reason="Python sees to everything")
def test_python_sees_to_what_is_not_certain_and_to_nothing_else(monkeypatch):
    seen = []
    write = column_means.write_exactly
    monkeypatch.setattr(column_means, "write_exactly", lambda *given: (seen.append(given[1]), write(*given)))
    g = np.random.default_rng(0).standard_normal((2000, 5)).astype(np.float32)
    for case in (g, g.astype(float), np.zeros_like(g), np.where(np.arange(5) == 2, np.nan, g)):
        fastopt.SGD(centralize=True).update({"p": np.zeros_like(case)}, {"p": case})
    assert seen == []
    g = g.astype(float)
    g[:, 3] = 0
    g[[1, 10, 200, 1000, 1999], 3] = HARD["cancels twice"]
    params = {"p": np.zeros_like(g)}
    fastopt.SGD(lr=1.0, centralize=True).update(params, {"p": g})
    assert seen == [3] and params["p"][0, 3] == math.fsum(g[:, 3]) / 2000 == 1e-20 / 2000
    seen.clear()
    halves = np.array([[1.0, 0.0], HARD["half of float32, up"]], np.float32).T.copy()
    fastopt.SGD(centralize=True).update({"p": np.zeros_like(halves)}, {"p": halves})
    assert seen == [1]


# -- with the rest ----------------------------------------------------------------------------------------------------


def test_all_arrays_of_a_dtype_are_one_launch_and_new_gradients_need_no_plan():
    shapes = {key: SHAPES[key] for key in ("tall", "b", "conv", "W", "empty")}
    optimizer, params = fastopt.Adam(centralize=True), model(shapes=shapes)
    optimizer.update(params, model(seed=1, shapes=shapes))
    plan = optimizer._plan
    optimizer.update(params, model(seed=2, shapes=shapes))
    assert optimizer._plan is plan and len(plan._launches) == 1
    assert "centralize" in OPTIONS and optimizer._wanted_options() == ()


@pytest.mark.parametrize("rule", ["adam", "lamb"])
def test_in_groups_and_switched_between_steps(rule):
    groups = {"*": {"clip_value": 0.7}, "tall": {"centralize": False}, "conv": {"centralize": True, "lr": 0.5}}
    pair, fast = Pair(rule, groups=groups, centralize=True), model()
    plain = copy.deepcopy(fast)
    for step in range(12):
        if step in (2, 4):
            pair.fast.centralize = pair.plain.centralize = step == 4
        if step in (6, 8):
            pair.fast.groups["tall"]["centralize"] = step == 6
            pair.plain.groups["tall"]["centralize"] = step == 6
        if step == 10:
            del pair.fast.groups["tall"], pair.plain.groups["tall"]
        before = plain["tall"].copy()
        pair.update(fast, plain, model(seed=step))
        assert not np.array_equal(before, plain["tall"])
        for key in fast:
            assert_same_bits(fast[key], plain[key])
    pair.assert_same_state()
    assert len(pair.fast._plan._launches) == 1


def test_without_it_a_plan_is_as_ever():
    optimizer, params = fastopt.Adam(), fastopt.flatten(model(shapes={"W": (30, 20), "b": (20,)}))
    for wanted in (False, True, False):
        optimizer.centralize = wanted
        optimizer.update(params, fastopt.flatten(model(seed=1, shapes={"W": (30, 20), "b": (20,)})))
        assert type(optimizer._plan.container) is (containers.Dict if wanted else containers.Buffers)
        assert [type(launch) is centralized_launch.CentralizedLaunch for launch in optimizer._plan._launches] == [
            wanted
        ]


@pytest.mark.parametrize("rule", ["sgd", "adam", "lamb"])
@pytest.mark.parametrize("count", THREAD_COUNTS[:2])
def test_a_report_is_what_numpy_finds(rule, count):
    pair, fast = Pair(rule, centralize=True, clip_value=1.5), model("float64")
    plain = copy.deepcopy(fast)
    for step in (1, 2):
        grads, before = model("float64", step), copy.deepcopy(fast)
        grads["conv"][0, 0, :2] = 0
        with threads.exactly(count):
            report = pair.fast.update(fast, grads, report=True)
        pair.plain.update(plain, grads)
        for key, norms in report.by_key.items():
            assert_same_bits(fast[key], plain[key])
            assert norms.gradient_norm == pytest.approx(np.linalg.norm(grads[key]), rel=1e-12)
            assert norms.parameter_norm == pytest.approx(np.linalg.norm(fast[key]), rel=1e-12)
            assert norms.update_norm == pytest.approx(np.linalg.norm(fast[key] - before[key]), rel=1e-9)
            assert norms.zero_share == (np.mean(grads[key] == 0) if grads[key].size else 0)
        assert list(report.by_key) == list(fast) and report.by_key["conv"].zero_share == 10 / 300


@pytest.mark.parametrize("what", ["skip", "raise"])
def test_gradients_that_are_not_finite_are_refused_as_ever(what):
    optimizer, params = fastopt.Adam(centralize=True, on_nonfinite=what), model()
    grads, before = model(seed=1), copy.deepcopy(params)
    grads["W"][299, 3] = np.inf
    if what == "raise":
        with pytest.raises(FloatingPointError, match="W"):
            optimizer.update(params, grads)
    else:
        assert optimizer.update(params, grads, report=True).by_key["W"].nonfinite_share == 1 / 120_000
    for key in params:
        assert_same_bits(params[key], before[key])


def test_one_array_numbers_tied_arrays_and_arrays_without_a_gradient():
    fast, plain = model(shapes={"p": (30, 20)})["p"], model(shapes={"p": (30, 20)})["p"]
    pair, g = Pair("momentum", centralize=True), model(seed=1, shapes={"p": (30, 20)})["p"]
    pair.update(fast, plain, g)
    assert_same_bits(fast, plain)
    pair = Pair("momentum", centralize=True)
    fast, plain = ({"W": x, "again": x, "n": 0.5, "none": np.ones((2, 2))} for x in (fast, plain))
    for _ in range(2):
        pair.update(fast, plain, {"W": g, "again": 2 * g, "n": 0.25, "none": None})
    for key in fast:
        assert_same_bits(fast[key], plain[key])


def test_gradients_of_another_dtype_and_in_the_memory_of_their_parameter():
    fast, plain = model(shapes={"W": (30, 20)}), model(shapes={"W": (30, 20)})
    pair = Pair("sgd", lr=1.0, centralize=True)
    pair.update(fast, plain, model("float64", 1, {"W": (30, 20)}))
    assert_same_bits(fast["W"], plain["W"])
    pair.update(fast, plain, {"W": fast["W"]}, {"W": plain["W"].copy()})
    assert_same_bits(fast["W"], plain["W"])


def test_rows_are_refused_before_anything_is_written():
    params = {"W": np.ones((4, 3)), "e": np.ones((5, 2))}
    rows = Rows(np.array([1]), np.ones((1, 2)))
    for groups in (None, {"W": {"centralize": False}}):
        optimizer = fastopt.Momentum(centralize=True, groups=groups)
        with pytest.raises(
            ValueError, match=r"Momentum: .*params\['e'\] is Rows, but .*centralized.*'centralize': False"
        ):
            optimizer.update(params, {"W": np.ones((4, 3)), "e": rows})
        assert (params["W"] == 1).all() and (params["e"] == 1).all() and optimizer.iter == 0
    optimizer.update(params, {"W": np.ones((4, 3)), "e": np.ones((5, 2))})
    with pytest.raises(ValueError, match="is Rows"):
        optimizer.update(params, {"W": np.ones((4, 3)), "e": rows})
    assert optimizer.iter == 1


def test_rows_beside_what_is_centralized():
    pair = Pair("adam", centralize=True, groups={"e": {"centralize": False}}, clip_norm=1.0)
    fast, plain = (model(shapes={"W": (30, 20), "e": (50, 4)}) for _ in range(2))
    for step in range(3):
        grads = {
            "W": model(seed=step, shapes={"W": (30, 20)})["W"],
            "e": Rows(np.array([1, 7, 1]), np.ones((3, 4), "f")),
        }
        pair.update(fast, plain, grads)
    for key in fast:
        assert_same_bits(fast[key], plain[key])
    pair.assert_same_state()


def test_estimates_of_the_hessian_are_taken_as_they_are():
    for groups in (None, {"W": {"centralize": True}}):
        optimizer, params = fastopt.Sophia(centralize=True, groups=groups), {"W": np.ones((3, 2))}
        optimizer.update_hessian(params, {"W": np.full((3, 2), 2.0)})
        assert (optimizer.h["W"] > 0).all()


@pytest.mark.parametrize("rule", ["adam", "lamb"])
def test_an_interruption_while_means_are_taken_leaves_everything_as_it_was(rule, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    optimizer, params = Pair(rule, centralize=True).fast, model()
    optimizer.update(params, model(seed=1))
    before, state = copy.deepcopy(params), optimizer.state_dict()
    with monkeypatch.context() as patch:
        patch.setattr(centralized_launch.CentralizedLaunch, "_find_means", interrupted)
        with pytest.raises(KeyboardInterrupt):
            optimizer.update(params, model(seed=2))
    assert optimizer.iter == 1
    for key in params:
        assert_same_bits(params[key], before[key])
        assert_same_bits(optimizer.m[key], state["state"]["m"][key])
    optimizer.update(params, model(seed=2))
    again = Pair(rule, centralize=True).plain
    plain = model()
    for step in (1, 2):
        again.update(plain, model(seed=step))
    for key in params:
        assert_same_bits(params[key], plain[key])


def test_saved_and_resumed(tmp_path):
    saved, params = fastopt.Adam(centralize=True, groups={"tall": {"centralize": False}}), model()
    saved.update(params, model(seed=1))
    saved.save(tmp_path / "state")
    loaded, other = fastopt.Adam(), copy.deepcopy(params)
    loaded.update(copy.deepcopy(params), model(seed=7))  # it has a plan without it
    loaded.load(tmp_path / "state")
    assert loaded.centralize is True and copy.deepcopy(saved).centralize is True
    saved.update(params, model(seed=2))
    loaded.update(other, model(seed=2))
    for key in params:
        assert_same_bits(params[key], other[key])


def test_a_formula_of_ones_own_has_it_too():
    @fastopt.rule(lr=0.5)
    def centralized_descent(p, g, lr):
        return (p - lr * g,)

    fast, plain = model(), model()
    centralized_descent(centralize=True).update(fast, model(seed=1))
    reference.SGD(lr=0.5, centralize=True).update(plain, model(seed=1))
    for key in fast:
        assert_same_bits(fast[key], plain[key])
    assert fastopt.check(centralized_descent(centralize=True)).identical


@pytest.mark.parametrize("value", [1, None, "yes"])
def test_bad_settings(value):
    with pytest.raises(TypeError, match="Adam: centralize must be True or False, got"):
        fastopt.Adam(centralize=value)
    with pytest.raises(TypeError, match="Adam: centralize must be True or False, got"):
        fastopt.Adam(groups={"W": {"centralize": value}})


IN_PYTHON = """
import numpy as np, fastopt
from fastopt import reference
found = []
for package in (fastopt, reference):
    for name in ("Adam", "LAMB"):
        params = {"W": np.linspace(-1, 1, 40).reshape(8, 5), "b": np.ones(3), "c": np.ones((2, 3, 2), "f")}
        optimizer = getattr(package, name)(centralize=True, gradient_scale=0.3, clip_value=0.2, clip_norm=1.0)
        for step in range(3):
            g = {"W": np.arange(40.0).reshape(8, 5), "b": np.arange(3.0), "c": np.arange(12.0).reshape(2, 3, 2)}
            optimizer.update(params, g)
        found.append([value.tobytes() for value in params.values()])
print(found[:2] == found[2:])
"""


@pytest.mark.parametrize("setting", ["NUMBA_DISABLE_JIT", "FASTOPT_CHECK"])
def test_in_pure_python(setting):
    assert python(IN_PYTHON, **{setting: "1"}).stdout == "True\n"


WRONG_ADDRESS = """
import numpy as np, fastopt
params, grads = ({"W": np.ones((100, 70)), "b": np.ones(30)} for _ in range(2))
optimizer = fastopt.Momentum(centralize=True)
optimizer.update(params, grads)
table = optimizer._plan._launches[0].table
for column in range(table.shape[1] - 1):
    if table[0, column] and column != 1:  # that of gradients is written anew
        before = table[2, column]
        table[2, column] += 1 << 20
        try:
            optimizer.update(params, grads)
        except RuntimeError as error:
            print(column, error)
        table[2, column] = before
"""


def test_wrong_addresses_are_found():
    lines = python(WRONG_ADDRESS, FASTOPT_CHECK="1").stdout.splitlines()
    assert [line.split()[0] for line in lines] == ["0", "2", "5"]
    assert all(
        "of a part of params['W'] is not that of a live array; please report this error" in line for line in lines
    )
