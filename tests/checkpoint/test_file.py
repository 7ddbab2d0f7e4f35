"""The file of a checkpoint: how it is written, and how much of a machine a strange one may take."""

import hashlib
import json
import os
import sys

import numpy as np
import pytest

import fastopt
from fastopt import CheckpointError
from fastopt.checkpoint import file, tensor_file
from tests.checkpoint.test_state_dict import metadata_of, rewritten, stepped
from tests.conftest import python


def test_keys_that_cannot_be_saved(tmp_path):
    optimizer, key = fastopt.Adam(), frozenset("a")
    optimizer.update({key: np.ones(2)}, {key: np.ones(2)})
    with pytest.raises(
        CheckpointError, match="of type frozenset cannot be saved; name parameters by text, numbers or tuples"
    ):
        optimizer.save(tmp_path / "state")
    assert list(tmp_path.iterdir()) == []
    other = fastopt.Adam()
    other.load_state_dict(optimizer.state_dict())  # as a dict it can
    assert list(other.m) == [key]


def test_a_file_that_cannot_be_written_leaves_the_old_one(tmp_path, monkeypatch):
    optimizer = stepped(W=3)
    optimizer.save(tmp_path / "state")
    before = (tmp_path / "state").read_bytes()

    def fail(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="No space"):
        optimizer.save(tmp_path / "state")
    assert (tmp_path / "state").read_bytes() == before and len(list(tmp_path.iterdir())) == 1
    with pytest.raises(OSError):
        optimizer.save(tmp_path / "nowhere" / "state")


def test_a_file_takes_no_more_memory_than_its_size(tmp_path):
    """A header that promises a terabyte, and one that promises many arrays in one place."""
    for header in (
        {"m": {"dtype": "F64", "shape": [1 << 37], "data_offsets": [0, 1 << 40]}},
        {f"m{i}": {"dtype": "F64", "shape": [1000], "data_offsets": [0, 8000]} for i in range(1000)},
    ):
        text = json.dumps(header).encode()
        (tmp_path / "state").write_bytes(len(text).to_bytes(8, "little") + text + b"\0" * 8000)
        with pytest.raises(CheckpointError, match="is damaged, or no checkpoint"):
            fastopt.Adam().load(tmp_path / "state")


def file_of(header, data=b""):
    return len(header).to_bytes(8, "little") + header + data


A, B = (f'"{name}":{{"dtype":"F64","shape":[2],"data_offsets":[{at},{at + 16}]}}' for name, at in (("a", 0), ("b", 16)))
HEADERS = {
    "no object": f"[{A},{B}]",
    "not closed": f"{{{A},{B}",
    "more behind": f"{{{A},{B}}}}}",
    "nothing between": f"{{{A}{B}}}",
    "other order": f"{{{B},{A}}}",
    "in one place": f"{{{A},{A}}}",
    "a gap": f"{{{A}}}",
    "an unknown dtype": f"{{{A},{B.replace('F64', 'F16')}}}",
    "another size": f"{{{A},{B.replace('[2]', '[3]')}}}",
    "other dimensions": f"{{{A},{B.replace('[2]', '[2,,1]')}}}",
    "no integers": f"{{{A},{B.replace('[2]', '[2.0]')}}}",
    "a gap before": f"{{{B}}}",
    "over the whole": f"{{{A},{B.replace('[2]', '[4]').replace('16,32', '0,32')}}}",
    "larger than its place": f"{{{A.replace('[2]', '[3]')},{B}}}",
    "smaller than its place": f"{{{A.replace('[2]', '[1]')},{B}}}",
    "other beginning": f"[{A},{B}}}",
    "closed at the beginning": f"}}{A},{B}}}",
    "other end": f"{{{A},{B}]",
    "comma at the end": f"{{{A},{B},",
    "backwards": f"{{{A},{B.replace('[16,32]', '[32,16]')}}}",
    "no text": f"{{{A},{B.replace('b', chr(92) + 'x')}}}",
    "metadata are no object": f'{{"__metadata__":["a"],{A},{B}}}',
    "metadata are no text": f'{{"__metadata__":{{"a":1}},{A},{B}}}',
}


@pytest.mark.parametrize("header", HEADERS)
def test_a_header_that_is_not_that_of_its_content(header, tmp_path):
    path, data = tmp_path / "state", b"\0" * 32
    path.write_bytes(file_of(f"{{{A},{B}}}  ".encode(), data))
    with pytest.raises(CheckpointError, match="is a safetensors file but no checkpoint of fastopt"):
        fastopt.Adam().load(path)
    path.write_bytes(file_of(HEADERS[header].encode(), data))
    with pytest.raises(CheckpointError, match=r"is damaged, or no checkpoint of fastopt \("):
        fastopt.Adam().load(path)


def test_a_header_of_more_than_there_can_be(tmp_path):
    header, data = f"{{{A},{B}}}".encode(), b"\0" * 32
    (tmp_path / "state").write_bytes(len(header).to_bytes(7, "little") + b"\1" + header + data)
    with pytest.raises(CheckpointError, match="is damaged, or no checkpoint"):
        fastopt.Adam().load(tmp_path / "state")


def test_the_checksum_is_of_names_dtypes_shapes_bytes_and_texts():
    """The same for ever, as files have it."""
    digests = {
        tensor_file.checksum(tensors, {"rule": rule})
        for rule in ("sgd", "adam")
        for tensors in (
            {},
            {"m": np.zeros((5, 1, 7))},
            {"v": np.zeros((5, 1, 7))},
            {"m": np.zeros((7, 1, 5))},
            {"m": np.zeros((5, 1, 14), np.float32)},
            {"m": np.full((5, 1, 7), -0.0)},
            {"m": np.zeros((5, 0, 7))},
        )
    }
    assert (
        len(digests) == 14 and hashlib.sha256("".join(sorted(digests)).encode()).hexdigest()[:16] == "ccb1c32fdbdfb11a"
    )


# Each child saves one step after the other until it is killed.
KILLED = """
import itertools, os, random, signal, sys, time, numpy as np, fastopt
path, rng = sys.argv[1], random.Random(0)
def save(pipe):
    optimizer, params = fastopt.Adam(), {"W": np.zeros(300_000)}
    for step in itertools.count(1):
        optimizer.update(params, {"W": np.full(300_000, float(step))})
        optimizer.save(path)
        os.write(pipe, b"%d " % step)
for _ in range(12):
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        save(writing)
    os.close(writing)
    with open(reading, "rb") as pipe:
        numbers = pipe.read1()
        time.sleep(rng.uniform(0, 0.25))
        os.kill(child, signal.SIGKILL)
        last = int((numbers + pipe.read()).split()[-1])
    os.waitpid(child, 0)
    optimizer = fastopt.Adam()
    optimizer.load(path)
    assert optimizer.iter in (last, last + 1)
    assert len(os.listdir(os.path.dirname(path))) <= 2  # and what was being written, which the next save removes
    print(last)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="POSIX")
def test_a_kill_at_any_moment_leaves_the_old_file_or_the_new_one(tmp_path):
    assert len(python(KILLED, str(tmp_path / "state")).stdout.split()) == 12


def test_links_permissions_and_other_files_are_left_as_they_are(tmp_path):
    optimizer, other = stepped(W=3), tmp_path / "state.tmp"
    other.write_text("not ours")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "real").write_bytes(b"")
    (tmp_path / "folder" / "real").chmod(0o600)
    (tmp_path / "link").symlink_to(tmp_path / "folder" / "real")
    for name in ("state", "link"):
        optimizer.save(tmp_path / name)
        assert not any(fastopt.Adam().load(tmp_path / name))
    assert other.read_text() == "not ours" and (tmp_path / "link").is_symlink()
    assert (tmp_path / "folder" / "real").stat().st_mode & 0o777 == 0o600
    assert len(list(tmp_path.iterdir())) == 4 and len(list((tmp_path / "folder").iterdir())) == 1


@pytest.mark.parametrize("key", [float("nan"), 2**70, 2**63, -(2**63), ("a", float("nan"))], ids=str)
def test_keys_that_could_not_be_found_again(key, tmp_path):
    optimizer = fastopt.Adam()
    optimizer.update({key: np.ones(2)}, {key: np.ones(2)})
    with pytest.raises(CheckpointError, match="cannot be saved"):
        optimizer.save(tmp_path / "state")


def test_whole_numbers_of_64_bits_are_keys(tmp_path):
    keys = [0, 3, -64, 200, 2**62, 2**63 - 1, 1 - 2**63, -0.5, ("a", 2**63 - 1)]
    optimizer, other = fastopt.Momentum(), fastopt.Momentum()
    optimizer.update({key: np.ones(2) for key in keys}, {key: np.ones(2) for key in keys})
    optimizer.save(tmp_path / "state")
    assert not any(other.load(tmp_path / "state")) and list(other.v) == keys


def written_by(change=None, params=None, grads=None, **settings):
    """An optimizer that has stepped, but where there are no gradients."""
    optimizer, params = fastopt.Adam(**settings), params or {"W": np.ones(3)}
    if grads is not False:
        optimizer.update(params, grads or {key: np.ones_like(value) for key, value in params.items()})
    if change:
        change(optimizer, params)
    return optimizer


def one_more(optimizer, params):
    optimizer.update(params | {"late": np.ones(2)}, {"W": np.ones(3), "late": np.ones(2)})


FORMATS = {  # the first version of the format that can say this
    "plain": (lambda: written_by(), 1),
    "not stepped": (lambda: written_by(grads=False), 1),
    "groups": (lambda: written_by(groups={"W": {"lr": 0.5}}), 1),
    "average": (lambda: written_by(averaging=fastopt.EMA()), 1),
    "compact": (lambda: written_by(params={"W": np.ones(5000, np.float32)}, state_storage="bfloat16"), 3),
    "counts": (lambda: written_by(one_more), 3),
    "bounds": (lambda: written_by(bounds=(-1, 1)), 4),
    "bounds of a group": (lambda: written_by(groups={"W": {"bounds": (-1, 1)}}), 4),
    "l1": (lambda: written_by(l1=0.1), 4),
    "problems": (lambda: written_by(params={"W": np.ones((2, 3))}, batch_axis=0), 4),
    "problems, not stepped": (lambda: written_by(grads=False, batch_axis=0), 4),
    "complex": (lambda: written_by(params={"W": np.ones(3, complex)}), 5),
}


@pytest.mark.parametrize("what", FORMATS)
def test_a_file_is_of_the_first_format_that_can_say_it(what, tmp_path):
    make, expected = FORMATS[what]
    optimizer, path = make(), tmp_path / "state"
    optimizer.save(path)
    metadata = metadata_of(path)
    assert metadata["format"] == str(expected)
    assert ("rows" in metadata, "estimates" in metadata, "factors" in metadata) == (False, False, False)
    assert ("averaged" in metadata) == (what == "average") and ("counts" in metadata) == (what == "counts")
    assert ("groups" in json.loads(metadata["hyperparameters"])) == ("group" in what)
    named = set(file.OMITTED) & set(json.loads(metadata["hyperparameters"]))
    assert all(getattr(optimizer, name) != getattr(fastopt.Adam, name) for name in named)
    assert expected == 4 or named <= {"state_storage"}
    other = fastopt.Adam(l1=0.5, max_skips=3, cautious=True, storage_seed=5)  # which the file's replace
    other.load(path)
    assert other.state_dict().keys() == optimizer.state_dict().keys() and repr(other) == repr(optimizer)


def test_a_bare_array_lies_as_it_did(tmp_path):
    for array in (np.ones((3, 2)), np.ones((3, 2), order="F")):
        optimizer, other = fastopt.Adam(), fastopt.Adam()
        optimizer.update(array, np.arange(6.0).reshape(3, 2))
        optimizer.save(tmp_path / "state")
        other.load(tmp_path / "state")
        assert other.m.strides == array.strides and (other.m == optimizer.m).all()


def test_eight_arrays_that_are_too_many_are_named(tmp_path):
    stepped(W=3).save(tmp_path / "state")
    rewritten(tmp_path / "state", lambda tensors, _: tensors.update({f"x{n}": np.ones(2) for n in range(9)}))
    with pytest.raises(CheckpointError, match="it holds x0, x1, x2, x3, x4, x5, x6, x7 besides"):
        fastopt.Adam().load(tmp_path / "state")


MEMORY = """
import json, resource, sys, safetensors.numpy, fastopt
from fastopt.checkpoint import tensor_file
metadata = {"format": "1", "fastopt": "0", "rule": "adam", "step": "1", "skipped": "0", "hyperparameters": "{}", "keys": "null", "fortran": "[]"}
text = "[" + ",".join(["[]"] * 3_000_000) + "]"
metadata[sys.argv[1]] = text
metadata["checksum"] = tensor_file.checksum({}, metadata)
with open("state", "wb") as file:
    header = f'{{"{text}":{text}}}'.encode()
    file.write(len(header).to_bytes(8, "little") + header if sys.argv[1] == "header" else safetensors.numpy.save({}, metadata))
del metadata, text, header
optimizer, before = fastopt.Adam(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    optimizer.load("state")
except fastopt.CheckpointError as error:
    print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024, "too long" in str(error) or "damaged" in str(error))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss in kB")
@pytest.mark.parametrize("field", ["keys", "fortran", "hyperparameters", "header"])
def test_a_small_file_takes_little_memory(field, tmp_path):
    """9 MB that would be some 400 MB of Python objects."""
    megabytes, refused = python(MEMORY, field, cwd=tmp_path).stdout.split()
    assert refused == "True" and int(megabytes) < 90


@pytest.mark.parametrize("field", ["keys", "fortran", "hyperparameters", "rows", "estimates"])
def test_texts_may_be_as_long_as_the_arrays_that_they_are_about_allow(field, tmp_path):
    optimizer, path = stepped(W=3, another=2), tmp_path / "state"
    most = 100_000 + 4 * 100 + 2 * len('m/"W"v/"W"m/"another"v/"another"')
    for length in (most, most + 1):
        optimizer.save(path)
        rewritten(
            path,
            lambda _, metadata, length=length: metadata.update(
                {field: metadata.get(field, "[]" if field == "rows" else "{}").ljust(length)}
            ),
        )
        if length == most:
            assert not any(fastopt.Adam().load(path))
            continue
        with pytest.raises(CheckpointError, match=f"state is no checkpoint of fastopt: its {field} are too long$"):
            fastopt.Adam().load(path)


def test_settings_may_be_as_long_as_a_file_can_hold(tmp_path, monkeypatch):
    optimizer, path = stepped(W=3), tmp_path / "state"
    optimizer.save(path)
    length = len(metadata_of(path)["hyperparameters"])
    monkeypatch.setattr(file, "LONGEST", length)
    optimizer.save(path)
    monkeypatch.setattr(file, "LONGEST", length - 1)
    with pytest.raises(CheckpointError, match="are too long for a file; make them shorter"):
        optimizer.save(path)


@pytest.mark.parametrize("length", range(8))
def test_arrays_in_a_file_are_aligned_and_in_order_of_their_size(length):
    wide, narrow = np.zeros(3), np.zeros(3, np.float32)
    content, places = tensor_file.header({"a" * length: narrow, "z": wide, "y": wide, "x": narrow}, {})
    assert len(content) % 8 == 0 and int.from_bytes(content[:8], "little") == len(content) - 8
    assert content.rstrip(b" ").endswith(b"}") and len(content) - len(content.rstrip(b" ")) < 8
    assert list(places.items()) == [("y", 0), ("z", 24), ("a" * length, 48), ("x", 60)]
