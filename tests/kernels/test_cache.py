"""The disk cache may cost time, never a step: every way in which it can fail, each in fresh processes."""

import json
import os
import secrets
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from fastopt.kernels import cache
from tests.conftest import ONE_KERNEL, python

STEP = """
import numpy as np, fastopt
params = {"p": np.ones(3, np.float32)}
fastopt.SGD(lr=0.5).update(params, {"p": np.ones(3, np.float32)})
print("RESULT", params["p"][0])
"""

# Root may write everywhere, so "read-only" is a folder that cannot be made, for every place numba would try.
NOWHERE = """
import os, tempfile
def refuse(*args, **kwargs):
    raise PermissionError(13, "Permission denied")
os.makedirs = tempfile.TemporaryFile = refuse
"""

# Forks a child for each line, which is as fresh as a new process: the import is all that has happened by then.
CHILDREN = """
import json, os, sys, traceback, numba, fastopt
for line in sys.stdin:
    code, environment, output, errors = json.loads(line)
    child = os.fork()
    if child:
        print(os.waitpid(child, 0)[1], flush=True)
        continue
    for stream, path in ((1, output), (2, errors)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), stream)
    os.environ.update(environment)
    numba.core.config.reload_config()
    status = 1
    try:
        exec(code, {"__name__": "__main__"})
        status = 0
    except BaseException:
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
"""


@pytest.fixture(scope="module")
def outputs(tmp_path_factory):
    """A function that runs code in a fresh process and returns its output and errors."""
    if not hasattr(os, "fork"):
        yield lambda code, **environment: (lambda done: (done.stdout, done.stderr))(python(code, **environment))
        return
    files = [tmp_path_factory.mktemp("outputs") / name for name in ("output", "errors")]
    with subprocess.Popen(
        [sys.executable, "-c", CHILDREN], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as parent:

        def run(code, **environment):
            parent.stdin.write(json.dumps((code, environment, *map(str, files))) + "\n")
            parent.stdin.flush()
            status = int(parent.stdout.readline())
            output, errors = (file.read_text() for file in files)
            assert status == 0, output + errors
            return output, errors

        yield run
        parent.stdin.close()


@pytest.fixture(scope="module")
def run(outputs):
    def run(folder, code=STEP, **environment):
        output, errors = outputs(code, NUMBA_CACHE_DIR=str(folder), NUMBA_DEBUG_CACHE="1", **environment)
        assert output.count("RESULT 0.5") == 1
        kernel = [line for line in output.splitlines() if "passes.sgd" in line]
        loaded, saved = (any(f"data {word}" in line for line in kernel) for word in ("loaded", "saved"))
        return "hit" if loaded else "saved" if saved else "memory", errors.count("disk cache cannot be used")

    return run


@pytest.fixture(scope="module")
def filled(run, tmp_path_factory):
    """A cache after a cold and a warm start, and how these went."""
    folder = tmp_path_factory.mktemp("filled")
    return folder, [run(folder), run(folder)]


@pytest.fixture
def folder(filled, tmp_path):
    """A cache of all that a step needs."""
    return Path(shutil.copytree(filled[0], tmp_path / "cache"))


def kernel_files(folder):
    files = sorted(Path(folder).rglob("passes.sgd*.nbc"))
    assert files
    return files


def test_a_cold_and_a_warm_start(filled):
    assert filled[1] == [("saved", 0), ("hit", 0)]


def test_one_kernel_is_compiled_for_a_step_not_two(folder):
    assert len(kernel_files(folder)) == 1


def test_a_damaged_file_is_written_anew(run, folder):
    (file,) = kernel_files(folder)
    for content in (b"", b"garbage" * 100, file.read_bytes()[: file.stat().st_size // 2]):
        file.write_bytes(content)
        assert [run(folder), run(folder)] == [("saved", 0), ("hit", 0)]


def test_a_flipped_bit_in_any_file_is_found(run, folder):
    """Of machine code with one wrong bit numba would make a crash, at this start and the next."""
    for file in sorted(folder.rglob("*.nbc")):
        content = bytearray(file.read_bytes())
        content[secrets.randbelow(len(content))] ^= 1 << secrets.randbelow(8)
        file.write_bytes(content)
    assert [run(folder), run(folder)] == [("saved", 0), ("hit", 0)]


TWO = (
    STEP
    + """
fastopt.Momentum(lr=0.5).update({"p": np.ones(3, np.float32)}, {"p": np.ones(3, np.float32)})
"""
)


def test_swapped_files_are_found(run, folder):
    run(folder, TWO)
    first, second = sorted(folder.rglob("passes.sgd*.nbc")) + sorted(folder.rglob("passes.momentum*.nbc"))
    contents = first.read_bytes(), second.read_bytes()
    second.write_bytes(contents[0])
    first.write_bytes(contents[1])
    assert [run(folder, TWO), run(folder, TWO)] == [("saved", 0), ("hit", 0)]


class Implementation:
    """The place of a function by a cache of numba's."""

    def __init__(self, folder, name="kernel", stamp="stamp"):
        self.filename_base = name
        self.locator = self
        self.get_cache_path = lambda: str(folder)
        self.get_source_stamp = lambda: stamp


def files(folder, **what):
    return cache.CheckedFiles(SimpleNamespace(_impl=Implementation(folder, **what)))


def test_every_bit_counts(tmp_path):
    files(tmp_path).save("key", {"code": b"12345"})
    (file,) = tmp_path.iterdir()
    content = file.read_bytes()
    assert files(tmp_path).load("key") == {"code": b"12345"}
    for bit in range(8 * len(content)):
        changed = bytearray(content)
        changed[bit // 8] ^= 1 << bit % 8
        file.write_bytes(changed)
        assert files(tmp_path).load("key") is None
    for length in range(len(content)):
        file.write_bytes(content[:length])
        assert files(tmp_path).load("key") is None
    file.write_bytes(content + b"0")
    assert files(tmp_path).load("key") is None


@pytest.mark.parametrize("other", [{"name": "other"}, {"stamp": "other"}, {"key": "other"}])
def test_a_file_of_another_kernel_source_or_processor_is_a_miss(tmp_path, other):
    key = other.get("key", "key")
    files(tmp_path, **{name: value for name, value in other.items() if name != "key"}).save(key, 1)
    (file,) = tmp_path.iterdir()
    os.replace(file, files(tmp_path)._path("key"))
    assert files(tmp_path).load("key") is None


def test_a_file_that_cannot_be_written_leaves_none(tmp_path, monkeypatch):
    def fail(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(KeyboardInterrupt):
        files(tmp_path).save("key", 1)
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_gone_is_written_anew(run, folder):
    for file in kernel_files(folder):
        file.unlink()
    assert [run(folder), run(folder)] == [("saved", 0), ("hit", 0)]


def test_nowhere_to_write_is_said_once(run, tmp_path):
    """A read-only installation, and no home that exists."""
    more = """
for rule in ("momentum", "adam"):
    _callback(RULES[rule], "float32", "step", ())
"""
    assert run(tmp_path, NOWHERE + ONE_KERNEL + more) == ("memory", 1)


def test_home_does_not_exist(run, tmp_path):
    where = {"HOME": "/nonexistent/home", "XDG_CACHE_HOME": "/nonexistent/cache"}
    assert [run(tmp_path, ONE_KERNEL, **where), run(tmp_path, ONE_KERNEL, **where)] == [("saved", 0), ("hit", 0)]


def test_a_read_only_installation_falls_back_to_the_users_folder(outputs, tmp_path):
    code = """
import tempfile, fastopt.kernels
ordinary = tempfile.TemporaryFile
def only_the_users(*args, dir=None, **kwargs):
    if str(dir).endswith("__pycache__"):
        raise PermissionError(13, "Permission denied")
    return ordinary(*args, dir=dir, **kwargs)
tempfile.TemporaryFile = only_the_users
"""
    users = {"HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path / "cache"), "NUMBA_CACHE_DIR": ""}
    runs = [outputs(code + ONE_KERNEL, NUMBA_DEBUG_CACHE="1", **users) for _ in range(2)]
    (cold, _), (warm, _) = runs
    assert "data saved" in cold and "data loaded" in warm and "data saved" not in warm
    assert all("RESULT 0.5" in output and "cannot be used" not in errors for output, errors in runs)
    assert kernel_files(tmp_path / "cache")


def test_a_full_disk(run, tmp_path):
    code = """
from fastopt.kernels import cache
def full(*args):
    raise OSError(28, "No space left on device")
cache.os.replace = full
"""
    assert run(tmp_path, code + ONE_KERNEL) == ("memory", 1)
    assert [run(tmp_path, ONE_KERNEL), run(tmp_path, ONE_KERNEL)] == [("saved", 0), ("hit", 0)]


def test_a_truly_full_disk(run, tmp_path):
    """A file system of a few pages, where the machine lets us mount one."""
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", str(folder)], capture_output=True)
    if mounted.returncode:
        pytest.skip("this machine does not let us mount a file system")
    try:
        assert run(folder, ONE_KERNEL) == ("memory", 1)
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_a_cache_that_another_processor_wrote(run, tmp_path):
    """A home folder that several machines share: each finds its own kernels beside the others'."""
    other = {"NUMBA_CPU_NAME": "x86-64", "NUMBA_CPU_FEATURES": ""}
    assert run(tmp_path, ONE_KERNEL, **other) == ("saved", 0)
    assert [run(tmp_path, ONE_KERNEL), run(tmp_path, ONE_KERNEL)] == [("saved", 0), ("hit", 0)]
    assert run(tmp_path, ONE_KERNEL, **other) == ("hit", 0)


def test_numbas_settings_that_change_the_code_miss(run, tmp_path):
    found = [run(tmp_path, ONE_KERNEL, **settings) for _ in range(2) for settings in ({}, {"NUMBA_OPT": "1"})]
    assert found == [("saved", 0), ("saved", 0), ("hit", 0), ("hit", 0)]


def test_four_processes_start_cold_at_once(run, folder):
    """On four kernels, each of which is compiled in several processes, and saved by all of these."""
    for file in folder.rglob("passes.*.nbc"):
        file.unlink()
    code = (
        STEP
        + """
for rule, dtype in ((fastopt.Momentum, np.float32), (fastopt.Adam, np.float32), (fastopt.Adam, np.float64)):
    params = {"p": np.ones(50, dtype)}
    rule(lr=0.5).update(params, {"p": np.ones(50, dtype)})
    assert np.allclose(params["p"], 0.5), params
"""
    )
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(folder)}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for _ in range(4)
    ]
    for process in processes:
        out, err = process.communicate(timeout=300)
        assert process.returncode == 0 and "RESULT 0.5" in out and err == "", err
    assert run(folder, code) == ("hit", 0)
