"""`fastopt.mpi` on one to four processes, as many as there are or more than there are cores."""

import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT, python

MPIEXEC = shutil.which("mpiexec", path=str(Path(sys.executable).parent)) or shutil.which("mpiexec")

pytestmark = pytest.mark.skipif(
    MPIEXEC is None or importlib.util.find_spec("mpi4py") is None,
    reason="needs mpi4py and an MPI library with mpiexec: pip install mpi4py mpich",
)


def mpiexec(ranks, *arguments, check=True, timeout=120):
    """Runs Python on some processes; returns the finished job with its output as text."""
    job = subprocess.run(
        [MPIEXEC, "-n", str(ranks), sys.executable, *arguments],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=timeout,
    )
    if check:
        assert job.returncode == 0, job.stdout + job.stderr
    return job


@pytest.mark.parametrize("ranks", [1, 2, 3, 4])
def test_same_bits_as_one_process_and_errors_on_all(ranks):
    assert f"passed on {ranks}" in mpiexec(ranks, "-m", "tests.mpi.programs").stdout


def test_examples_in_docstrings():
    modules = ["abort", "sharded"]
    code = f"""
import doctest, importlib
for name in {modules}:
    found = doctest.testmod(importlib.import_module(f"fastopt.mpi.{{name}}"))
    assert found.attempted and not found.failed, name
"""
    mpiexec(1, "-c", code)


FAILING = """
import os, signal, sys, numpy as np, fastopt, fastopt.mpi
from mpi4py import MPI
rank = MPI.COMM_WORLD.rank
params, optimizer = {"W": np.ones(100)}, fastopt.mpi.Sharded(fastopt.Adam())
for step in range(1000):
    if step == 3 and rank == 1:
        FAIL
    optimizer.update(params, {"W": np.ones(100)})
"""


def test_an_exception_on_one_process_ends_the_job_with_its_traceback():
    job = mpiexec(2, "-c", FAILING.replace("FAIL", "raise OSError('the data are gone')"), check=False, timeout=60)
    assert job.returncode != 0 and "the data are gone" in job.stderr and "Traceback" in job.stderr


def test_a_killed_process_ends_the_job():
    job = mpiexec(2, "-c", FAILING.replace("FAIL", "os.kill(os.getpid(), signal.SIGKILL)"), check=False, timeout=60)
    assert job.returncode != 0


def test_the_hook_can_be_removed():
    code = """
import sys
before = sys.excepthook
import fastopt.mpi
assert sys.excepthook is not before
fastopt.mpi.abort_on_exception(False)
assert sys.excepthook is before
fastopt.mpi.abort_on_exception()
fastopt.mpi.abort_on_exception()
fastopt.mpi.abort_on_exception(False)
assert sys.excepthook is before
"""
    python(code)


def test_without_mpi4py_the_error_says_what_to_install():
    code = "import sys; sys.modules['mpi4py'] = None\ntry:\n    import fastopt.mpi\nexcept ImportError as error:\n    print(error)"
    assert "pip install 'fastopt[mpi]' mpich" in python(code).stdout
