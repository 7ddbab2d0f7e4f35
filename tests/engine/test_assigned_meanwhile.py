"""Assignments by a signal handler or another thread in the middle of a step: settings are those of the next one."""

import gc
import weakref

import numpy as np
import pytest

import fastopt
from fastopt import threads
from fastopt.engine import kept_plans, one_call, problem_step, step
from fastopt.engine.plan import Plan
from fastopt.engine.problem_step import OneCall
from fastopt.settings import StepSettings
from tests.conftest import assert_same_bits

PLACES = [
    (step.Step, "take_plan"),
    (step.Step, "find_rule_scalars"),
    (step.Step, "prepare_next"),
    (step.Step, "execute"),
    (problem_step.ProblemStep, "find_scalars"),
    (problem_step.ProblemStep, "execute"),
    (problem_step.ProblemStep, "calls_of_next"),
    (StepSettings, "__init__"),
    (kept_plans, "take"),
    (one_call, "call_for"),
    (fastopt.Optimizer, "_needed_transforms"),
]

CASES = {
    "decay": (lambda **more: fastopt.AdamW(weight_decay=0.0, **more), {"weight_decay": 0.5}),
    "rates": (lambda **more: fastopt.Adam(lr=np.full(3, 0.1), **more), {"lr": np.full(3, 0.01)}),
    "clipped": (lambda **more: fastopt.SGD(clip_norm=1.0, **more), {"clip_norm": 0.5}),
    "checked": (lambda **more: fastopt.Adam(on_nonfinite="skip", **more), {"lr": 0.5}),
}


def assigning(wrapped, optimizer, settings, step, after):
    """A function that assigns settings, before or after it is called at a step; and a list that then has an element."""
    done = []

    def assign():
        if optimizer.iter == step and not done:
            done.append(step)
            for name, value in settings.items():
                setattr(optimizer, name, value)

    def call(*arguments, **more):
        if not after:
            assign()
        result = wrapped(*arguments, **more)
        if after:
            assign()
        return result

    return call, done


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("batch_axis", [None, 0])
def test_an_assignment_in_the_middle_of_a_step_is_not_lost(monkeypatch, case, batch_axis):
    make, settings = CASES[case]
    if case == "rates" and batch_axis is None:
        pytest.skip("learning rates are of many problems")
    grads, tried = np.linspace(0.5, 1, 6).reshape(3, 2), 0
    for owner, name in PLACES:
        for step_before in range(4):
            for after in (False, True):
                optimizer, params = make(batch_axis=batch_axis), np.ones((3, 2))
                with monkeypatch.context() as patched:
                    call, done = assigning(getattr(owner, name), optimizer, settings, step_before, after)
                    patched.setattr(owner, name, call)
                    for _ in range(step_before + 1):
                        optimizer.update(params, grads)
                if not done:
                    continue
                tried += 1
                other, mirrored = make(batch_axis=batch_axis), params.copy()
                other.load_state_dict(optimizer.state_dict())
                for setting, value in settings.items():
                    assert np.array_equal(getattr(other, setting), value)
                for _ in range(3):
                    optimizer.update(params, grads)
                    other.update(mirrored, grads)
                assert_same_bits(params, mirrored)
    assert tried > 20


@pytest.mark.parametrize("batch_axis", [None, 0])
def test_steps_cannot_be_counted_anew_in_the_middle_of_one(batch_axis):
    def change(step):
        if step == 3:
            optimizer.iter = 10
        elif step == 4:
            optimizer.m = None
        return 0.1

    optimizer, params = fastopt.Adam(lr=change, batch_axis=batch_axis), np.ones((3, 2))
    optimizer.update(params, params.copy())
    optimizer.update(params, params.copy())
    before = params.copy()
    with pytest.raises(RuntimeError, match="in the middle of a step"):
        optimizer.update(params, params.copy())
    assert optimizer.iter == 2
    optimizer.iter = 3
    with pytest.raises(RuntimeError, match="in the middle of a step"):
        optimizer.update(params, params.copy())
    assert_same_bits(params, before)
    assert optimizer.m.shape == (3, 2)


def problems_in_one_call(**settings):
    optimizer, params = fastopt.Adam(lr=np.full(3, 0.1), batch_axis=0, **settings), np.ones((3, 2), np.float32)
    for _ in range(4):
        optimizer.update(params, np.ones_like(params))
    return optimizer, params


def test_a_call_is_for_the_threads_that_there_were(monkeypatch):
    """A forked child has none, and GNU OpenMP ends it if it asks for some."""
    monkeypatch.setattr(threads, "SMALLEST_PARALLEL", 1)
    monkeypatch.setattr(threads, "PARALLEL_BYTES", dict.fromkeys(threads.PARALLEL_BYTES, 1))
    optimizer, params = problems_in_one_call()
    (call,) = optimizer._calls
    assert isinstance(call, OneCall)
    if threads.most() == 1 or threads.layer() is None:
        pytest.skip("there is one thread")
    assert call(optimizer.__dict__, params, np.ones_like(params))
    monkeypatch.setattr(threads, "_forked", True)
    before = params.copy()
    assert not call(optimizer.__dict__, params, np.ones_like(params))
    assert_same_bits(params, before)


def test_what_a_call_reads_lives_as_long():
    """The kernel of a large step lets others run, who may assign what makes the optimizer forget its plan."""
    optimizer, _ = problems_in_one_call()
    (call,) = optimizer._calls
    plan = weakref.ref(optimizer._plan)
    optimizer.bounds = (-1.0, 1.0)
    gc.collect()
    assert optimizer._plan is None and plan() is not None
    del call
    gc.collect()
    assert plan() is None


@pytest.mark.parametrize("on_nonfinite", ["propagate", "skip"])
def test_gradients_of_problems_are_let_go_after_the_step(on_nonfinite):
    optimizer, params = problems_in_one_call(on_nonfinite=on_nonfinite)
    grads = np.ones_like(params)
    optimizer.update(params, grads)
    alive = weakref.ref(grads)
    del grads
    assert alive() is None


@pytest.mark.parametrize(("owner", "name", "call"), [(fastopt.Adafactor, "prepared", 2), (Plan, "run", 1)])
def test_ctrl_c_before_the_step_leaves_a_running_mean_of_directions(monkeypatch, owner, name, call):
    """Which is prepared before the parameters are written."""
    optimizer, other = (fastopt.Adafactor(lr=0.1, beta1=0.9) for _ in range(2))
    params, mirrored = ({key: np.ones((5, 3), np.float32) for key in "ab"} for _ in range(2))
    grads = {key: np.linspace(1, 2, 15, dtype=np.float32).reshape(5, 3) for key in "ab"}
    optimizer.update(params, grads)
    other.update(mirrored, grads)
    wrapped, calls = getattr(owner, name), []

    def interrupted(*arguments):
        calls.append(name)
        if len(calls) == call:
            raise KeyboardInterrupt
        return wrapped(*arguments)

    with monkeypatch.context() as patched:
        patched.setattr(owner, name, interrupted)
        with pytest.raises(KeyboardInterrupt):
            optimizer.update(params, grads)
    for key in "ab":
        assert_same_bits(optimizer.u[key], other.u[key])
    for _ in range(2):
        optimizer.update(params, grads)
        other.update(mirrored, grads)
    for key in "ab":
        assert_same_bits(optimizer.u[key], other.u[key])
        assert_same_bits(params[key], mirrored[key])
