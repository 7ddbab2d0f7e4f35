"""`repr` shows every setting that is not the default, and `eval` makes an equal optimizer of it."""

import math

import pytest

import fastopt
from fastopt import schedules
from fastopt.groups import is_vector
from fastopt.optimizers import OPTIMIZERS

NAMES = {**vars(schedules), **vars(fastopt)}

SETTINGS = [
    {"weight_decay": 0.1, "clip_norm": 1.0},
    {"on_nonfinite": "skip", "maximize": True, "gradient_scale": 0.125, "clip_value": 0.5, "clip_array_norm": 2.0},
    {"decoupled": True, "centralize": True},
    {"groups": {"b*": {"frozen": True, "clip_array_norm": math.inf}, ("a", 1): {"lr": schedules.Warmup(0.1, 3)}}},
    {"groups": {is_vector: {"weight_decay": 0.0}}},
    {"averaging": fastopt.EMA(0.9), "lookahead": fastopt.Lookahead(3, schedules.Constant(0.25))},
    {"averaging": fastopt.SWA(start=2, every=3)},
    {"lr": schedules.Warmup(0.1, 3).then(schedules.Cosine(0.1, 10) * 0.5)},
]


def settings_of(optimizer):
    return optimizer.state_dict()["hyperparameters"]


@pytest.mark.parametrize("rule", OPTIMIZERS)
def test_eval_makes_an_equal_optimizer(rule):
    seen = {repr(OPTIMIZERS[rule]())}
    for settings in [{}, *SETTINGS]:
        if rule == "rprop" and "lr" in settings:
            continue  # which is read once
        optimizer = OPTIMIZERS[rule](**settings)
        again = eval(repr(optimizer), dict(NAMES))
        assert type(again) is type(optimizer) and settings_of(again) == settings_of(optimizer)
        assert repr(again) == repr(optimizer)
        assert not settings or repr(optimizer) not in seen or settings == {"decoupled": True}
        seen.add(repr(optimizer))


def test_defaults_of_all_optimizers_are_not_shown():
    assert repr(fastopt.SGD()) == "SGD(lr=0.01)"
    assert repr(fastopt.SGD(weight_decay=0.1, clip_norm=1.0)) == "SGD(lr=0.01, weight_decay=0.1, clip_norm=1.0)"
    own = "lr=0.001, beta1=0.9, beta2=0.999, eps=1e-08, eps_root=0.0, form='paper', weight_decay=0.01"
    assert repr(fastopt.AdamW()) == f"AdamW({own})"
    assert repr(fastopt.AdamW(decoupled=False)) == f"AdamW({own}, decoupled=False)"
    optimizer = fastopt.SGD(groups={"b*": {"frozen": True}})
    assert repr(optimizer) == "SGD(lr=0.01, groups={'b*': {'frozen': True}})"
    optimizer.groups = None
    assert repr(optimizer) == "SGD(lr=0.01)"


def test_a_schedule_that_was_told_values_shows_them():
    schedule = schedules.ReduceOnPlateau(1.0, patience=2, cooldown=1)
    for loss in (3.0, 2.0, 2.0, 2.0, 2.0, 2.0):
        schedule.observe(loss)
    again = eval(repr(fastopt.SGD(lr=schedule)), dict(NAMES)).lr
    assert again == schedule and again.best == 2.0
    for loss in (2.0, 2.0):
        schedule.observe(loss)
        again.observe(loss)
    assert again == schedule and again(1) == schedule(1)


def test_functions_are_shown_as_python_has_them():
    assert "lr=<function " in repr(fastopt.SGD(lr=lambda step: 0.1))
    assert "groups={<function " in repr(fastopt.SGD(groups={lambda key, array: True: {"lr": 0.1}}))
