"""Checks hold at every step: the same mistakes as at the first, after steps that went well."""

import copy
from collections import UserDict
from types import MappingProxyType

import numpy as np
import pytest

import fastopt
from fastopt import Rows, threads
from tests.conftest import assert_same_bits, python

W, B = (2, 4), (4,)


def lock(array):
    array.flags.writeable = False


def dense():
    return {"W": np.ones(W), "b": np.ones(B)}


# How parameters lie: a function of the arrays, and how the gradients then come.
CONTAINERS = {
    "dict": (dict, dict),
    "flat": (fastopt.flatten, fastopt.flatten),
    "flat, plain gradients": (fastopt.flatten, dict),
    "strided": (lambda arrays: {key: np.repeat(array, 2, axis=0)[::2] for key, array in arrays.items()}, dict),
    "user dict": (UserDict, dict),
}


def writings(container):
    """Changes to parameters after which a step is refused, with the words."""
    read_only = {
        "a view": lambda params: lock(params["b"]),
        "the first": lambda params: lock(params["W"]),
    }
    if container.startswith("flat"):
        return {**read_only, "the buffer": lambda params: (lock(params.buffer), lock(params["W"]))}
    return read_only


@pytest.mark.parametrize("report", [False, True])
@pytest.mark.parametrize("steps", [1, 2, 3])
@pytest.mark.parametrize(
    ("container", "what"), [(container, what) for container in CONTAINERS for what in writings(container)]
)
def test_read_only_from_some_step_on(container, what, steps, report):
    of_params, of_grads = CONTAINERS[container]
    params, grads, optimizer = of_params(dense()), of_grads(dense()), fastopt.Adam()
    with threads.exactly(1) if report else threads.num_threads(1):
        for _ in range(steps):
            optimizer.update(params, grads)
        writings(container)[what](params)
        before, state = {key: params[key].copy() for key in params}, copy.deepcopy(dict(optimizer.m))
        for _ in range(2):
            with pytest.raises(ValueError, match=r"Adam: params\['(W|b)'\] is read-only, but a step writes it"):
                optimizer.update(params, grads, report=report)
    assert optimizer.iter == steps
    for key in before:
        assert_same_bits(np.asarray(params[key]), before[key])
        assert_same_bits(optimizer.m[key], state[key])


def test_another_flat_dict_whose_view_is_read_only():
    optimizer, grads = fastopt.SGD(lr=1.0), fastopt.flatten(dense())
    for number in range(6):
        params = fastopt.flatten(dense())
        if number % 2:
            lock(params["b"])
            with pytest.raises(ValueError, match=r"params\['b'\] is read-only"):
                optimizer.update(params, grads)
            assert (params.buffer == 1).all()
            params["b"].flags.writeable = True
        optimizer.update(params, grads)
        optimizer.update(params, grads)
        assert (params.buffer == -1).all()
        lock(params["W"])
        with pytest.raises(ValueError, match=r"params\['W'\] is read-only"):
            optimizer.update(params, grads)


def test_writeable_again():
    params, grads, optimizer = fastopt.flatten(dense()), fastopt.flatten(dense()), fastopt.SGD(lr=1.0)
    for step in range(1, 5):
        optimizer.update(params, grads)
        lock(params["W"])
        with pytest.raises(ValueError, match="read-only"):
            optimizer.update(params, grads)
        params["W"].flags.writeable = True
        assert (params.buffer == 1 - step).all()


def changed_params(optimizer, params):
    """By name: other parameters, and the words of the error."""
    base = np.ones(8)
    return {
        "masked": ({**params, "b": np.ma.array(np.ones(B))}, r"params\['b'\] is a masked array"),
        "integers": ({**params, "b": np.ones(B, int)}, r"params\['b'\] has dtype int64"),
        "other dtype": ({**params, "b": np.ones(B, np.float32)}, "at the first step it had float64"),
        "other shape": ({**params, "b": np.ones(5)}, "at the first step it had"),
        "text": ({**params, "b": "one"}, r"params\['b'\] is of type str"),
        "number": ({**params, "b": 1.0}, "at the first step it had"),
        "in itself": ({**params, "b": np.broadcast_to(np.ones(1), B)}, r"params\['b'\]"),
        "overlap": ({"W": base.reshape(W), "b": base[4:]}, "share memory but are not the same array"),
        "of the state": ({**params, "b": optimizer.m["b"]}, "shares memory with the optimizer's state"),
        "no dict": (1.0, "params must be a dict or a list of arrays, .* or one NumPy array"),
        "copies": (MappingProxyType({"W": params["W"], "b": params["b"]}), None),  # is fine
    }


def changed_grads(optimizer, params):
    good = dense()
    return {
        "masked": ({**good, "b": np.ma.array(np.ones(B))}, r"grads\['b'\] is a masked array"),
        "complex": ({**good, "b": np.ones(B, complex)}, r"grads\['b'\] has dtype complex128"),
        "shape": ({**good, "b": np.ones(5)}, r"grads\['b'\] has shape \(5,\)"),
        "broadcast": ({**good, "b": np.ones((7, 4))}, r"grads\['b'\].sum\(axis=0\)"),
        "text": ({**good, "b": "one"}, r"grads\['b'\] is of type str"),
        "missing": ({"W": good["W"]}, r"grads has no entry for params\['b'\]"),
        "a parameter": ({**good, "b": params["W"][0]}, r"shares memory with params\['W'\]"),
        "state": ({**good, "b": optimizer.m["b"]}, r"grads\['b'\] shares memory with the optimizer's state"),
        "an array": (np.ones(4), "both must be dicts"),
        "rows": ({**good, "b": Rows(np.array([0]), np.ones((1, 1)))}, r"expected an array of two or more dimensions"),
    }


@pytest.mark.parametrize("container", CONTAINERS)
@pytest.mark.parametrize(
    ("which", "what"),
    [
        *((changed_params, what) for what in ("masked", "integers", "other dtype", "other shape", "text", "number")),
        *((changed_params, what) for what in ("in itself", "overlap", "of the state", "no dict", "copies")),
        *((changed_grads, what) for what in ("masked", "complex", "shape", "broadcast", "text", "missing")),
        *((changed_grads, what) for what in ("a parameter", "state", "an array", "rows")),
    ],
)
def test_mistakes_at_step_two(container, which, what):
    of_params, of_grads = CONTAINERS[container]
    params, grads, optimizer = of_params(dense()), of_grads(dense()), fastopt.Adam()
    for steps in (1, 2, 3):
        optimizer.update(params, grads)
        before, state = {key: params[key].copy() for key in params}, copy.deepcopy(dict(optimizer.m))
        bad, words = which(optimizer, params)[what]
        if words is None:
            optimizer.update(bad, grads)
            continue
        with pytest.raises((TypeError, ValueError, KeyError), match=words):
            optimizer.update(*((bad, grads) if which is changed_params else (params, bad)))
        assert optimizer.iter == steps
        for key in before:
            assert_same_bits(np.asarray(params[key]), before[key])
            assert_same_bits(optimizer.m[key], state[key])


def test_numbers_in_a_mapping_that_cannot_be_assigned_to():
    params, optimizer = {"x": 1.0, "b": np.ones(2)}, fastopt.SGD(lr=1.0)
    grads = {"x": 1.0, "b": np.ones(2)}
    for steps in (1, 2):
        optimizer.update(params, grads)
        with pytest.raises(TypeError, match="holds plain numbers, which a step replaces"):
            optimizer.update(MappingProxyType(params), grads)
        assert params["x"] == 1 - steps == params["b"][0] and optimizer.iter == steps


def test_arrays_that_change_in_place():
    """Of what an array can change in itself, all that a check looks at."""
    for make in (np.ones, lambda n: np.ones(2 * n)[::2]):
        for change, words in (
            (lambda a: setattr(a, "shape", (2, 2)), "at the first step it had"),
            (lambda a: a.setflags(write=False), "read-only"),
        ):
            params, optimizer = {"b": make(4)}, fastopt.Adam()
            for _ in range(2):
                optimizer.update(params, {"b": np.ones(4)})
            try:
                change(params["b"])
            except AttributeError:  # no such view of a strided array
                continue
            before = params["b"].copy()
            with pytest.raises(ValueError, match=words):
                optimizer.update(params, {"b": np.ones(4)})
            assert_same_bits(params["b"], before)


CODE = """
import numpy as np, fastopt
params = fastopt.flatten({"W": np.ones(3), "b": np.ones(2)})
optimizer = fastopt.SGD(lr=1.0)
optimizer.update(params, params.copy())
params["b"].flags.writeable = False
try:
    optimizer.update(params, params.copy())
except ValueError as error:
    print("read-only" in str(error), params.buffer.any())
"""


@pytest.mark.parametrize("environment", [{"NUMBA_DISABLE_JIT": "1"}, {"FASTOPT_CHECK": "1"}, {}])
def test_without_compiler(environment):
    assert python(CODE, **environment).stdout == "True False\n"
