"""Threading layers, forks, and Python threads, each in a process of its own."""

import runpy
import sys
import warnings

import pytest

from fastopt import threads
from fastopt.kernels import flags
from tests.conftest import python

needs_layer = pytest.mark.skipif(threads.layer() is None, reason="no threading layer here")

SETUP = """
import numpy as np, os, sys, fastopt
from contextlib import nullcontext
from fastopt import threads

def step(count=2, rule=fastopt.Adam):
    params, optimizer = {"W": np.ones(4_000_000, np.float32)}, rule(lr=0.5)
    with threads.exactly(count) if count else nullcontext():
        optimizer.update(params, {"W": np.ones(4_000_000, np.float32)})
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
    assert process.stdout.split()[-1] == "None" and process.stderr.count("OpenMP's threads spin") == 1
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
@pytest.mark.skipif(not hasattr(sys.modules["os"], "fork"), reason="no fork")
def test_a_forked_child_goes_on_with_an_optimizer_that_took_several_threads():
    code = (
        SETUP
        + """
params, grads, optimizer = np.ones(4_000_000), np.ones(4_000_000), fastopt.SGD(lr=0.125)
for _ in range(4):
    optimizer.update(params, grads)
child = os.fork()
for _ in range(2):
    optimizer.update(params, grads)
assert (params == 0.25).all()
if child:
    _, status = os.waitpid(child, 0)
    os._exit(0 if status == 0 else 1)
print("stepped", flush=True)
"""
    )
    assert python(code).stdout.count("stepped") == 1


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


@needs_layer
def test_numbas_collective_names():
    """In one process the names are tried on numba's setting, of which the last decides what steps run on."""
    code = """
for name in ("safe", "forksafe", "threadsafe"):
    threads.config.THREADING_LAYER = name
    threads.layer.cache_clear()
    print(threads.layer())
step(2)
print(threads.layer())
"""
    assert python(SETUP + code, NUMBA_THREADING_LAYER="safe").stdout.split() == [threads.layer()] * 4


def test_the_number_of_threads_can_be_limited(monkeypatch):
    most = threads.config.NUMBA_NUM_THREADS
    ordinary = threads.threads_for(10**9)
    with threads.num_threads(1):
        assert threads.threads_for(10**9) == 1 and threads.limit() == 1
        with threads.num_threads(None):
            assert threads.threads_for(10**9) == ordinary
        assert threads.threads_for(10**9) == 1
    assert threads.threads_for(10**9) == ordinary and threads.limit() is None
    for bad, error in ((0, ValueError), (most + 1, ValueError), (1.0, TypeError), ("2", TypeError), (True, TypeError)):
        with pytest.raises(error, match=f"set_num_threads: the number of threads must be .*from 1 to {most}"):
            threads.set_num_threads(bad)
    code = SETUP + "print(threads.limit(), threads.threads_for(10**9))"
    assert python(code, FASTOPT_NUM_THREADS="1").stdout.split() == ["1", "1"]


WRONG = "FASTOPT_NUM_THREADS={} must be a whole number of threads from 1 to 2"


def test_a_bad_number_of_threads_in_the_environment_warns_once():
    """The import goes on, with what there is: the same job script may run on machines of all sizes."""
    code = SETUP + "print(threads.limit(), threads.most(), threads.config.NUMBA_NUM_THREADS)"
    process = python(code, FASTOPT_NUM_THREADS="64", NUMBA_NUM_THREADS="2")
    assert process.stdout.split() == ["2", "2", "2"]
    assert process.stderr.count(f"RuntimeWarning: {WRONG.format(64)}") == 1


@pytest.mark.parametrize("bad", ["0", "many", "-1", "1.5", "64"])
def test_bad_numbers_of_threads(bad, monkeypatch):
    monkeypatch.setenv("FASTOPT_NUM_THREADS", bad)
    monkeypatch.setattr(threads.config, "NUMBA_NUM_THREADS", 2)
    with pytest.warns(RuntimeWarning, match=WRONG.format(bad)):
        assert threads._from_environment() == (2 if bad == "64" else None)


@pytest.mark.parametrize(("value", "checks"), [("1", True), (" 1", True), ("0", False), ("", False), ("yes", False)])
def test_the_switch_for_checks_of_addresses(value, checks, monkeypatch):
    monkeypatch.setenv("FASTOPT_CHECK", value)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert runpy.run_path(flags.__file__)["CHECK"] is checks  # as an import reads it
    assert [str(warning.message).partition(";")[0] for warning in caught] == ["FASTOPT_CHECK must be 0 or 1"] * (
        value == "yes"
    )


POOLS = """
import multiprocessing, os, sys
from concurrent.futures import ProcessPoolExecutor
import numpy as np, fastopt

def work(number):
    params, optimizer = {"W": np.ones(2_000_000, np.float32)}, fastopt.Adam(lr=0.5)
    for _ in range(3):
        optimizer.update(params, {"W": np.ones(2_000_000, np.float32)})
    return float(params["W"][number])

if __name__ == "__main__":
    expected = work(0)  # the parent has a thread pool already
    context = multiprocessing.get_context(sys.argv[1])
    with context.Pool(2) as pool:
        assert pool.map(work, range(4)) == [expected] * 4
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        assert list(pool.map(work, range(4))) == [expected] * 4
    print("done")
"""


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_process_pools(method, tmp_path):
    import multiprocessing

    if method not in multiprocessing.get_all_start_methods():
        pytest.skip("not on this platform")
    (tmp_path / "pools.py").write_text(POOLS)
    code = "import runpy, sys; sys.argv[1:] = [sys.argv[1]]; runpy.run_path('pools.py', run_name='__main__')"
    if method == "fork":
        assert "done" in python(code, method, cwd=tmp_path).stdout
    else:  # the children import the script by its path
        import subprocess

        process = subprocess.run(
            [sys.executable, "pools.py", method], cwd=tmp_path, capture_output=True, text=True, timeout=120
        )
        assert process.returncode == 0 and "done" in process.stdout, process.stderr


def test_one_optimizer_in_two_threads_is_refused_and_whole():
    code = (
        SETUP
        + """
from concurrent.futures import ThreadPoolExecutor
params, optimizer = {"W": np.ones(3_000_000, np.float32)}, fastopt.Momentum(lr=1.0, momentum=0.0)
grads = {"W": np.full(3_000_000, 0.5, np.float32)}
optimizer.update(params, grads)

def attempt(_):
    try:
        optimizer.update(params, grads)
        return 1
    except RuntimeError as error:
        assert "in the middle of a step" in str(error), error
        return 0

with ThreadPoolExecutor(4) as pool:
    done = sum(pool.map(attempt, range(200)))
print(done < 200, optimizer.iter == done + 1, np.unique(params["W"]).tolist() == [1 - 0.5 * (done + 1)])
"""
    )
    assert python(code).stdout.split() == ["True"] * 3


INTERRUPTED = (
    SETUP
    + """
import random, signal, time
from fastopt import reference

left, pairs = 0, 0

def interrupt(*_):  # wherever it comes
    global left
    left -= 1
    if left > 0:
        signal.setitimer(signal.ITIMER_REAL, random.uniform(1e-6, 60e-6))
    raise KeyboardInterrupt

signal.signal(signal.SIGALRM, interrupt)
random.seed(0)
rng = np.random.default_rng(0)
start = {"a": rng.standard_normal(300), "b": rng.standard_normal(300).astype(np.float32), "x": 1.0,
         "s": rng.standard_normal(600)[::2], "F": np.asfortranarray(rng.standard_normal((4, 5)))}
start["tied"] = start["a"]
grads = {key: rng.standard_normal(np.shape(value)) for key, value in start.items()}

def copied():
    own = {key: np.copy(value) if key != "x" else value for key, value in start.items() if key != "tied"}
    own["s"] = np.repeat(own["s"], 2)[::2]
    return {**own, "tied": own["a"]}

mine, optimizer, interrupts = copied(), fastopt.Adam(), 0
optimizer.update(mine, grads)  # compiles
for number in range(4000):
    left = 1 + number % 2  # every second time there is another, which finds the first one's handlers
    try:
        try:
            signal.setitimer(signal.ITIMER_REAL, random.uniform(1e-6, 120e-6))
            optimizer.update(mine, grads)
            time.sleep(0.0005)  # until the alarm has come
        except KeyboardInterrupt:
            interrupts += 1
            time.sleep(0.0005)
    except KeyboardInterrupt:
        pairs += 1
yours, plain = copied(), reference.Adam()
for _ in range(optimizer.iter):
    plain.update(yours, grads)
assert interrupts > 100 and pairs > 100, (interrupts, pairs)
for key in mine:
    assert np.asarray(mine[key]).tobytes() == np.asarray(yours[key]).tobytes(), key
for slot in "mv":
    for key in mine:
        assert np.ascontiguousarray(getattr(optimizer, slot)[key]).tobytes() == getattr(plain, slot)[key].tobytes(), key
print(interrupts, optimizer.iter)
"""
)


@pytest.mark.skipif(not hasattr(sys.modules["signal"], "setitimer"), reason="no interval timers")
def test_ctrl_c_at_any_moment_leaves_whole_steps():
    """A step is either counted and complete in every array, or not counted and nothing was written."""
    interrupts, steps = map(int, python(INTERRUPTED).stdout.split())
    assert interrupts > 100 and steps > 100


def test_an_exception_in_the_middle_leaves_the_optimizer_usable():
    import numpy as np

    import fastopt

    class Stubborn(dict):
        broken = False

        def __setitem__(self, key, value):
            if self.broken:
                raise OSError("no")
            super().__setitem__(key, value)

    params, optimizer = Stubborn(x=1.0, W=np.ones(3)), fastopt.Momentum(lr=1.0)
    grads = {"x": 1.0, "W": np.ones(3)}
    optimizer.update(params, grads)
    params.broken = True
    with pytest.raises(OSError, match="no"):
        optimizer.update(params, grads)
    params.broken = False
    optimizer.update(params, grads)
    assert optimizer.iter == 3 and params["W"].tolist() == [1 - 1 - 1.9 - 2.71] * 3
