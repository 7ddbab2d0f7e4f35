"""Every error: its type, its words, and that nothing was written."""

import copy
import dataclasses
import re

import numpy as np
import pytest

import fastopt
from fastopt import averages, hyperparameters
from fastopt.kernels import RULES
from fastopt.optimizers import OPTIMIZERS


def good():
    return {"W1": np.arange(6.0).reshape(2, 3), "b1": np.ones(3, np.float32), "x": 0.5}


def gradients():
    return {"W1": np.ones((2, 3)), "b1": np.ones(3, np.float32), "x": 1.0}


def replaced(base, **values):
    return {**base, **values}


def without(base, *keys):
    return {key: value for key, value in base.items() if key not in keys}


def overlapping(first, second):
    buffer = np.zeros(10)
    return {"W1": buffer[first], "b1": buffer[second]}, {
        "W1": np.ones(buffer[first].shape),
        "b1": np.ones(buffer[second].shape),
    }


def read_only(value):
    value.flags.writeable = False
    return value


def aliased():
    params = good()
    return params, replaced(gradients(), W1=np.ones((2, 3)), b1=params["W1"][0])


BAD_STEPS = {
    "params is a list": (lambda: ([np.ones(3)], {}), TypeError, r"Adam: grads is of type dict, but params is of type list; both must be alike"),
    "grads is a list": (lambda: ({"W1": np.ones(3)}, [np.ones(3)]), TypeError, r"params is of type dict and grads of type list; both must be dicts"),
    "dict and array": (lambda: ({"W1": np.ones(3)}, np.ones(3)), TypeError, r"params is of type dict and grads of type ndarray"),
    "array and dict": (lambda: (np.ones(3), {"W1": np.ones(3)}), TypeError, r"params is of type ndarray and grads of type dict"),
    "integer parameter": (
        lambda: (replaced(good(), W1=np.ones((2, 3), int)), gradients()),
        TypeError,
        r"Adam: params\['W1'\] has dtype int64, expected float32, float64, .*; convert",
    ),
    "half parameter": (lambda: (replaced(good(), W1=np.ones((2, 3), np.float16)), gradients()), TypeError, "float16"),
    "nested dict": (
        lambda: (replaced(good(), W1={"W": np.ones(3)}), gradients()),
        TypeError,
        r"Adam: grads\['W1'\] is of type ndarray, but params\['W1'\] is of type dict; both must be alike",
    ),
    "other byte order": (lambda: (replaced(good(), W1=np.ones((2, 3), ">f8")), gradients()), TypeError, ">f8"),
    "object parameter": (lambda: (replaced(good(), W1=np.ones((2, 3), object)), gradients()), TypeError, "object"),
    "list parameter": (
        lambda: (replaced(good(), W1=[1.0, 2.0]), gradients()),
        TypeError,
        r"grads\['W1'\] is of type ndarray, but params\['W1'\] is of type list; both must be alike",
    ),
    "None parameter": (
        lambda: (replaced(good(), W1=None), gradients()),
        ValueError,
        r"params\['W1'\] is None, but grads\['W1'\] is not; hand in None there too",
    ),
    "bool parameter": (lambda: (replaced(good(), x=True), gradients()), TypeError, "is of type bool"),
    "text parameter": (lambda: (replaced(good(), x="1"), gradients()), TypeError, "is of type str"),
    "read-only parameter": (
        lambda: (replaced(good(), W1=read_only(np.ones((2, 3)))), gradients()),
        ValueError,
        r"params\['W1'\] is read-only, but a step writes it in place; hand in a copy",
    ),
    "broadcast parameter": (
        lambda: (replaced(good(), W1=np.lib.stride_tricks.as_strided(np.ones(3), (2, 3), (0, 8))), gradients()),
        ValueError,
        r"params\['W1'\] of shape \(2, 3\) has several elements in one place in memory",
    ),
    "windows as parameter": (
        lambda: (replaced(good(), W1=np.lib.stride_tricks.as_strided(np.ones(4), (2, 3), (8, 8))), gradients()),
        ValueError,
        "several elements in one place",
    ),
    "overlap": (
        lambda: overlapping(slice(0, 6), slice(5, 10)),
        ValueError,
        r"params\['W1'\] and params\['b1'\] share memory but are not the same array",
    ),
    "overlap of strides": (lambda: overlapping(slice(0, 9, 2), slice(1, 9, 3)), ValueError, "share memory"),
    "one inside the other": (lambda: overlapping(slice(0, 10), slice(4, 6)), ValueError, "share memory"),
    "missing gradient": (
        lambda: (good(), without(gradients(), "b1")),
        KeyError,
        r"grads has no entry for params\['b1'\]; it has 'W1', 'x'",
    ),
    "shape": (
        lambda: (good(), replaced(gradients(), W1=np.ones((3, 2)))),
        ValueError,
        r"Adam: grads\['W1'\] has shape \(3, 2\), params\['W1'\] has \(2, 3\)",
    ),
    "broadcastable shape": (lambda: (good(), replaced(gradients(), W1=np.ones(3))), ValueError, r"has shape \(3,\)"),
    "number for an array": (lambda: (good(), replaced(gradients(), W1=1.0)), ValueError, r"has shape \(\)"),
    "array for a number": (lambda: (good(), replaced(gradients(), x=np.ones(2))), ValueError, r"grads\['x'\] has shape \(2,\)"),
    "complex gradient": (
        lambda: (good(), replaced(gradients(), W1=np.ones((2, 3), complex))),
        TypeError,
        r"grads\['W1'\] has dtype complex128, which does not convert to float64, the dtype of params\['W1'\]; take its real part, grads\['W1'\].real",
    ),
    "text gradient": (lambda: (good(), replaced(gradients(), W1=np.full((2, 3), "1"))), TypeError, r"grads\['W1'\] has dtype <U1"),
    "object gradient": (lambda: (good(), replaced(gradients(), W1=np.ones((2, 3), object))), TypeError, "dtype object"),
    "masked parameter": (
        lambda: (replaced(good(), W1=np.ma.masked_array(np.ones((2, 3)), np.eye(2, 3))), gradients()),
        TypeError,
        r"params\['W1'\] is a masked array, expected a plain one",
    ),
    "half number": (lambda: (replaced(good(), x=np.float16(1)), gradients()), TypeError, r"params\['x'\] is of type float16"),
    "huge integer": (lambda: (replaced(good(), x=10**400), gradients()), ValueError, r"params\['x'\] is an integer beyond float64"),
    "params is None": (lambda: (None, {}), TypeError, "params must be a dict or a list of arrays, .* or one NumPy array, got NoneType"),
    "grads is None": (lambda: (good(), None), TypeError, "grads must be a dict or a list of arrays, .* or one NumPy array, got NoneType"),
    "grads is text": (lambda: (good(), "W1"), TypeError, "grads must be a dict .* got str"),
    "grads is a number": (lambda: (good(), 1), TypeError, "grads must be a dict .* got int"),
    "list gradient": (lambda: (good(), replaced(gradients(), W1=[[1.0] * 3] * 2)), TypeError, r"grads\['W1'\] is of type list"),
    "gradient in another parameter": (
        aliased,
        ValueError,
        r"grads\['b1'\] shares memory with params\['W1'\], which this step writes",
    ),
}  # fmt: skip


def snapshot(value):
    if isinstance(value, dict):
        return {key: snapshot(entry) for key, entry in value.items()}
    return copy.deepcopy(value)


def assert_unchanged(before, after):
    if isinstance(before, dict):
        assert list(before) == list(after)
        for key in before:
            assert_unchanged(before[key], after[key])
    elif isinstance(before, np.ndarray) and before.dtype != object:
        assert before.tobytes() == after.tobytes()
    else:
        assert type(before) is type(after) and repr(before) == repr(after)


@pytest.mark.parametrize("steps_before", [0, 2])
@pytest.mark.parametrize("case", BAD_STEPS)
def test_a_bad_step_changes_nothing(case, steps_before):
    make, error, words = BAD_STEPS[case]
    params, grads = make()
    optimizer = fastopt.Adam()
    for _ in range(steps_before):
        optimizer.update(good(), gradients())
    if steps_before and case.startswith(("overlap", "one inside")):
        optimizer.m = None  # their shapes are others
    state = snapshot({"m": optimizer.m, "v": optimizer.v})
    before = snapshot({"params": params, "grads": grads})
    with pytest.raises(error, match=words):
        optimizer.update(params, grads)
    assert optimizer.iter == steps_before
    assert_unchanged(before, {"params": params, "grads": grads})
    assert_unchanged(state, {"m": optimizer.m, "v": optimizer.v})
    # and the optimizer goes on as if nothing had been
    other, mine, yours = fastopt.Adam(), good(), good()
    for _ in range(steps_before):
        other.update(good(), gradients())
    if not optimizer.m:
        other.m = None
    optimizer.update(mine, gradients())
    other.update(yours, gradients())
    assert_unchanged(mine, yours)


@pytest.mark.parametrize("rule", RULES)
def test_the_plan_in_use_notices_bad_gradients_too(rule):
    """The arrays are those of the step before, so only the compiled look at them can see it."""
    params, optimizer = good(), OPTIMIZERS[rule]()
    optimizer.update(params, gradients())
    for case in BAD_STEPS:
        if case.endswith(("gradient", "shape")) or case.startswith("grads is"):
            make, error, words = BAD_STEPS[case]
            before = snapshot(params)
            with pytest.raises(error, match=words.replace("Adam", OPTIMIZERS[rule].__name__)):
                optimizer.update(params, make()[1])
            assert_unchanged(before, params)
    for bad in (None, 1, "W1", [np.ones(3)], np.ones(3)):
        with pytest.raises(TypeError, match=r"params (must be|is of type)"):
            optimizer.update(bad, gradients())
    with pytest.raises(ValueError, match=r"grads\['b1'\] shares memory with params\['W1'\]"):
        fresh = {"W1": np.ones(3), "b1": np.ones(3)}
        optimizer = OPTIMIZERS[rule]()
        optimizer.update(fresh, {"W1": np.ones(3), "b1": np.ones(3)})
        optimizer.update(fresh, {"W1": np.ones(3), "b1": fresh["W1"]})
    assert optimizer.iter == 1


@pytest.mark.parametrize("rule", [rule for rule in RULES if RULES[rule].state])
def test_parameters_must_fit_their_state(rule):
    params, optimizer = good(), OPTIMIZERS[rule]()
    optimizer.update(params, gradients())
    name = OPTIMIZERS[rule].__name__
    with pytest.raises(
        ValueError, match=rf"{name}: params\['W1'\] has shape \(3, 3\), but at the first step it had \(2, 3\)"
    ):
        optimizer.update(replaced(params, W1=np.ones((3, 3))), replaced(gradients(), W1=np.ones((3, 3))))
    with pytest.raises(
        TypeError, match=rf"{name}: params\['W1'\] has dtype float32, but at the first step it had float64"
    ):
        optimizer.update(replaced(params, W1=np.ones((2, 3), np.float32)), gradients())
    state = getattr(optimizer, RULES[rule].state[0])
    with pytest.raises(ValueError, match=r"params\['W1'\] shares memory with the optimizer's state"):
        optimizer.update(replaced(params, W1=state["W1"]), gradients())
    with pytest.raises(ValueError, match=r"grads\['W1'\] shares memory with the optimizer's state"):
        optimizer.update(params, replaced(gradients(), W1=state["W1"]))
    assert optimizer.iter == 1


def test_without_state_the_parameters_may_be_any_at_each_step():
    optimizer = fastopt.SGD()
    for shape in ((3,), (2, 2), (3,)):
        optimizer.update({"W": np.ones(shape)}, {"W": np.ones(shape)})
        optimizer.update({"other": np.ones(shape)}, {"other": np.ones(shape)})


def test_numbers_in_a_mapping_that_cannot_be_assigned_to():
    from types import MappingProxyType

    with pytest.raises(TypeError, match="params of type mappingproxy holds plain numbers"):
        fastopt.SGD().update(MappingProxyType({"x": 1.0}), {"x": 1.0})


BAD_SETTINGS = [
    *[
        (name, value, ValueError)
        for name in hyperparameters.RANGES
        if name not in hyperparameters.FOR_GROUPS
        for value in (-0.1, float("nan"), float("inf"), -float("inf"))
        if not (value == np.inf and hyperparameters.RANGES[name][1:] == (np.inf, True))  # where it stands for no limit
    ],
    *[
        (name, value, TypeError)
        for name in hyperparameters.RANGES
        if name not in hyperparameters.FOR_GROUPS
        for value in ("0.1", [0.1], 1j, True, np.ones((2, 2)))  # an lr for each of many problems is one array
    ],
    *[(name, 1.5, ValueError) for name in ("momentum", "decay_rate", "beta1", "beta2")],
    *[(name, 1.0, ValueError) for name in ("beta1", "beta2")],
    *[("form", value, TypeError) for value in (1, None, np.array(["paper"]))],
    ("form", "book", ValueError),
    ("lr", 10**400, ValueError),
]


@pytest.mark.parametrize(("number", "name", "value", "error"), [(n, *case) for n, case in enumerate(BAD_SETTINGS)])
def test_bad_settings(number, name, value, error):
    owners = [optimizer for optimizer in OPTIMIZERS.values() if name in optimizer.__dataclass_fields__]
    assert owners
    if len(owners) == len(
        OPTIMIZERS
    ):  # the base class's, which are the same code: each value for some, all for one or another
        owners = owners[number % 5 :: 5]
    for owner in owners:
        with pytest.raises(error, match=rf"{owner.__name__}: {name} must be .*got"):
            owner(**{name: value})
        optimizer = owner()
        before = getattr(optimizer, name)
        with pytest.raises(error, match=rf"{owner.__name__}: {name} must be .*got"):
            setattr(optimizer, name, value)
        assert getattr(optimizer, name) == before


def test_every_hyperparameter_is_checked():
    for optimizer in OPTIMIZERS.values():
        assert {field.name for field in dataclasses.fields(optimizer)} <= {
            *hyperparameters.RANGES,
            *hyperparameters.CHOICES,
            *hyperparameters.SWITCHES,
            *("bounds", "mask", "constraint_axis", "batch_axis"),  # each by a check of its own
            "groups",  # whose own settings are these
            *hyperparameters.WHOLE_NUMBERS,
            *averages.KINDS,
        }


@pytest.mark.parametrize("value", [np.float32(0.5), np.float64(0.5), 1, 0, np.int64(1)])
def test_settings_are_python_floats(value):
    optimizer = fastopt.SGD(lr=value)
    assert type(optimizer.lr) is float and optimizer.lr == value


def test_a_misspelt_setting():
    with pytest.raises(AttributeError, match="Adam has no setting 'learning_rate': its name here is lr"):
        fastopt.Adam().learning_rate = 0.1
    with pytest.raises(AttributeError, match="SGD has no setting 'momentum': use Momentum, or SGDMomentum"):
        _ = fastopt.SGD().momentum
    with pytest.raises(TypeError, match="Adam has no setting 'learning_rate': its name here is lr"):
        fastopt.Adam(learning_rate=0.1)


@pytest.mark.parametrize(
    ("value", "error"),
    [(-1, ValueError), (10**400, ValueError), (1.5, TypeError), ("3", TypeError), (None, TypeError), (True, TypeError)],
)
def test_a_bad_step_count(value, error):
    optimizer = fastopt.Adam()
    with pytest.raises(
        error, match=f"Adam: iter must be a whole number of steps from 0 to .*got {re.escape(repr(value))}"
    ):
        optimizer.iter = value
    optimizer.iter = 10
    assert optimizer.iter == 10


def test_only_settings_can_be_set():
    optimizer = fastopt.Adam()
    for name in ("rule", "update", "scalars", "whatever"):
        with pytest.raises(AttributeError, match=f"Adam has no setting '{name}'"):
            setattr(optimizer, name, "sgd")


def test_the_base_class_is_not_an_optimizer():
    with pytest.raises(TypeError, match=r"make one of its subclasses, such as fastopt.Adam\(\)"):
        fastopt.Optimizer()


def test_state_of_a_dict_is_not_that_of_a_bare_array():
    optimizer = fastopt.Adam()
    optimizer.update({"W": np.ones(3)}, {"W": np.ones(3)})
    with pytest.raises(KeyError, match=r"one bare array was not there at the first step.*there were params\['W'\]"):
        optimizer.update(np.ones(3), np.ones(3))


def test_step_count_before_settings():
    optimizer, params = fastopt.Adam(), {"x": 1.0}
    optimizer.iter = 99
    optimizer.update(params, {"x": 1.0})
    assert optimizer.iter == 100


@pytest.mark.parametrize(
    ("library", "advice"),
    [
        ("torch", r"it lies on .*hand in (params|grads)\['W'\].cpu\(\)"),
        ("cupy", r"in the memory of the CPU.*\['W'\].get\(\)"),
        ("jaxlib.xla_extension", r"in the memory of the CPU.*np.asarray\("),
    ],
)
def test_arrays_of_other_libraries(library, advice):
    on_a_gpu = {"__dlpack_device__": lambda self: (2, 0), "__dlpack__": None, "device": "cuda:0"}
    foreign = type("Array", (), {"__module__": library, **on_a_gpu})()
    with pytest.raises(TypeError, match=rf"SGD: params\['W'\] is of type Array, .*{advice}"):
        fastopt.SGD().update({"W": foreign}, {"W": np.ones(3)})
    with pytest.raises(TypeError, match=rf"SGD: grads\['W'\] is of type Array, .*{advice}"):
        fastopt.SGD().update({"W": np.ones(3)}, {"W": foreign})
