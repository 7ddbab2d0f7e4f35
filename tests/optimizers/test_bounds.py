"""Settings that rounding takes beyond a bound."""

import numpy as np
import pytest

import fastopt
from fastopt import schedules


def test_a_learning_rate_that_is_counted_down_ends_at_zero():
    optimizer, params = fastopt.SGD(lr=0.3), np.zeros(1)
    for _ in range(7):
        optimizer.update(params, np.ones(1))
        optimizer.lr -= 0.3 / 7
    assert 0.3 - sum([0.3 / 7] * 7) != 0 and optimizer.lr == 0
    with pytest.raises(ValueError, match=r"lr must be in \[0, inf\), got -1e-09"):
        optimizer.lr = -1e-9


def test_a_schedule_that_ends_within_rounding_of_a_bound():
    optimizer, params = fastopt.SGD(lr=lambda step: 0.3 if step < 2 else -6.9e-17), np.zeros(1)
    for _ in range(3):
        optimizer.update(params, np.ones(1))
    assert params[0] == -0.3
    optimizer.lr = lambda step: 0.3 if step < 2 else -1e-9
    with pytest.raises(ValueError, match=r"lr at step 4 must be in \[0, inf\), got -1e-09"):
        optimizer.update(params, np.ones(1))
    assert params[0] == -0.3


def test_both_bounds_in_groups_and_averages():
    optimizer = fastopt.Momentum(momentum=1.0000000000000002, groups={"W": {"lr": -1e-17}})
    assert optimizer.momentum == 1.0 and optimizer.groups["W"]["lr"] == 0.0
    assert fastopt.EMA(decay=-1e-17).decay == 0.0
    assert fastopt.Momentum(momentum=np.float32(1.0)).momentum == 1.0
    with pytest.raises(ValueError, match=r"beta1 must be in \[0, 1\), got 1\.0"):
        fastopt.Adam(beta1=1.0000000000000002)  # the bound itself is not allowed
    for value in (-5.0, -np.inf, np.nan):
        with pytest.raises(ValueError, match=r"clip_norm must be in \[0, inf\]"):
            fastopt.Adam(clip_norm=value)


def test_settings_of_schedules():
    assert schedules.Cosine(0.1, end=-1e-17, steps=10).end == 0.0
    with pytest.raises(ValueError, match="end must be"):
        schedules.Cosine(0.1, end=-1e-9, steps=10)
