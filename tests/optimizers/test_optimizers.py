"""Settings, state and variants, against the textbook's own lines."""

import copy
import inspect
import math
import pickle
from collections import defaultdict
from dataclasses import dataclass

import numpy as np
import pytest

import fastopt
from fastopt import reference
from fastopt.hyperparameters import is_hyperparameter
from fastopt.kernels import RULES
from fastopt.optimizers import OPTIMIZERS
from fastopt.representation import of_value
from tests.conftest import Pair, assert_same_bits, python


def run(optimizer, steps=6, seed=0, size=50, change=None):
    """Some steps on one array; `change` is called before step 3."""
    rng = np.random.default_rng(seed)
    params = {"W": rng.standard_normal(size)}
    for step in range(steps):
        if step == 3 and change:
            change(optimizer)
        optimizer.update(params, {"W": rng.standard_normal(size)})
    return params["W"]


def test_every_rule_has_an_optimizer_a_reference_and_a_public_name():
    assert set(OPTIMIZERS) == set(RULES)
    for rule, optimizer in OPTIMIZERS.items():
        name = optimizer.__name__
        assert name in fastopt.__all__ and getattr(fastopt, name) is optimizer
        plain = getattr(reference, name)
        assert plain.slots == RULES[rule].state
        both = [
            [(each.name, each.kind, each.default) for each in inspect.signature(kind).parameters.values()]
            for kind in (plain, optimizer)
        ]
        assert both[0] == [each for each in both[1] if each[0] not in ("on_nonfinite", "max_skips", "batch_axis")]
        after = (RULES[rule].measure is not None) + len(optimizer().total_scalars(defaultdict(float)))
        assert len(optimizer().scalars(1)) == len(RULES[rule].scalars) - after
        assert [
            name for name in optimizer._hyperparameters() if not (is_hyperparameter(name) or name in optimizer._shared)
        ] == []
    assert set(reference.__all__) <= set(fastopt.__all__)
    assert fastopt.RMSprop is fastopt.RMSProp


DEFAULTS = {
    "sgd": {"lr": 0.01},
    "momentum": {"lr": 0.01, "momentum": 0.9},
    "nesterov": {"lr": 0.01, "momentum": 0.9},
    "sgd_momentum": {"lr": 0.01, "momentum": 0.9, "dampening": 0.0},
    "sgd_nesterov": {"lr": 0.01, "momentum": 0.9},
    "asgd": {"lr": 0.01, "lambd": 1e-4, "alpha": 0.75, "t0": 1e6},
    "rprop": {"lr": 0.01, "eta_minus": 0.5, "eta_plus": 1.2, "min_step_size": 1e-6, "max_step_size": 50.0},
    "signum": {"lr": 0.001, "beta1": 0.9},
    "lion": {"lr": 0.0001, "beta1": 0.9, "beta2": 0.99},
    "adagrad": {"lr": 0.01, "eps": 1e-7, "initial_accumulator": 0.0, "lr_decay": 0.0},
    "rmsprop": {"lr": 0.01, "decay_rate": 0.99, "eps": 1e-7, "eps_root": 0.0},
    "rmsprop_momentum": {"lr": 0.01, "decay_rate": 0.99, "eps": 1e-7, "eps_root": 0.0, "momentum": 0.9},
    "centred_rmsprop": {"lr": 0.01, "decay_rate": 0.99, "eps": 1e-7, "eps_root": 0.0, "momentum": 0.0},
    "adadelta": {"lr": 1.0, "decay_rate": 0.9, "eps": 1e-6},
    "adam": {"lr": 0.001, "beta1": 0.9, "beta2": 0.999, "eps": 1e-7, "eps_root": 0.0, "form": "textbook"},
    "amsgrad": {"lr": 0.001, "beta1": 0.9, "beta2": 0.999, "eps": 1e-8},
    "adamw": {
        "lr": 0.001,
        "beta1": 0.9,
        "beta2": 0.999,
        "eps": 1e-8,
        "eps_root": 0.0,
        "form": "paper",
        "weight_decay": 0.01,
    },
    "adamax": {"lr": 0.002, "beta1": 0.9, "beta2": 0.999, "eps": 1e-8},
    "nadam": {"lr": 0.002, "beta1": 0.9, "beta2": 0.999, "eps": 1e-8, "momentum_decay": 0.004},
    "radam": {"lr": 0.001, "beta1": 0.9, "beta2": 0.999, "eps": 1e-8},
    "laprop": {"lr": 0.0004, "beta1": 0.9, "beta2": 0.999, "eps": 1e-15},
    "adopt": {"lr": 0.001, "beta1": 0.9, "beta2": 0.9999, "eps": 1e-6, "clip_exponent": 0.25},
    "adabelief": {"lr": 0.001, "beta1": 0.9, "beta2": 0.999, "eps": 1e-16, "eps_root": 1e-16},
    "yogi": {"lr": 0.01, "beta1": 0.9, "beta2": 0.999, "eps": 1e-3, "initial_accumulator": 1e-6},
    "ademamix": {"lr": 0.001, "beta1": 0.9, "beta2": 0.999, "beta3": 0.9999, "alpha": 5.0, "eps": 1e-8, "warmup": 0.0},
    "adan": {"lr": 0.001, "beta1": 0.98, "beta2": 0.92, "beta3": 0.99, "eps": 1e-8},
    "sophia": {"lr": 0.0001, "beta1": 0.96, "beta2": 0.99, "gamma": 0.01, "eps": 1e-12},
    "schedule_free_sgd": {"lr": 1.0, "beta1": 0.9, "warmup": 0.0},
    "schedule_free_adamw": {"lr": 0.0025, "beta1": 0.9, "beta2": 0.999, "eps": 1e-8, "warmup": 0.0},
    "prodigy": {
        **{"lr": 1.0, "beta1": 0.9, "beta2": 0.999, "eps": 1e-8, "d0": 1e-6, "d_coef": 1.0, "growth_rate": math.inf},
        **{"bias_correction": False, "safeguard_warmup": False},
    },
    "dadapt_adam": {
        **{"lr": 1.0, "beta1": 0.9, "beta2": 0.999, "eps": 1e-8, "d0": 1e-6, "growth_rate": math.inf},
        "bias_correction": False,
    },
    "dog": {"lr": 1.0, "initial_distance": 1e-6, "eps": 1e-8},
    "dowg": {"lr": 1.0, "initial_distance": 1e-4},
    "lars": {"lr": 0.1, "momentum": 0.9, "trust_coefficient": 0.001, "eps": 0.0},
    "lamb": {"lr": 0.001, "beta1": 0.9, "beta2": 0.999, "eps": 1e-6},
    "stable_adamw": {"lr": 0.001, "beta1": 0.9, "beta2": 0.99, "eps": 1e-6},
    "mars": {"lr": 0.003, "beta1": 0.95, "beta2": 0.99, "gamma": 0.025, "eps": 1e-8},
    "novograd": {"lr": 0.001, "beta1": 0.9, "beta2": 0.25, "eps": 1e-6},
    "adafactor": {
        **{"lr": 0.01, "decay_exponent": 0.8, "clip_threshold": 1.0, "eps": 1e-30, "min_scale": 0.001},
        "relative": True,
        "beta1": 0.0,
    },
    "shampoo": {"lr": 0.1, "momentum": 0.9, "eps": 1e-6, "decay_rate": 1.0, "precondition_every": 10.0},
    "soap": {"lr": 0.003, "beta1": 0.95, "beta2": 0.95, "eps": 1e-8, "precondition_every": 10.0},
    "muon": {"lr": 0.001, "momentum": 0.95, "adjust": "original"},
}


def test_every_rule_has_its_defaults_here():
    assert set(DEFAULTS) == set(OPTIMIZERS)


@pytest.mark.parametrize("rule", DEFAULTS)
def test_defaults_are_the_textbooks(rule):
    optimizer = OPTIMIZERS[rule]()
    assert {name: getattr(optimizer, name) for name in DEFAULTS[rule]} == DEFAULTS[rule]
    settings = ", ".join(f"{name}={of_value(value)}" for name, value in DEFAULTS[rule].items())
    assert repr(optimizer) == f"{OPTIMIZERS[rule].__name__}({settings})"


def test_settings_that_do_not_go_together_are_seen_among_defaults_too():
    class Kept(fastopt.Adam):
        state_storage = "int8"

    @dataclass(eq=False, repr=False)
    class Batched(fastopt.Adam):
        state_storage: str = "int8"

    with pytest.raises(ValueError, match="batch_axis and compact state"):
        Batched(batch_axis=0)
    with pytest.raises(ValueError, match="batch_axis and compact state"):
        fastopt.Adam(batch_axis=0).state_storage = "int8"
    assert Kept().state_storage == "float32"  # no dataclass, so that `__init__` is Adam's
    optimizer = fastopt.Adam(cautious_decay=True, weight_decay=0.1, decoupled=True)
    with pytest.raises(ValueError, match="cautious_decay and an L2 penalty"):
        optimizer.decoupled = False  # which is the default


def test_eps_defaults_of_the_variants():
    assert fastopt.Adam(form="paper").eps == 1e-8
    assert fastopt.Adam(eps_root=1e-8).eps == 0.0
    assert fastopt.Adam(eps_root=1e-8, eps=1e-9).eps == 1e-9
    assert fastopt.RMSProp(eps_root=1e-7).eps == 0.0


# The textbook, line by line, in pure Python on one number.


def textbook_sgd(p, gradients, lr=0.01):
    for g in gradients:
        p = p - lr * g
    return p


def textbook_momentum(p, gradients, lr=0.01, momentum=0.9):
    v = 0.0
    for g in gradients:
        v = momentum * v - lr * g
        p = p + v
    return p


def textbook_nesterov(p, gradients, lr=0.01, momentum=0.9):
    v = 0.0
    for g in gradients:
        p = p + momentum * momentum * v
        p = p - (1 + momentum) * lr * g
        v = momentum * v
        v = v - lr * g
    return p


def textbook_adagrad(p, gradients, lr=0.01):
    h = 0.0
    for g in gradients:
        h = h + g * g
        p = p - lr * g / (math.sqrt(h) + 1e-7)
    return p


def textbook_rmsprop(p, gradients, lr=0.01, decay_rate=0.99):
    h = 0.0
    for g in gradients:
        h = h * decay_rate
        h = h + (1 - decay_rate) * g * g
        p = p - lr * g / (math.sqrt(h) + 1e-7)
    return p


def textbook_adam(p, gradients, lr=0.001, beta1=0.9, beta2=0.999):
    m = v = 0.0
    for t, g in enumerate(gradients, start=1):
        lr_t = lr * math.sqrt(1.0 - beta2**t) / (1.0 - beta1**t)
        m = m + (1 - beta1) * (g - m)
        v = v + (1 - beta2) * (g**2 - v)
        p = p - lr_t * m / (math.sqrt(v) + 1e-7)
    return p


@pytest.mark.parametrize("rule", ["sgd", "momentum", "nesterov", "adagrad", "rmsprop", "adam"])
def test_float64_equals_the_textbook_on_python_numbers(rule, rng):
    for package in (fastopt, reference):
        gradients = rng.standard_normal(30)
        params = {"x": 1.7}
        optimizer = getattr(package, OPTIMIZERS[rule].__name__)()
        for g in gradients:
            optimizer.update(params, {"x": g})
        assert params["x"] == globals()[f"textbook_{rule}"](1.7, gradients.tolist())
        assert type(params["x"]) is float


ONLY_AT_THE_START = {("adagrad", "initial_accumulator"), ("yogi", "initial_accumulator"), ("rprop", "lr")}
ONLY_AT_THE_START |= {("shampoo", "eps"), ("dog", "initial_distance"), ("dog", "eps"), ("dowg", "initial_distance")}
# The estimate does not grow in a few steps of random gradients.
ONLY_AT_THE_START |= {("prodigy", name) for name in ("d0", "d_coef", "growth_rate", "safeguard_warmup")}
ONLY_AT_THE_START |= {("dadapt_adam", name) for name in ("d0", "growth_rate")}
# t0 is in the average alone, and these of Sophia work on estimates of the Hessian, which tests/optimizers/test_sophia.py has.
# A vector has no matrices.
NOT_IN_THE_PARAMETERS = {
    ("soap", "precondition_every"),
    ("shampoo", "precondition_every"),
    ("asgd", "t0"),
    ("sophia", "beta2"),
    ("sophia", "gamma"),
}
# Where half of the default and 0.1 is out of range, or as good as the default.
OTHER_VALUES = {
    "warmup": 10.0,
    "eta_plus": 1.1,
    "max_step_size": 0.002,
    "growth_rate": 1.01,
    "adjust": "match_rms_adamw",
    "min_scale": 2.0,
}

OTHER_VALUES["coefficients"] = "polar_express"


@pytest.mark.parametrize("rule", RULES)
def test_every_hyperparameter_may_be_changed_between_steps(rule):
    for name, value in DEFAULTS[rule].items():
        if name == "form" or (rule, name) in ONLY_AT_THE_START | NOT_IN_THE_PARAMETERS:
            continue

        def change(optimizer, name=name, value=value):
            if name in OTHER_VALUES:
                other = OTHER_VALUES[name]
            else:
                other = not value if isinstance(value, bool) else value * 0.5 + 0.1
            setattr(optimizer, name, other)

        pair = Pair(rule)
        fast, plain = run(pair.fast, change=change), run(pair.plain, change=change)
        assert_same_bits(fast, plain)
        assert not np.array_equal(fast, run(OPTIMIZERS[rule]())), f"{name} has no effect"


@pytest.mark.parametrize("rule", RULES)
def test_public_state(rule, rng):
    optimizer, slots = OPTIMIZERS[rule](), RULES[rule].state
    params = {"W1": rng.standard_normal((3, 4)), "b1": np.zeros(4, np.float32)}
    assert all(not getattr(optimizer, slot) for slot in slots) and optimizer.iter == 0
    optimizer.update(params, {key: np.ones(value.shape) for key, value in params.items()})
    for slot in slots:
        state = getattr(optimizer, slot)
        assert list(state) == ["W1", "b1"]
        assert all(state[key].shape == params[key].shape and state[key].dtype == params[key].dtype for key in params)
    assert optimizer.iter == 1
    for slot in slots:
        with pytest.raises(TypeError, match="can only be set to None"):
            setattr(optimizer, slot, {})
        setattr(optimizer, slot, None)
        assert all(not getattr(optimizer, slot) for slot in slots)


def test_state_can_be_read_and_written_by_key():
    optimizer, params, grads = fastopt.Momentum(lr=1.0, momentum=0.5), {"W": np.zeros(3)}, {"W": np.zeros(3)}
    optimizer.update(params, grads)
    optimizer.v["W"] = [8.0, 4.0, 2.0]
    optimizer.update(params, grads)
    assert params["W"].tolist() == [4.0, 2.0, 1.0]
    optimizer.v["W"][...] = 0
    optimizer.v["W"] += 1.0
    optimizer.update(params, grads)
    assert params["W"].tolist() == [4.5, 2.5, 1.5]


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("duplicate", [copy.deepcopy, copy.copy, lambda x: pickle.loads(pickle.dumps(x))])
def test_copies_go_on_by_themselves(rule, duplicate, rng):
    gradients = rng.standard_normal((6, 40))
    results = []
    for copied_at in (None, 3):
        optimizer, params = OPTIMIZERS[rule](lr=0.02), {"a": np.ones(30), "b": np.ones((2, 5), order="F")}
        for step, g in enumerate(gradients):
            if step == copied_at:
                original, optimizer = optimizer, duplicate(optimizer)
                # what the original does from now on is nothing to the copy
                original.update({k: v.copy() for k, v in params.items()}, {"a": g[:30], "b": g[30:].reshape(2, 5)})
            optimizer.update(params, {"a": g[:30], "b": g[30:].reshape(2, 5)})
        results.append(params)
    for key in ("a", "b"):
        assert_same_bits(results[0][key], results[1][key])


def test_nadams_product_depends_on_the_step_and_the_settings_alone():
    def mu(step, beta1, momentum_decay):
        return beta1 * (1.0 - 0.5 * 0.96 ** (step * momentum_decay))

    optimizer = fastopt.NAdam()
    for step, beta1, momentum_decay in [
        (1, 0.9, 0.004),
        (7, 0.9, 0.004),
        (3, 0.9, 0.004),
        (3, 0.8, 0.004),
        (9, 0.8, 0.1),
    ]:
        optimizer.beta1, optimizer.momentum_decay = beta1, momentum_decay
        product = math.prod(mu(k, beta1, momentum_decay) for k in range(1, step + 1))
        correction, now = math.sqrt(1.0 - 0.999**step), mu(step, beta1, momentum_decay)
        for _ in "ab":  # a step that was skipped asks twice
            assert optimizer.scalars(step)[0] == 0.002 * correction * (1.0 - now) / (1.0 - product)
    optimizer.iter = 2**40
    params = {"x": 1.0}
    optimizer.update(params, {"x": 1.0})  # does not multiply for a day
    assert 0.9 < params["x"] < 1.0


# The papers, line by line, in pure Python on one number, where no other library has the same.


SCRIPT = """
import numpy as np

rng = np.random.default_rng(0)
for make in (SGD, Momentum, Nesterov, AdaGrad, RMSprop, Adam):
    params = {"W1": rng.standard_normal((20, 10)), "b1": np.zeros(10)}
    optimizer = make(lr=0.05)
    for step in range(30):
        x = rng.standard_normal((8, 20))
        error = np.tanh(x @ params["W1"] + params["b1"])
        optimizer.update(params, {"W1": x.T @ error / 8, "b1": error.mean(axis=0), "not a parameter": error})
        optimizer.lr *= 0.99
    print(make.__name__, params["W1"].tobytes().hex(), params["b1"].tobytes().hex(), optimizer.lr)
"""


def test_a_star_import_in_place_of_the_textbooks_module_changes_nothing():
    outputs = {python(f"from {module} import *\n{SCRIPT}").stdout for module in ("fastopt", "fastopt.reference")}
    assert len(outputs) == 1


def test_state_before_the_first_step_is_an_empty_mapping_that_says_so():
    optimizer = fastopt.Adam()
    for state in (optimizer.m, copy.deepcopy(optimizer.m), pickle.loads(pickle.dumps(optimizer.m))):
        assert not state and state == {} and list(state) == [] and "W" not in state and state.get("W") is None
        with pytest.raises(
            KeyError, match=r"Adam\.m has no array 'W' yet: the first `update` makes state for the param"
        ):
            state["W"]
        with pytest.raises(KeyError, match=r"Adam\.m has no array 'W' yet"):
            state["W"] = 1.0
        with pytest.raises(AttributeError, match=r"Adam\.m has no arrays, and no 'shape', yet: the first `update`"):
            _ = state.shape
    optimizer.update({"W": np.ones(2)}, {"W": np.ones(2)})
    assert list(optimizer.m) == ["W"] and optimizer.weight_average is None
    optimizer.m = None  # forgets all state
    assert not optimizer.m and not optimizer.v and optimizer.iter == 1
    assert not fastopt.SGD(averaging=fastopt.EMA(0.9)).weight_average
