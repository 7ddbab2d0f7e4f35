"""Steps that are taken back, to the bit."""

import copy
import pickle
from typing import NamedTuple

import numpy as np
import pytest

import fastopt
from fastopt import EMA, SWA, Lookahead, Rows
from fastopt.optimizers import OPTIMIZERS

SHAPES = {"W": (4, 3), "b": (5,)}


def arrays(seed, dtype=np.float32, shapes=SHAPES):
    rng = np.random.default_rng(seed)
    return {key: np.asarray(rng.standard_normal(shape), dtype) for key, shape in shapes.items()}


def everything(optimizer):
    """All that a checkpoint has, arrays as bytes."""

    def plain(value):
        if isinstance(value, dict):
            return {str(key): plain(inner) for key, inner in value.items()}
        if hasattr(value, "codes"):
            return value.codes.tobytes(), value.scales.tobytes()
        return value.tobytes() if isinstance(value, np.ndarray) else repr(value)

    return plain(optimizer.state_dict())


def bits(params):
    return {key: np.asarray(value).tobytes() for key, value in params.items()}


class Stop(Exception):
    pass


def check(optimizer, params, grads, steps=(1, 1)):
    """Steps on trial are taken back in each way, and steps after them are those of an optimizer that never made any.

    grads : gives the gradients of a step by its number
    steps : how many are made before, and on trial
    """
    for number in range(steps[0]):
        optimizer.update(params, grads(number))
    twin, other = copy.deepcopy(optimizer), copy.deepcopy(params)
    before = bits(params), everything(optimizer)

    def wild():
        for number in range(steps[1]):
            optimizer.update(params, grads(100 + number))

    with optimizer.trial(params) as step:
        wild()
        step.reject()
        assert (bits(params), everything(optimizer)) == before
        wild()
    optimizer.undo()
    assert (bits(params), everything(optimizer)) == before
    with pytest.raises(Stop), optimizer.trial(params):
        wild()
        raise Stop
    assert (bits(params), everything(optimizer)) == before
    with optimizer.trial(params) as step:
        optimizer.update(params, grads(50))
        step.accept()
    twin.update(other, grads(50))
    for number in range(51, 53):
        optimizer.update(params, grads(number))
        twin.update(other, grads(number))
    assert (bits(params), everything(optimizer)) == (bits(other), everything(twin))


@pytest.mark.parametrize("rule", OPTIMIZERS)
def test_every_rule(rule):
    shapes = {"W": (4, 3)} if rule == "muon" else SHAPES
    check(OPTIMIZERS[rule](), arrays(0, shapes=shapes), lambda number: arrays(number + 1, shapes=shapes))


@pytest.mark.parametrize("before", [0, 3])
def test_settings_that_have_a_state(before):
    settings = dict(averaging=SWA(2), lookahead=Lookahead(every=2), on_nonfinite="skip")
    groups = {"b": {"lr_scale": 0.1}}
    optimizer = fastopt.Adam(lr=fastopt.schedules.Cosine(0.1, 9), groups=groups, **settings)
    check(optimizer, arrays(0, np.float64), lambda number: arrays(number + 1, np.float64), (before, 3))
    optimizer = fastopt.Adam(clip_array_norm=0.1, centralize=True, averaging=EMA(0.9))
    check(optimizer, arrays(0), lambda number: arrays(number + 1), (before, 2))


def test_skipped_steps_are_taken_back_too():
    optimizer = fastopt.Adam(on_nonfinite="skip")
    check(optimizer, arrays(0), lambda number: {**arrays(number), "b": np.full(5, np.inf if number >= 100 else 1.0)})


def test_sparse_rows_and_the_steps_that_they_skip():
    def grads(number):
        rng = np.random.default_rng(number)
        return {"W": Rows(rng.integers(0, 4, 2), rng.standard_normal((2, 3)), exact=True), "b": rng.standard_normal(5)}

    check(fastopt.Momentum(), arrays(0, np.float64), grads, (2, 3))


def test_compact_state():
    def grads(number):
        return arrays(number, shapes={"W": (64, 80), "b": (5,)})

    check(fastopt.Adam(state_storage="int8"), grads(0), lambda number: grads(number + 1), (2, 2))


def test_keys_that_come_during_a_trial():
    optimizer, params = fastopt.Adam(), arrays(0)
    optimizer.update(params, arrays(1))
    before, held = (bits(params), everything(optimizer)), optimizer.m["W"]
    with optimizer.trial(params) as step:
        more = {**params, "new": np.ones(2, np.float32)}
        optimizer.update(more, {**arrays(2), "new": np.ones(2)})
        step.reject()
    assert (bits(params), everything(optimizer)) == before and optimizer.m["W"] is held
    with optimizer.trial(params) as step:
        optimizer.forget("b")
        optimizer.lr = 0.5
        step.reject()
    assert everything(optimizer)["state"] == before[1]["state"] and optimizer.lr == 0.5
    with optimizer.trial(params) as step:
        params["W"] = np.zeros((4, 3), np.float32)
        params["b"] = params["b"] + 1
        optimizer.update(params, arrays(3))
        step.reject()
    assert bits(params) == before[0]


class Layer(NamedTuple):
    W: np.ndarray
    b: np.ndarray


def test_nested_containers_flat_ones_one_array_numbers_and_objects():
    params = [Layer(np.ones(3), np.zeros(2)), {"x": 1.5, "y": np.float32(2)}]
    grads = [Layer(np.ones(3), np.ones(2)), {"x": 1.0, "y": 1.0}]
    optimizer = fastopt.Adam(lr=0.1)
    with optimizer.trial(params) as step:
        optimizer.update(params, grads)
        assert params[1]["x"] < 1.5
        step.reject()
    assert params[1] == {"x": 1.5, "y": np.float32(2)} and type(params[1]["y"]) is np.float32
    assert (params[0].W == 1).all() and (params[0].b == 0).all() and not optimizer.m
    flat = fastopt.flatten(arrays(0))
    check(fastopt.Adam(), flat, lambda number: fastopt.flatten(arrays(number + 1)))
    array, optimizer = np.ones(3), fastopt.Adam(lr=0.1)
    with optimizer.trial(array):
        optimizer.update(array, np.ones(3))
    optimizer.undo()
    optimizer.undo()  # does no harm
    assert (array == 1).all() and optimizer.iter == 0

    class Parameter:
        data, grad = np.ones(2), np.ones(2)

    thing, optimizer = Parameter(), fastopt.Adam(lr=0.1)
    with optimizer.trial([thing]) as step:
        optimizer.update([thing])
        step.reject()
    assert (thing.data == 1).all() and not optimizer.m


def test_accumulated_gradients_and_what_schedules_observed():
    plateau = fastopt.schedules.ReduceOnPlateau(1.0, factor=0.5, patience=0)
    optimizer, params = fastopt.SGD(lr=plateau * 0.5), arrays(0)
    optimizer.accumulate(arrays(1))
    plateau.observe(1.0)
    before = bits(optimizer._sums.arrays), optimizer.lr(1)
    with optimizer.trial(params) as step:
        optimizer.update(params)
        optimizer.accumulate(arrays(2))
        plateau.observe(2.0)
        assert optimizer.lr(1) == before[1] / 2
        step.reject()
    assert (bits(optimizer._sums.arrays), optimizer.lr(1)) == before and optimizer.accumulated == 1


def test_the_copy_is_made_in_the_memory_of_the_last_one():
    optimizer, params = fastopt.Adam(), arrays(0)
    optimizer.update(params, arrays(1))
    with optimizer.trial(params) as step:
        used = {id(array) for array in step.memory}
    with optimizer.trial(params) as step:
        assert {id(array) for array in step.memory} == used
    optimizer.reset()
    with pytest.raises(RuntimeError, match="nothing to undo"):
        optimizer.undo()


def test_steps_in_one_call_go_on_after_a_trial(in_one_call):
    optimizer, params, grads = fastopt.Adam(), arrays(0), arrays(1)
    for _ in range(3):
        optimizer.update(params, grads)
    with optimizer.trial(params) as step:
        optimizer.update(params, grads)
        step.reject()
    optimizer.update(params, grads)
    in_one_call()
    optimizer.update(params, grads)


def test_mistakes():
    optimizer, params = fastopt.Adam(), arrays(0)
    with pytest.raises(RuntimeError, match=r"Adam: there is nothing to undo.*with optimizer.trial\(params\)"):
        optimizer.undo()
    with (
        optimizer.trial(params) as step,
        pytest.raises(RuntimeError, match="in a trial already"),
        optimizer.trial(params),
    ):
        pass
    step.accept()
    step.accept()
    with pytest.raises(RuntimeError, match="was accepted"):
        step.reject()
    with pytest.raises(RuntimeError, match="nothing to undo"):
        optimizer.undo()
    with pytest.raises(TypeError, match="dtype int64"), optimizer.trial({"W": np.ones(2, int)}):
        pass
    assert not optimizer._in_trial
    with pytest.raises(TypeError, match="must be a dict"), optimizer.trial(3):
        pass
    with optimizer.trial(params):
        optimizer._stepping = True
        with pytest.raises(RuntimeError, match="in the middle"):
            optimizer.undo()
        del optimizer._stepping
    assert copy.deepcopy(optimizer).__dict__.get("_trial") is None


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda optimizer: pickle.loads(pickle.dumps(optimizer))])
def test_an_optimizer_whose_first_step_was_taken_back_can_be_copied(duplicate):
    optimizer, params = fastopt.Adam(), arrays(0)
    with optimizer.trial(params) as step:
        optimizer.update(params, arrays(1))
        step.reject()
    other = duplicate(optimizer)
    assert (other.iter, dict(other._leaf_counts())) == (0, {})
    optimizer.update(params, arrays(1))
    again = arrays(0)
    other.update(again, arrays(1))
    assert bits(params) == bits(again)
