"""Gradients that are added up over micro-batches until a step."""

import copy
import pickle
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pytest

import fastopt
from fastopt import EMA, Rows
from fastopt.optimizers import OPTIMIZERS
from fastopt.threads import exactly
from tests.conftest import THREAD_COUNTS, assert_same_bits

SHAPES = {"W": (5, 7), "b": (7,), "s": ()}


def arrays(seed, dtype=np.float32, shapes=SHAPES):
    rng = np.random.default_rng(seed)
    return {key: np.asarray(rng.standard_normal(shape), dtype) for key, shape in shapes.items()}


def added(grads):
    """NumPy's sums, in the order of the gradients."""
    total = {key: g.copy() for key, g in grads[0].items()}
    for more in grads[1:]:
        for key, g in more.items():
            total[key] += g
    return total


def assert_same(params, others):
    for key in others:
        assert_same_bits(params[key], others[key])


@pytest.mark.parametrize("rule", OPTIMIZERS)
def test_a_step_with_the_mean_has_the_bits_of_a_scaled_step_with_the_sum(rule):
    # With settings that share the kernels of tests/engine/test_processing.py.
    optimizer = OPTIMIZERS[rule](gradient_scale=0.5, clip_value=0.3, weight_decay=0.1)
    other = OPTIMIZERS[rule](gradient_scale=0.5 / 3, clip_value=0.3, weight_decay=0.1)
    shapes = SHAPES if rule != "muon" else {"W": (5, 7)}
    params, plain = arrays(0, shapes=shapes), arrays(0, shapes=shapes)
    for step in range(2):
        grads = [arrays(10 * step + number, shapes=shapes) for number in range(3)]
        for gradient in grads:
            optimizer.accumulate(gradient)
        assert optimizer.accumulated == 3
        optimizer.update(params)
        other.update(plain, added(grads))
        assert_same(params, plain)
    assert optimizer.accumulated == 0 and optimizer.iter == 2
    optimizer.update(params, grads[0])  # of one gradient it is that step, as without
    optimizer.accumulate(grads[1])
    optimizer.update(params)
    other.gradient_scale = 0.5
    for gradient in grads[:2]:
        other.update(plain, gradient)
    assert_same(params, plain)


@pytest.mark.parametrize("threads", THREAD_COUNTS[:3])
def test_sums_are_those_of_numpy_for_any_number_of_threads(threads):
    optimizer, shapes = fastopt.SGD(lr=1.0), {"W": (40_000,), "f": (3, 4)}
    grads = [arrays(number, shapes=shapes) for number in range(3)]
    grads[0]["W"][:3] = -0.0, np.nan, 1e-45
    grads[1]["W"][:3] = -0.0, 1.0, 1e-45
    grads[2]["W"][:3] = -0.0, 1.0, 1e-45
    for gradient in grads:
        gradient["f"] = np.asfortranarray(gradient["f"])
    with exactly(threads):
        for gradient in grads:
            optimizer.accumulate(gradient)
    assert_same(optimizer._sums.arrays, added(grads))


def test_settings_of_a_step_apply_to_the_mean():
    settings = dict(clip_norm=0.5, weight_decay=0.1, averaging=EMA(0.5), groups={"b": {"lr_scale": 0.1}})
    optimizer = fastopt.Adam(gradient_scale=lambda step: 2.0 / step, **settings)
    other = fastopt.Adam(gradient_scale=lambda step: 2.0 / step / 2, **settings)
    params, plain = arrays(0, np.float64), arrays(0, np.float64)
    for step in range(3):
        grads = [arrays(10 * step + number, np.float64) for number in range(2)]
        for gradient in grads:
            optimizer.accumulate(gradient)
        optimizer.update(params)
        other.update(plain, added(grads))
        assert_same(params, plain)
        assert_same(optimizer.weight_average, other.weight_average)


class Layer(NamedTuple):
    W: np.ndarray
    b: np.ndarray


@dataclass
class Model:
    layers: list
    scale: np.ndarray


def nested(seed):
    a = arrays(seed, shapes={"a": (3, 2), "b": (2,), "c": (), "d": (4,)})
    return Model([Layer(a["a"], a["b"]), {"d": a["d"]}], a["c"])


def test_nested_containers_flat_ones_one_array_and_numbers():
    optimizer, other, params, plain = fastopt.Adam(), fastopt.Adam(), nested(0), nested(0)
    for seed in (1, 2):
        optimizer.accumulate(nested(seed))
    optimizer.update(params)
    other.gradient_scale = 0.5
    one, two = nested(1), nested(2)
    both = Model(
        [
            Layer(one.layers[0].W + two.layers[0].W, one.layers[0].b + two.layers[0].b),
            {"d": one.layers[1]["d"] + two.layers[1]["d"]},
        ],
        one.scale + two.scale,
    )
    other.update(plain, both)
    assert_same_bits(params.layers[0].W, plain.layers[0].W)
    assert_same_bits(params.layers[1]["d"], plain.layers[1]["d"])

    flat, grads = fastopt.flatten(arrays(0)), fastopt.flatten(arrays(1))
    optimizer, other, plain = fastopt.Adam(), fastopt.Adam(), arrays(0)
    optimizer.accumulate(grads)
    optimizer.update(flat)
    other.update(plain, arrays(1))
    assert_same(flat, plain)

    array, optimizer = np.ones(3), fastopt.SGD(lr=1.0)
    optimizer.accumulate(np.array([1, 2, 3]))  # whole numbers are converted
    optimizer.accumulate(np.float16([1, 2, 3]))
    optimizer.update(array)
    assert array.tolist() == [0, -1, -2]
    numbers, optimizer = {"x": -7.0, "y": np.float32(1)}, fastopt.SGD(lr=1.0)
    optimizer.accumulate({"x": 2.0, "y": np.float32(4)})
    optimizer.accumulate({"x": 4.0, "y": np.float32(2)})
    assert optimizer.updated(numbers) == {"x": -10.0, "y": -2.0} and numbers["x"] == -7.0


def test_objects_with_gradients():
    class Parameter:
        def __init__(self, seed):
            self.data, self.grad = np.array([float(seed)]), None

    class Network:
        def __init__(self):
            self.l1, self.l2 = Parameter(0), Parameter(1)

        def parameters(self):
            return [self.l1, self.l2]

    model, optimizer = Network(), fastopt.SGD(lr=1.0)
    for gradient in (1.0, 5.0):
        model.l1.grad = np.array([gradient])
        optimizer.accumulate(model)
    optimizer.update(model)
    assert (model.l1.data.item(), model.l2.data.item()) == (-3.0, 1.0)


def test_none_is_a_gradient_of_zero_and_a_leaf_that_has_nothing_else_rests():
    optimizer, params = fastopt.Momentum(lr=1.0), {"a": np.zeros(1), "b": np.zeros(1), "c": np.zeros(1)}
    optimizer.accumulate({"a": None, "b": np.ones(1), "c": None})
    optimizer.accumulate({"a": np.ones(1), "b": None, "c": None})
    optimizer.update(params)
    assert [params[key].item() for key in "abc"] == [-0.5, -0.5, 0.0]
    assert optimizer._leaf_counts() == {"a": (1, 0), "b": (1, 0), "c": (0, 0)}
    # A branch of nested containers.
    optimizer, params = fastopt.SGD(lr=1.0), {"enc": [np.zeros(1)], "dec": [np.zeros(1)]}
    optimizer.accumulate({"enc": None, "dec": [np.ones(1)]})
    optimizer.accumulate({"enc": [np.ones(1)], "dec": [np.ones(1)]})
    optimizer.update(params)
    assert (params["enc"][0], params["dec"][0]) == (-0.5, -1.0)


@pytest.mark.parametrize("way", ["file", "dict", "pickle", "copy"])
def test_resuming_between_two_calls_is_exact(tmp_path, way):
    params, plain = arrays(0), arrays(0)
    optimizer, other = fastopt.Adam(), fastopt.Adam()
    grads = [arrays(number) for number in range(4)]
    for gradient in grads[:2]:
        gradient["W"] = np.asfortranarray(gradient["W"])
        gradient["s"] = None
        optimizer.accumulate(gradient)
        other.accumulate(gradient)
    if way == "file":
        optimizer.save(tmp_path / "state")
        optimizer = fastopt.Adam()
        optimizer.load(tmp_path / "state")
    elif way == "dict":
        saved = optimizer.state_dict()
        optimizer = fastopt.Adam()
        optimizer.load_state_dict(saved)
    else:
        optimizer = pickle.loads(pickle.dumps(optimizer)) if way == "pickle" else copy.deepcopy(optimizer)
    assert optimizer.accumulated == 2 and optimizer._sums.arrays["W"].flags.f_contiguous
    for gradient in grads[2:]:
        optimizer.accumulate(gradient)
        other.accumulate(gradient)
    optimizer.update(params)
    other.update(plain)
    assert_same(params, plain)
    optimizer.save(tmp_path / "without")
    assert b"gradient_sum" not in (tmp_path / "without").read_bytes()


def test_bare_arrays_in_files(tmp_path):
    optimizer, params = fastopt.Adam(), np.ones(3)
    optimizer.update(params, np.ones(3))
    optimizer.accumulate(np.ones(3))
    optimizer.save(tmp_path / "state")
    other = fastopt.Adam()
    other.load(tmp_path / "state")
    twin = params.copy()
    other.update(twin)
    optimizer.update(params)
    assert_same_bits(params, twin)


def test_damaged_sums_are_refused():
    optimizer = fastopt.Adam()
    optimizer.accumulate({"W": np.ones(2)})
    saved = optimizer.state_dict()
    for bad in (
        3,
        {"count": 1},
        {"count": 0, "sums": {}, "nothing": []},
        {"count": 1, "sums": {"W": [1]}, "nothing": []},
    ):
        other = fastopt.Adam()
        with pytest.raises(fastopt.CheckpointError, match="state_dict: Adam: "):
            other.load_state_dict({**saved, "accumulated": bad})
        assert other.accumulated == 0


def test_skipped_steps_drop_what_was_accumulated_and_errors_keep_it():
    params, bad = {"W": np.ones(2)}, {"W": np.array([1.0, np.nan])}
    optimizer = fastopt.Adam(on_nonfinite="skip")
    optimizer.accumulate(bad)
    optimizer.update(params)
    assert optimizer.skipped == 1 and optimizer.accumulated == 0
    optimizer = fastopt.Adam(on_nonfinite="raise")
    optimizer.accumulate(bad)
    with pytest.raises(FloatingPointError):
        optimizer.update(params)
    assert optimizer.accumulated == 1
    optimizer.discard_accumulated()
    assert optimizer.accumulated == 0
    optimizer.update(params, {"W": np.ones(2)})
    optimizer.accumulate({"W": np.ones(2)})
    optimizer.reset()
    assert optimizer.accumulated == 0
    # The sum may be infinite where the gradients are not.
    optimizer = fastopt.SGD(on_nonfinite="skip")
    for _ in range(2):
        optimizer.accumulate({"W": np.full(2, 3e38, np.float32)})
    optimizer.update({"W": np.ones(2, np.float32)})
    assert optimizer.skipped == 1


def test_steps_in_one_call_go_on_after_accumulated_ones(in_one_call):
    optimizer, params, grads = fastopt.Adam(), {"W": np.ones(2)}, {"W": np.ones(2)}
    optimizer.accumulate(grads)
    optimizer.update(params)
    for _ in range(3):
        optimizer.update(params, grads)
    in_one_call()
    optimizer.update(params, grads)


def test_mistakes():
    optimizer, params = fastopt.Adam(), {"W": np.ones(2), "b": np.ones(1)}
    good = {"W": np.ones(2), "b": np.ones(1)}

    def refused(kind, text, call):
        before = optimizer.accumulated, {key: array.copy() for key, array in optimizer._sums.arrays.items()}
        with pytest.raises(kind, match=text):
            call()
        assert optimizer.accumulated == before[0] and (params["W"] == 1).all()
        assert_same(optimizer._sums.arrays, before[1])

    optimizer.accumulate(good)
    refused(RuntimeError, r"got gradients, but 1 were accumulated.*discard", lambda: optimizer.update(params, good))
    refused(
        KeyError,
        r"grads has 'V', but.*has 'W', 'b'|grads has 'V', but.*'b', 'W'",
        lambda: optimizer.accumulate({**good, "V": np.ones(1)}),
    )
    refused(KeyError, r"grads\['b'\] is missing", lambda: optimizer.accumulate({"W": np.ones(2)}))
    refused(
        ValueError,
        r"grads\['W'\] has shape \(3,\), the sum of",
        lambda: optimizer.accumulate({**good, "W": np.ones(3)}),
    )
    refused(TypeError, r"grads\['W'\] is of type str", lambda: optimizer.accumulate({**good, "W": "text"}))
    refused(TypeError, r"complex", lambda: optimizer.accumulate({**good, "W": np.ones(2, complex)}))
    rows = Rows(np.array([0]), np.ones((1, 1)))
    refused(TypeError, r"grads\['W'\] is Rows", lambda: optimizer.accumulate({**good, "W": rows}))
    refused(TypeError, r"grads is Rows", lambda: optimizer.accumulate(rows))
    refused(
        KeyError, "gradients of 'b' were accumulated, but params has 'W'", lambda: optimizer.update({"W": params["W"]})
    )
    refused(KeyError, r"params\['V'\] has no accumulated", lambda: optimizer.update({**params, "V": np.ones(1)}))
    refused(KeyError, "params has one bare array", lambda: optimizer.update(np.ones(2)))
    refused(ValueError, "shape", lambda: optimizer.update({"W": np.ones(3), "b": params["b"]}))
    fresh = fastopt.Adam()
    for value, text in (("text", "str"), (np.ma.ones(2), "masked")):
        with pytest.raises(TypeError, match=text):
            fresh.accumulate({"W": value})
    with pytest.raises(TypeError, match="must be a dict"):
        fresh.accumulate(3)
    with pytest.raises(TypeError, match="update"):
        fresh.update(params)
    assert fresh.accumulated == 0
    optimizer._stepping = True
    with pytest.raises(RuntimeError, match="in the middle"):
        optimizer.accumulate(good)
