"""Names that users import: those of 0.1.0 are still there, and `dir` shows no others."""

from importlib import import_module

import pytest

import fastopt
from fastopt import schedules
from fastopt.kernels import RULES

OPTIMIZERS = """
AMSGrad ASGD AdEMAMix AdaBelief AdaGrad Adadelta Adam AdamW Adamax Adan CentredRMSProp LAMB LARS Lion Momentum
Muon NAdam Nesterov NovoGrad RAdam RMSProp RMSPropMomentum RMSprop Rprop SGD SGDMomentum SGDNesterov
ScheduleFreeAdamW ScheduleFreeSGD Signum Sophia StableAdamW Yogi
""".split()

NAMES = {
    "fastopt": [
        *OPTIMIZERS,
        "CheckpointError",
        "EMA",
        "FlatDict",
        "Groups",
        "Lookahead",
        "NO_DECAY_ON_VECTORS",
        "Optimizer",
        "Rows",
        "SWA",
        "check",
        "flatten",
        "is_vector",
        "num_threads",
        "rule",
        "schedules",
        "set_num_threads",
    ],
    "fastopt.optimizers": [*OPTIMIZERS, "OPTIMIZERS"],
    "fastopt.reference": [*OPTIMIZERS, "Reference"],
    "fastopt.kernels": ["RULES", "Rule", "adam", "lamb", "sgd"],
    "fastopt.schedules": [
        "Constant",
        "Cosine",
        "CosineRestarts",
        "Exponential",
        "InverseSquareRoot",
        "Linear",
        "Milestones",
        "OneCycle",
        "Polynomial",
        "Product",
        "ReduceOnPlateau",
        "SCHEDULES",
        "Schedule",
        "Sequence",
        "Step",
        "WSD",
        "Warmup",
        "from_dict",
        "to_dict",
    ],
    "fastopt.nn": [
        "Affine",
        "BatchNormalization",
        "DataError",
        "Dropout",
        "Layer",
        "MultiLayerNet",
        "MultiLayerNetExtend",
        "Relu",
        "Sigmoid",
        "SoftmaxWithLoss",
        "Trainer",
        "load_mnist",
        "numerical_gradient",
        "shuffle_dataset",
        "smooth_curve",
    ],
    "fastopt.experiments": ["NAMES"],
    "fastopt.checkpoint": ["CheckpointError", "Mismatch", "load_state_dict", "state_dict"],
    "fastopt.groups": ["Groups", "NO_DECAY_ON_VECTORS", "is_vector"],
    "fastopt.averages": ["EMA", "Lookahead", "SWA"],
}


@pytest.mark.parametrize("module", NAMES)
def test_names_of_the_first_version_are_still_there(module):
    found = import_module(module)
    assert [name for name in NAMES[module] if not hasattr(found, name)] == []


def test_every_formula_is_a_name_of_the_kernels():
    kernels = import_module("fastopt.kernels")
    assert all(getattr(kernels, rule.name) is rule.formula for rule in RULES.values())


@pytest.mark.parametrize("module", [fastopt, schedules])
def test_dir_shows_public_names_alone(module):
    assert set(dir(module)) - {"__version__"} == set(module.__all__)
    assert all(hasattr(module, name) for name in dir(module))
