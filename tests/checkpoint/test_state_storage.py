"""Checkpoints of compact state hold its codes and scales."""

import copy

import numpy as np
import pytest

from fastopt import Adam
from fastopt.checkpoint import file
from fastopt.checkpoint.state_dict import CheckpointError
from tests.conftest import assert_same_bits
from tests.engine.test_state_storage import COMPACT, assert_same_state, model, trained


@pytest.mark.parametrize("storage", COMPACT)
@pytest.mark.parametrize("by_file", [False, True])
def test_resumed_steps_have_the_same_bits(storage, by_file, tmp_path):
    optimizer, params = Adam(state_storage=storage, storage_seed=5), model()
    trained(optimizer, params=params)
    other, theirs = Adam(), copy.deepcopy(params)
    if by_file:
        optimizer.save(tmp_path / "a", params)
        other.load(tmp_path / "a", theirs)
    else:
        other.load_state_dict(optimizer.state_dict())
    assert (other.state_storage, other.storage_seed) == (storage, 5)
    assert_same_state(optimizer, other)
    trained(optimizer, params=params)
    trained(other, params=theirs)
    for key, value in params.items():
        assert_same_bits(value, theirs[key])
    assert_same_state(optimizer, other)


def test_files_are_smaller(tmp_path):
    sizes = []
    for storage in ("float32", *COMPACT):
        optimizer = Adam(state_storage=storage)
        trained(optimizer, 1)
        optimizer.save(tmp_path / storage)
        sizes.append((tmp_path / storage).stat().st_size)
    assert sizes[1] < 0.6 * sizes[0]
    assert sizes[2] < 0.35 * sizes[0]


@pytest.mark.parametrize("storage", COMPACT)
def test_other_storage_is_loaded_where_it_is_asked_for(storage, tmp_path):
    optimizer, params = Adam(), model()
    trained(optimizer, params=params)
    optimizer.save(tmp_path / "float32")
    with pytest.raises(CheckpointError, match=f"holds state in float32, and state_storage is '{storage}' here; cast="):
        Adam(state_storage=storage).load(tmp_path / "float32")
    other = Adam()
    other.load(tmp_path / "float32", cast=storage)
    assert other.state_storage == storage
    trained(other, 1, copy.deepcopy(params))
    other.save(tmp_path / "compact")
    back = Adam()
    back.load(tmp_path / "compact", cast="float32")
    assert back.state_storage == "float32"
    np.testing.assert_array_equal(back.m["W"], other.m["W"])
    trained(back, 1, params)
    assert back.m["W"].flags.writeable


@pytest.mark.parametrize("storage", COMPACT)
def test_as_float64_it_has_the_values_that_its_codes_stand_for(storage):
    optimizer = Adam(state_storage=storage)
    trained(optimizer, 1)
    other = Adam()
    other.load_state_dict(optimizer.state_dict(), cast="float64")
    assert other.state_storage == "float32"
    for key, value in optimizer.m.items():
        assert_same_bits(np.asarray(other.m[key]), np.asarray(value).astype(np.float64))


def test_wrong_codes_are_refused():
    optimizer = Adam(state_storage="int8")
    trained(optimizer, 1)
    saved = optimizer.state_dict()
    codes = saved["state"]["v"]["W"]
    for wrong in (
        type(codes)("int8", codes.codes.view(np.int8), codes.scales),
        type(codes)("int8", codes.codes, codes.scales[1:]),
    ):
        saved["state"]["v"]["W"] = wrong
        with pytest.raises(CheckpointError, match=r"v\['W'\] in state_dict has (codes|scales) of dtype"):
            Adam().load_state_dict(saved)


def test_codes_of_no_release_are_refused(tmp_path, monkeypatch):
    optimizer = Adam(state_storage="int8")
    trained(optimizer, 1)
    monkeypatch.setattr(file, "_put", lambda tensors, slot, name, array: tensors.update(_as_before(slot, name, array)))
    optimizer.save(tmp_path / "a")
    with pytest.raises(CheckpointError, match="codes that no release had"):
        Adam(state_storage="int8").load(tmp_path / "a")


def _as_before(slot, name, array):
    if not hasattr(array, "codes"):
        return {slot + name: array}
    return {slot + name: array.codes, f"{slot}.scales{name}": array.scales}
