"""Gradients that are not finite, and the report of a step."""

import copy
import math
import pickle

import numpy as np
import pytest

import fastopt
from fastopt import threads
from fastopt.engine import containers
from fastopt.optimizers import OPTIMIZERS
from tests.conftest import ONE_OF_EACH_KIND, THREAD_COUNTS, assert_same_bits, cases_of, python

BAD = {"nan": np.nan, "inf": np.inf, "-inf": -np.inf}


def model(dtype="float32"):
    rng = np.random.default_rng(0)
    shapes = {"W": (300, 70), "b": (70,), "none": (0,), "one": (), "F": (20, 30)}
    params = {key: np.asarray(rng.standard_normal(shape)).astype(dtype) for key, shape in shapes.items()}
    params["F"] = np.asfortranarray(params["F"])
    return params


def gradients(params, seed=0):
    rng = np.random.default_rng(seed)
    return {key: np.asarray(rng.standard_normal(value.shape)).astype(value.dtype) for key, value in params.items()}


def everything(optimizer, params):
    saved = optimizer.state_dict()
    arrays = [*params.values(), *(value for slot in saved.pop("state").values() if slot for value in slot.values())]
    arrays += [array for of_key in saved.pop("factors", {}).values() for array in of_key.values()]
    return saved, [(array.dtype, array.shape, array.tobytes()) for array in arrays]


@pytest.mark.parametrize(
    ("rule", "kind", "flat", "dtype", "count"),
    cases_of(OPTIMIZERS, list(BAD), [False, True], ["float32", "float64"], THREAD_COUNTS[:2]),
)
def test_raise_and_skip_write_nothing(rule, flat, kind, dtype, count):
    params = fastopt.flatten(model(dtype)) if flat else model(dtype)
    optimizer = OPTIMIZERS[rule](on_nonfinite="raise")
    with threads.exactly(count):
        for first in (True, False):
            bad = gradients(params, 1)
            bad["W"][7, 3] = bad["W"][9, 0] = BAD[kind]
            bad = fastopt.flatten(bad) if flat else bad
            optimizer.on_nonfinite = "raise"
            before, kept = everything(optimizer, params), copy.deepcopy(bad)
            with pytest.raises(
                FloatingPointError,
                match=rf"grads\['W'\] has 2 of 21000 values that are not finite, the first, {kind}, at \(7, 3\); nothing was written",
            ):
                optimizer.update(params, bad)
            assert everything(optimizer, params) == before
            optimizer.on_nonfinite = "skip"
            steps, skipped = optimizer.iter, optimizer.skipped
            before = everything(optimizer, params)
            assert optimizer.update(params, bad) is None
            assert (optimizer.iter, optimizer.skipped) == (steps, skipped + 1)
            before[0]["skipped"] += 1
            assert everything(optimizer, params) == before
            for key in bad:
                assert bad[key].tobytes() == kept[key].tobytes()
            if first:
                optimizer.update(params, gradients(params))
    assert optimizer.iter == 1


@pytest.mark.parametrize("rule", OPTIMIZERS)
def test_skipping_leaves_the_other_steps_as_they_are(rule):
    params, plain = model(), model()
    optimizer, other = OPTIMIZERS[rule](on_nonfinite="skip"), OPTIMIZERS[rule]()
    for step in range(6):
        grads = gradients(params, step)
        if step % 2:
            grads["b"][-1] = np.inf
        else:
            other.update(plain, grads)
        optimizer.update(params, grads)
    assert optimizer.skipped == 3 and optimizer.iter == other.iter == 3
    assert copy.deepcopy(optimizer).skipped == 3
    for key in params:
        assert_same_bits(params[key], plain[key])


def test_propagate_is_the_default_and_the_textbooks_way():
    params, optimizer = {"W": np.ones(3)}, fastopt.Adam()
    assert optimizer.on_nonfinite == "propagate" and optimizer.skipped == 0
    optimizer.update(params, {"W": np.array([1.0, np.nan, 1.0])})
    assert np.isnan(params["W"]).tolist() == [False, True, False]


def test_what_the_step_would_see_counts():
    params = {"W": np.ones(3, np.float32)}
    optimizer = fastopt.SGD(on_nonfinite="raise")
    with np.errstate(over="ignore"), pytest.raises(FloatingPointError, match=r"1 of 3 .*, inf, at 1"):
        optimizer.update(params, {"W": np.array([1.0, 1e300, 1.0])})
    optimizer.update({"W": np.ones(3)}, {"W": np.array([1.0, 1e300, 1.0])})  # whose square is not finite
    bare = np.ones(3)
    with pytest.raises(
        FloatingPointError, match=r"SGD: grads has 1 of 3 values that are not finite, the first, nan, at 2"
    ):
        fastopt.SGD(on_nonfinite="raise").update(bare, np.array([0, 0, np.nan]))
    with pytest.raises(
        FloatingPointError, match=r"grads\['x'\] has 1 of 1 values that are not finite, the first, nan; nothing"
    ):
        fastopt.SGD(on_nonfinite="raise").update({"x": 1.0, "y": 2.0}, {"x": np.nan, "y": None})


def test_only_the_known_words():
    with pytest.raises(ValueError, match="on_nonfinite must be 'propagate' or 'raise' or 'skip', got 'stop'"):
        fastopt.Adam(on_nonfinite="stop")


# -- reports ----------------------------------------------------------------------------------------------------------


def norm(arrays):
    return np.sqrt(sum(float(np.square(array, dtype=np.float64).sum()) for array in arrays))


@pytest.mark.parametrize("flat", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("rule", [*ONE_OF_EACH_KIND, "adam", "adagrad", "schedule_free_sgd", "lamb", "muon"])
def test_report(rule, dtype, flat):
    params = fastopt.flatten(model(dtype)) if flat else model(dtype)
    plain, optimizer, other = copy.deepcopy(params), OPTIMIZERS[rule](), OPTIMIZERS[rule]()
    for step in range(3):
        grads = gradients(params, step + 1)  # with seed 0 they are the parameters, of which lr = 1 leaves nothing
        grads["W"][:100] = 0
        grads = fastopt.flatten(grads) if flat else grads
        before = {key: value.copy() for key, value in params.items()}
        report = optimizer.update(params, grads, report=True)
        assert other.update(plain, grads) is None
        changes = {key: params[key].astype(float) - before[key] for key in params}
        for keys, found in [(list(params), report)] + [([key], norms) for key, norms in report.by_key.items()]:
            assert found.gradient_norm == pytest.approx(norm(grads[key] for key in keys), rel=1e-12)
            assert found.parameter_norm == pytest.approx(norm(params[key] for key in keys), rel=1e-12)
            assert found.update_norm == pytest.approx(norm(changes[key] for key in keys), rel=1e-12)
            assert found.update_ratio == pytest.approx(found.update_norm / (found.parameter_norm or 1), rel=1e-12)
            zeros, size = sum((grads[key] == 0).sum() for key in keys), sum(params[key].size for key in keys)
            assert found.zero_share == (zeros / size if size else 0) and found.nonfinite_share == 0
        assert list(report.by_key) == list(params) and not report.skipped
    for key in params:
        assert_same_bits(params[key], plain[key])  # a report changes nothing


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("rule", ONE_OF_EACH_KIND)
def test_reports_are_the_same_bits_for_any_number_of_threads(rule, dtype):
    found = []
    for count in THREAD_COUNTS:
        params, optimizer = (
            {"a": np.zeros(50_001, dtype), "b": np.ones((3, 9000), dtype), "c": np.ones(5, dtype)},
            OPTIMIZERS[rule](),
        )
        with threads.exactly(count):
            report = [optimizer.update(params, gradients(params, step), report=True) for step in range(3)][-1]
        found.append([report._sums.tobytes(), *(norms._sums.tobytes() for norms in report.by_key.values())])
    assert all(sums == found[0] for sums in found)


def test_a_report_is_of_its_own_step():
    """It is added up when first read, of numbers that later steps leave alone."""
    params, optimizer = {"W": np.zeros(3)}, fastopt.SGD(lr=1.0)
    first = optimizer.update(params, {"W": np.full(3, 2.0)}, report=True)
    kept = pickle.dumps(first)
    second = optimizer.update(params, {"W": np.zeros(3)}, report=True)
    for report in (first, pickle.loads(kept)):
        assert report.update_norm == pytest.approx(math.sqrt(12)) and report.zero_share == 0
    assert second.update_norm == 0 and second.zero_share == 1


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("scale", [0.0, 1e-41, 1e-30, 1e-25, 1e-18, 1e17, 1e25, 1e36])
def test_report_of_the_smallest_and_largest(scale, dtype):
    """Vanishing and exploding gradients, whose squares are out of float32's range."""
    rng = np.random.default_rng(0)
    g = (rng.standard_normal(20_000) * scale).astype(dtype)
    for start in (np.zeros(20_000, dtype), rng.standard_normal(20_000).astype(dtype)):
        p = start.copy()
        report = fastopt.SGD(lr=1.0).update(p, g, report=True)
        assert report.gradient_norm == pytest.approx(norm([g]), rel=1e-12)
        assert report.parameter_norm == pytest.approx(norm([p]), rel=1e-12)
        assert report.update_norm == pytest.approx(norm([p.astype(float) - start]), rel=1e-12)
        assert report.zero_share == (g == 0).mean() and report.nonfinite_share == 0


def test_report_of_parts():
    params = {"a": np.ones(3), "b": np.ones(2), "x": 1.0, "c": np.zeros(2)}
    report = fastopt.SGD(lr=0.5).update(
        params, {"a": np.array([1.0, np.nan, 0.0]), "b": None, "x": 2.0, "c": np.zeros(2)}, report=True
    )
    assert list(report.by_key) == ["a", "x", "c"]
    assert np.isnan(report.gradient_norm) and report.nonfinite_share == 1 / 6 and report.zero_share == 3 / 6
    assert report.by_key["x"].update_norm == 1.0 and report.by_key["x"].parameter_norm == 0
    assert report.by_key["x"].update_ratio == np.inf and report.by_key["c"].update_ratio == 0
    assert "update_norm=1," in repr(report.by_key["x"])
    bare = fastopt.SGD(lr=0.5).update(np.full(4, 2.0), np.ones(4), report=True)
    assert bare.gradient_norm == 2 and list(bare.by_key) == [None] and bare.by_key[None].update_norm == 1
    assert fastopt.SGD().update({}, {}, report=True).gradient_norm == 0


def test_keys_of_a_report_stand_in_the_order_of_the_parameters():
    params = {"a": np.ones(2), "b": np.ones(2, np.float32), "c": np.ones(3)}
    grads = {key: np.full(p.shape, n) for n, (key, p) in enumerate(params.items())}
    report = fastopt.SGD().update(params, grads, report=True)
    norms = {key: part.gradient_norm**2 for key, part in report.by_key.items()}
    assert list(norms) == ["a", "b", "c"] and list(norms.values()) == pytest.approx([0, 2, 12])


def test_report_of_a_skipped_step():
    params, optimizer = model(), fastopt.Adam(on_nonfinite="skip")
    grads = gradients(params)
    grads["b"][:7] = np.inf
    report = optimizer.update(params, grads, report=True)
    assert report.skipped and report.update_norm == report.update_ratio == 0
    assert report.parameter_norm == pytest.approx(norm(params.values()), rel=1e-12)
    assert report.by_key["b"].nonfinite_share == 0.1 and report.by_key["W"].nonfinite_share == 0
    assert not optimizer.update(params, gradients(params), report=True).skipped


WITHOUT_COMPILER = """
import numpy as np, fastopt
params, optimizer = {"W": np.ones((2, 3)), "b": np.ones(2, np.float32)}, fastopt.Adam(on_nonfinite="raise")
grads = {"W": np.full((2, 3), 2.0), "b": np.zeros(2, np.float32)}
for flat in (False, True):
    report = optimizer.update(params, grads, report=True)
print(report.gradient_norm == np.sqrt(24), report.by_key["b"].zero_share, report.update_norm > 0)
try:
    optimizer.update(params, {"W": np.full((2, 3), np.nan), "b": np.ones(2)})
except FloatingPointError as error:
    print("raised", optimizer.iter)
"""


@pytest.mark.parametrize("jit", ["0", "1"])
def test_with_and_without_compiler(jit):
    assert python(WITHOUT_COMPILER, NUMBA_DISABLE_JIT=jit).stdout == "True 1.0 True\nraised 2\n"


def test_a_report_does_not_slow_down_flat_dicts():
    params, optimizer = fastopt.flatten(model()), fastopt.Adam()
    for wanted in (False, True, False):
        optimizer.update(params, fastopt.flatten(gradients(params)), report=wanted)
        assert type(optimizer._plan.table.container) is containers.Buffers
    assert optimizer.iter == 3


def test_skipping_never_raises_and_lets_go_of_the_gradients():
    import sys

    gradient, optimizer = np.array([1e200, np.nan, 1.0]), fastopt.Adam(on_nonfinite="skip")
    optimizer.update({"W": np.ones(3)}, {"W": np.ones(3)})
    count = sys.getrefcount(gradient)
    with np.errstate(all="raise"):
        assert optimizer.update({"W": np.ones(3)}, {"W": gradient}, report=True).skipped
    optimizer.update({"W": np.ones(3)}, {"W": gradient})
    assert optimizer.skipped == 2 and sys.getrefcount(gradient) == count


INTERRUPTED = """
import sys, numpy as np, fastopt
optimizer, params = fastopt.Adam(), {"W": np.ones(10)}
optimizer.update(params, {"W": np.ones(10)})
optimizer.update(params, {"W": np.ones(10)}, report=True)
launch = optimizer._report_plan.table.launches[0]
launch.statistics = None
def interrupt(frame, event, argument):
    if frame.f_code.co_name == "__init__" and "ctypes" in frame.f_code.co_filename + frame.f_code.co_qualname:
        sys.settrace(None)
        raise KeyboardInterrupt
sys.settrace(interrupt)
try:
    optimizer.update(params, {"W": np.ones(10)}, report=True)
except KeyboardInterrupt:
    print("interrupted", launch.statistics is None, optimizer.iter)
print(optimizer.update(params, {"W": np.ones(10)}, report=True).gradient_norm == np.sqrt(10))
"""


def test_ctrl_c_while_a_tally_is_made():
    assert python(INTERRUPTED).stdout == "interrupted True 2\nTrue\n"


def test_skips_in_a_row_have_an_end():
    params, bad, good = {"W": np.ones(2)}, {"W": np.array([np.nan, 1.0])}, {"W": np.ones(2)}
    optimizer = fastopt.Adam(on_nonfinite="skip", max_skips=2)
    for grads in (bad, bad, good, bad, bad):
        optimizer.update(params, grads)
    before = params["W"].copy()
    words = r"Adam: grads\['W'\] has 1 of 2 .* after 2 steps in a row that were skipped .* which is max_skips; nothing"
    for _ in range(2):
        with pytest.raises(FloatingPointError, match=words):
            optimizer.update(params, bad)
    assert optimizer.iter == 1 and optimizer.skipped == 4 and (params["W"] == before).all()
    optimizer.update(params, good)
    optimizer.update(params, bad)
    assert optimizer.iter == 2 and optimizer.skipped == 5
    endless = fastopt.SGD(on_nonfinite="skip")
    for _ in range(50):
        endless.update(params, bad)
    assert endless.skipped == 50
    with pytest.raises(ValueError, match=r"SGD: max_skips must be in \[0, inf\]"):
        fastopt.SGD(max_skips=-1)
