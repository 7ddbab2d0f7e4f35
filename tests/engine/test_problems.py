"""Many independent problems in one optimizer, each to the bit as in an optimizer of its own."""

import copy
import pickle

import numpy as np
import pytest

import fastopt
from fastopt import Rows
from fastopt.engine.problem_step import OneCall
from fastopt.kernels import RULES
from fastopt.optimizers import OPTIMIZERS
from fastopt.threads import exactly
from tests.conftest import ELEMENTWISE, THREAD_COUNTS, assert_same_bits

SIZE = 6
SHAPES = {"W": (SIZE, 2, 3), "b": (SIZE,)}


def arrays(seed, dtype=np.float32, shapes=SHAPES):
    rng = np.random.default_rng(seed)
    return {key: np.asarray(rng.standard_normal(shape), dtype) for key, shape in shapes.items()}


class Alone:
    """Each problem in an optimizer of its own."""

    def __init__(self, make, params):
        self.make, size = make, len(next(iter(params.values())))
        self.optimizers = [make(problem) for problem in range(size)]
        self.params = [{key: array[[problem]].copy() for key, array in params.items()} for problem in range(size)]

    def update(self, grads, active=None):
        for problem, (optimizer, own) in enumerate(zip(self.optimizers, self.params, strict=True)):
            if active is None or active[problem]:
                optimizer.update(own, {key: array[[problem]] for key, array in grads.items()})

    def restart(self, problem):
        self.optimizers[problem] = self.make(problem)

    def assert_same(self, optimizer, params):
        for problem, (single, own) in enumerate(zip(self.optimizers, self.params, strict=True)):
            for key, array in own.items():
                assert_same_bits(params[key][[problem]], array)
                for slot in optimizer._rule.state:
                    if single.iter:
                        assert_same_bits(getattr(optimizer, slot)[key][[problem]], getattr(single, slot)[key])
        assert optimizer.problem_steps.tolist() == [single.iter for single in self.optimizers]


RULES_OF_PROBLEMS = [name for name in ELEMENTWISE if name in OPTIMIZERS and name != "rprop"]


@pytest.mark.parametrize("rule", RULES_OF_PROBLEMS)
def test_every_rule_steps_each_problem_as_an_optimizer_of_its_own(rule):
    kind, params, rates = OPTIMIZERS[rule], arrays(0), np.linspace(0.01, 0.1, SIZE)
    rates[3] = rates[2]
    optimizer = kind(lr=rates, batch_axis=0) if "lr" in kind._hyperparameters() else kind(batch_axis=0)
    alone = Alone(lambda problem: kind(lr=float(rates[problem])) if "lr" in kind._hyperparameters() else kind(), params)
    for step in range(5):
        grads, active = arrays(step + 1), np.ones(SIZE, bool)
        active[step % 2 :: 2] = step in (0, 4)
        optimizer.active = active
        if step == 3:
            optimizer.restart([1, 4])
            alone.restart(1)
            alone.restart(4)
            active[[1, 4]] = True
        optimizer.update(params, grads)
        alone.update(grads, active)
        alone.assert_same(optimizer, params)


def test_registry_of_rules_is_covered():
    assert len(RULES_OF_PROBLEMS) > 20 and {"adam", "sgd", "adagrad", "nadam"} < set(RULES_OF_PROBLEMS)
    assert set(OPTIMIZERS) - set(RULES_OF_PROBLEMS) - {"rprop"} == {
        name for name in OPTIMIZERS if RULES[name].is_by_array
    }


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("width", [1, 3, 16, 17, 700])
def test_any_width_mask_and_number_of_threads(dtype, width):
    """Blocks in which all, many, few and no problems are active, of several pieces."""
    size = max(5, 30_000 // width)
    shapes, rng = {"x": (size, width), "y": (size, 2)}, np.random.default_rng(0)
    share = np.repeat([0.0, 1.0, 0.05, 0.7], -(-size // 4))[:size]
    active = rng.random(size) < share
    results = []
    for threads in THREAD_COUNTS[:3]:
        optimizer, params = fastopt.Adam(lr=np.linspace(0.1, 1, size), batch_axis=0), arrays(0, dtype, shapes)
        plain, others = fastopt.Adam(lr=1.0), arrays(0, dtype, shapes)
        with exactly(threads):
            optimizer.update(params, arrays(1, dtype, shapes))
            optimizer.active = active
            before = {key: array.copy() for key, array in params.items()}
            optimizer.update(params, arrays(2, dtype, shapes))
        plain.update(others, arrays(1, dtype, shapes))
        plain.update(others, arrays(2, dtype, shapes))
        for key, array in params.items():
            assert_same_bits(array[~active], before[key][~active])
            if active[-1]:
                assert_same_bits(array[-1], others[key][-1])  # whose lr is 1
            assert (array[active] != before[key][active]).any(axis=None) == active.any()
        results.append((params, optimizer))
    for params, optimizer in results[1:]:
        for key, array in params.items():
            assert_same_bits(array, results[0][0][key])
            assert_same_bits(optimizer.v[key], results[0][1].v[key])


@pytest.mark.parametrize("clip_norm", [np.inf, 1.0])
def test_problems_without_elements(clip_norm):
    """Alone, and beside others."""
    for shapes in ({"x": (3, 0)}, {"x": (3, 0), "y": (3, 2), "z": (3, 0)}):
        optimizer = fastopt.Adam(lr=np.full(3, 0.1), clip_norm=clip_norm, batch_axis=0)
        params = {key: np.zeros(shape, np.float32) for key, shape in shapes.items()}
        for step in range(5):
            optimizer.update(params, {key: np.ones_like(array) for key, array in params.items()})
            if step == 3:
                optimizer.restart([1])
        assert optimizer.problem_steps.tolist() == [5, 1, 5]
        assert all((array < 0).all() for array in params.values())


def test_problems_that_step_alike_take_the_plain_kernel_and_its_bits():
    optimizer, params = fastopt.Adam(batch_axis=0), fastopt.flatten(arrays(0))
    plain, others = fastopt.Adam(), arrays(0)
    for step in range(3):
        optimizer.update(params, fastopt.flatten(arrays(step + 1)))
        plain.update(others, arrays(step + 1))
    for key, array in others.items():
        assert_same_bits(params[key], array)
    assert optimizer.problem_steps.tolist() == [3] * SIZE and optimizer.iter == 3
    optimizer.iter = 7
    assert optimizer.problem_steps.tolist() == [7] * SIZE


def test_problems_that_step_alike_take_one_call_however_far_they_are():
    def make(**more):
        return fastopt.AdamW(groups={"b": {"lr_scale": 0.5}}, gradient_scale=0.5, **more)

    optimizer, params = make(batch_axis=0), arrays(0)
    plain, others = make(), arrays(0)
    for step in range(12):
        if step == 5:
            optimizer.restart(np.arange(SIZE))
            plain = make()
        elif step == 9:
            optimizer.groups["b"]["lr_scale"] = plain.groups["b"]["lr_scale"] = 0.25
        optimizer.update(params, arrays(step + 1))
        if step in (3, 8, 11):
            assert isinstance(optimizer._calls[0], OneCall)
        plain.update(others, arrays(step + 1))
        for key, array in others.items():
            assert_same_bits(params[key], array)
            assert_same_bits(optimizer.v[key], plain.v[key])
    assert optimizer.problem_steps.tolist() == [7] * SIZE and optimizer.iter == 12
    with exactly(2):
        optimizer.update(params, arrays(0))
    plain.update(others, arrays(0))
    assert_same_bits(params["W"], others["W"])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_clipping_by_the_norm_of_each_problem(dtype):
    settings = dict(clip_norm=0.5, gradient_scale=2.0, clip_value=0.4, weight_decay=0.1, maximize=True)
    optimizer, params = fastopt.AdamW(batch_axis=0, **settings), arrays(0, dtype)
    alone = Alone(lambda problem: fastopt.AdamW(**settings), params)
    scale = np.array([1.0, 1e-3, 1e-170 if dtype == "float64" else 1e-20, 1e160 if dtype == "float64" else 1e18, 0, 3])
    for step in range(3):
        grads = {
            key: (array * scale.reshape(-1, *[1] * (array.ndim - 1))).astype(dtype)
            for key, array in arrays(step + 1, "float64").items()
        }
        optimizer.update(params, grads)
        alone.update(grads)
        alone.assert_same(optimizer, params)


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e30])
def test_a_bad_gradient_skips_its_problem_alone(bad):
    """1e30 has no square in float32."""
    settings = dict(on_nonfinite="skip", max_skips=1)
    optimizer, params = fastopt.Adam(batch_axis=0, **settings), arrays(0)
    alone = Alone(lambda problem: fastopt.Adam(**settings), params)
    for step in range(4):
        grads = arrays(step + 1)
        if step in (1, 3):
            grads["b"][2], grads["W"][4, 1, 1] = bad, bad
        optimizer.update(params, grads)
        alone.update(grads)
        alone.assert_same(optimizer, params)
    assert optimizer.problem_skips.tolist() == [0, 0, 2, 0, 2, 0] and optimizer.skipped == 4
    before = {key: array.copy() for key, array in params.items()}
    grads["W"][4] = 1.0
    with pytest.raises(FloatingPointError, match=r"grads\['b'\]\[2\].*after 1 steps in a row"):
        optimizer.update(params, grads)
    optimizer.active = np.arange(SIZE) != 2  # one that is not active may be bad
    optimizer.update(params, grads)
    optimizer.on_nonfinite, optimizer.active = "raise", None
    with pytest.raises(FloatingPointError, match=r"Adam: grads\['b'\]\[2\] has 1 of 1 values"):
        optimizer.update(params, grads)
    assert_same_bits(params["b"][2], before["b"][2])


def test_schedules_groups_and_accumulated_gradients_by_problem():
    def make(**more):
        return fastopt.Adam(lr=fastopt.schedules.Cosine(0.1, 5), groups={"b": {"lr_scale": 0.5}}, **more)

    optimizer, params = make(batch_axis=0), arrays(0)
    alone = Alone(lambda problem: make(), params)
    for step in range(4):
        first, second = arrays(2 * step + 1), arrays(2 * step + 2)
        if step == 2:
            optimizer.restart(3)
            alone.restart(3)
        optimizer.accumulate(first)
        optimizer.accumulate(second)
        optimizer.update(params)
        for single in alone.optimizers:
            single.gradient_scale = 0.5
        alone.update({key: first[key] + second[key] for key in first})
        alone.assert_same(optimizer, params)


@pytest.mark.parametrize("way", ["file", "dict", "copy", "trial"])
def test_resuming_is_exact(tmp_path, way):
    optimizer, params = fastopt.Adam(lr=np.linspace(0.1, 0.2, SIZE), batch_axis=0, on_nonfinite="skip"), arrays(0)
    for step in range(3):
        optimizer.active = np.arange(SIZE) % 3 != step
        grads = arrays(step)
        grads["b"][5] = np.nan if step == 0 else 1.0
        optimizer.update(params, grads)
    twin, others = copy.deepcopy(optimizer), copy.deepcopy(params)
    if way == "file":
        optimizer.save(tmp_path / "state", params)
        optimizer = fastopt.Adam()
        optimizer.load(tmp_path / "state", params)
    elif way == "dict":
        saved = optimizer.state_dict()
        optimizer = fastopt.Adam()
        optimizer.load_state_dict(saved)
        for bad in (3, {"steps": 1}, {**saved["problems"], "steps": np.zeros(2)}):
            with pytest.raises(fastopt.CheckpointError, match="problems"):
                fastopt.Adam().load_state_dict({**saved, "problems": bad})
    elif way == "copy":
        optimizer = pickle.loads(pickle.dumps(optimizer))
    else:
        with optimizer.trial(params) as step:
            optimizer.restart(0)
            optimizer.active = None
            optimizer.update(params, arrays(9))
            step.reject()
    assert optimizer.problem_steps.tolist() == [2, 2, 2, 2, 2, 1] and optimizer.problem_skips[5] == 1
    assert optimizer.active.tolist() == [True, True, False] * 2 and optimizer.batch_axis == 0
    for step in range(3, 6):
        optimizer.active = twin.active = None if step == 5 else np.arange(SIZE) % 3 != step - 3
        optimizer.update(params, arrays(step))
        twin.update(others, arrays(step))
    for key, array in others.items():
        assert_same_bits(params[key], array)
        assert_same_bits(optimizer.v[key], twin.v[key])


def test_steps_in_pure_python(monkeypatch):
    monkeypatch.setattr("fastopt.kernels.compile.compiles", lambda: False)
    monkeypatch.setattr("fastopt.kernels.flags.compiles", lambda: False)
    optimizer, params = fastopt.Adam(lr=np.linspace(0.1, 1, SIZE), batch_axis=0, clip_norm=1.0), arrays(0)
    alone = Alone(lambda problem: fastopt.Adam(lr=float(optimizer.lr[problem]), clip_norm=1.0), params)
    optimizer.active = active = np.arange(SIZE) != 2
    for step in range(2):
        optimizer.update(params, arrays(step + 1))
        alone.update(arrays(step + 1), active)
    alone.assert_same(optimizer, params)


def test_the_same_mask_and_one_array():
    x, optimizer = np.zeros((SIZE, 2)), fastopt.Adam(lr=1.0, batch_axis=0)
    assert optimizer.active is None and optimizer.problem_steps is None and optimizer.problem_skips is None
    optimizer.active = np.arange(SIZE) < 2
    assert optimizer.active.sum() == 2
    optimizer.update(x, np.ones((SIZE, 2)))
    optimizer.update(x, np.ones((SIZE, 2)))
    assert optimizer.problem_steps.tolist() == [2, 2, 0, 0, 0, 0] and (x[2:] == 0).all() and (x[:2] != 0).all()
    optimizer.restart(np.arange(SIZE) >= 4)
    optimizer.restart([])
    assert optimizer.active.tolist() == [True] * 2 + [False] * 2 + [True] * 2
    assert "batch_axis=0" in repr(optimizer)
    assert "<20 numbers from 0 to 1>" in repr(fastopt.SGD(lr=np.linspace(0, 1, 20), batch_axis=0))


def test_mistakes():
    optimizer, params, grads = fastopt.Adam(batch_axis=0), arrays(0), arrays(1)
    for bad in (1, "0", True):
        with pytest.raises(ValueError, match="batch_axis must be None or 0"):
            fastopt.Adam(batch_axis=bad)
    for settings in ({"clip_array_norm": 1.0}, {"centralize": True}, {"averaging": fastopt.EMA()}, {"cautious": True}):
        with pytest.raises(ValueError, match=r"Adam: batch_axis and .* do not go together"):
            fastopt.Adam(batch_axis=0, **settings)
    for settings in (
        {"state_storage": "int8"},
        {"lookahead": fastopt.Lookahead()},
        {"mask": np.ones(2, bool)},
        {"l1": 1.0},
    ):
        with pytest.raises(ValueError, match="do not go together"):
            fastopt.Adam(batch_axis=0, **settings)
    for kind in (fastopt.LAMB, fastopt.Muon, fastopt.Rprop):
        with pytest.raises(ValueError, match=r"batch_axis and a rule .* do not go together"):
            kind(batch_axis=0)
    for lr, text in (([1.0, -1.0], "got -1.0 for problem 1"), ([1.0, np.nan], "problem 1"), ([[1.0]], "shape")):
        with pytest.raises((TypeError, ValueError), match=text):
            fastopt.Adam(lr=np.array(lr), batch_axis=0)
    with pytest.raises(TypeError, match=r"groups\['W'\] must be a number"):
        fastopt.Adam(groups={"W": {"lr": np.ones(SIZE)}}, batch_axis=0)
    for assign in (
        lambda: fastopt.Adam(lr=np.ones(SIZE)),
        lambda: setattr(fastopt.Adam(), "lr", np.ones(SIZE)),
        lambda: setattr(fastopt.Adam(lr=np.ones(SIZE), batch_axis=0), "batch_axis", None),
    ):
        with pytest.raises(TypeError, match=r"lr is an array.*set batch_axis=0"):
            assign()
    saved = fastopt.Adam(lr=np.ones(SIZE), batch_axis=0).state_dict()
    saved["hyperparameters"]["batch_axis"] = None
    with pytest.raises(fastopt.CheckpointError, match=r"lr is an array.*set batch_axis=0"):
        fastopt.Adam().load_state_dict(saved)
    with pytest.raises(ValueError, match="active is for many problems"):
        fastopt.Adam().active = None
    with pytest.raises(RuntimeError, match="no problem has made a step yet"):
        optimizer.restart(0)

    def refused(kind, text, call):
        before = {key: array.copy() for key, array in params.items()}
        with pytest.raises(kind, match=text):
            call()
        for key, array in before.items():
            assert_same_bits(params[key], array)

    def step(p=params, g=grads, **settings):
        fastopt.Adam(batch_axis=0, **settings).update(p, g)

    refused(ValueError, "do not go together", lambda: step(g={**grads, "W": Rows(np.array([0]), np.ones((1, 2, 3)))}))
    refused(ValueError, "has no gradient, or is frozen", lambda: step(g={**grads, "W": None}))
    refused(ValueError, "has no gradient, or is frozen", lambda: step(groups={"b": {"frozen": True}}))
    refused(
        ValueError,
        r"params\['c'\] has shape \(2,\), expected \(problems, ...\)",
        lambda: step({**params, "c": np.ones(2)}, {**grads, "c": np.ones(2)}),
    )
    refused(ValueError, r"has shape \(\)", lambda: step({"x": 1.0}, {"x": 1.0}))
    fortran = {"W": np.asfortranarray(np.ones((3, 2)))}
    refused(ValueError, "Fortran", lambda: step(fortran, {"W": np.ones((3, 2))}))
    refused(TypeError, r"with batch_axis=0 an array of one for each problem", lambda: step(lr=[0.1] * SIZE))
    refused(ValueError, r"lr has shape \(2,\), expected \(6,\)", lambda: step(lr=np.ones(2)))
    refused(ValueError, "no report", lambda: optimizer.update(params, grads, report=True))
    optimizer.active = np.ones(2, bool)
    refused(ValueError, r"active has shape \(2,\), expected \(6,\)", lambda: optimizer.update(params, grads))
    optimizer.active = None
    optimizer.update(params, grads)
    refused(ValueError, r"active has shape \(2,\)", lambda: setattr(optimizer, "active", np.ones(2, bool)))
    refused(TypeError, "array of bools", lambda: setattr(optimizer, "active", np.ones(SIZE)))
    refused(IndexError, "there are 6 problems, got 6", lambda: optimizer.restart(6))
    refused(TypeError, "whole numbers or bools", lambda: optimizer.restart([0.5]))
    refused(ValueError, "arrays do not come or go", lambda: optimizer.update({"W": params["W"]}, {"W": grads["W"]}))
    with pytest.raises(RuntimeError, match="got gradients, but 1 were accumulated"):
        optimizer.accumulate(grads)
        optimizer.update(params, grads)


def test_a_mask_set_before_the_first_step_is_in_files(tmp_path):
    optimizer, params = fastopt.SGD(lr=1.0, batch_axis=0), {"x": np.zeros((3, 2))}
    optimizer.active = np.array([True, False, True])
    optimizer.save(tmp_path / "state")
    optimizer = fastopt.SGD(batch_axis=0)
    optimizer.load(tmp_path / "state")
    optimizer.update(params, {"x": np.ones((3, 2))})
    assert params["x"].tolist() == [[-1, -1], [0, 0], [-1, -1]] and optimizer.problem_steps.tolist() == [1, 0, 1]
