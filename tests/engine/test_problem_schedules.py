"""Schedules of many problems, which are asked the step count of each, and at the step itself."""

import numpy as np
import pytest

import fastopt
from tests.conftest import assert_same_bits

SIZE = 4

SCHEDULES = {
    "weight_decay": lambda step: 0.0 if step > 3 else 0.1,
    "clip_norm": lambda step: 0.1 * step,
    "gradient_scale": lambda step: 1 / step,
    "clip_value": lambda step: 0.1 * step,
    "lr": lambda step: 0.1 / step,
}


def assert_as_alone(make, steps=9, restart_after=5, dtype=np.float64, before=lambda step: None):
    """Steps problems, one of which starts again, and each in an optimizer of its own."""
    rng = np.random.default_rng(0)
    params = {key: np.ones((SIZE, 2), dtype) for key in "ab"}
    batch, single = make(batch_axis=0), [make() for _ in range(SIZE)]
    own = [{key: np.ones(2, dtype) for key in "ab"} for _ in single]
    for step in range(steps):
        before(step)
        grads = {key: rng.standard_normal((SIZE, 2)).astype(dtype) for key in "ab"}
        batch.update(params, grads)
        for problem, optimizer in enumerate(single):
            optimizer.update(own[problem], {key: array[problem] for key, array in grads.items()})
            for key, array in params.items():
                assert_same_bits(array[problem], own[problem][key])
        if step == restart_after:
            batch.restart([2])
            single[2] = make()


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_settings_follow_the_step_count_of_each_problem(name, dtype):
    """One that has begun anew is clipped, scaled and decayed as at its first steps."""
    assert_as_alone(lambda **more: fastopt.AdamW(**{"weight_decay": 0.0, name: SCHEDULES[name], **more}), dtype=dtype)


@pytest.mark.parametrize("name", ["weight_decay", "clip_value", "lr"])
def test_schedules_of_groups_follow_it_too(name):
    def make(**more):
        return fastopt.AdamW(weight_decay=0.1, groups={"a": {name: SCHEDULES[name]}}, **more)

    assert_as_alone(make)


@pytest.mark.parametrize("on_nonfinite", ["propagate", "skip"])
def test_a_schedule_of_a_group_is_asked_at_the_step(on_nonfinite):
    """Not ahead of it, as what it says may change; and decay follows lr."""
    lr = [0.1]

    def change(step):
        lr[0] = 0.1 if step < 6 else 0.01 * step

    def make(**more):
        groups = {"a": {"lr": lambda step: lr[0]}}
        return fastopt.AdamW(weight_decay=0.1, groups=groups, on_nonfinite=on_nonfinite, **more)

    assert_as_alone(make, steps=12, restart_after=None, before=change)


def test_bad_problems_are_found_by_what_their_own_counts_say():
    """At 1e200 a square overflows, unless the gradient is scaled or clipped, as it is at first."""
    for name, schedule in {
        "gradient_scale": lambda step: 1e-100 if step == 1 else 1.0,
        "clip_value": lambda step: 1.0 if step == 1 else np.inf,
    }.items():
        batch = fastopt.Adam(on_nonfinite="skip", batch_axis=0, **{name: schedule})
        params = np.zeros((SIZE, 1))
        batch.update(params, np.full((SIZE, 1), 1e200))
        batch.restart([1])
        batch.update(params, np.full((SIZE, 1), 1e200))
        assert batch.problem_skips.tolist() == [1, 0, 1, 1]
        assert batch.problem_steps.tolist() == [1, 1, 1, 1]


def test_how_often_a_problem_may_be_skipped_is_asked_at_its_count():
    batch = fastopt.SGD(on_nonfinite="skip", max_skips=lambda step: 0 if step == 1 else 9, batch_axis=0)
    params = np.zeros((SIZE, 1))
    batch.update(params, np.ones((SIZE, 1)))
    batch.update(params, np.full((SIZE, 1), np.nan))
    batch.restart([2])
    with pytest.raises(FloatingPointError, match=r"\[2\].*max_skips"):
        batch.update(params, np.full((SIZE, 1), np.nan))


def test_an_error_of_a_rule_is_not_hidden(monkeypatch):
    """A formula that takes no array of learning rates is worked out problem by problem, where there are some."""

    def scalars(self, step):
        raise TypeError("not today")

    monkeypatch.setattr(fastopt.SGD, "scalars", scalars)
    with pytest.raises(TypeError, match="not today"):
        fastopt.SGD(batch_axis=0).update(np.zeros(3), np.ones(3))
