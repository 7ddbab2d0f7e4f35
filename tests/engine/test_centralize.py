"""Gradient centralization: the mean is taken from gradients in the step's pass, with the reference's bits."""

import math

import numpy as np
import pytest
from numba.core import config

import fastopt
from fastopt import reference, threads
from fastopt.engine import centralized_launch
from fastopt.kernels import column_means, flags
from tests.conftest import ONE_OF_EACH_KIND, THREAD_COUNTS, Pair, assert_same_bits

BY_ARRAY = ["lars", "lamb", "novograd", "stable_adamw", "muon"]
DTYPES = ["float32", "float64"]
SHAPES = {
    "one": (1, 1),
    "small": (3, 4),
    "tall": (1000, 7),
    "wide": (7, 1000),
    "W": (300, 400),
    "conv": (4, 3, 5, 5),
    "deep": (3, 40, 10),
    "row": (1, 9),
    "column": (9, 1),
    "b": (5000,),
    "scalar": (),
    "empty": (0, 5),
    "empty too": (5, 0, 2),
}
OTHERS = {
    "weight_decay": 0.1,
    "decoupled": True,
    "maximize": True,
    "gradient_scale": 0.3,
    "clip_value": 0.4,
    "clip_norm": 40.0,
    "clip_array_norm": 30.0,
}


def model(dtype="float32", seed=0, shapes=None, order="C"):
    rng = np.random.default_rng(seed)
    return {
        key: np.array(rng.standard_normal(shape), dtype=dtype, order=order) for key, shape in (shapes or SHAPES).items()
    }


def assert_equals_reference(rule, dtype="float32", shapes=None, steps=3, lay_out=lambda x: x, **settings):
    pair = Pair(rule, **({"centralize": True} | settings))
    fast = {key: lay_out(value) for key, value in model(dtype, 0, shapes).items()}
    plain = model(dtype, 0, shapes)
    for step in range(steps):
        grads = model(dtype, step + 1, shapes)
        pair.update(fast, plain, {key: lay_out(value) for key, value in grads.items()}, grads)
    for key in fast:
        assert_same_bits(fast[key], plain[key])
    pair.assert_same_state()
    return pair.fast, fast


@pytest.mark.parametrize(
    ("rule", "dtype"),
    [*((rule, dtype) for rule in ONE_OF_EACH_KIND for dtype in DTYPES), *((rule, "float32") for rule in BY_ARRAY)],
)
def test_each_kind_of_rule_equals_its_reference(rule, dtype):
    _, changed = assert_equals_reference(rule, dtype)
    _, without = assert_equals_reference(rule, dtype, centralize=False)
    alike = {key for key in changed if np.array_equal(changed[key], without[key])}
    own_norms = {"one", "column", "row"} & alike  # without a gradient that is left some rules do the same
    assert alike - own_norms == {"b", "scalar", "empty", "empty too"}


@pytest.mark.parametrize("rule", ["adam", "lamb", "muon"])
@pytest.mark.parametrize("count", THREAD_COUNTS)
def test_with_all_other_settings(rule, count):
    settings = {**OTHERS, "decoupled": rule != "lamb", "lookahead": fastopt.Lookahead(2, 0.3)}
    with threads.exactly(count):
        assert_equals_reference(rule, **settings, averaging=fastopt.EMA(0.9))


LAYOUTS = {
    "F": np.asfortranarray,
    "strided": lambda x: np.repeat(x, 2, axis=-1)[..., ::2],
    "backwards": lambda x: x[::-1].copy()[::-1],
    "transposed": lambda x: np.ascontiguousarray(x.T).T,
    "middle": lambda x: np.ascontiguousarray(np.moveaxis(x, 1, -1)).swapaxes(-1, 1) if x.ndim == 3 else x,
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_memory_order_does_not_matter(layout, dtype):
    shapes = {key: shape for key, shape in SHAPES.items() if shape}
    assert_equals_reference("momentum", dtype, shapes, lay_out=LAYOUTS[layout])


def test_the_formula():
    def step(shape, g, **settings):
        params = {"p": np.zeros(shape)}
        fastopt.SGD(lr=1.0, centralize=True, **settings).update(params, {"p": np.reshape(g, shape).astype(float)})
        return (-params["p"]).ravel().tolist()

    assert step((3,), [1, 2, 6]) == [1, 2, 6]
    assert step((3, 1), [1, 2, 6]) == [-2, -1, 3]
    assert step((1, 3), [1, 2, 6]) == [0, 0, 0]
    assert step((2, 2), [1, 2, 3, 8]) == [-1, -3, 1, 3]
    assert step((2, 2, 1), [1, 2, 3, 8]) == [-0.5, 0.5, -2.5, 2.5]
    assert step((2, 1, 1, 2), [1, 2, 3, 8]) == [-0.5, 0.5, -2.5, 2.5]
    # After scale and clipping by value, 1, 2 and 3, and before decay.
    assert step((3, 1), [1, 2, 6], clip_value=3) == [-1, 0, 1]
    assert step((3, 1), [2, 4, 12], clip_value=3, gradient_scale=0.5, maximize=True) == [1, 0, -1]
    params = {"p": np.array([[1.0], [3.0]])}
    fastopt.SGD(lr=1.0, centralize=True, weight_decay=0.5).update(params, {"p": np.array([[1.0], [3.0]])})
    assert params["p"].ravel().tolist() == [1.5, 0.5]


def test_norms_are_of_the_gradient_as_it_was_given():
    params = {"p": np.zeros((2, 1))}
    report = fastopt.SGD(lr=1.0, centralize=True, clip_norm=2.5).update(
        params, {"p": np.array([[3.0], [4.0]])}, report=True
    )
    assert report.gradient_norm == 5 and params["p"].ravel().tolist() == [0.25, -0.25]


def test_optax_takes_the_same_means():
    optax = pytest.importorskip("optax")
    rng = np.random.default_rng(0)
    grads = {"W": rng.standard_normal((20, 30)), "conv": rng.standard_normal((4, 3, 5, 5)), "b": rng.standard_normal(6)}
    params = {key: np.zeros_like(value) for key, value in grads.items()}
    fastopt.SGD(lr=1.0, centralize=True).update(params, grads)
    theirs = {key: (value.T if key == "W" else value).astype(np.float32) for key, value in grads.items()}
    made = optax.centralize()
    found, _ = made.update(theirs, made.init(theirs))
    for key, value in found.items():
        value = np.asarray(value).T if key == "W" else value
        np.testing.assert_allclose(-params[key], value, rtol=1e-4, atol=1e-6)


# -- exact sums -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_threads_and_splits_do_not_change_a_bit(dtype, order, monkeypatch):
    rng = np.random.default_rng(0)
    g = (rng.standard_normal((260, 310)) * 10 ** rng.uniform(-12, 12, (260, 310))).astype(dtype, order=order)
    conv, found = g.ravel()[:80_000].reshape(4, 20, 20, 50), set()
    for count in (1, 2, *THREAD_COUNTS[-1:]):
        for job, block, lanes, run, copies in (
            (1 << 18, 1024, 128, 2048, 256),
            (5000, 40, 8, 100, 7),
            (1, 512, 1, 1, 1),
        ):
            monkeypatch.setattr(column_means, "JOB", job)
            monkeypatch.setattr(column_means, "BLOCK", block)
            monkeypatch.setattr(column_means, "LANES", lanes)
            monkeypatch.setattr(centralized_launch, "RUN", run)
            monkeypatch.setattr(centralized_launch, "COPIES", copies)
            if threads.layer() or count == 1:
                params = {"W": np.zeros_like(g), "conv": np.zeros_like(conv)}
                with threads.exactly(count):
                    fastopt.SGD(lr=1.0, centralize=True).update(params, {"W": g, "conv": conv})
                found.add(params["W"].tobytes() + params["conv"].tobytes())
    plain = {"W": np.zeros_like(g), "conv": np.zeros_like(conv)}
    reference.SGD(lr=1.0, centralize=True).update(plain, {"W": g, "conv": conv})
    assert found == {plain["W"].tobytes() + plain["conv"].tobytes()}


@pytest.mark.parametrize("count", THREAD_COUNTS)
def test_a_flat_dict_equals_a_dict(count):
    shapes = {key: SHAPES[key] for key in ("tall", "b", "conv", "wide", "W")}
    results = []
    for flat in (False, True):
        params, optimizer = model(shapes=shapes), fastopt.Adam(centralize=True)
        params = fastopt.flatten(params) if flat else params
        for step in (1, 2):
            grads = model(seed=step, shapes=shapes)
            with threads.exactly(count):
                optimizer.update(params, fastopt.flatten(grads) if flat else grads)
        assert len(optimizer._plan.table.launches) == 1
        results.append([*params.values(), *optimizer.m.values(), *optimizer.v.values()])
    for one, other in zip(*results, strict=True):
        assert_same_bits(one, other)


HARD = {
    "cancels": [1e30, 1.0, -1e30, 1e-8],
    "cancels twice": [1e30, 1.0, 1e-20, -1e30, -1.0],
    "half": [1.0, 2.0**-53, 2.0**-106],
    "half to even": [1.0, 2.0**-53, 0.0],
    "below half": [1.0, 2.0**-53, -(2.0**-106)],
    "half of float32, down": [1.0, 1.0 + 2.0**-23],
    "half of float32, up": [1.0 + 2.0**-23, 1.0 + 2.0**-22],
    "half of float32, below": [1.0 + 2.0**-23, 1.0 + 2.0**-22, 0.0, -(2.0**-45)],
    "zero": [1.0, -1.0],
    "negative zero": [-0.0, -0.0, -0.0],
    "subnormal": [5e-324, 1e-310, -5e-324, 1e-45],
    "nan": [1.0, np.nan, 2.0],
    "infinite": [1.0, np.inf, np.inf, -1.0],
    "both": [np.inf, -np.inf, 1.0],
    "largest": [3.4028234e38, 3.4028234e38, -1.0],
    "overflows": [1.7e308, 1.7e308, -1.7e308, 1.0],
    "too large": [1.7e308, 1.7e308, 1.7e308],
}


@pytest.mark.parametrize("settings", [{}, {"clip_value": 1e35}, {"gradient_scale": 3.0}], ids=["", "clip", "scale"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", HARD)
def test_sums_that_are_hard(case, dtype, settings):
    with np.errstate(all="ignore"):
        column = np.array(HARD[case]).astype(dtype)
    for order in ([*range(len(column))], [*range(len(column))][::-1]):
        mixed = np.stack([column[order], np.ones_like(column), column], axis=1)
        for g in (mixed, np.asfortranarray(mixed), np.ascontiguousarray(mixed.T)[:, :, None]):
            fast, plain = {"p": np.zeros_like(g)}, {"p": np.zeros_like(g)}
            Pair("sgd", lr=1.0, centralize=True, **settings).update(fast, plain, {"p": g})
            assert_same_bits(fast["p"], plain["p"])
            if case == "nan":
                assert np.isnan(fast["p"]).sum() == 2 * len(column)


@pytest.mark.skipif(flags.CHECK or bool(config.DISABLE_JIT), reason="Python sees to everything")
def test_python_sees_to_what_is_not_certain_and_to_nothing_else(monkeypatch):
    seen = []
    write = column_means.write_exactly
    monkeypatch.setattr(column_means, "write_exactly", lambda *given: (seen.append(given[1]), write(*given)))
    g = np.random.default_rng(0).standard_normal((2000, 5)).astype(np.float32)
    for case in (g, g.astype(float), np.zeros_like(g), np.where(np.arange(5) == 2, np.nan, g)):
        fastopt.SGD(centralize=True).update({"p": np.zeros_like(case)}, {"p": case})
    assert seen == []
    g = g.astype(float)
    g[:, 3] = 0
    g[[1, 10, 200, 1000, 1999], 3] = HARD["cancels twice"]
    params = {"p": np.zeros_like(g)}
    fastopt.SGD(lr=1.0, centralize=True).update(params, {"p": g})
    assert seen == [3] and params["p"][0, 3] == math.fsum(g[:, 3]) / 2000 == 1e-20 / 2000
    seen.clear()
    halves = np.array([[1.0, 0.0], HARD["half of float32, up"]], np.float32).T.copy()
    fastopt.SGD(centralize=True).update({"p": np.zeros_like(halves)}, {"p": halves})
    assert seen == [1]


@pytest.mark.parametrize("value", [1, None, "yes"])
def test_bad_settings(value):
    with pytest.raises(TypeError, match="Adam: centralize must be True or False, got"):
        fastopt.Adam(centralize=value)
    with pytest.raises(TypeError, match="Adam: centralize must be True or False, got"):
        fastopt.Adam(groups={"W": {"centralize": value}})
