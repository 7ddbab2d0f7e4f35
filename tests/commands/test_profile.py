"""Where the time of a loop goes: `fastopt.profile` and the command. No test asserts a time."""

import re
import sys

import numpy as np
import pytest

import fastopt
from fastopt import blas, profile_report, profiling
from fastopt.optimizers import OPTIMIZERS
from tests.commands.test_cli import run


class Momentum:
    """As in the book."""

    def __init__(self, lr=0.01, momentum=0.9):
        self.lr, self.momentum, self.v = lr, momentum, None

    def update(self, params, grads):
        if self.v is None:
            self.v = {key: np.zeros_like(value) for key, value in params.items()}
        for key in params:
            self.v[key] = self.momentum * self.v[key] - self.lr * grads[key]
            params[key] += self.v[key]


class Net:
    def __init__(self):
        self.params = {"W": np.ones((30, 20)), "b": np.ones(20)}

    def gradient(self):
        return {key: 0.1 * value for key, value in self.params.items()}

    def loss(self):
        return 1.0, self.gradient()


def gradient_of(params):
    return [0.1 * value for value in params]


class OnLists:
    def step(self, params, grads):
        for p, g in zip(params, grads, strict=True):
            p -= 0.1 * g


def test_the_optimizer_and_the_gradient_are_found():
    net, optimizer, update, gradient = Net(), Momentum(), Momentum.update, Net.gradient
    with fastopt.profile(blas_threads=False) as found:
        for _ in range(40):
            grads = net.gradient()
            optimizer.update(net.params, grads)
    assert Momentum.update is update and Net.gradient is gradient and sys.getprofile() is None
    assert len(found.steps) == 38 and optimizer.v is not None  # all but the one that found it, and the first after
    assert found._gradient_name == "Net.gradient" and found.gradient + found.optimizer <= found.step
    assert found.memory_limit > 0 and found.fastopt_step > 0 and found.gain >= 1
    lines = str(found).splitlines()
    assert lines[0].startswith("whole step ") and "BLAS on" in lines[0]
    assert lines[2].startswith("  optimizer ") and lines[2].endswith("its own Momentum, 620 float64 in 2 arrays")
    assert any(line.startswith("fastopt.Momentum ") for line in lines) and "38 steps" in repr(found)


def test_gradients_in_a_tuple_and_from_a_function():
    net, optimizer = Net(), fastopt.Adam()
    with fastopt.profile(blas_threads=False) as found:
        for _ in range(10):
            _, grads = net.loss()
            optimizer.update(net.params, grads)
    assert found._gradient_name == "Net.loss" and optimizer.iter == 10
    assert "fastopt's Adam, 620 float64" in str(found) and "fastopt's optimizer takes" in str(found)
    params = [np.ones(3), np.ones((2, 2))]
    with fastopt.profile(blas_threads=False) as found:
        for _ in range(10):
            grads = gradient_of(params)
            OnLists.step(optimizer_on_lists, params, grads)
    assert found._gradient_name == "gradient_of" and gradient_of.__code__.co_name == "gradient_of"
    assert "fastopt.SGD" in str(found)


optimizer_on_lists = OnLists()


def test_unknown_gradients_are_told_with_the_rest():
    params, optimizer = np.ones(5), fastopt.SGD()
    with fastopt.profile(optimizer, blas_threads=False) as found:
        for _ in range(5):
            optimizer.update(params, 0.1 * params)
    assert found.gradient is None and "  gradient and the rest" in str(found) and "5 float64 in 1 array" in str(found)


def test_only_the_named_optimizer_is_timed():
    params, one, other = {"W": np.ones(3)}, fastopt.SGD(), fastopt.SGD()
    with fastopt.profile(one, blas_threads=False) as found:
        for _ in range(5):
            other.update(params, {"W": np.ones(3)})
            one.update(params, {"W": np.ones(3)})
    assert len(found.steps) == 4 and found.optimizer_object is one


def test_an_error_in_the_loop_puts_everything_back():
    update = Momentum.update
    with pytest.raises(ZeroDivisionError), fastopt.profile(Momentum()):
        raise ZeroDivisionError
    assert Momentum.update is update and sys.getprofile() is None


def test_what_cannot_be_profiled():
    with pytest.raises(TypeError, match=r"expected an optimizer with a method update\(params, grads\), got 3"):
        with fastopt.profile(3):
            pass
    sys.setprofile(lambda *_: None)
    try:
        with pytest.raises(RuntimeError, match="another profiler is running"), fastopt.profile():
            pass
    finally:
        sys.setprofile(None)
    with fastopt.profile() as found:
        pass
    assert str(found) == "no steps were seen"


@pytest.mark.parametrize(
    ("optimizer", "rule"),
    [(fastopt.LAMB(), "lamb"), (Momentum(), "momentum"), (OnLists(), "sgd"), (type("Own", (), {})(), "sgd")],
)
def test_the_rule_that_does_the_same(optimizer, rule):
    assert profiling._Model(optimizer, {}, 0).rule == rule


def test_own_state_tells_the_rule():
    own = type("Own", (), {})()
    own.first, own.second, own.lr = {"W": np.ones(2)}, {"W": np.ones(2)}, 0.1
    assert profiling._Model(own, {}, 0).rule == "adam"


def made(optimizer, steps, limit=10e-6):
    found = profiling.Profile(try_blas=bool(steps))
    found._model = profiling._Model(optimizer, {"float32": 1000}, 2)
    found._blas.default = 2
    found._blas._libraries = [type("Blas", (), {"internal_api": "openblas"})]
    found.steps = [profiling._Step(total, step, 0.0, threads) for total, step, threads in steps]
    found.memory_limit = found.fastopt_step = limit
    return found


def test_the_verdict_is_honest():
    text = str(made(Momentum(), [(1e-3, 30e-6, 2)] * 9))
    assert "The optimizer takes 3% of a step: fastopt cannot help this loop (at most 1.02 times as fast)." in text
    text = str(made(Momentum(), [(1e-3, 510e-6, 2)] * 9))
    assert "fastopt can make this loop at most 2.00 times as fast: 1 ms a step could become 500 us." in text
    text = str(made(fastopt.Momentum(), [(1e-3, 510e-6, 2)] * 9))
    assert "fastopt's optimizer takes 51% of a step; at the memory limit the loop would be 2.00 times as fast." in text


def test_the_fastest_number_of_blas_threads():
    text = str(made(Momentum(), [(1e-3, 1e-6, 2), (0.8e-3, 410e-6, 1)] * 9))
    assert "Whole step by BLAS threads, in turns: 1: 800 us, 2: 1 ms." in text
    assert "One thread is 1.25 times as fast as 2 threads here; then fastopt can make the loop 2.00 times as" in text
    assert "Set OPENBLAS_NUM_THREADS=1 before" in text and "threadpool_limits(1, user_api='blas')" in text
    text = str(made(Momentum(), [(1e-3, 1e-6, 2), (0.99e-3, 1e-6, 1)] * 9))
    assert "2 threads, as now, is about as fast as any here." in text


def test_others_are_told_of():
    found = made(Momentum(), [(1e-3, 1e-6, 2)] * 9)
    found.others = 1.5
    assert str(found).endswith("Other processes kept 1.5 CPUs busy: these times are longer than on an idle machine.")


def test_blas_threads_take_turns_and_are_put_back():
    threads = blas.Threads()
    params, optimizer = {"W": np.ones(3)}, fastopt.SGD()
    with fastopt.profile(optimizer) as found:
        found._blas._libraries, found._blas.choices = [], [found._blas.default, 7]
        for step in range(80):
            if step % 5 == 0:
                found._until = 0.0
            optimizer.update(params, {"W": np.ones(3)})
    assert {*found.blas_threads} == {threads.default, 7} and found._blas.now == threads.default
    assert blas.Threads().default == threads.default


SCRIPT = """
import sys
import numpy as np

class Momentum:
    def __init__(self):
        self.lr, self.momentum, self.v = 0.5, 0.0, None
    def update(self, params, grads):
        self.v = {"W": -self.lr * grads["W"]}
        params["W"] += self.v["W"]

params, optimizer = {"W": np.ones((4, 4))}, Momentum()
for step in range(int(sys.argv[1])):
    optimizer.update(params, {"W": np.ones((4, 4))})
print("the end", params["W"][0, 0], optimizer.v is None)
"""


@pytest.fixture
def script(tmp_path):
    path = tmp_path / "script.py"
    path.write_text(SCRIPT)
    return str(path)


def test_the_command(capsys, script):
    before = sys.argv[:], sys.path[:]
    status, out, err = run(capsys, "profile", "--no-blas", script, "10")
    assert status == 0 and err == "" and "the end -4.0 False" in out
    assert "its own Momentum, 16 float64 in 1 array" in out and "gradient and the rest" in out
    assert "BLAS threads" not in out and (sys.argv, sys.path) == before


def test_the_command_stops_the_script(capsys, script):
    status, out, _ = run(capsys, "profile", "--no-blas", "--steps", "6", script, "1000000000")
    assert status == 0 and "the end" not in out and "median of 5 steps" in out


def test_the_command_takes_another_optimizer(capsys, script):
    status, out, _ = run(capsys, "profile", "--no-blas", "--optimizer", "momentum", script, "10")
    assert status == 0 and "the end -4.0 False" in out and "fastopt's Momentum, 16 float64" in out


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, r"no such script: '.*nowhere.py'"),
        ("print(1)", r"saw 0 optimizer steps, need 2 or more: calls of a method `update\(params, grads\)`"),
        ("1 / 0", "ZeroDivisionError: division by zero"),
        ("import sys; sys.exit(3)", "the script ended itself with status 3"),
    ],
)
def test_the_command_says_why_not(capsys, tmp_path, content, words):
    path = tmp_path / "nowhere.py"
    if content is not None:
        path.write_text(content)
    status, _, err = run(capsys, "profile", "--no-blas", str(path))
    assert status == 2 and re.search(words, err) and err.count("\n") == 1


def test_every_class_of_fastopt_is_its_own_rule():
    assert all(profiling._Model(kind(), {}, 0).rule == rule for rule, kind in OPTIMIZERS.items())
    assert profile_report._percent(0.001) == "<1%"
