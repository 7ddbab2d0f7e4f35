"""Threading layers, forks, and Python threads, each in a process of its own."""

import sys

import pytest

from fastopt import threads
from tests.conftest import python

needs_layer = pytest.mark.skipif(threads.layer() is None, reason="no threading layer here")

SETUP = """
import numpy as np, os, sys, fastopt
from contextlib import nullcontext
from fastopt import threads

def step(count=2, rule=fastopt.Adam):
    params, optimizer = {"W": np.ones(2_000_000, np.float32)}, rule(lr=0.5)
    with threads.exactly(count) if count else nullcontext():
        optimizer.update(params, {"W": np.ones(2_000_000, np.float32)})
    assert np.allclose(params["W"], 0.5)
"""


@needs_layer
def test_tbb_is_found_in_its_wheel():
    if sys.platform != "linux":
        pytest.skip("other platforms have other layers")
    assert (
        python(SETUP + "step(); import numba; print(numba.threading_layer(), threads.layer())").stdout.split()
        == ["tbb"] * 2
    )


def test_workqueue_is_never_used():
    code = SETUP + "step(None); print(threads.layer(), threads.threads_for(10**9))"
    assert python(code, NUMBA_THREADING_LAYER="workqueue").stdout.split() == ["None", "1"]
    with_error = python(SETUP + "step(2)", NUMBA_THREADING_LAYER="workqueue", check=False)
    assert "there is no threading layer for more than one thread: pip install tbb" in with_error.stderr


def test_openmp_waits_passively_and_the_environment_stays():
    code = SETUP + "step(None); print(threads.layer(), os.environ.get('OMP_WAIT_POLICY'))"
    output = python(code, NUMBA_THREADING_LAYER="omp").stdout.split()
    assert output in (["omp", "None"], ["None", "None"])


@pytest.mark.skipif(sys.platform != "linux", reason="libgomp")
def test_openmp_that_was_loaded_before_and_spins_is_left_alone_and_said_once():
    code = "import ctypes.util, ctypes\nname = ctypes.util.find_library('gomp')\nprint(bool(name))\n"
    if python(code).stdout.strip() != "True":
        pytest.skip("no libgomp here")
    code += "ctypes.CDLL(name)\n" + SETUP + "step(None); step(None); print(threads.layer())"
    process = python(code, NUMBA_THREADING_LAYER="omp")
    assert process.stdout.split()[-1] == "None" and process.stderr.count("OpenMP was loaded before") == 1
    assert python(code, NUMBA_THREADING_LAYER="omp", OMP_WAIT_POLICY="passive").stdout.split()[-1] == "omp"


@needs_layer
@pytest.mark.skipif(not hasattr(sys.modules["os"], "fork"), reason="no fork")
def test_forked_children_step_on():
    code = (
        SETUP
        + """
step()
for generation in range(3):
    child = os.fork()
    if child:
        _, status = os.waitpid(child, 0)
        os._exit(0 if status == 0 else 1)
    step(None)
    assert threads.threads_for(10**9) == 1
    print("stepped", flush=True)
"""
    )
    assert python(code).stdout.count("stepped") == 3


@needs_layer
def test_python_threads_step_different_optimizers():
    code = (
        SETUP
        + """
from concurrent.futures import ThreadPoolExecutor
with ThreadPoolExecutor(4) as pool:
    list(pool.map(lambda _: step(2), range(40)))
print("done")
"""
    )
    assert "done" in python(code).stdout


def test_numbas_thread_count_is_left_as_it_was():
    code = (
        SETUP
        + "import numba; numba.set_num_threads(1); step(None); step(3); print(numba.get_num_threads(), threads.threads_for(10**9))"
    )
    assert python(code).stdout.split() == ["1", "1"]


def test_small_steps_are_serial():
    assert threads.threads_for(1000) == 1
    with threads.exactly(1):
        assert threads.threads_for(10**9) == 1
