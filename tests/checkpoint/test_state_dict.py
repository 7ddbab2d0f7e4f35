"""Checkpoints: the same bits after resuming, one file or the other after a kill, and no file that is taken by mistake."""

import copy
import json
import multiprocessing
import pickle

import numpy as np
import pytest
import safetensors.numpy

import fastopt
from fastopt import CheckpointError
from fastopt.checkpoint import tensor_file
from fastopt.checkpoint.state_dict import one_line
from fastopt.optimizers import OPTIMIZERS
from tests.conftest import assert_same_bits, cases_of

SHAPES = {"W1": ((30, 20), "float32"), "b1": ((20,), "float32"), ("deep", 2): ((7,), "float64"), 3: ((), "float32"), "": ((0, 4), "float64")}  # fmt: skip


def model(rng):
    params = {key: np.asarray(rng.standard_normal(shape)).astype(dtype) for key, (shape, dtype) in SHAPES.items()}
    params["F"] = np.asfortranarray(rng.standard_normal((5, 6)))
    return params


def gradients(params, step):
    rng = np.random.default_rng(step)
    return {key: np.asarray(rng.standard_normal(value.shape)) for key, value in params.items()}


def through_file(optimizer, folder):
    optimizer.save(folder / "state.safetensors")
    new = type(optimizer)()
    assert not any(new.load(folder / "state.safetensors"))
    return new


def through_dict(optimizer, folder):
    new = type(optimizer)()
    new.load_state_dict(optimizer.state_dict())
    return new


WAYS = {
    "file": through_file,
    "dict": through_dict,
    "deepcopy": lambda optimizer, folder: copy.deepcopy(optimizer),
    "pickle": lambda optimizer, folder: pickle.loads(pickle.dumps(optimizer)),
}


@pytest.mark.parametrize(("rule", "way", "flat"), cases_of(OPTIMIZERS, list(WAYS), [False, True]))
def test_resuming_gives_the_bits_of_never_having_stopped(rule, way, flat, tmp_path, rng):
    params = model(rng)
    if flat:
        params = fastopt.flatten({key: value for key, value in params.items() if value.dtype == np.float32})
    other = copy.deepcopy(params)
    optimizer, resumed = OPTIMIZERS[rule](lr=0.03), OPTIMIZERS[rule](lr=0.03)
    for step in range(8):
        optimizer.update(params, gradients(params, step))
        resumed.update(other, gradients(other, step))
        if step % 3 == 1:
            resumed = WAYS[way](resumed, tmp_path)
            assert resumed.lr == 0.03 and resumed.iter == step + 1
    for key in params:
        assert_same_bits(params[key], other[key])
    for slot, views in optimizer.state_dict()["state"].items():
        assert list(views) == list(getattr(resumed, slot))
        for key, value in views.items():
            assert_same_bits(value, getattr(resumed, slot)[key])
            assert value.flags.f_contiguous == getattr(resumed, slot)[key].flags.f_contiguous


def _go_on(optimizer, params, start, end):
    for step in range(start, end):
        optimizer.update(params, gradients(params, step))
    return optimizer, params


@pytest.mark.parametrize("rule", ["momentum", "adam"])
def test_a_spawned_process_goes_on(rule, rng):
    params = model(rng)
    expected = _go_on(OPTIMIZERS[rule](), copy.deepcopy(params), 0, 6)
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        there = pool.apply(_go_on, (*_go_on(OPTIMIZERS[rule](), params, 0, 3), 3, 6))
    for key in params:
        assert_same_bits(there[1][key], expected[1][key])


@pytest.mark.parametrize("rule", OPTIMIZERS)
def test_a_bare_array_and_no_state_at_all(rule, tmp_path):
    optimizer, p, q = OPTIMIZERS[rule](), np.ones(5), np.ones(5)
    optimizer = through_file(optimizer, tmp_path)
    optimizer.update(p, np.ones(5))
    other = through_file(optimizer, tmp_path)
    q[:] = p
    for step in range(2):
        optimizer.update(p, np.full(5, step + 0.5))
        other.update(q, np.full(5, step + 0.5))
    assert_same_bits(p, q)


def test_variants_keep_their_settings(tmp_path):
    optimizer = fastopt.Adam(lr=0.1 + 0.2, beta1=1 / 3, eps_root=1e-8, form="paper")
    new = through_file(optimizer, tmp_path)
    assert repr(new) == repr(optimizer) and new.state_dict() == optimizer.state_dict()


def test_the_dict_is_a_copy(rng):
    params, optimizer = {"W": np.ones(3)}, fastopt.Adam()
    optimizer.update(params, {"W": np.ones(3)})
    saved = optimizer.state_dict()
    before = copy.deepcopy(saved)
    optimizer.update(params, {"W": np.ones(3)})
    np.testing.assert_array_equal(saved["state"]["m"]["W"], before["state"]["m"]["W"])
    other = fastopt.Adam()
    other.load_state_dict(saved)
    other.update(params, {"W": np.ones(3)})
    np.testing.assert_array_equal(saved["state"]["m"]["W"], before["state"]["m"]["W"])


def test_special_values_survive(tmp_path):
    optimizer, params = fastopt.Momentum(), {"W": np.zeros(4, np.float32)}
    optimizer.update(params, {"W": np.zeros(4, np.float32)})
    optimizer.v["W"][...] = [np.nan, np.inf, -0.0, 3e38]
    assert optimizer.v["W"].tobytes() == through_file(optimizer, tmp_path).v["W"].tobytes()


def test_the_file_can_be_looked_at_by_others(tmp_path):
    optimizer = fastopt.Adam()
    optimizer.update({"W": np.ones(3)}, {"W": np.ones(3)})
    optimizer.save(str(tmp_path / "a b.safetensors"))
    tensors = safetensors.numpy.load_file(tmp_path / "a b.safetensors")
    assert sorted(tensors) == ['m/"W"', 'v/"W"']
    assert [path.name for path in tmp_path.iterdir()] == ["a b.safetensors"]


# -- what does not fit ------------------------------------------------------------------------------------------------


def stepped(rule="adam", **shapes):
    optimizer = OPTIMIZERS[rule]()
    optimizer.update(
        {key: np.ones(shape) for key, shape in shapes.items()}, {key: np.ones(shape) for key, shape in shapes.items()}
    )
    return optimizer


def content(optimizer):
    return pickle.dumps(optimizer.state_dict())


def test_what_differs_is_named(tmp_path):
    optimizer, other = stepped(a=3, b=(2, 2), c=1), stepped(a=4, b=(2, 2), d=1)
    other.save(tmp_path / "other")
    before = content(optimizer)
    with pytest.raises(
        CheckpointError,
        match=r"other does not fit: it has no 'c'; it has 'd', which the optimizer does not have; 'a' is float64 of shape \(4,\) in it and float64 of shape \(3,\) here. strict=False loads what fits",
    ):
        optimizer.load(tmp_path / "other")
    assert content(optimizer) == before


def test_not_strict(tmp_path):
    optimizer, other = stepped(a=3, b=(2, 2), c=1), fastopt.Adam(lr=0.5)
    params = {"a": np.ones(4), "b": np.ones((2, 2)), "d": np.ones(1)}
    for step in range(3):
        other.update(params, {key: value + step for key, value in params.items()})
    other.save(tmp_path / "other")
    kept = optimizer.m["a"].copy(), optimizer.m["c"].copy()
    assert optimizer.load(tmp_path / "other", strict=False) == (["c"], ["d"], ["a"], [])
    assert optimizer.lr == 0.5 and optimizer.iter == 3 and list(optimizer.m) == ["a", "b", "c"]
    for slot in ("m", "v"):
        np.testing.assert_array_equal(getattr(optimizer, slot)["b"], getattr(other, slot)["b"])
    np.testing.assert_array_equal(optimizer.m["a"], kept[0])
    np.testing.assert_array_equal(optimizer.m["c"], kept[1])


def metadata_of(path):
    data = path.read_bytes()
    return json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])["__metadata__"]


def rewritten(path, change):
    """The file with other metadata or arrays, and the checksum that belongs to them."""
    tensors, metadata = safetensors.numpy.load(path.read_bytes()), metadata_of(path)
    del metadata["checksum"]
    change(tensors, metadata)
    if "checksum" not in metadata:
        metadata["checksum"] = tensor_file.checksum(tensors, metadata)
    safetensors.numpy.save_file(tensors, path, metadata)


BAD_FILES = {
    "empty": (lambda path: path.write_bytes(b""), "is damaged, or no checkpoint"),
    "text": (lambda path: path.write_text("hello, this is no checkpoint at all"), "is damaged, or no checkpoint"),
    "truncated": (lambda path: path.write_bytes(path.read_bytes()[:-5]), "is damaged, or no checkpoint"),
    "header cut": (lambda path: path.write_bytes(path.read_bytes()[:30]), "is damaged, or no checkpoint"),
    "huge header": (lambda path: path.write_bytes(b"\xff" * 7 + b"\0" + path.read_bytes()[8:]), "is damaged, or no checkpoint"),
    "pickle": (lambda path: path.write_bytes(pickle.dumps({"a": 1})), "is damaged, or no checkpoint"),
    "one bit": (lambda path: path.write_bytes(path.read_bytes()[:-5] + bytes([path.read_bytes()[-5] ^ 1]) + path.read_bytes()[-4:]), "is damaged: its checksum"),
    "other model": (lambda path: safetensors.numpy.save_file({"x": np.ones(3)}, path), "no checkpoint of fastopt: it names no format"),
    "other model with metadata": (lambda path: safetensors.numpy.save_file({"x": np.ones(3)}, path, {"format": "pt"}), "it names no format"),
    "newer": (lambda path: rewritten(path, lambda tensors, metadata: metadata.update(format="6", fastopt="9.9")), "of format 6, written by fastopt 9.9; this version reads formats up to 5: update fastopt"),
    "step changed": (lambda path: rewritten(path, lambda tensors, metadata: metadata.update(step="7", checksum="0" * 64)), "is damaged: its checksum"),
    "other checksum": (lambda path: rewritten(path, lambda tensors, metadata: metadata.update(checksum="f" * 64)), "is damaged: its checksum"),
    "unknown rule": (lambda path: rewritten(path, lambda tensors, metadata: metadata.update(rule="sofia")), "holds the state of rule 'sofia', expected 'adam'"),
    "other rule": (lambda path: rewritten(path, lambda tensors, metadata: (metadata.update(rule="momentum", hyperparameters="{}"), tensors.update({'v/"W"': tensors.pop('m/"W"')}))), "state of rule 'momentum', expected 'adam'"),
    "negative step": (lambda path: rewritten(path, lambda tensors, metadata: metadata.update(step="-1")), "iter must be a whole number of steps"),
    "endless step": (lambda path: rewritten(path, lambda tensors, metadata: metadata.update(step="9" * 10_000)), "is no checkpoint of fastopt"),
    "bad lr": (lambda path: rewritten(path, lambda tensors, metadata: metadata.update(hyperparameters='{"lr": -1.0}')), r"lr must be in \[0, inf\)"),
    "lr of nothing": (lambda path: rewritten(path, lambda tensors, metadata: metadata.update(hyperparameters='{"lr": NaN}')), r"lr must be in \[0, inf\)"),
    "no settings": (lambda path: rewritten(path, lambda tensors, metadata: metadata.update(hyperparameters="3")), "hyperparameters in .* are int, expected a dict"),
    "unknown setting": (lambda path: rewritten(path, lambda tensors, metadata: metadata.update(hyperparameters='{"speed": 1}')), "only one of the two has the settings speed"),
    "missing keys": (lambda path: rewritten(path, lambda tensors, metadata: metadata.pop("keys")), "is no checkpoint of fastopt"),
    "missing array": (lambda path: rewritten(path, lambda tensors, metadata: tensors.pop('v/"W"')), "is no checkpoint of fastopt"),
    "more arrays": (lambda path: rewritten(path, lambda tensors, metadata: tensors.update(x=np.ones(2))), "it holds x besides"),
    "one reshaped": (lambda path: rewritten(path, lambda tensors, metadata: tensors.update({'v/"W"': np.ones(4)})), r"v\['W'\] in .* is float64 of shape \(4,\), m\['W'\] is float64 of shape \(3,\)"),
    "integers": (lambda path: rewritten(path, lambda tensors, metadata: tensors.update({'v/"W"': np.ones(3, int)})), r"v\['W'\] in .* has dtype int64, expected a float or complex dtype"),
    "nested": (lambda path: rewritten(path, lambda tensors, metadata: metadata.update(keys="[" * 100_000)), "is no checkpoint of fastopt"),
    "dict as key": (lambda path: rewritten(path, lambda tensors, metadata: metadata.update(keys='[{"a": 1}]')), "is no checkpoint of fastopt"),
    "deleted": (lambda path: path.unlink(), "No such file"),
    "folder": (lambda path: (path.unlink(), path.mkdir()), "Is a directory"),
}  # fmt: skip


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize("bad", BAD_FILES)
def test_a_bad_file_is_refused_in_one_line_and_nothing_changes(bad, strict, tmp_path):
    spoil, words = BAD_FILES[bad]
    path = tmp_path / "state"
    optimizer, params = fastopt.Adam(lr=0.7), {"W": np.ones(3)}
    optimizer.update(params, {"W": np.ones(3)})
    optimizer.save(path)
    spoil(path)
    before = content(optimizer)
    if bad == "unknown setting" and not strict:
        assert optimizer.load(path, strict=False).settings[0] == "speed"
        return
    with pytest.raises((CheckpointError, OSError), match=words) as caught:
        optimizer.load(path, strict=strict)
    assert "\n" not in str(caught.value) and content(optimizer) == before
    optimizer.update(params, {"W": np.ones(3)})  # goes on
    assert optimizer.iter == 2


BAD_DICTS = {
    "none": (lambda saved: None, "is not what state_dict"),
    "part": (lambda saved: {"rule": "adam"}, "is not what state_dict"),
    "slots": (lambda saved: saved | {"state": {"m": {}}}, r"has state \['m'\], expected \['m', 'v'\]"),
    "slot": (lambda saved: saved | {"state": {"m": 3, "v": {}}}, "m in state_dict is int, expected a dict of arrays"),
    "keys": (lambda saved: saved | {"state": {"m": {}, "v": saved["state"]["v"]}}, "v and m in state_dict have different keys"),
    "keys of the other": (lambda saved: saved | {"state": {"m": saved["state"]["m"], "v": {}}}, "v and m in state_dict have different keys"),
    "more slots": (lambda saved: saved | {"state": saved["state"] | {"x": {}}}, r"has state \['m', 'v', 'x'\], expected"),
    "larger": (lambda saved: saved | {"state": saved["state"] | {"v": {"W": np.ones((3, 1))}}}, r"v\['W'\] .* of shape \(3, 1\), m\['W'\] is float64 of shape \(3,\); both must be"),
    "smaller": (lambda saved: saved | {"state": saved["state"] | {"v": {"W": np.ones(2)}}}, r"of shape \(2,\), m\['W'\] is"),
    "narrower": (lambda saved: saved | {"state": saved["state"] | {"v": {"W": np.ones(3, np.float32)}}}, r"v\['W'\] .* is float32"),
    "wider": (lambda saved: saved | {"state": saved["state"] | {"v": {"W": np.ones(3, complex)}}}, r"v\['W'\] .* is complex128"),
    "other rule": (lambda saved: saved | {"rule": "adabelief"}, "state of rule 'adabelief', expected 'adam'"),
    "no rule": (lambda saved: saved | {"rule": 3}, "state of rule 3, expected 'adam'"),
    "counts": (lambda saved: saved | {"counts": 3}, "counts are 3, expected a dict of dicts with steps and averages"),
    "counts of numbers": (lambda saved: saved | {"counts": {"W": 3}}, "counts are {'W': 3}, expected a dict of dicts"),
    "count": (lambda saved: saved | {"counts": {"W": {"steps": 1, "averages": -1}}}, "averages of 'W' must be a whole number"),
    "counts of others": (lambda saved: saved | {"counts": {"V": {"steps": 1, "averages": 0}}}, "counts in state_dict have 'V', of which there is no state"),
    "estimates": (lambda saved: saved | {"estimates": 3}, "estimates are 3, expected a dict of numbers by name"),
    "estimate": (lambda saved: saved | {"estimates": {"d": "one"}}, "estimates are {'d': 'one'}, expected"),
    "name of an estimate": (lambda saved: saved | {"estimates": {1: 0.5}}, "estimates are {1: 0.5}, expected"),
    "rows": (lambda saved: saved | {"rows": 3}, "state_dict: TypeError: Adam: rows are int, expected a dict"),
    "rows without rates": (lambda saved: saved | {"rows": {"W": {"behind": np.zeros(3, np.int64)}}}, "state_dict: KeyError: 'rates'"),
    "rows of others": (lambda saved: saved | {"rows": {"W": {"behind": np.zeros(4, np.int64), "rates": (0, 0)}}}, "ValueError: Adam: rows.* is of 4 rows"),
    "skipped": (lambda saved: saved | {"skipped": -1}, "skipped must be a whole number of steps"),
    "averaged": (lambda saved: saved | {"averaged": -1}, "averaged must be a whole number of steps"),
    "lists": (lambda saved: saved | {"state": {"m": {"W": [1]}, "v": {"W": [1]}}}, r"m\['W'\] in state_dict has type list"),
}  # fmt: skip


@pytest.mark.parametrize("bad", BAD_DICTS)
def test_a_bad_dict_is_refused(bad):
    spoil, words = BAD_DICTS[bad]
    optimizer = stepped(W=3)
    before = content(optimizer)
    with pytest.raises(CheckpointError, match=words):
        optimizer.load_state_dict(spoil(optimizer.state_dict()))
    assert content(optimizer) == before


def test_an_error_of_another_library_is_one_line_that_is_not_too_long():
    assert one_line(KeyError("a\n  b")) == r"KeyError: 'a\n b'" and one_line(OSError("a\n b")) == "OSError: a b"
    text = one_line(ValueError("x" * 300))
    assert text.startswith("ValueError: xxx") and len(text) == 200


def test_not_stepped_into_stepped():
    optimizer = stepped(W=3)
    kept = optimizer.m["W"].copy()
    assert optimizer.load_state_dict(fastopt.Adam(lr=0.5).state_dict(), strict=False) == (["W"], [], [], [])
    assert optimizer.lr == 0.5 and optimizer.iter == 0 and (optimizer.m["W"] == kept).all()
    with pytest.raises(CheckpointError, match="it has no 'W'"):
        stepped(W=3).load_state_dict(fastopt.Adam().state_dict())
    bare = fastopt.Adam()
    bare.update(np.ones(2), np.ones(2))
    with pytest.raises(CheckpointError, match="it has no 'W'; it has one bare array, which"):
        stepped(W=3).load_state_dict(bare.state_dict())
    assert bare.load_state_dict(stepped(W=3).state_dict(), strict=False) == ([None], ["W"], [], [])
    with pytest.raises(CheckpointError, match="only one of the two has the settings lr, beta1"):
        fastopt.Adam().load_state_dict(fastopt.Adam().state_dict() | {"hyperparameters": {}})


def test_in_the_middle_of_a_step_nothing_is_saved_or_loaded(tmp_path):
    optimizer = stepped(W=3)
    optimizer.save(tmp_path / "state")
    saved = optimizer.state_dict()
    optimizer.__dict__["_stepping"] = True  # as another thread or a signal handler finds it
    for call in (
        optimizer.state_dict,
        lambda: optimizer.load_state_dict(saved),
        lambda: optimizer.save(tmp_path / "state"),
        lambda: optimizer.load(tmp_path / "state"),
        lambda: pickle.dumps(optimizer),
        lambda: copy.deepcopy(optimizer),
    ):
        with pytest.raises(RuntimeError, match="in the middle of a step"):
            call()
