"""Schedules: their formulas and other libraries' values, what they refuse, and training with them."""

import copy
import json
import math
import pickle
from dataclasses import dataclass

import numpy as np
import pytest

import fastopt
from fastopt import schedules
from fastopt.schedules import SCHEDULES, from_dict, to_dict

EXAMPLES = {
    "constant": schedules.Constant(0.3),
    "step": schedules.Step(0.4, every=3, gamma=0.5),
    "milestones": schedules.Milestones(0.4, at=(2, 5, 6), gamma=0.5),
    "exponential": schedules.Exponential(0.4, gamma=0.9),
    "linear": schedules.Linear(0.1, 0.7, steps=7),
    "polynomial": schedules.Polynomial(0.4, steps=9, power=1.7, end=0.1),
    "warmup": schedules.Warmup(0.4, steps=5),
    "cosine": schedules.Cosine(0.4, steps=11, warmup=3, end=0.01),
    "cosine restarts": schedules.CosineRestarts(0.4, period=3, growth=2, warmup=2, end=0.01),
    "one cycle": schedules.OneCycle(0.4, steps=13),
    "one line": schedules.OneCycle(0.4, steps=13, rise=0.4, shape="linear"),
    "wsd": schedules.WSD(0.4, steps=12, warmup=3, decay=5, end=0.02),
    "wsd, cosine": schedules.WSD(0.4, steps=12, warmup=3, decay=5, shape="cosine"),
    "wsd, root": schedules.WSD(0.4, steps=12, warmup=3, decay=5, shape="square-root"),
    "inverse time": schedules.InverseTime(0.4, decay=0.5),
    "inverse square root": schedules.InverseSquareRoot(0.4, warmup=4),
    "sequence": schedules.Warmup(0.4, 3)
    .then(schedules.Constant(0.2), after=4)
    .then(schedules.Exponential(0.2, 0.5), 6),
    "product": 0.5 * schedules.Linear(1.0, 0.0, 9) * schedules.CosineRestarts(0.4, 3),
    "plateau": schedules.ReduceOnPlateau(0.4, factor=0.5, patience=1),
}

LAST = 30

FORMULAS = {
    "constant": lambda k: 0.3,
    "step": lambda k: 0.4 * 0.5 ** ((k - 1) // 3),
    "milestones": lambda k: 0.4 * 0.5 ** ((k > 2) + (k > 5) + (k > 6)),
    "exponential": lambda k: 0.4 * 0.9 ** (k - 1),
    "inverse time": lambda k: 0.4 / (1 + 0.5 * (k - 1)),
    "linear": lambda k: 0.1 + 0.6 * min(k - 1, 7) / 7,
    "polynomial": lambda k: 0.1 + 0.3 * (1 - min(k - 1, 9) / 9) ** 1.7,
    "warmup": lambda k: 0.4 * min(k, 5) / 5,
    "cosine": lambda k: 0.4 * k / 3 if k <= 3 else 0.01 + 0.195 * (1 + math.cos(math.pi * min(k - 4, 8) / 8)),
    "cosine restarts": lambda k: (
        0.2 * k
        if k <= 2
        else next(
            0.01 + 0.195 * (1 + math.cos(math.pi * (k - first) / length))
            for first, length in ((3, 3), (6, 6), (12, 12), (24, 24))
            if k < first + length
        )
    ),
    "one cycle": lambda k: (
        0.016 + 0.384 * (1 - math.cos(math.pi * (k - 1) / 2.9)) / 2
        if k - 1 < 2.9
        else 1.6e-6 + (0.4 - 1.6e-6) * (1 + math.cos(math.pi * min(1, (k - 3.9) / 9.1))) / 2
    ),
    "one line": lambda k: (
        0.016 + 0.384 * (k - 1) / 4.2 if k - 1 < 4.2 else 0.4 + (1.6e-6 - 0.4) * min(1, (k - 5.2) / 7.8)
    ),
    "wsd": lambda k: min(0.4 * k / 3, 0.4, 0.02 + 0.38 * max(0, 13 - k) / 5),
    "wsd, cosine": lambda k: (
        0.4 * k / 3 if k <= 3 else 0.2 * (1 + math.cos(math.pi * min(max(0, k - 8), 5) / 5))
    ),
    "wsd, root": lambda k: 0.4 * k / 3 if k <= 3 else 0.4 * (1 - math.sqrt(min(max(0, k - 8), 5) / 5)),
    "inverse square root": lambda k: 0.4 * min(k / 4, math.sqrt(4 / k)),
    "sequence": lambda k: 0.4 * min(k, 3) / 3 if k <= 4 else 0.2 if k <= 6 else 0.2 * 0.5 ** (k - 7),
    "product": lambda k: 0.1 * (1 - min(k - 1, 9) / 9) * (1 + math.cos(math.pi * ((k - 1) % 3) / 3)),
    "plateau": lambda k: 0.4,
}  # fmt: skip


def test_every_schedule_has_an_example():
    assert {type(schedule) for schedule in EXAMPLES.values()} == set(SCHEDULES.values())
    assert {getattr(schedules, name) for name in SCHEDULES} == set(SCHEDULES.values())
    assert FORMULAS.keys() == EXAMPLES.keys()


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_formula(name):
    schedule = EXAMPLES[name]
    for step in (*range(1, LAST), np.int64(3)):
        value = schedule(step)
        assert type(value) is float and value == pytest.approx(FORMULAS[name](int(step)), rel=1e-12, abs=1e-15), step
    assert math.isfinite(schedule(2**53))
    for step in (0, -1, 1.5, "1", None):
        with pytest.raises(ValueError, match=f"{type(schedule).__name__}: steps are whole numbers counted from 1"):
            schedule(step)


# -- other libraries --------------------------------------------------------------------------------------------------

TORCH = {
    "step": ("StepLR", {"step_size": 3, "gamma": 0.5}, schedules.Step(0.4, 3, 0.5)),
    "milestones": ("MultiStepLR", {"milestones": [2, 5, 6], "gamma": 0.5}, schedules.Milestones(0.4, (2, 5, 6), 0.5)),
    "exponential": ("ExponentialLR", {"gamma": 0.9}, schedules.Exponential(0.4, 0.9)),
    "linear": (
        "LinearLR",
        {"start_factor": 0.25, "end_factor": 0.75, "total_iters": 7},
        schedules.Linear(0.1, 0.3, 7),
    ),
    "warmup": ("LinearLR", {"start_factor": 0.2, "end_factor": 1.0, "total_iters": 4}, schedules.Warmup(0.4, 5)),
    "polynomial": ("PolynomialLR", {"total_iters": 9, "power": 1.7}, schedules.Polynomial(0.4, 9, 1.7)),
    "cosine": ("CosineAnnealingLR", {"T_max": LAST, "eta_min": 0.01}, schedules.Cosine(0.4, LAST, end=0.01)),
    "restarts": (
        "CosineAnnealingWarmRestarts",
        {"T_0": 3, "T_mult": 2, "eta_min": 0.01},
        schedules.CosineRestarts(0.4, 3, 2, end=0.01),
    ),
    "equal restarts": ("CosineAnnealingWarmRestarts", {"T_0": 4}, schedules.CosineRestarts(0.4, 4)),
    "one cycle": (
        "OneCycleLR",
        {"max_lr": 0.4, "total_steps": LAST, "cycle_momentum": False},
        schedules.OneCycle(0.4, LAST),
    ),
    "one line": (
        "OneCycleLR",
        {"max_lr": 0.4, "total_steps": LAST, "pct_start": 0.45, "anneal_strategy": "linear", "cycle_momentum": False, "div_factor": 10, "final_div_factor": 3},
        schedules.OneCycle(0.4, LAST, 0.45, 10, 3, "linear"),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", TORCH)
def test_pytorch(name):
    torch = pytest.importorskip("torch")
    kind, settings, schedule = TORCH[name]
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.4)
    scheduler = getattr(torch.optim.lr_scheduler, kind)(optimizer, **settings)
    for step in range(1, LAST + 1):
        assert schedule(step) == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-9, abs=1e-12), step
        optimizer.step()
        if step < LAST:
            scheduler.step()


@pytest.mark.parametrize("better", ["lower", "higher"])
@pytest.mark.parametrize("seed", range(5))
def test_pytorch_reduce_on_plateau(better, seed):
    torch = pytest.importorskip("torch")
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.4)
    scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(
        optimizer, "min" if better == "lower" else "max", 0.5, 2, threshold=0.01, cooldown=3, min_lr=0.003, eps=0.0
    )
    schedule = schedules.ReduceOnPlateau(0.4, 0.5, 2, threshold=0.01, cooldown=3, lowest=0.003, better=better)
    values = [*np.random.default_rng(seed).uniform(1, 2, 60), math.nan, *[1.5] * 20]
    for step, value in enumerate(values):
        scheduler.step(value)
        schedule.observe(value)
        assert schedule(step + 1) == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-12), step
    assert schedule(1) < 0.1


def test_optax():
    optax = pytest.importorskip("optax")
    rising = schedules.Linear(0.0, 0.4, 5)  # optax's warm-up begins at 0
    pairs = {
        "cosine": (
            rising.then(schedules.Cosine(0.4, 20, end=0.01)),
            optax.warmup_cosine_decay_schedule(0.0, 0.4, 5, 25, 0.01),
        ),
        "polynomial": (schedules.Polynomial(0.4, 9, 1.7, 0.1), optax.polynomial_schedule(0.4, 0.1, 1.7, 9)),
        "linear": (schedules.Linear(0.4, 0.1, 9), optax.linear_schedule(0.4, 0.1, 9)),
        "exponential": (
            schedules.Step(0.4, 3, 0.5),
            optax.exponential_decay(0.4, 3, 0.5, staircase=True),
        ),
        "joined": (
            schedules.Constant(0.2).then(schedules.Exponential(0.4, 0.9), after=4),
            optax.join_schedules([optax.constant_schedule(0.2), optax.exponential_decay(0.4, 1, 0.9)], [4]),
        ),
        "restarts": (
            schedules.CosineRestarts(0.4, 8),
            optax.sgdr_schedule(
                [{"init_value": 0.4, "peak_value": 0.4, "decay_steps": 8, "warmup_steps": 0} for _ in range(4)]
            ),
        ),
    }
    for name, (ours, theirs) in pairs.items():
        for step in range(1, LAST):
            assert ours(step) == pytest.approx(float(theirs(step - 1)), rel=1e-5, abs=1e-7), (name, step)


def test_cosine_with_warmup_goes_on_as_optax():
    optax = pytest.importorskip("optax")
    ours, theirs = schedules.Cosine(0.4, 25, warmup=5), optax.warmup_cosine_decay_schedule(0.0, 0.4, 5, 25)
    for step in range(6, LAST):
        assert ours(step) == pytest.approx(float(theirs(step - 1)), rel=1e-5, abs=1e-7), step


# -- objects ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", EXAMPLES)
def test_copies_are_equal_and_json_keeps_everything(name):
    schedule = copy.deepcopy(EXAMPLES[name])
    if name == "plateau":
        for value in (3.0, 2.0, 2.0, math.inf, 2.0):
            schedule.observe(value)
        assert schedule(1) == 0.2 and schedule != EXAMPLES[name]
    else:
        assert {schedule: 1}[EXAMPLES[name]] == 1  # hashable
        with pytest.raises(AttributeError):
            setattr(schedule, next(iter(vars(schedule))), 1.0)
    plain = json.loads(json.dumps(to_dict(schedule), allow_nan=False))
    for other in (pickle.loads(pickle.dumps(schedule)), copy.copy(schedule), from_dict(plain)):
        assert other == schedule and type(other) is type(schedule)
        assert [other(step) for step in range(1, LAST)] == [schedule(step) for step in range(1, LAST)]
    if name != "plateau":
        assert eval(repr(schedule), vars(schedules)) == schedule
        assert schedule != schedules.Constant(0.123)


def test_composition():
    warmup, decay = schedules.Warmup(0.4, 3), schedules.Linear(0.4, 0.0, 4)
    both = warmup.then(decay).then(schedules.Constant(0.1))
    assert both == schedules.Sequence((warmup, decay, schedules.Constant(0.1)), (3, 4))
    assert [both(k) for k in (3, 4, 7, 8)] == pytest.approx([0.4, 0.4, 0.1, 0.1])
    early = warmup.then(decay).then(schedules.Constant(0.3), after=2)  # before its first piece is over
    assert [early(k) for k in (1, 2, 3)] == pytest.approx([0.4 / 3, 0.8 / 3, 0.3])
    assert (
        (warmup * 0.5 * decay)
        == schedules.Product((warmup, schedules.Constant(0.5), decay))
        == warmup * (schedules.Constant(0.5) * decay)
    )
    assert (0.5 * decay).then(warmup).lengths == (4,)
    for endless in (schedules.Constant(1.0), warmup.then(schedules.Constant(1.0)), decay * schedules.Step(1, 2)):
        with pytest.raises(ValueError, match="it has no end; say after how many steps"):
            endless.then(decay)
    with pytest.raises(TypeError):
        warmup * "2"
    with pytest.raises(TypeError, match=r"each of pieces must be a schedule, got 0\.1 of type float"):
        warmup.then(0.1)


BAD = {
    "negative": (lambda: schedules.Constant(-1), ValueError, r"Constant: value must be in \[0, inf\), got -1.0"),
    "text": (lambda: schedules.Cosine("0.1", 5), TypeError, r"Cosine: peak must be a number in \[0, inf\), got '0.1' of type str"),
    "bool": (lambda: schedules.Constant(True), TypeError, "value must be a number"),
    "nan": (lambda: schedules.Exponential(0.1, math.nan), ValueError, r"gamma must be in \(0, inf\), got nan"),
    "huge": (lambda: schedules.Constant(10**400), ValueError, "got inf"),
    "no steps": (lambda: schedules.Linear(0.1, 0.2, 0), ValueError, "Linear: steps must be a whole number of at least 1 .*, got 0"),
    "half a step": (lambda: schedules.Step(0.1, every=1.5), TypeError, "every must be a whole number of at least 1 .*, got 1.5"),
    "warmup": (lambda: schedules.Cosine(0.1, 5, 5), ValueError, "steps, which counts warmup too, must be more than warmup, 5, got 5"),
    "wsd": (lambda: schedules.WSD(0.1, 9, 5, 5), ValueError, "warmup and decay together must be at most steps, 9, got 5 and 5"),
    "shape": (lambda: schedules.WSD(0.1, 9, 1, 1, shape="round"), ValueError, "shape must be 'linear' or 'cosine' or 'square-root', got 'round'"),
    "shape of a cycle": (lambda: schedules.OneCycle(0.1, 9, shape="square-root"), ValueError, "OneCycle: shape must be 'linear' or 'cosine'"),
    "no shape": (lambda: schedules.OneCycle(0.1, 9, shape=None), TypeError, "shape must be .* got None"),
    "rise": (lambda: schedules.OneCycle(0.1, 9, rise=1), ValueError, r"rise must be in \[0, 1\), got 1.0"),
    "order": (lambda: schedules.Milestones(0.1, (3, 2)), ValueError, r"at must be increasing numbers of steps, got \(3, 2\)"),
    "milestone": (lambda: schedules.Milestones(0.1, (0, 2)), ValueError, "each of at must be a whole number of at least 1"),
    "no tuple": (lambda: schedules.Milestones(0.1, 3), TypeError, "at must be a tuple, got 3 of type int"),
    "lengths": (lambda: schedules.Sequence((schedules.Constant(1),), (2,)), ValueError, "lengths must be one for each of pieces but the last, got 1 and 1"),
    "nothing": (lambda: schedules.Product(()), ValueError, "factors must be at least one schedule"),
    "inverse time": (lambda: schedules.InverseTime(0.1, -1), ValueError, r"InverseTime: decay must be in \[0, inf\)"),
    "inverse time of text": (lambda: schedules.InverseTime(0.1, "1"), TypeError, "InverseTime: decay must be a number"),
    "root": (lambda: schedules.InverseSquareRoot(0.1, 0), ValueError, "warmup must be at least 1, got 0"),
    "factor": (lambda: schedules.ReduceOnPlateau(0.1, factor=1.0), ValueError, r"factor must be in \(0, 1\)"),
    "observed": (lambda: schedules.ReduceOnPlateau(0.1).observe("3"), TypeError, "expected a number to observe, got '3' of type str"),
    "unknown": (lambda: from_dict({"schedule": "system"}), ValueError, "unknown schedule 'system'; known are Constant"),
    "base": (lambda: from_dict({"schedule": "Schedule"}), ValueError, "unknown schedule 'Schedule'"),
    "no name": (lambda: from_dict({"value": 1}), ValueError, "name of a schedule under 'schedule'"),
    "list": (lambda: from_dict([1]), ValueError, "expected a dict"),
    "field": (lambda: from_dict({"schedule": "Constant", "value": 1, "speed": 2}), ValueError, "Constant: unknown setting 'speed'; it has value"),
    "missing": (lambda: from_dict({"schedule": "Linear", "end": 1}), ValueError, "Linear: no setting 'start', 'steps'; it has start, end, steps"),
    "nested": (lambda: from_dict({"schedule": "Product", "factors": [{"schedule": "x"}]}), ValueError, "unknown schedule 'x'"),
    "part": (lambda: from_dict({"schedule": "Product", "factors": [3]}), ValueError, "expected a dict"),
    "function": (lambda: to_dict(math.sin), ValueError, "builtin_function_or_method is not one of fastopt's schedules"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_mistakes(case):
    make, kind, words = BAD[case]
    with pytest.raises(kind, match=words):
        make()


def test_settings_become_plain_numbers():
    schedule = schedules.Milestones(np.float32(0.5), [np.int64(2), 4], 1)
    assert schedule == schedules.Milestones(0.5, (2, 4), 1.0)
    assert type(schedule.start) is type(schedule.gamma) is float and type(schedule.at[0]) is int


def test_a_schedule_of_ones_own():
    @dataclass(frozen=True)
    class Triangle(schedules.Schedule):
        peak: float
        side: str = "left"

        def __call__(self, step):
            return self.peak / step

    assert (Triangle(0.5) * 2).then(Triangle(1.0), after=2)(4) == 0.5
    assert fastopt.SGD(lr=Triangle(0.5)).lr == Triangle(0.5)
    with pytest.raises(ValueError, match="Triangle: peak must be in"):
        Triangle(-1.0)
    with pytest.raises(ValueError, match="Triangle is not one of fastopt's schedules"):
        to_dict(Triangle(0.5))


def test_exponential_growth_ends_at_infinity():
    assert schedules.Exponential(1.0, gamma=2.0)(5000) == math.inf
