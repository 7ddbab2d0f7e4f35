"""Names that people bring along, and those spelt nearly right: every error names ours."""

import re

import numpy as np
import pytest

import fastopt
from fastopt import names, schedules
from fastopt.commands.explain import find
from fastopt.nn import MultiLayerNet, Trainer
from fastopt.optimizers import OPTIMIZERS
from tests.commands.test_cli import run

FOREIGN = [
    (fastopt.Adam, "learning_rate", "Adam has no setting 'learning_rate': its name here is lr"),
    (fastopt.Adam, "alpha", "Adam has no setting 'alpha': its name here is lr"),
    (fastopt.RMSProp, "alpha", "RMSProp has no setting 'alpha': its name here is decay_rate"),
    (fastopt.RMSProp, "rho", "RMSProp has no setting 'rho': its name here is decay_rate"),
    (fastopt.Adadelta, "rho", "Adadelta has no setting 'rho': its name here is decay_rate"),
    (fastopt.Adam, "betas", "Adam has no setting 'betas': its name here is beta1 and beta2"),
    (fastopt.Adan, "betas", "Adan has no setting 'betas': its name here is beta1, beta2 and beta3"),
    (fastopt.Adam, "b1", "Adam has no setting 'b1': its name here is beta1"),
    (fastopt.Adam, "epsilon", "Adam has no setting 'epsilon': its name here is eps"),
    (fastopt.Adam, "amsgrad", "Adam has no setting 'amsgrad': use AMSGrad"),
    (fastopt.Adam, "momentum", "Adam has no setting 'momentum': its share of the gradient's mean is beta1"),
    (fastopt.Adam, "fused", "Adam has no setting 'fused': there is nothing like it here; leave it out"),
    (fastopt.SGD, "momentum", "SGD has no setting 'momentum': use Momentum, or SGDMomentum for PyTorch's form"),
    (fastopt.SGD, "nesterov", "SGD has no setting 'nesterov': use Nesterov, or SGDNesterov for PyTorch's form"),
    (fastopt.SGD, "clipnorm", "SGD has no setting 'clipnorm': its name here is clip_array_norm"),
    (fastopt.SGD, "global_clipnorm", "SGD has no setting 'global_clipnorm': its name here is clip_norm"),
    (fastopt.RMSProp, "momentum", "RMSProp has no setting 'momentum': use RMSPropMomentum"),
    (fastopt.RMSProp, "centered", "RMSProp has no setting 'centered': use CentredRMSProp"),
    (fastopt.AdaGrad, "initial_accumulator_value", "AdaGrad has no setting .*: its name here is initial_accumulator"),
    (fastopt.Rprop, "etas", "Rprop has no setting 'etas': its name here is eta_minus and eta_plus"),
    (fastopt.Adam, "lrr", r"Adam has no setting 'lrr'; did you mean 'lr'\? It has lr, beta1"),
    (fastopt.Adam, "WeightDecay", r"Adam has no setting 'WeightDecay'; did you mean 'weight_decay'\? It has lr"),
    (fastopt.Adam, "xyzzy", "Adam has no setting 'xyzzy'; it has lr, beta1"),
]


@pytest.mark.parametrize(("kind", "name", "words"), FOREIGN)
def test_a_setting_of_another_library(kind, name, words):
    with pytest.raises(TypeError, match=words):
        kind(**{name: 0.5})
    optimizer = kind()
    with pytest.raises(AttributeError, match=words):
        setattr(optimizer, name, 0.5)
    with pytest.raises(AttributeError, match=words):
        getattr(optimizer, name)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("step", r"Adam has no 'step': call update\(params, grads\)"),
        ("zero_grad", r"Adam has no 'zero_grad': gradients are handed to each update\(params, grads\)"),
        ("apply_gradients", r"call update\(params, grads\)"),
        ("param_groups", "settings of a part of the parameters are `groups`"),
        ("iterations", "the number of steps taken is `iter`"),
        ("updaet", r"Adam has no 'updaet'; did you mean 'update'\?"),
        ("saev", r"Adam has no 'saev'; did you mean 'save'\?"),
        ("beta_1", r"Adam has no setting 'beta_1'; did you mean 'beta1'\?"),
    ],
)
def test_an_attribute_of_another_library(name, words):
    with pytest.raises(AttributeError, match=words):
        getattr(fastopt.Adam(), name)


def test_private_attributes_are_refused_in_a_line():
    with pytest.raises(AttributeError, match="Adam has no attribute '_repr_latex_'"):
        _ = fastopt.Adam()._repr_latex_


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: schedules.Cosine(0.1, T_max=10), "Cosine has no setting 'T_max': its name here is steps"),
        (lambda: schedules.Cosine(0.1, 10, eta_min=0), "Cosine has no setting 'eta_min': its name here is end"),
        (lambda: schedules.CosineRestarts(0.1, T_0=10), "its name here is period"),
        (lambda: schedules.Step(0.1, step_size=10), "its name here is every"),
        (lambda: schedules.Milestones(0.1, milestones=(1,)), "its name here is at"),
        (lambda: schedules.OneCycle(max_lr=0.1, steps=10), "its name here is peak"),
        (lambda: schedules.ReduceOnPlateau(0.1, min_lr=0.1), "its name here is lowest"),
        (lambda: schedules.Warmup(0.1, stepz=3), r"Warmup has no setting 'stepz'; did you mean 'steps'\?"),
        (lambda: schedules.WSD(0.1, 10, 1, 1, shape="cosin"), r"got 'cosin'; did you mean 'cosine'\?"),
        (lambda: schedules.CosineAnnealingLR, r"has no attribute 'CosineAnnealingLR'; did you mean 'Cosine'\?"),
        (lambda: schedules.from_dict({"schedule": "cosine"}), r"unknown schedule 'cosine'; did you mean 'Cosine'\?"),
        (lambda: fastopt.Adamm, r"module 'fastopt' has no attribute 'Adamm'; did you mean 'Adam'\?"),
        (lambda: fastopt.NAG, r"did you mean 'Nesterov'\?"),
        (lambda: fastopt.Adagrad, r"did you mean 'AdaGrad'\?"),
        (lambda: fastopt.__nothing__, "module 'fastopt' has no attribute '__nothing__'$"),
        (lambda: fastopt.Adam(form="papr"), r"got 'papr'; did you mean 'paper'\?"),
        (lambda: fastopt.Adam(on_nonfinite="Skip"), r"got 'Skip'; did you mean 'skip'\?"),
        (lambda: fastopt.set_tuning("bursts"), r"did you mean 'burst'\?"),
        (lambda: fastopt.SGD(groups={"b": {"learning_rate": 1}}), "cannot have 'learning_rate'; its name here is lr; "),
        (lambda: fastopt.SGD(groups={"b": {"weightdecay": 1}}), r"cannot have 'weightdecay'; did you mean 'weight_decay'"),
        (lambda: fastopt.SGD(groups={"b": {"momentum": 1}}), "cannot have 'momentum'; use Momentum, or"),
    ],
)  # fmt: skip
def test_names_are_suggested_wherever_they_are_looked_up(make, words):
    with pytest.raises((AttributeError, TypeError, ValueError), match=words):
        make()


@pytest.mark.parametrize("params", [{"W": np.ones(1000)}, np.ones(1000), [np.ones(1000)], iter([np.ones(3)])])
def test_parameters_are_not_given_to_an_optimizer(params):
    for settings in ({}, {"lr": 0.1}):
        with pytest.raises(TypeError, match=r"parameters are not given here: make Adam\(\) and call update") as caught:
            fastopt.Adam(params, **settings)
        assert len(str(caught.value)) < 200
    with pytest.raises(TypeError, match=r"SGD has no setting 'params': parameters go to update\(params, grads\)"):
        fastopt.SGD(params=params)
    # An array is one for each of many problems; without `batch_axis` it is refused at the first step.
    with pytest.raises(TypeError, match=r"Adam: lr (must be a number|is an array)") as caught:
        fastopt.Adam(lr=params).update(params, params)
    assert len(str(caught.value)) < 250


def test_a_subclass_may_take_what_it_likes():
    class Mine(fastopt.SGD):
        def __init__(self, size, **more):
            super().__init__(lr=1 / size, **more)

    assert Mine(4).lr == 0.25 and Mine(size=2, maximize=True).maximize
    with pytest.raises(TypeError, match="Other has no setting 'speed'"):

        class Other(fastopt.SGD):
            pass

        Other(speed=1)


@pytest.mark.parametrize("rule", OPTIMIZERS)
def test_optimizers_are_found_in_any_spelling(rule):
    name = OPTIMIZERS[rule].__name__
    kebab = re.sub("(?<=[a-z])(?=[A-Z])", "-", name).lower()
    for spelling in (rule, name, name.upper(), rule.replace("_", "-"), kebab, rule.replace("_", " ")):
        assert find(spelling) is OPTIMIZERS[rule], spelling


def test_the_trainer_and_networks_take_any_spelling():
    x, t = np.ones((4, 3), np.float32), np.zeros(4, int)
    trainer = Trainer(MultiLayerNet(3, [2], 2), x, t, x, t, 1, 2, "schedule-free SGD")
    assert type(trainer.optimizer) is fastopt.ScheduleFreeSGD
    with pytest.raises(ValueError, match=r"optimizer must be one of .* got 'adamm'; did you mean 'adam'\?"):
        Trainer(MultiLayerNet(3, [2], 2), x, t, x, t, 1, 2, "adamm")
    with pytest.raises(ValueError, match=r"got 'relo'; did you mean 'relu'\?"):
        MultiLayerNet(3, [2], 2, activation="relo")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("explain", "adamx"), "unknown optimizer 'adamx'; did you mean 'adam"),
        (("info", "--optimizer", "sdg"), "unknown optimizer 'sdg'; did you mean 'sgd'? Known are sgd"),
        (("experiment", "ravin"), "unknown experiment 'ravin'; did you mean 'ravine'? Known are ravine"),
        (("schedule", "onecycl"), "unknown schedule 'onecycl'; did you mean 'one-cycle'? Known are"),
        (("trian",), "unknown command 'trian'; did you mean 'train'? Known are train"),
        (("train", "--stepz", "3"), "unrecognized arguments: --stepz; did you mean '--steps'?"),
        (("explain", "sgd", "--set", "momentum=0.9"), "SGD has no setting 'momentum': use Momentum, or SGDMomentum"),
    ],
)
def test_the_command_line_suggests(capsys, arguments, words):
    status, out, err = run(capsys, *arguments)
    assert status == 2 and words in err and err.count("\n") == 1 and out == ""


@pytest.mark.parametrize("name", ["ScheduleFreeSGD", "schedule_free_sgd", "schedule-free-sgd", "stable-adamw"])
def test_the_command_line_takes_any_spelling(capsys, name, tmp_path):
    assert run(capsys, "explain", name)[0] == 0
    assert run(capsys, "schedule", "OneCycle", "--steps", "10", "--out", str(tmp_path / "a.png"))[0] == 0


def test_the_table_names_things_that_are_there():
    fields = {field for kind in OPTIMIZERS.values() for field in kind._hyperparameters()}
    fields |= {field for kind in schedules.SCHEDULES.values() for field in kind.__dataclass_fields__}
    for name, here in names.SETTINGS.items():
        assert name == names.plain(name)
        assert all(part.strip() in fields for one in here for part in one.replace(" and ", ",").split(",")), name
    for name, here in names.CLASSES.items():
        assert name == names.plain(name) and (hasattr(fastopt, here) or hasattr(schedules, here)), name
    assert all(name == names.plain(name) for name in names.METHODS)
