"""Schedules in optimizers, in checkpoints and in the command."""

import copy
import json
import math
import pickle

import numpy as np
import pytest

import fastopt
from fastopt import CheckpointError, reference, schedules
from fastopt.optimizers import OPTIMIZERS
from fastopt.schedules import SCHEDULES
from tests.commands.support import run
from tests.conftest import ONE_OF_EACH_KIND, assert_same_bits

PENALTIES = "l1", "l2_prox", "group_lasso"
"""Settings that some rules refuse; tests/engine/test_proximal.py has them by schedule."""


def settings_of(rule):
    """Every float hyperparameter of a rule as a schedule, and shared settings that need the kernels of
    tests/engine/test_processing.py, so that none are compiled for these tests alone.
    """
    every = {
        name: schedules.Linear(getattr(OPTIMIZERS[rule](), name), 0.9 * getattr(OPTIMIZERS[rule](), name), 7)
        for name in OPTIMIZERS[rule]._hyperparameters()
        if isinstance(value := getattr(OPTIMIZERS[rule](), name), float) and value < math.inf and name not in PENALTIES
    }
    shared = {
        "weight_decay": schedules.Linear(0.1, 0.02, 7),
        "clip_norm": schedules.Linear(2.0, 1.0, 7),
        "clip_value": schedules.Linear(0.7, 0.4, 7),
    }
    return every | shared | {"lr": schedules.Cosine(0.1, steps=12, warmup=3)}


def gradients(step):
    rng = np.random.default_rng(step)
    return {"W": rng.standard_normal((5, 3)).astype(np.float32), "b": rng.standard_normal(4).astype(np.float32)}


def start():
    return {"W": np.ones((5, 3), np.float32), "b": np.ones(4, np.float32)}


@pytest.mark.parametrize("rule", OPTIMIZERS)
def test_steps_equal_the_reference(rule):
    settings = settings_of(rule)
    optimizer, plain = OPTIMIZERS[rule](**settings), getattr(reference, OPTIMIZERS[rule].__name__)()
    params, plain_params = start(), start()
    for step in range(1, 11):
        for name, schedule in settings.items():
            setattr(plain, name, schedule(step))
        optimizer.update(params, gradients(step), report=step == 5 and rule in ONE_OF_EACH_KIND)
        plain.update(plain_params, gradients(step))
        for key in params:
            assert_same_bits(params[key], plain_params[key])
    assert optimizer.lr is settings["lr"] and repr(settings["lr"]) in repr(optimizer)


def test_a_setting_that_comes_to_nothing_and_back():
    """Its function is in the kernels of some steps only."""

    def decay(step):
        return 0.0 if step in (3, 4) else 0.1

    optimizer, plain = fastopt.Momentum(weight_decay=decay), reference.Momentum()
    params, plain_params = start(), start()
    for step in range(1, 7):
        plain.weight_decay = decay(step)
        optimizer.update(params, gradients(step))
        plain.update(plain_params, gradients(step))
        for key in params:
            assert_same_bits(params[key], plain_params[key])


WAYS = ["file", "dict", "deepcopy", "pickle"]


# For one rule of each kind each way, for the others one or another.
RESUMED = [
    (rule, way)
    for number, rule in enumerate(OPTIMIZERS)
    for way in (WAYS if rule in ONE_OF_EACH_KIND else [WAYS[number % len(WAYS)]])
]


@pytest.mark.parametrize(("rule", "way"), RESUMED)
def test_resuming_gives_the_bits_of_never_having_stopped(rule, way, tmp_path):
    settings = settings_of(rule) | {"lr": schedules.Warmup(0.1, 3).then(schedules.Exponential(0.1, 0.7))}
    optimizer, params = OPTIMIZERS[rule](**settings), start()
    for step in range(1, 6):
        optimizer.update(params, gradients(step))
    other = copy.deepcopy(params)
    if way == "file":
        pytest.importorskip("safetensors")
        optimizer.save(tmp_path / "state")
        resumed = OPTIMIZERS[rule]()
        assert not any(resumed.load(tmp_path / "state"))
    elif way == "dict":
        resumed = OPTIMIZERS[rule]()
        resumed.load_state_dict(optimizer.state_dict())
    else:
        resumed = copy.deepcopy(optimizer) if way == "deepcopy" else pickle.loads(pickle.dumps(optimizer))
    assert {name: getattr(resumed, name) for name in settings} == settings
    for step in range(6, 11):
        optimizer.update(params, gradients(step))
        resumed.update(other, gradients(step))
        for key in params:
            assert_same_bits(params[key], other[key])


def twice_the_step(step):
    return 0.001 * step


def test_any_function_of_the_step():
    optimizer, params = fastopt.SGD(lr=twice_the_step), {"W": np.zeros(1)}
    for _ in range(3):
        optimizer.update(params, {"W": np.ones(1)})
    assert params["W"] == pytest.approx(-0.006)
    for other in (copy.deepcopy(optimizer), pickle.loads(pickle.dumps(optimizer))):
        assert other.lr is twice_the_step
    resumed = fastopt.SGD()
    resumed.load_state_dict(optimizer.state_dict())
    resumed.update(params, {"W": np.ones(1)})
    assert params["W"] == pytest.approx(-0.01) and resumed.lr is twice_the_step


def test_a_function_cannot_be_saved(tmp_path):
    class Own(schedules.Schedule):
        def __call__(self, step):
            return 0.1

    for function in (twice_the_step, lambda step: 0.1, Own()):
        with pytest.raises(
            CheckpointError, match=r"SGD: lr is a function .* a file holds no code; make it of the sched"
        ):
            fastopt.SGD(lr=function).save(tmp_path / "state")
    assert not list(tmp_path.iterdir())
    long = schedules.Milestones(0.1, tuple(range(1, 50_000)))
    with pytest.raises(CheckpointError, match="schedules of its hyperparameters are too long for a file"):
        fastopt.SGD(lr=long).save(tmp_path / "state")
    fastopt.SGD(lr=schedules.Milestones(0.1, tuple(range(1, 5_000)))).save(tmp_path / "state")
    fastopt.SGD().load(tmp_path / "state")


@pytest.mark.parametrize(
    ("plain", "words"),
    [
        ({"schedule": "os.system", "command": "x"}, "unknown schedule 'os.system'"),
        ({"schedule": "Constant", "value": 1, "__class__": "x"}, "unknown setting '__class__'"),
        ({"schedule": "Constant", "value": "x"}, "value must be a number"),
        ({"schedule": ["Constant"]}, "unknown schedule"),
        ({}, "name of a schedule"),
    ],
)
def test_a_file_from_a_stranger(plain, words, tmp_path, monkeypatch):
    optimizer = fastopt.SGD(lr=schedules.Constant(0.1))
    monkeypatch.setattr("fastopt.checkpoint.file.to_dict", lambda schedule: plain)
    optimizer.save(tmp_path / "state")
    with pytest.raises(CheckpointError, match=words):
        optimizer.load(tmp_path / "state")
    assert optimizer.lr == schedules.Constant(0.1)


def test_a_schedule_in_a_deep_file(tmp_path, monkeypatch):
    deep = '{"schedule": "Product", "factors": [' * 2500 + "]}" * 2500

    def dumps(value, dumps=json.dumps, **how):
        is_of_settings = isinstance(value, dict) and not how  # the only other dict is the header, written tightly
        return f'{{"lr": {deep}}}' if is_of_settings else dumps(value, **how)

    monkeypatch.setattr("fastopt.checkpoint.file.json.dumps", dumps)
    fastopt.SGD(lr=0.5).save(tmp_path / "state")
    monkeypatch.undo()
    with pytest.raises(CheckpointError, match="RecursionError"):
        fastopt.SGD().load(tmp_path / "state")


def test_values_are_checked():
    with pytest.raises(ValueError, match=r"Adam: beta1 at step 1 must be in \[0, 1\), got 1.0"):
        fastopt.Adam(beta1=schedules.Constant(1.0))
    with pytest.raises(
        TypeError, match=r"Adam: lr at step 1 must be a number in \[0, inf\), got None of type NoneType"
    ):
        fastopt.Adam(lr=lambda step: None)
    with pytest.raises(TypeError, match=r"lr must be a number in .* or a schedule, got <class"):
        fastopt.Adam(lr=schedules.Cosine)
    with pytest.raises(TypeError, match="form must be"):
        fastopt.Adam(form=schedules.Constant(1.0))
    optimizer, params = fastopt.Adam(beta1=schedules.Linear(0.8, 1.0, 2)), {"W": np.ones(3)}
    for _ in range(2):
        optimizer.update(params, {"W": np.ones(3)})
    before = params["W"].copy(), optimizer.m["W"].copy(), optimizer.v["W"].copy()
    with pytest.raises(ValueError, match=r"Adam: beta1 at step 3 must be in \[0, 1\), got 1.0"):
        optimizer.update(params, {"W": np.ones(3)})
    for found, kept in zip((params["W"], optimizer.m["W"], optimizer.v["W"]), before, strict=True):
        assert_same_bits(found, kept)
    assert optimizer.iter == 2
    optimizer.beta1 = 0.9  # a number again
    optimizer.update(params, {"W": np.ones(3)})
    assert optimizer.iter == 3 and not optimizer._scheduled


def test_assigned_later_and_start_values():
    optimizer, params = fastopt.AdaGrad(lr=0.1, eps=0.0), {"W": np.ones(1)}
    optimizer.initial_accumulator = lambda step: 0.25 * step
    optimizer.iter = 7
    optimizer.update(params, {"W": np.zeros(1)})
    assert optimizer.h["W"] == 2.0
    optimizer.lr = schedules.Step(0.5, every=9, gamma=0.5)
    before = params["W"].copy()
    optimizer.update(params, {"W": np.sqrt([2.0])})  # step 9, the last of 0.5
    assert before - params["W"] == pytest.approx(0.5 * math.sqrt(2) / 2)


def test_a_skipped_step_takes_no_step_of_the_schedule():
    optimizer, params = fastopt.SGD(lr=schedules.Step(1.0, every=1, gamma=0.5), on_nonfinite="skip"), {"W": np.zeros(1)}
    for gradient in (1.0, math.nan, 1.0):
        optimizer.update(params, {"W": np.array([gradient])})
    assert params["W"] == -1.5 and optimizer.iter == 2


def test_reduce_on_plateau_in_an_optimizer(tmp_path):
    optimizer, params = fastopt.SGD(lr=schedules.ReduceOnPlateau(1.0, 0.5, patience=0)), {"W": np.zeros(1)}
    for loss in (3.0, 3.0):
        optimizer.update(params, {"W": np.ones(1)})
        optimizer.lr.observe(loss)
    saved = optimizer.state_dict()
    optimizer.save(tmp_path / "state")
    resumed, other = fastopt.SGD(), fastopt.SGD()
    resumed.load(tmp_path / "state")
    other.load_state_dict(saved)
    optimizer.lr.observe(3.0)  # none of the others sees it
    assert [o.lr(1) for o in (optimizer, resumed, other)] == [0.25, 0.5, 0.5]
    resumed.lr.observe(3.0)
    assert resumed.lr == optimizer.lr and other.lr == saved["hyperparameters"]["lr"]


# -- the command ------------------------------------------------------------------------------------------------------


def test_the_command_lists_all(capsys):
    status, out, err = run(capsys, "schedule", "--list")
    assert status == 0 and err == "" and len(out.splitlines()) == len(SCHEDULES)
    for name in ("cosine", "one-cycle", "inverse-square-root", "wsd"):
        assert f"\n{name} " in out
    assert all(20 < len(line) <= 100 and "`" not in line for line in out.splitlines())


def test_the_command_draws_each(capsys, tmp_path):
    names = [line.split()[0] for line in run(capsys, "schedule", "--list")[1].splitlines()]
    for name in names:
        for steps in ("1", "60"):
            picture = tmp_path / "a b" / f"{name}-{steps}.png"
            status, out, err = run(capsys, "schedule", name, "--steps", steps, "--out", str(picture))
            assert status == 0 and err == "" and picture.read_bytes().startswith(b"\x89PNG"), name
            assert f"picture: {picture}" in out and "step" in out


def test_the_command_has_a_place_for_the_picture(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    status, out, _ = run(capsys, "schedule", "wsd")
    assert status == 0 and (tmp_path / "results" / "schedule-wsd.png").exists() and "schedule-wsd.png" in out
    assert "step   500  0.001" in out
    status, out, _ = run(capsys, "schedule", "wsd", "--set", "peak=0.5", "--set", "warmup=10", "--format", "svg")
    assert status == 0 and "WSD(peak=0.5, steps=1000, warmup=10, decay=200" in out
    assert "<svg" in (tmp_path / "results" / "schedule-wsd.svg").read_text()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "no schedule was named; known are constant, step"),
        (("cosin",), "unknown schedule 'cosin'; did you mean 'cosine'? Known are constant, step"),
        (("cosine", "--steps", "0"), "--steps: expected a whole number of at least 1, got '0'"),
        (("cosine", "--steps", "99999999"), "a picture has at most 1,000,000 steps, got 99,999,999"),
        (("cosine", "--out", "/dev/null/x.png"), "/dev/null"),
        (
            ("cosine", "--out", "x.txt"),
            "expected a name that ends in .png, .svg or .pdf, such as cosine.png, got 'x.txt'",
        ),
        (("cosine", "--set", "warmp=3"), "Cosine has no setting 'warmp'; did you mean 'warmup'?"),
        (("cosine", "--set", "peak=-1"), "Cosine: peak"),
        (("cosine", "--set", "warmup=1.5"), "Cosine: warmup"),
    ],
)
def test_mistakes_are_one_line(capsys, arguments, words):
    status, out, err = run(capsys, "schedule", *arguments)
    assert status == 2 and words in err and err.count("\n") == 1 and out == ""
