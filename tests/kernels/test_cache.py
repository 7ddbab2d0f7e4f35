"""The disk cache may cost time, never a step: every way in which it can fail, each in fresh processes."""

import os
import secrets
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from fastopt.kernels import cache
from tests.conftest import python

STEP = """
import sys, warnings
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


def run(folder, code=STEP, **environment):
    process = python(code, NUMBA_CACHE_DIR=str(folder), NUMBA_DEBUG_CACHE="1", **environment)
    assert process.stdout.count("RESULT 0.5") == 1
    kernel = [line for line in process.stdout.splitlines() if "passes.sgd" in line]
    loaded, saved = (any(f"data {word}" in line for line in kernel) for word in ("loaded", "saved"))
    return "hit" if loaded else "saved" if saved else "memory", process.stderr.count("disk cache cannot be used")


@pytest.fixture(scope="module")
def started(tmp_path_factory):
    """A cache of what steps of all rules share, which most of the time of a cold start goes into."""
    folder = tmp_path_factory.mktemp("started")
    run(folder)
    for file in kernel_files(folder, "nbc"):
        file.unlink()
    return folder


@pytest.fixture
def folder(started, tmp_path):
    """A cache without the kernel that a step needs."""
    return Path(shutil.copytree(started, tmp_path / "cache"))


def kernel_files(folder, suffix):
    files = sorted(Path(folder).rglob(f"passes.sgd*.{suffix}"))
    assert files
    return files


def test_a_cold_and_a_warm_start(tmp_path):
    assert [run(tmp_path), run(tmp_path)] == [("saved", 0), ("hit", 0)]


@pytest.mark.parametrize("content", [b"", b"garbage" * 100, None])
def test_a_damaged_file_is_written_anew(folder, content):
    run(folder)
    (file,) = kernel_files(folder, "nbc")
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2] if content is None else content)
    assert [run(folder), run(folder)] == [("saved", 0), ("hit", 0)]


def test_a_flipped_bit_in_any_file_is_found(folder):
    """Of machine code with one wrong bit numba would make a crash, at this start and the next."""
    run(folder)
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


def test_swapped_files_are_found(folder):
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


def test_a_file_that_is_gone_is_written_anew(folder):
    run(folder)
    for file in kernel_files(folder, "nbc"):
        file.unlink()
    assert [run(folder), run(folder)] == [("saved", 0), ("hit", 0)]


def test_nowhere_to_write(tmp_path):
    """A read-only installation, and no home that exists."""
    assert run(tmp_path, NOWHERE + STEP) == ("memory", 1)


def test_home_does_not_exist(tmp_path):
    where = {"HOME": "/nonexistent/home", "XDG_CACHE_HOME": "/nonexistent/cache"}
    assert [run(tmp_path, **where), run(tmp_path, **where)] == [("saved", 0), ("hit", 0)]


def test_a_read_only_installation_falls_back_to_the_users_folder(tmp_path):
    code = """
import tempfile, fastopt.kernels
ordinary = tempfile.TemporaryFile
def only_the_users(*args, dir=None, **kwargs):
    if str(dir).endswith("__pycache__"):
        raise PermissionError(13, "Permission denied")
    return ordinary(*args, dir=dir, **kwargs)
tempfile.TemporaryFile = only_the_users
"""
    runs = [
        python(
            code + STEP,
            HOME=str(tmp_path),
            XDG_CACHE_HOME=str(tmp_path / "cache"),
            NUMBA_CACHE_DIR="",
            NUMBA_DEBUG_CACHE="1",
        )
        for _ in range(2)
    ]
    assert "data saved" in runs[0].stdout and "data loaded" in runs[1].stdout and "data saved" not in runs[1].stdout
    assert all("RESULT 0.5" in run.stdout and "cannot be used" not in run.stderr for run in runs)
    assert kernel_files(tmp_path / "cache", "nbc")


def test_a_full_disk(folder):
    code = """
from fastopt.kernels import cache
def full(*args):
    raise OSError(28, "No space left on device")
cache.os.replace = full
"""
    assert run(folder, code + STEP) == ("memory", 1)
    assert [run(folder), run(folder)] == [("saved", 0), ("hit", 0)]


def test_a_truly_full_disk(tmp_path):
    """A file system of a few pages, where the machine lets us mount one."""
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", str(folder)], capture_output=True)
    if mounted.returncode:
        pytest.skip("this machine does not let us mount a file system")
    try:
        assert run(folder) == ("memory", 1)
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_it_is_said_once(tmp_path):
    more = """
for rule in (fastopt.Momentum, fastopt.Adam):
    rule().update({"p": np.ones(3), "q": np.ones(3, np.float32)}, {"p": np.ones(3), "q": np.ones(3)})
"""
    assert run(tmp_path, NOWHERE + STEP + more) == ("memory", 1)


def test_a_cache_that_another_processor_wrote(tmp_path):
    """A home folder that several machines share: each finds its own kernels beside the others'."""
    assert run(tmp_path, NUMBA_CPU_NAME="x86-64", NUMBA_CPU_FEATURES="")[1] == 0
    assert [run(tmp_path), run(tmp_path)] == [("saved", 0), ("hit", 0)]
    assert run(tmp_path, NUMBA_CPU_NAME="x86-64", NUMBA_CPU_FEATURES="") == ("hit", 0)


def test_numbas_settings_that_change_the_code_miss(folder):
    assert [run(folder), run(folder, NUMBA_OPT="1"), run(folder), run(folder, NUMBA_OPT="1")] == [
        ("saved", 0), ("saved", 0), ("hit", 0), ("hit", 0),
    ]  # fmt: skip


def test_eight_processes_start_cold_at_once(folder):
    code = (
        STEP
        + """
for rule in (fastopt.Momentum, fastopt.Adam):
    for dtype in (np.float32, np.float64):
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
        for _ in range(8)
    ]
    for process in processes:
        out, err = process.communicate(timeout=300)
        assert process.returncode == 0 and "RESULT 0.5" in out and err == "", err
    assert run(folder, code) == ("hit", 0)


def test_one_kernel_is_compiled_for_a_step_not_two(folder):
    run(folder)
    assert len(kernel_files(folder, "nbc")) == 1
