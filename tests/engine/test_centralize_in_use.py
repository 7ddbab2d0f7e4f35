"""`centralize` beside all else: groups, reports, rows, several arrays, interruptions and files."""

import copy

import numpy as np
import pytest

import fastopt
from fastopt import Rows, reference, threads
from fastopt.engine import centralized_launch, containers
from fastopt.kernels.transforms import TRANSFORMS
from tests.conftest import THREAD_COUNTS, Pair, assert_same_bits, python
from tests.engine.test_centralize import SHAPES, model


def test_all_arrays_of_a_dtype_are_one_launch_and_new_gradients_need_no_plan():
    shapes = {key: SHAPES[key] for key in ("tall", "b", "conv", "W", "empty")}
    optimizer, params = fastopt.Adam(centralize=True), model(shapes=shapes)
    optimizer.update(params, model(seed=1, shapes=shapes))
    plan = optimizer._plan
    optimizer.update(params, model(seed=2, shapes=shapes))
    assert optimizer._plan is plan and len(plan.table.launches) == 1
    assert "centralize" in TRANSFORMS and optimizer._needed_transforms() == ()


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
    assert len(pair.fast._plan.table.launches) == 1


def test_without_it_a_plan_is_as_ever():
    optimizer, params = fastopt.Adam(), fastopt.flatten(model(shapes={"W": (30, 20), "b": (20,)}))
    for wanted in (False, True, False):
        optimizer.centralize = wanted
        optimizer.update(params, fastopt.flatten(model(seed=1, shapes={"W": (30, 20), "b": (20,)})))
        assert type(optimizer._plan.table.container) is (containers.Dict if wanted else containers.Buffers)
        assert [type(launch) is centralized_launch.CentralizedLaunch for launch in optimizer._plan.table.launches] == [
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
table = optimizer._plan.table.launches[0].table
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
    assert [line.split()[0] for line in lines] == ["0", "2", "8"]
    assert all(
        "of a part of params['W'] is not that of a live array; please report this error" in line for line in lines
    )
