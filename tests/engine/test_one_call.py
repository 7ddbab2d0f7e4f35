"""Steps that are one call of C, plans that are kept, and parameters that are other arrays at each step."""

import copy
import pickle
import signal
import sys
import threading
import time
import tracemalloc

import numpy as np
import pytest
from numba.core import config

import fastopt
from fastopt import threads, tuning
from fastopt.engine import step
from fastopt.kernels import RULES
from fastopt.kernels.flags import CHECK
from fastopt.kernels.one_call import THREADS
from tests.conftest import Pair, assert_same_bits, python

pytestmark = pytest.mark.skipif(CHECK or bool(config.DISABLE_JIT), reason="steps are in pure Python")

DTYPES = ["float32", "float64"]


def model(rng, dtype="float64"):
    shapes = {"W1": (6, 5), "b1": (5,), "F": (4, 3), "s": (), "none": (0, 2)}
    arrays = {key: rng.standard_normal(shape).astype(dtype) for key, shape in shapes.items()}
    return {**arrays, "s": np.array(0.5, dtype), "F": np.asfortranarray(arrays["F"])}


def like(params, rng):
    return {
        key: np.array(rng.standard_normal(np.shape(value)), getattr(value, "dtype", float), order="K")
        if np.ndim(value) != 2
        else np.array(rng.standard_normal(value.shape), value.dtype, order="F" if key == "F" else "C")
        for key, value in params.items()
    }


def warmed(optimizer, params, grads):
    for _ in range(2):
        optimizer.update(params, grads)
    return optimizer


def forms(params):
    return {"dict": params, "flat": fastopt.flatten({key: params[key] for key in params}), "array": params["W1"]}


@pytest.mark.parametrize("rule", [name for name, rule in RULES.items() if not rule.is_by_array])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("form", ["dict", "flat", "array"])
def test_every_rule_steps_in_one_call_with_the_same_bits(rule, dtype, form, rng, in_one_call):
    fast, pair = forms(model(rng, dtype))[form], Pair(rule)
    plain = copy.deepcopy(fast)
    for number in range(6):
        grads = forms(like(model(rng, dtype), rng))[form]
        if number == 3:
            in_one_call()
        pair.update(fast, plain, grads)
    assert pair.fast.iter == 6
    for key in fast if form != "array" else [...]:
        assert_same_bits(fast[key], plain[key])
    pair.assert_same_state()


@pytest.mark.parametrize(
    "settings", [{"weight_decay": 0.1}, {"weight_decay": 0.1, "decoupled": True}, {"clip_value": 0.3}]
)
def test_options_whose_amounts_stay(settings, rng, in_one_call):
    pair, fast = Pair("adam", **settings), model(rng)
    plain = copy.deepcopy(fast)
    for number in range(6):
        if number == 3:
            in_one_call()
        pair.update(fast, plain, like(fast, rng))
    for key in fast:
        assert_same_bits(fast[key], plain[key])


def test_keys_may_be_equal_texts_and_any_object_that_is_the_same(in_one_call):
    keys = ["".join(["W", str(number)]) for number in range(3)]
    params, grads = {key: np.zeros(2) for key in keys}, {key: np.ones(2) for key in keys}
    optimizer = warmed(fastopt.SGD(lr=1.0), params, grads)
    in_one_call()
    optimizer.update(params, {"".join(["W", str(number)]): np.ones(2) for number in range(3)})
    assert [value.tolist() for value in params.values()] == [[-3, -3]] * 3


@pytest.mark.parametrize("nested", [False, True])
def test_gradients_may_be_in_any_order(nested, rng, in_one_call):
    """As of backward passes, which begin at the last layer; a step in Python takes some 0.07 ms more in a large loop."""
    pair, fast = Pair("adam"), model(rng)
    fast = {"first": fast, "then": {"V": np.ones(3)}} if nested else fast
    plain = copy.deepcopy(fast)

    def reordered(mapping):
        keys = sorted(mapping, key=lambda key: rng.random())
        return {key: reordered(mapping[key]) if isinstance(mapping[key], dict) else mapping[key] for key in keys}

    for number in range(6):
        grads = like(plain["first"] if nested else plain, rng)
        grads = {"then": {"V": rng.standard_normal(3)}, "first": grads} if nested else grads
        if number == 3:
            in_one_call()
        pair.update(fast, plain, reordered(grads))
    for mine, expected in (
        [(fast["first"], plain["first"]), (fast["then"], plain["then"])] if nested else [(fast, plain)]
    ):
        for key in mine:
            assert_same_bits(mine[key], expected[key])


class Key:
    """Looks like a text to a dict that looks for it."""

    def __init__(self, text):
        self.text, self.compared = text, 0

    def __hash__(self):
        return hash(self.text)

    def __eq__(self, other):
        self.compared += 1
        return self.text == other


def test_keys_that_run_python_are_left_to_python():
    params, key = {"W": np.zeros(2), "b": np.zeros(2)}, Key("b")
    optimizer = warmed(fastopt.SGD(lr=1.0), params, {"W": np.ones(2), "b": np.ones(2)})
    grads = {key: np.ones(2), "W": np.ones(2)}
    assert optimizer._plan.check(params, grads) == 0 and key.compared == 0
    for wrong in ({"b": np.ones(2)}, {"b": np.ones(2), "V": np.ones(2)}, {"b": 1, "W": 2, "V": 3}):
        assert optimizer._plan.check(params, wrong) == 0
    assert optimizer._plan.check(params, {"b": np.ones(2), "W": np.ones(2)}) != 0
    assert optimizer._plan.check({key: params[key] for key in ("b", "W")}, grads) == 0, "of parameters order counts"


def test_settings_count_at_the_next_step(rng):
    pair, fast = Pair("adam"), model(rng)
    plain = copy.deepcopy(fast)
    changes = [
        ("lr", 0.5), ("weight_decay", 0.1), ("lr", 0.01), ("clip_norm", 0.5),
        ("clip_norm", np.inf), ("clip_array_norm", 0.1), ("clip_array_norm", np.inf), ("maximize", True), ("iter", 20),
    ]  # fmt: skip
    for name, value in changes:
        for optimizer in (pair.fast, pair.plain):
            setattr(optimizer, name, value)
        for _ in range(3):
            pair.update(fast, plain, like(fast, rng))
    for key in fast:
        assert_same_bits(fast[key], plain[key])


def test_groups_that_are_added_in_place_count_at_the_next_step(rng):
    params = {"W": np.zeros(2), "b": np.zeros(2)}
    optimizer = warmed(fastopt.SGD(lr=1.0), params, {"W": np.ones(2), "b": np.ones(2)})
    optimizer.groups["b"] = {"frozen": True}
    optimizer.update(params, {"W": np.ones(2), "b": np.ones(2)})
    assert params["W"].tolist() == [-3, -3] and params["b"].tolist() == [-2, -2]


def test_threads_that_are_asked_for_are_used(monkeypatch):
    params = {"W": np.zeros(2)}
    optimizer = warmed(fastopt.SGD(), params, params)
    asked = []
    monkeypatch.setattr(step, "make", lambda *given: asked.append(given))
    with threads.exactly(1):
        optimizer.update(params, params)
    assert asked


@pytest.mark.skipif(threads.layer() is None or threads.most() == 1, reason="one thread")
@pytest.mark.parametrize("mode", ["off", "auto"])
def test_steps_on_several_threads_are_one_call_with_the_same_bits(mode, rng, in_one_call):
    before = tuning.mode()
    fastopt.set_tuning(mode)
    try:
        pair, fast = Pair("adam"), {"W": rng.standard_normal((300, 401)), "b": rng.standard_normal(20_000)}
        plain, counts = copy.deepcopy(fast), []
        for number in range(40):
            if number == 3:
                in_one_call()
            limit = 1 if mode == "off" and number % 2 else None
            with threads.num_threads(limit):
                pair.update(fast, plain, {key: rng.standard_normal(value.shape) for key, value in fast.items()})
            if number > 3:
                counts.append(int(pair.fast._plan.words[THREADS]))
    finally:
        fastopt.set_tuning(before)
    assert set(counts) == {1, threads.most()}
    for key in fast:
        assert_same_bits(fast[key], plain[key])
    pair.assert_same_state()


def wrong():
    """Arguments for a step after some with good ones, and what they raise."""
    ones = np.ones((2, 3))
    good = {"W": ones, "b": np.ones(3)}
    locked = np.ones((2, 3))
    locked.flags.writeable = False
    return {
        "shape": ({}, {**good, "W": np.ones((3, 2))}, ValueError),
        "dimensions": ({}, {**good, "W": np.ones(6)}, ValueError),
        "dtype": ({}, {**good, "W": np.ones((2, 3), complex)}, TypeError),
        "kind": ({}, {**good, "W": "one"}, TypeError),
        "missing": ({}, {"W": ones}, KeyError),
        "read-only": ({"W": locked}, good, ValueError),
        "other shape": ({"W": np.ones((3, 2))}, good, ValueError),
        "other dtype": ({"W": np.ones((2, 3), np.float32)}, good, TypeError),
        "no array": ({"W": "one"}, good, TypeError),
        "no dict": (None, good, TypeError),
    }


@pytest.mark.parametrize("what", wrong())
def test_errors_are_raised_as_ever_and_nothing_is_written(what):
    changed, grads, error = wrong()[what]
    params = {"W": np.zeros((2, 3)), "b": np.zeros(3)}
    optimizer = warmed(fastopt.Adam(), params, {"W": np.ones((2, 3)), "b": np.ones(3)})
    before, slots = copy.deepcopy(params), copy.deepcopy((optimizer.m, optimizer.v))
    for _ in range(2):
        with pytest.raises(error):
            optimizer.update(None if changed is None else {**params, **changed}, grads)
    assert optimizer.iter == 2
    for found, expected in zip((params, optimizer.m, optimizer.v), (before, *slots), strict=True):
        for key in expected:
            assert_same_bits(found[key], expected[key])
    optimizer.update(params, {"W": np.ones((2, 3)), "b": np.ones(3)})
    assert optimizer.iter == 3


def test_a_parameter_that_is_read_only_from_now_on_is_refused():
    params = {"W": np.zeros(2)}
    optimizer = warmed(fastopt.SGD(), params, {"W": np.ones(2)})
    params["W"].flags.writeable = False
    with pytest.raises(ValueError, match="read-only"):
        optimizer.update(params, {"W": np.ones(2)})


def test_gradients_in_written_memory(rng):
    params = {"W": np.zeros(4), "b": np.zeros(4)}
    optimizer = warmed(fastopt.SGD(lr=1.0), params, {"W": np.ones(4), "b": np.ones(4)})
    for bad in (params["b"], optimizer_state(params)["W"]):
        with pytest.raises(ValueError, match="memory"):
            optimizer_for(bad, params, optimizer).update(params, {"W": bad, "b": np.ones(4)})
    params["W"][:] = [1, 2, 3, 4]
    optimizer.update(params, {"W": params["W"], "b": np.ones(4)})  # its own
    assert params["W"].tolist() == [0, 0, 0, 0]


def optimizer_state(params):
    optimizer_state.kept = warmed(fastopt.Momentum(), params, {key: np.ones(4) for key in params})
    return optimizer_state.kept.v


def optimizer_for(gradient, params, otherwise):
    return otherwise if gradient is params["b"] else optimizer_state.kept


# -- numbers ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", [name for name, rule in RULES.items() if not rule.is_by_array])
def test_floats_step_in_one_call_with_the_same_bits(rule, rng, in_one_call):
    fast = {"x": -7.0, "a": np.ones(3), "y": 2.0}
    plain, pair = {**fast, "a": np.ones(3)}, Pair(rule)
    gradients = [1.5, np.float64(-2.5), float("inf"), float("nan"), 0.0, 1e-320]
    for number, gradient in enumerate([1.0, 2.0, 3.0, *gradients]):
        if number == 3:
            in_one_call()
        pair.update(fast, plain, {"x": gradient, "a": rng.standard_normal(3), "y": -0.5})
        for key in fast:
            assert type(fast[key]) is type(plain[key]) or key != "a"
            assert_same_bits(fast[key], plain[key])
    assert type(fast["x"]) is float
    pair.assert_same_state()


def test_numbers_of_other_kinds_come_and_go(rng):
    fast = {"x": -7.0, "y": 2.0}
    plain, pair = dict(fast), Pair("adam")
    kinds = [float, int, np.float32, np.array, float, np.float64, lambda value: np.array(value, np.float32)]
    for kind in kinds * 2:
        pair.update(fast, plain, {"x": kind(3.0), "y": 1.0})
        assert_same_bits(fast["x"], plain["x"])
    fast["x"] = plain["x"] = np.float64(1.5)
    for _ in range(3):
        pair.update(fast, plain, {"x": 1.0, "y": 1.0})
        assert type(fast["x"]) is np.float64 and fast == plain


@pytest.mark.parametrize(("size", "steps"), [(3, 2000), (50_000, 300)])
def test_objects_are_let_go(size, steps):
    params, grads, optimizer = {"x": 1.0, "W": np.zeros(size)}, {"x": 1.5, "W": np.ones(size)}, fastopt.Adam()
    if size > 3:
        del params["x"], grads["x"]
    fastopt.set_tuning("off")
    warmed(optimizer, params, grads)
    counts = [sys.getrefcount(value) for value in (params["W"], *grads.values(), params, grads, *params)]
    tracemalloc.start()
    before = tracemalloc.take_snapshot()
    for _ in range(steps):
        optimizer.update(params, grads)
    grown = sum(line.count_diff for line in tracemalloc.take_snapshot().compare_to(before, "lineno"))
    tracemalloc.stop()
    assert counts == [sys.getrefcount(value) for value in (params["W"], *grads.values(), params, grads, *params)]
    assert grown < 500, grown
    fastopt.set_tuning("auto")


# -- other threads ------------------------------------------------------------------------------------------------------


@pytest.fixture
def no_switches():
    """No thread has to let go of the GIL after a while."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1000.0)
    yield
    sys.setswitchinterval(before)


@pytest.mark.parametrize(("size", "runs"), [(100, False), (1_000_000, True)])
def test_other_threads_run_beside_a_step_that_takes_long(size, runs, no_switches, in_one_call, monkeypatch):
    fastopt.set_tuning("off")
    monkeypatch.setattr(threads, "threads_for", lambda moved_bytes: 1)
    params, grads, optimizer = {"W": np.zeros(size)}, {"W": np.ones(size)}, fastopt.SGD()
    warmed(optimizer, params, grads)
    in_one_call()
    turns, is_over = [0], threading.Event()

    def other():
        while not is_over.is_set():
            turns[0] += 1
            time.sleep(0)

    thread = threading.Thread(target=other)
    thread.start()
    try:
        before = turns[0]
        for _ in range(100):
            optimizer.update(params, grads)
        assert (turns[0] > before) == runs
    finally:
        is_over.set()
        thread.join()
        fastopt.set_tuning("auto")


def test_gradients_that_another_thread_lets_go_of_live_as_long_as_the_step():
    """The memory of arrays of this size goes back to the system at once."""
    size = 300_000
    params, grads, optimizer = {"W": np.zeros(size)}, {"W": np.ones(size)}, fastopt.SGD(lr=1.0)
    warmed(optimizer, params, grads)
    is_over = threading.Event()

    def replace():
        while not is_over.is_set():
            grads["W"] = np.ones(size)

    thread = threading.Thread(target=replace)
    thread.start()
    try:
        for _ in range(100):
            optimizer.update(params, grads)
    finally:
        is_over.set()
        thread.join()
    assert (params["W"] == -102.0).all()


# -- whole steps --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, lambda value: pickle.loads(pickle.dumps(value))])
def test_copies_go_on_by_themselves(copied):
    params, grads = {"W": np.zeros(3), "x": 1.0}, {"W": np.ones(3), "x": 1.0}
    optimizer = warmed(fastopt.Adam(), params, grads)
    other, others = copied(optimizer), copy.deepcopy(params)
    for _ in range(3):
        optimizer.update(params, grads)
    assert other.iter == 2
    for _ in range(3):
        other.update(others, grads)
    assert_same_bits(params["W"], others["W"])
    assert params["x"] == others["x"] and other.iter == optimizer.iter == 5


def test_state_that_is_forgotten_or_loaded(rng):
    params, grads = {"W": np.zeros(3)}, {"W": np.ones(3)}
    optimizer = warmed(fastopt.Momentum(lr=1.0, momentum=0.5), params, grads)
    saved = optimizer.state_dict()
    optimizer.update(params, grads)
    optimizer.load_state_dict(saved)
    assert optimizer.v["W"].tolist() == [-1.5] * 3
    optimizer.update(params, grads)
    assert optimizer.v["W"].tolist() == [-1.75] * 3 and optimizer.iter == 3
    optimizer.v = None
    optimizer.update(params, grads)
    assert optimizer.v["W"].tolist() == [-1.0] * 3


INTERRUPTED = """
import random, signal, time, sys
import numpy as np, fastopt
from fastopt import reference

signal.signal(signal.SIGALRM, signal.default_int_handler)  # raises KeyboardInterrupt wherever it comes
random.seed(0)
replaces = sys.argv[1] == "replaces"
rng = np.random.default_rng(0)
start = {"a": rng.standard_normal(30), "b": rng.standard_normal(20), "x": 1.0}
grads = {"a": rng.standard_normal(30), "b": rng.standard_normal(20), "x": 0.5}
some = {**grads, "b": None}
copied = lambda: {key: value if key == "x" else value.copy() for key, value in start.items()}
mine, optimizer, interrupts, made = copied(), fastopt.Adam(), 0, []
for _ in range(3):
    for given in (grads, some):
        optimizer.update(mine, given)
        made.append(given is grads)
for number in range(2000):
    given = grads if number % 3 else some
    if replaces and number % 2:
        mine["a"] = mine["a"].copy()
    before = optimizer.iter
    try:
        signal.setitimer(signal.ITIMER_REAL, random.uniform(1e-6, 100e-6) * random.choice([1, 1, 20]))  # to a new plan
        try:
            optimizer.update(mine, given)
            time.sleep(0.003)  # until the alarm has come
        except KeyboardInterrupt:
            interrupts += 1
    except KeyboardInterrupt:
        interrupts += 1
    signal.setitimer(signal.ITIMER_REAL, 0)
    assert optimizer.iter - before in (0, 1)
    if optimizer.iter > before:
        made.append(given is grads)
yours, plain = copied(), reference.Adam()
for whole in made:
    plain.update(yours, grads if whole else some)
for key in mine:
    assert np.asarray(mine[key]).tobytes() == np.asarray(yours[key]).tobytes(), key
for slot in "mv":
    for key in mine:
        assert getattr(optimizer, slot)[key].tobytes() == getattr(plain, slot)[key].tobytes(), key
optimizer.update(mine, grads)
print(interrupts, optimizer.iter)
"""


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="no interval timers")
@pytest.mark.parametrize("how", ["stays", "replaces"])
def test_ctrl_c_at_any_moment_leaves_whole_steps(how):
    interrupts, steps = map(int, python(INTERRUPTED, how).stdout.split())
    assert interrupts > 100 and steps > 100
