"""`fastopt.mpi` on one to four processes, as many as there are or more than there are cores."""

import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import fastopt
from bench import mpi
from tests.conftest import ROOT, assert_same_bits, python

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


# Four, which are more than the cores of many a machine and spin while they wait, run what depends most on how arrays are
# shared out.
SOME = ["layerwise_rules", "whole_matrices", "rows", "checkpoints", "what_cannot_work"]


@pytest.mark.parametrize(("ranks", "names"), [(1, []), (2, []), (3, []), (4, [f"check_{name}" for name in SOME])])
def test_same_bits_as_one_process_and_errors_on_all(ranks, names):
    assert f"passed on {ranks}" in mpiexec(ranks, "-m", "tests.mpi.programs", *names).stdout


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


def test_a_killed_process_ends_the_job_and_the_last_checkpoint_loads(tmp_path):
    path = str(tmp_path / "adam.safetensors")
    code = FAILING.replace("FAIL", "os.kill(os.getpid(), signal.SIGKILL)") + f"    optimizer.save({path!r}, params)\n"
    assert mpiexec(2, "-c", code, check=False, timeout=60).returncode != 0
    optimizer, params = fastopt.Adam(), {"W": np.zeros(100)}
    optimizer.load(path, params)
    expected, reference = fastopt.Adam(), {"W": np.ones(100)}
    for _ in range(optimizer.iter):
        expected.update(reference, {"W": np.ones(100)})
    assert optimizer.iter == 3
    assert_same_bits(params["W"], reference["W"])


GOING_ON = """
import os, sys, numpy as np, fastopt, fastopt.mpi
from mpi4py import MPI
rank = MPI.COMM_WORLD.rank
for storage in ("float32", "int8"):
    path = os.path.join(sys.argv[1], storage)
    params = {"W": np.zeros((70, 90), np.float32), "b": np.zeros(50, np.float32)}
    optimizer = fastopt.mpi.Sharded(fastopt.Adam(clip_norm=1.0, state_storage=storage), reduce="sum")
    if os.path.exists(path):
        optimizer.load(path, params)
    for _ in range(2):
        rng = np.random.default_rng(optimizer.iter)
        grads = {key: rng.standard_normal(value.shape) * (rank == 0) for key, value in params.items()}
        optimizer.update(params, {key: grad.astype(np.float32) for key, grad in grads.items()})
    optimizer.save(path, params)
"""


def test_a_training_goes_on_with_the_same_bits_on_1_3_2_and_1_processes(tmp_path):
    for ranks in (1, 3, 2, 1):
        mpiexec(ranks, "-c", GOING_ON, str(tmp_path))
    shapes = {"W": (70, 90), "b": 50}
    for storage in ("float32", "int8"):
        optimizer, params = fastopt.Adam(), {key: np.ones(shape, np.float32) for key, shape in shapes.items()}
        optimizer.load(tmp_path / storage, params)
        plain = fastopt.Adam(clip_norm=1.0, state_storage=storage)
        reference = {key: np.zeros(shape, np.float32) for key, shape in shapes.items()}
        for step in range(8):
            rng = np.random.default_rng(step)
            plain.update(reference, {key: rng.standard_normal(shapes[key]).astype(np.float32) for key in reference})
        assert optimizer.state_storage == storage
        for key in reference:
            assert_same_bits(params[key], reference[key])
            assert_same_bits(optimizer.v[key], plain.v[key])


def test_info_is_said_once_and_names_the_share_of_the_cores():
    text = mpiexec(2, "-m", "fastopt", "info").stdout
    assert text.count("versions:") == 1 and "2 processes, 2 on this machine" in text
    limited = "import os; os.environ['FASTOPT_NUM_THREADS'] = '1'; from fastopt.cli import main; main(['info'])"
    assert "1 thread, which were set" in mpiexec(2, "-c", limited).stdout


def test_training_on_two_processes_ends_with_equal_parameters():
    arguments = "train --mpi --steps 30 --hidden 20 --batch 64".split()
    text = mpiexec(2, "-m", "fastopt", *arguments).stdout
    assert text.count("identical bits") == 1 and "64 as 2 times 32" in text
    job = mpiexec(2, "-m", "fastopt", *arguments[:-1], "63", check=False)
    assert job.returncode != 0 and "choose --batch" in job.stderr and "Traceback" not in job.stderr


def test_the_evolution_strategy_learns_the_same_on_one_and_two_processes():
    script = "docs/source/tutorials/evolution_strategy.py"
    code = f"import runpy; runpy.run_path({script!r})['main'](generations=3)"
    one, two = (mpiexec(ranks, "-c", code).stdout.splitlines() for ranks in (1, 2))
    assert one == two and len(one) == 3


def test_the_model_of_time():
    size, link = 30 * 10**6, 1.25e9
    for ranks in (2, 1024):
        assert mpi.sharded_seconds(size, ranks, link) < mpi.allreduce_seconds(size, ranks, link, mpi.NUMPY)
    assert mpi.sharded_seconds(size, 1, link) < mpi.sharded_seconds(size, 2, link)


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
