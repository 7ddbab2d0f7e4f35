"""Parameters and state in one file, and state of another precision."""

import copy
import os
import pickle
import signal
import subprocess
import sys

import numpy as np
import pytest
import safetensors.numpy

import fastopt
from fastopt import CheckpointError
from fastopt.kernels.intrinsics import smallest_state
from fastopt.optimizers import OPTIMIZERS
from tests.checkpoint.test_state_dict import gradients, model, rewritten
from tests.conftest import assert_same_bits, python


def states(optimizer):
    return pickle.dumps(optimizer.state_dict())


@pytest.mark.parametrize("flat", [False, True])
@pytest.mark.parametrize("rule", ["sgd", "adam", "muon"])
def test_resuming_from_one_file_gives_the_bits_of_never_having_stopped(rule, flat, tmp_path, rng):
    params = model(rng)
    if flat:
        params = fastopt.flatten({key: value for key, value in params.items() if value.dtype == np.float32})
    optimizer = OPTIMIZERS[rule](lr=0.03)
    for step in range(3):
        optimizer.update(params, gradients(params, step))
    optimizer.save(tmp_path / "state", params)
    other, resumed = copy.deepcopy(params), OPTIMIZERS[rule](lr=1)
    for value in other.values():
        value[...] = 7
    places = {key: value.ctypes.data for key, value in other.items()}
    assert not any(resumed.load(tmp_path / "state", other))
    assert places == {key: value.ctypes.data for key, value in other.items()}
    for step in range(3, 6):
        optimizer.update(params, gradients(params, step))
        resumed.update(other, gradients(other, step))
    for key in params:
        assert_same_bits(params[key], other[key])


def test_a_bare_array_and_numbers(tmp_path):
    p, optimizer = np.arange(3.0), fastopt.Adam()
    optimizer.update(p, np.ones(3))
    optimizer.save(tmp_path / "state", p)
    q = np.zeros(3)
    optimizer.load(tmp_path / "state", q)
    assert_same_bits(p, q)
    params, optimizer = {"x": 1.5, "y": np.float32(2.5), "z": np.ones(())}, fastopt.SGD(lr=0.5)
    optimizer.update(params, {"x": 1.0, "y": 1.0, "z": 1.0})
    optimizer.save(tmp_path / "state", params)
    other = {"x": 0.0, "y": np.float32(0), "z": np.zeros(())}
    optimizer.load(tmp_path / "state", other)
    assert other == params == {"x": 1.0, "y": np.float32(2.0), "z": 0.5} and type(other["y"]) is np.float32


def test_the_file_without_parameters_is_as_before(tmp_path):
    params, optimizer = {"W": np.ones(3)}, fastopt.Adam()
    optimizer.update(params, {"W": np.ones(3)})
    for given, form, names in ((None, b'"1"', ['m/"W"', 'v/"W"']), (params, b'"2"', ['m/"W"', 'p/"W"', 'v/"W"'])):
        optimizer.save(tmp_path / "state", given)
        data = (tmp_path / "state").read_bytes()
        assert b'"format":' + form in data and sorted(safetensors.numpy.load(data)) == names
        assert not any(fastopt.Adam().load(tmp_path / "state"))  # the state alone


def test_no_rule_has_a_slot_of_the_name_of_parameters():
    assert not [rule for rule in OPTIMIZERS.values() if "p" in rule._rule.state]
    with pytest.raises(ValueError, match="other than one another's and than p and g"):
        fastopt.rule(state=("p",))


KILLED = """
import itertools, sys, numpy as np, fastopt
optimizer, params = fastopt.SGD(lr=1.0), {"W": np.zeros(300_000)}
for step in itertools.count(1):
    optimizer.update(params, {"W": np.full(300_000, -1.0)})
    optimizer.save(sys.argv[1], params)
    print(step, flush=True)
"""


def test_a_kill_leaves_parameters_and_state_of_one_step(tmp_path):
    for turn in range(4):
        process = subprocess.Popen(
            [sys.executable, "-c", KILLED, str(tmp_path / "state")], stdout=subprocess.PIPE, text=True
        )
        for _ in range(2 + turn):
            process.stdout.readline()
        process.send_signal(signal.SIGKILL)
        process.communicate()
        optimizer, params = fastopt.SGD(), {"W": np.zeros(300_000)}
        optimizer.load(tmp_path / "state", params)
        assert optimizer.iter > 0 and (params["W"] == optimizer.iter).all()


def saved(path, dtype=np.float64):
    params, optimizer = {"a": np.ones(3, dtype), "b": np.ones((2, 2), dtype)}, fastopt.Adam(lr=0.5)
    optimizer.update(params, {"a": np.ones(3, dtype), "b": np.ones((2, 2), dtype)})
    optimizer.save(path, params)
    return optimizer, params


def read_only():
    array = np.ones(3)
    array.flags.writeable = False
    return array


BAD = {
    "missing": ({"a": np.ones(3), "b": np.ones((2, 2)), "c": np.ones(1)}, CheckpointError, r"parameters in .*state do not fit: it has no params\['c'\]. strict=False loads what fits"),
    "more": ({"a": np.ones(3)}, CheckpointError, r"it has params\['b'\] besides"),
    "shape": ({"a": np.ones(4), "b": np.ones((2, 2))}, CheckpointError, r"params\['a'\] is float64 of shape \(3,\) in it and float64 of shape \(4,\) here. strict=False"),
    "smaller": ({"a": np.ones(2), "b": np.ones((2, 2))}, CheckpointError, r"params\['a'\] is float64 of shape \(3,\) in it and float64 of shape \(2,\) here. strict=False"),
    "complex": ({"a": np.ones(3, complex), "b": np.ones((2, 2))}, CheckpointError, r"params\['a'\] is float64 of shape \(3,\) in it and complex128 of shape \(3,\) here"),
    "dtype": ({"a": np.ones(3, np.float32), "b": np.ones((2, 2))}, CheckpointError, r"params\['a'\] is float64 of shape \(3,\) in it and float32 of shape \(3,\) here. cast=True converts"),
    "array": (np.ones(3), CheckpointError, r"it has no params; it has params\['a'\], params\['b'\] besides"),
    "read-only": ({"a": read_only(), "b": np.ones((2, 2))}, ValueError, r"params\['a'\] is read-only"),
    "kind": ([np.ones(3)], CheckpointError, r"it has no params\[0\]; it has params\['a'\], params\['b'\] besides"),
    "bool": (False, TypeError, "params must be a dict or a list of arrays, .* got bool"),
    "integers": ({"a": np.ones(3, int), "b": np.ones((2, 2))}, TypeError, r"params\['a'\] has dtype int64"),
}  # fmt: skip


@pytest.mark.parametrize("bad", BAD)
def test_what_does_not_fit_is_named_and_nothing_changes(bad, tmp_path):
    params, kind, words = BAD[bad]
    saved(tmp_path / "state")
    optimizer = fastopt.Adam()
    before, state = copy.deepcopy(params), states(optimizer)
    with pytest.raises(kind, match=words) as caught:
        optimizer.load(tmp_path / "state", params)
    assert "\n" not in str(caught.value) and states(optimizer) == state
    if isinstance(params, dict):
        assert all((params[key] == before[key]).all() for key in params)
    if kind is not CheckpointError:
        with pytest.raises(kind, match=words):
            optimizer.save(tmp_path / "other", params)
        assert os.listdir(tmp_path) == ["state"]


def test_state_that_does_not_fit_leaves_the_parameters(tmp_path):
    saved(tmp_path / "state")
    optimizer, params = fastopt.Adam(), {"a": np.zeros(3), "b": np.zeros((2, 2))}
    optimizer.update({"a": np.ones(4)}, {"a": np.ones(4)})
    with pytest.raises(CheckpointError, match="does not fit"):
        optimizer.load(tmp_path / "state", params)
    with pytest.raises(CheckpointError, match="state of rule 'adam', expected 'sgd'"):
        fastopt.SGD().load(tmp_path / "state", params)
    assert not any(value.any() for value in params.values())


def test_not_strict(tmp_path):
    _, before = saved(tmp_path / "state")
    params = {"a": np.zeros(4), "b": np.zeros((2, 2)), "c": np.zeros(1)}
    optimizer = fastopt.Adam()
    assert optimizer.load(tmp_path / "state", params, strict=False) == (["c"], [], ["a"], [])
    assert (params["b"] == before["b"]).all() and not params["a"].any() and optimizer.iter == 1
    assert fastopt.Adam().load(tmp_path / "state", np.ones(3), strict=False) == ([None], ["a", "b"], [], [])


def test_eight_of_a_kind_are_named(tmp_path):
    optimizer, path = fastopt.SGD(), tmp_path / "state"
    optimizer.save(path, {f"{kind}{n}": np.ones(2) for kind in ("old", "both") for n in range(10)})
    with pytest.raises(CheckpointError) as caught:
        optimizer.load(path, {f"{kind}{n}": np.ones(3) for kind in ("new", "both") for n in range(10)})
    parts = str(caught.value).split("; ")
    assert [part.count("params[") for part in parts] == [8, 8] + [1] * 8


def test_parameters_that_are_no_numbers(tmp_path):
    path = tmp_path / "state"
    saved(path)
    rewritten(path, lambda tensors, _: tensors.update({'p/"a"': np.ones(3, np.int64)}))
    params = {"a": np.zeros(3), "b": np.zeros((2, 2))}
    for cast in (False, True):
        with pytest.raises(CheckpointError, match=r"params\['a'\] is int64 of shape \(3,\) in it and float64"):
            fastopt.Adam().load(path, params, cast=cast)
    assert not params["a"].any() and not params["b"].any()


@pytest.mark.parametrize(("there", "here"), [(np.float64, np.complex128), (np.complex128, np.float64)])
def test_real_numbers_are_not_made_complex_nor_complex_ones_real(there, here, tmp_path):
    optimizer, path = fastopt.SGD(), tmp_path / "state"
    optimizer.save(path, {"a": np.ones(3, there)})
    params = {"a": np.zeros(3, here)}
    for cast in (False, True):
        with pytest.raises(CheckpointError, match=f"is {np.dtype(there)} .* in it and {np.dtype(here)} of shape"):
            optimizer.load(path, params, cast=cast)
    assert not params["a"].any()
    optimizer.save(path, {"a": np.full(3, 2, here)})
    optimizer.load(path, params)
    assert (params["a"] == 2).all()


def test_a_file_without_parameters(tmp_path):
    optimizer, params = saved(tmp_path / "state")
    optimizer.save(tmp_path / "state")
    with pytest.raises(CheckpointError, match=r"holds no parameters; save\(path, params\) puts them into the file"):
        optimizer.load(tmp_path / "state", params)


def test_in_the_middle_of_a_step_nothing_is_saved(tmp_path):
    optimizer, params = saved(tmp_path / "state")
    optimizer.__dict__["_stepping"] = True
    for call in (optimizer.save, optimizer.load):
        with pytest.raises(RuntimeError, match="in the middle of a step"):
            call(tmp_path / "state", params)


# -- precision --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("there", "here"), [(np.float64, np.float32), (np.float32, np.float64)])
def test_parameters_of_another_precision_want_cast(there, here, tmp_path):
    optimizer, params = fastopt.SGD(), {"a": np.zeros(3, here)}
    optimizer.save(tmp_path / "state", {"a": np.ones(3, there)})
    with pytest.raises(CheckpointError, match="cast=True converts the precision"):
        optimizer.load(tmp_path / "state", params)
    assert not params["a"].any()
    assert optimizer.load(tmp_path / "state", params, cast=True) == ([], [], [], []) and params["a"].all()


def test_without_cast_another_precision_is_refused_and_cast_is_named(tmp_path):
    saved(tmp_path / "state")
    other, _ = saved(tmp_path / "other", np.float32)
    before = states(other)
    with pytest.raises(
        CheckpointError, match=r"'a' is float64 .* and float32 .* here; .*cast=True converts the precision"
    ):
        other.load(tmp_path / "state")
    assert states(other) == before


@pytest.mark.parametrize("way", ["stepped", "params", "named", "dict"])
@pytest.mark.parametrize(("there", "here"), [(np.float64, np.float32), (np.float32, np.float64)])
def test_cast(way, there, here, tmp_path):
    optimizer, params = saved(tmp_path / "state", there)
    other = {"a": np.zeros(3, here), "b": np.zeros((2, 2), here)}
    if way == "stepped":
        new, _ = saved(tmp_path / "other", here)
        new.load(tmp_path / "state", cast=True)
    elif way == "params":
        new = fastopt.Adam()
        new.load(tmp_path / "state", other, cast=True)
        for key in params:
            assert_same_bits(other[key], params[key].astype(here))
    elif way == "named":
        new = fastopt.Adam()
        new.load(tmp_path / "state", cast=np.dtype(here).name)
    else:
        new, _ = saved(tmp_path / "other", here)
        new.load_state_dict(optimizer.state_dict(), cast=True)
    assert new.iter == 1 and new.lr == 0.5
    for slot in ("m", "v"):
        for key, value in getattr(optimizer, slot).items():
            assert_same_bits(getattr(new, slot)[key], value.astype(here))
    new.update(other, {"a": np.ones(3, here), "b": np.ones((2, 2), here)})


def test_small_values_become_zero_as_in_a_step_and_none_infinite(tmp_path):
    p, tiny, least = np.zeros(7), 1e-40, smallest_state(np.float32)
    optimizer = fastopt.Lion()
    optimizer.update(p, np.zeros(7))
    optimizer.m[...] = [tiny, -tiny, 0.5, np.nan, 0.0, -0.0, -least]
    new = fastopt.Lion()
    new.load_state_dict(optimizer.state_dict(), cast="float32")
    expected = [least, -least, 0.5, np.nan, 0.0, -0.0, -least]  # their sign decides the step
    assert_same_bits(new.m, np.array(expected, np.float32))
    optimizer = fastopt.Momentum()
    optimizer.update(p, np.zeros(7))
    optimizer.v[...] = [tiny, -tiny, 0.5, np.inf, 0.0, -0.0, -least]
    new = fastopt.Momentum()
    new.load_state_dict(optimizer.state_dict(), cast="float32")
    assert_same_bits(new.v, np.array([0.0, -0.0, 0.5, np.inf, 0.0, -0.0, -least], np.float32))
    optimizer.v[0] = -1e39
    before = states(new)
    with pytest.raises(
        CheckpointError, match=r"v in state_dict holds 1e.39, beyond float32; load it in float64, without cast"
    ):
        new.load_state_dict(optimizer.state_dict(), cast="float32")
    assert states(new) == before


@pytest.mark.parametrize("cast", ["float16", "int", None, 0, 3, "nonsense"])
def test_what_is_no_precision(cast, tmp_path):
    optimizer, params = saved(tmp_path / "state")
    before = states(optimizer)
    with pytest.raises(ValueError, match="cast must be True, False, 'float32', 'float64', 'bfloat16' or 'int8', got"):
        optimizer.load(tmp_path / "state", params, cast=cast)
    assert states(optimizer) == before


def test_cast_needs_a_precision(tmp_path):
    saved(tmp_path / "state")
    with pytest.raises(ValueError, match=r"from params or from an optimizer that has stepped, .* cast='float32'"):
        fastopt.Adam().load(tmp_path / "state", cast=True)
    fastopt.Adam().load_state_dict(fastopt.Adam().state_dict(), cast=True)  # nothing to convert


INTERRUPTED_LOAD = """
import random, signal, sys, time
import numpy as np, fastopt

def interrupt(*_):
    raise KeyboardInterrupt

signal.signal(signal.SIGALRM, interrupt)
random.seed(0)
params = {**{f"p{n}": np.zeros(50) for n in range(40)}, "x": 0.0}
optimizer, files = fastopt.Momentum(), [sys.argv[1] + name for name in "ab"]
for path in files:
    optimizer.update(params, {key: np.ones(np.shape(value)) for key, value in params.items()})
    optimizer.save(path, params)
start = time.perf_counter()
for _ in range(5):
    optimizer.load(files[1], params)
spent = (time.perf_counter() - start) / 5
met = 0
for turn in range(400):
    try:
        signal.setitimer(signal.ITIMER_REAL, random.uniform(0.3, 1.1) * spent)
        optimizer.load(files[turn % 2], params)
        time.sleep(2 * spent)
    except KeyboardInterrupt:
        met += 1
    found = {optimizer.iter: {round(float(np.ravel(p)[0]), 6) for p in params.values()}}
    assert found in ({1: {-0.01}}, {2: {-0.029}}), found
print(met)
"""


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="no interval timers")
def test_ctrl_c_leaves_parameters_and_state_of_one_step(tmp_path):
    assert int(python(INTERRUPTED_LOAD, str(tmp_path / "state")).stdout) > 100
