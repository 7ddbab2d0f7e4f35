"""The disk cache may cost time, never a step: every way in which it can fail, each in fresh processes."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import python

STEP = """
import sys, warnings
import numpy as np, fastopt
from fastopt.kernels import build

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
    kernel = [line for line in process.stdout.splitlines() if "loops.sgd" in line]
    loaded, saved = (any(f"data {word}" in line for line in kernel) for word in ("loaded", "saved"))
    return "hit" if loaded else "saved" if saved else "memory", process.stderr.count("disk cache cannot be used")


def kernel_files(folder, suffix):
    files = sorted(Path(folder).rglob(f"loops.sgd*.{suffix}"))
    assert files
    return files


def test_a_cold_and_a_warm_start(tmp_path):
    assert [run(tmp_path), run(tmp_path)] == [("saved", 0), ("hit", 0)]


@pytest.mark.parametrize("suffix", ["nbi", "nbc"])
@pytest.mark.parametrize("content", [b"", b"garbage" * 100, None])
def test_a_damaged_file_is_written_anew(tmp_path, suffix, content):
    run(tmp_path)
    (file,) = kernel_files(tmp_path, suffix)
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2] if content is None else content)
    assert [run(tmp_path), run(tmp_path)] == [("saved", 0), ("hit", 0)]


def test_a_file_that_the_index_names_is_gone(tmp_path):
    run(tmp_path)
    for file in kernel_files(tmp_path, "nbc"):
        file.unlink()
    assert [run(tmp_path), run(tmp_path)] == [("saved", 0), ("hit", 0)]


def test_nowhere_to_write(tmp_path):
    """A read-only installation, and no home that exists."""
    assert run(tmp_path, NOWHERE + STEP) == ("memory", 1)


def test_home_does_not_exist(tmp_path):
    where = {"HOME": "/nonexistent/home", "XDG_CACHE_HOME": "/nonexistent/cache"}
    assert [run(tmp_path, **where), run(tmp_path, **where)] == [("saved", 0), ("hit", 0)]


def test_a_read_only_installation_falls_back_to_the_users_folder(tmp_path):
    code = """
import tempfile, fastopt.kernels.build as build
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


@pytest.mark.parametrize("where", ["index", "data"])
def test_a_full_disk(tmp_path, where):
    code = f"""
from numba.core.caching import IndexDataCacheFile
def full(*args):
    raise OSError(28, "No space left on device")
IndexDataCacheFile._save_{where} = full
"""
    assert run(tmp_path, code + STEP) == ("memory", 1)
    assert [run(tmp_path), run(tmp_path)] == [("saved", 0), ("hit", 0)]


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


def test_numbas_settings_that_change_the_code_miss(tmp_path):
    assert [run(tmp_path), run(tmp_path, NUMBA_OPT="1"), run(tmp_path), run(tmp_path, NUMBA_OPT="1")] == [
        ("saved", 0), ("saved", 0), ("hit", 0), ("hit", 0),
    ]  # fmt: skip


def test_eight_processes_start_cold_at_once(tmp_path):
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
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for _ in range(8)
    ]
    for process in processes:
        out, err = process.communicate(timeout=300)
        assert process.returncode == 0 and "RESULT 0.5" in out and err == "", err
    assert run(tmp_path, code) == ("hit", 0)


def test_one_kernel_is_compiled_for_a_step_not_two(tmp_path):
    run(tmp_path)
    assert len(kernel_files(tmp_path, "nbc")) == 1
