"""Transforms of gradients before the rule: decay, scale, clipping, going uphill; in one pass, with the reference's bits."""

import copy
import math
from itertools import combinations

import numpy as np
import pytest

import fastopt
from fastopt import reference, threads
from fastopt.optimizers import OPTIMIZERS
from tests.conftest import ONE_OF_EACH_KIND, THREAD_COUNTS, Pair, assert_same_bits, python

SETTINGS = {
    "weight_decay": 0.1,
    "decoupled": True,
    "maximize": True,
    "gradient_scale": 0.3,
    "clip_value": 0.5,
    "clip_norm": 0.7,
}


def model(dtype, seed=0):
    rng = np.random.default_rng(seed)
    shapes = {"W": (130, 70), "b": (70,), "none": (0,), "one": ()}
    return {key: np.asarray(rng.standard_normal(shape)).astype(dtype) for key, shape in shapes.items()}


def assert_equals_reference(rule, settings, dtype, count=1, steps=4):
    pair, fast = Pair(rule, **settings), model(dtype)
    plain = copy.deepcopy(fast)
    with threads.exactly(count):
        for step in range(steps):
            grads = model(dtype, step + 1)
            grads["W"][0, :3] = 0.0, -0.0, 1e5
            pair.update(fast, plain, grads)
    for key in fast:
        assert_same_bits(fast[key], plain[key])
    pair.assert_same_state()
    return fast


@pytest.mark.parametrize("rule", OPTIMIZERS)
def test_each_rule_with_everything_equals_its_reference(rule):
    assert_equals_reference(rule, {**SETTINGS, "decoupled": False}, "float32")
    if rule in ONE_OF_EACH_KIND:
        assert_equals_reference(rule, SETTINGS, "float32")


@pytest.mark.parametrize("names", [pair for number in (1, 2) for pair in combinations(SETTINGS, number)])
def test_each_setting_alone_and_each_two(names):
    settings = {name: SETTINGS[name] for name in names}
    if len(names) == 1:
        assert_equals_reference("momentum", settings, "float64")
        assert_equals_reference("momentum", settings, "float32", THREAD_COUNTS[-1])
    changed = assert_equals_reference("momentum", settings, "float32")
    if names != ("decoupled",):
        assert not np.array_equal(changed["W"], assert_equals_reference("momentum", {}, "float32")["W"])


def test_the_formulas():
    def step(**settings):
        params = {"W": np.array([10.0, 20.0])}
        fastopt.SGD(lr=1.0, **settings).update(params, {"W": np.array([3.0, -4.0])})
        return params["W"].tolist()

    assert step() == [7.0, 24.0]
    assert step(maximize=True) == [13.0, 16.0]
    assert step(gradient_scale=0.5) == [8.5, 22.0]
    assert step(clip_value=3.5) == [7.0, 23.5]
    assert step(clip_norm=2.5) == [8.5, 22.0]
    assert step(clip_norm=5.0) == [7.0, 24.0]
    assert step(weight_decay=0.5) == [2.0, 14.0]
    assert step(weight_decay=0.5, decoupled=True) == [2.0, 14.0]
    assert step(clip_norm=5.0, gradient_scale=2.0, clip_value=3.5, maximize=True) == [13.0, 16.5]


def test_settings_that_do_nothing_bind_nothing():
    optimizer = fastopt.Adam(weight_decay=0.0, clip_value=math.inf, clip_norm=math.inf, gradient_scale=1.0)
    assert optimizer._needed_transforms() == ()
    optimizer.weight_decay, optimizer.clip_value = 0.1, 1.0
    assert optimizer._needed_transforms() == ("clip", "weight_decay")
    optimizer.decoupled, optimizer.clip_value = True, math.inf
    assert optimizer._needed_transforms() == ("decoupled_weight_decay",)
    optimizer.weight_decay = 0
    assert optimizer._needed_transforms() == ()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_global_norm_is_the_same_bits_however_the_model_is_split(dtype):
    rng = np.random.default_rng(0)
    g = (rng.standard_normal(50_001) * 10 ** rng.uniform(-9, 9, 50_001)).astype(dtype)
    found = set()
    for count in THREAD_COUNTS:
        for cuts in ([], [1], [31, 32, 8192, 20_000], list(range(0, 50_000, 999))):
            grads = {number: part.copy() for number, part in enumerate(np.split(g, cuts))}
            for flat in (False, True):
                params = {key: np.zeros_like(part) for key, part in grads.items()}
                p, used = (fastopt.flatten(params), fastopt.flatten(grads)) if flat else (params, grads)
                with threads.exactly(count):
                    fastopt.SGD(lr=1.0, clip_norm=1.0).update(p, used)
                found.add(np.concatenate(list(p.values())).tobytes())
    plain = {"all": np.zeros_like(g)}
    reference.SGD(lr=1.0, clip_norm=1.0).update(plain, {"all": g})
    assert found == {plain["all"].tobytes()}
    assert np.linalg.norm(plain["all"].astype(float)) == pytest.approx(1, rel=1e-6)


@pytest.mark.parametrize(
    ("dtype", "scale"),
    [("float32", 1.0), ("float32", 1e-38), ("float32", 1e33)]
    + [("float64", scale) for scale in (1.0, 1e-162, 1e-300, 3e150, 4e150, 1e151)],
)
def test_norms_of_numbers_of_any_size_are_exact(dtype, scale):
    """Squares that vanish, that are subnormal, and that nearly overflow, next to zeros and to smaller ones."""
    rng = np.random.default_rng(0)
    for size in (1, 31, 32, 33, 1000, 8192, 30_000):
        g = (rng.standard_normal(size) * np.exp(rng.standard_normal(size)) * scale).astype(dtype)
        g[rng.random(size) < 0.2] = 0
        for more in (g, np.append(g, np.full(100, scale / 1e9, dtype))):
            optimizer, params = fastopt.SGD(clip_norm=1.0), {"W": np.zeros_like(more)}
            optimizer.update(params, {"W": more})
            exponent = 600 if scale < 1e-100 and dtype == "float64" else 0
            squares = math.fsum((np.ldexp(more.astype(np.float64), exponent) ** 2).tolist())
            expected = math.ldexp(math.sqrt(squares), -exponent)
            assert optimizer._plan.accepts(params, {"W": more}) and optimizer._plan.passes.gradient_norm() == expected


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e300])
def test_norms_that_are_not_finite(bad):
    for settings in ({"clip_norm": 1.0}, {"clip_norm": 1.0, "clip_value": 0.5}):
        fast, plain = {"W": np.ones(40)}, {"W": np.ones(40)}
        grads = {"W": np.full(40, bad)}
        Pair("sgd", **settings).update(fast, plain, grads)
        assert_same_bits(fast["W"], plain["W"])
    optimizer, params = fastopt.SGD(clip_norm=1.0, on_nonfinite="skip"), {"W": np.ones(40)}
    optimizer.update(params, grads)
    assert optimizer.skipped == (bad != 1e300)


def test_the_order_of_the_textbooks_lines():
    rng = np.random.default_rng(0)
    p, g = rng.standard_normal(50), rng.standard_normal(50) * 4
    params = {"W": p.copy()}
    settings = {"gradient_scale": 0.5, "clip_norm": 3.0, "clip_value": 0.4, "maximize": True, "weight_decay": 0.1}
    fastopt.SGD(lr=0.2, **settings).update(params, {"W": g})
    g = g * -(0.5 * (3.0 / (np.linalg.norm(g) * 0.5)))
    g = np.clip(g, -0.4, 0.4) + 0.1 * p
    np.testing.assert_allclose(params["W"], p - 0.2 * g, rtol=1e-14)


def test_gradients_are_not_written_and_a_report_is_of_them():
    params, g = {"W": np.ones(100)}, np.full(100, 2.0)
    report = fastopt.SGD(lr=1.0, clip_norm=1.0, maximize=True).update(params, {"W": g}, report=True)
    assert (g == 2).all() and report.gradient_norm == 20 and report.update_norm == pytest.approx(1)


def test_saved_and_resumed(tmp_path):
    saved, params = fastopt.Adam(**SETTINGS), model("float32")
    saved.update(params, model("float32", 1))
    saved.save(tmp_path / "state")
    loaded, other = fastopt.Adam(), copy.deepcopy(params)
    loaded.load(tmp_path / "state")
    for step in (2, 3):
        saved.update(params, model("float32", step))
        loaded.update(other, model("float32", step))
    assert loaded.clip_norm == 0.7 and loaded.maximize is True
    for key in params:
        assert_same_bits(params[key], other[key])
    assert copy.deepcopy(saved)._needed_transforms() == saved._needed_transforms()


@pytest.mark.parametrize(
    ("name", "value", "error", "text"),
    [
        ("weight_decay", -1, ValueError, r"Adam: weight_decay must be in \[0, inf\), got -1.0"),
        ("clip_norm", math.nan, ValueError, r"Adam: clip_norm must be in \[0, inf\], got nan"),
        (
            "clip_value",
            "1",
            TypeError,
            r"Adam: clip_value must be a number in \[0, inf\] or a schedule, got '1' of type str",
        ),
        ("maximize", 1, TypeError, "Adam: maximize must be True or False, got 1 of type int"),
        ("decoupled", None, TypeError, "Adam: decoupled must be True or False, got None of type NoneType"),
    ],
)
def test_bad_settings(name, value, error, text):
    with pytest.raises(error, match=text):
        fastopt.Adam(**{name: value})
    optimizer = fastopt.Adam()
    with pytest.raises(error, match=text):
        setattr(optimizer, name, value)
    assert optimizer._needed_transforms() == ()


IN_PYTHON = """
import numpy as np, fastopt
from fastopt import reference
found = []
for package in (fastopt, reference):
    params = {"W": np.linspace(-1, 1, 40).reshape(8, 5), "b": np.ones(3)}
    optimizer = package.Adam(weight_decay=0.1, decoupled=True, maximize=True, gradient_scale=0.3, clip_value=0.2, clip_norm=1.0)
    for step in range(3):
        optimizer.update(params, {"W": np.full((8, 5), 2.0), "b": np.arange(3.0)})
    found.append([value.tobytes() for value in params.values()])
print(found[0] == found[1])
"""


@pytest.mark.parametrize("setting", ["NUMBA_DISABLE_JIT", "FASTOPT_CHECK"])
def test_in_pure_python(setting):
    assert python(IN_PYTHON, **{setting: "1"}).stdout == "True\n"


CASES = {
    "l2": ({"weight_decay": 0.1}, "Adam", {"weight_decay": 0.1}),
    "decoupled": ({"weight_decay": 0.1, "decoupled": True}, "AdamW", {"weight_decay": 0.1}),
    "maximize": ({"maximize": True, "weight_decay": 0.1}, "Adam", {"maximize": True, "weight_decay": 0.1}),
    "clip_norm": ({"clip_norm": 0.5}, "Adam", {}),
    "clip_value": ({"clip_value": 0.5}, "Adam", {}),
}


@pytest.mark.parametrize("case", CASES)
def test_torch_takes_the_same_path(case):
    torch = pytest.importorskip("torch")
    settings, name, theirs = CASES[case]
    tolerance = 1e-5 if case == "clip_norm" else 1e-13  # there the norm has 1e-6 added
    rng = np.random.default_rng(0)
    start = rng.standard_normal((40, 30))
    params, p = {"W": start.copy()}, torch.nn.Parameter(torch.tensor(start))
    ours, other = fastopt.Adam(lr=0.1, form="paper", **settings), getattr(torch.optim, name)([p], lr=0.1, **theirs)
    for _ in range(20):
        g = rng.standard_normal(start.shape)
        ours.update(params, {"W": g})
        p.grad = torch.tensor(g)
        if case == "clip_norm":
            torch.nn.utils.clip_grad_norm_([p], 0.5)
        elif case == "clip_value":
            torch.nn.utils.clip_grad_value_([p], 0.5)
        other.step()
    np.testing.assert_allclose(params["W"], p.detach().numpy(), rtol=tolerance, atol=tolerance)
