"""Parameters that are objects with data and gradients, and arrays of other libraries."""

import array
import copy
import ctypes
import pickle

import numpy as np
import pytest

import fastopt
from fastopt import Adam
from tests.conftest import assert_same_bits


class Variable:
    """As in teaching frameworks: data, and a gradient that is a variable too."""

    def __init__(self, data, grad=None):
        self.data, self.grad = data, grad


class Linear:
    def __init__(self, rng, n=3):
        self.W, self.b = Variable(rng.standard_normal((n, 2))), Variable(rng.standard_normal(2))


class Model:
    """Its parameters are a set, in whose order nobody can trust."""

    def __init__(self, rng):
        self.l1, self.rest = Linear(rng), [Linear(rng, 2), {"scale": Variable(None)}]
        self.parent = self

    def params(self):
        yield from {self.l1.W, self.l1.b, self.rest[0].W, self.rest[0].b, self.rest[1]["scale"]}


def filled(model, rng):
    for variable in (model.l1.W, model.l1.b, model.rest[0].W, model.rest[0].b):
        variable.grad = Variable(rng.standard_normal(variable.data.shape))


def test_a_model_steps_as_a_dict_of_its_arrays(rng):
    model, optimizer, plain = Model(rng), Adam(lr=0.1), Adam(lr=0.1)
    params = {
        "l1.W": model.l1.W.data.copy(),
        "l1.b": model.l1.b.data.copy(),
        "rest.0.W": model.rest[0].W.data.copy(),
        "rest.0.b": model.rest[0].b.data.copy(),
    }
    for number in range(5):
        filled(model, rng)
        variables = dict(zip(params, (model.l1.W, model.l1.b, model.rest[0].W, model.rest[0].b), strict=True))
        if number == 3:
            model.l1.b.grad = None
        plain.update(params, {key: v.grad and v.grad.data for key, v in variables.items()})
        assert optimizer.update(model) is None
    for key, variable in variables.items():
        assert_same_bits(variable.data, params[key])
        assert_same_bits(optimizer.m[key], plain.m[key])
    assert set(optimizer.m) == set(params)


def test_a_parameter_keeps_its_name_wherever_it_stands(rng):
    things, optimizer = [Variable(np.ones(2), np.ones(2)), Variable(np.ones(2), np.full(2, -1.0))], Adam(lr=0.1)
    optimizer.update(things)
    optimizer.update(iter(things[::-1]))
    optimizer.update({*things, *things})
    assert set(optimizer.m) == {"0", "1"}
    assert (optimizer.m["0"] > 0).all() and (optimizer.m["1"] < 0).all()
    again = pickle.loads(pickle.dumps(optimizer))
    copy.deepcopy(optimizer).update(things)
    again.update(things)
    optimizer.update({"0": things[0], "1": things[1]})
    assert optimizer.iter == again.iter == 4


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (lambda: zip([np.ones(2)], [np.ones(2)], strict=True), r"which gives pairs; .* map\(list, zip\(\*pairs\)\)"),
        (lambda: [(np.ones(2), np.ones(2))], r"which gives pairs; .* map\(list, zip\(\*pairs\)\)"),
        (lambda: {"W": np.ones(2)}, r"one of type ndarray; expected update\(params, grads\), or objects"),
        (lambda: np.ones(2), r"got one argument, of type ndarray; expected update\(params, grads\)"),
        (lambda: 3, "got one argument, of type int"),
        (lambda: [Variable(1.0, 2.0)], r"\.data of parameter '0' is of type float, expected an array"),
        (lambda: [Variable(np.ones(2), 2.0)], r"\.grad of parameter '0' is of type float, expected an array"),
        (lambda: [Variable(lambda: 1, None)], r"\.data of parameter '0' is a method, expected an array"),
    ],
)
def test_what_has_no_data_and_gradients_is_refused(given, words):
    optimizer = Adam()
    with pytest.raises(TypeError, match=rf"Adam: .*{words}"):
        optimizer.update(given())
    assert optimizer.iter == 0 and not optimizer.m


@pytest.mark.parametrize("name", ["zip", "generator", "values", "keys"])
def test_iterators_are_refused_with_the_line_to_write(name):
    params = {"W": np.ones(2)}
    given = {"zip": zip(params, params, strict=True), "generator": (x for x in [np.ones(2)])}
    given |= {"values": params.values(), "keys": params.keys()}
    words = "is an iterator .* = list" if name in ("zip", "generator") else "in which no array has a name"
    with pytest.raises(TypeError, match=rf"SGD: params .*{words}"):
        fastopt.SGD().update(given[name], [np.ones(2)])
    with pytest.raises(TypeError, match=rf"SGD: grads .*{words}"):
        fastopt.SGD().update([np.ones(2)], given[name])


class OnAGpu:
    device = "cuda:0"
    __module__ = "torch"

    def __dlpack_device__(self):
        return 2, 0


def test_buffers_are_stepped_in_place_and_other_memory_is_refused_by_name():
    numbers, c = array.array("d", [1.0, 2.0]), (ctypes.c_float * 2)(1.0, 2.0)
    params, optimizer = {"a": numbers, "c": c, "n": [np.ones(2)]}, fastopt.SGD(lr=0.5)
    for _ in range(3):
        optimizer.update(params, {"a": memoryview(np.ones(2)), "c": np.ones(2), "n": [array.array("f", [1, 1])]})
    assert list(numbers) == [-0.5, 0.5] and list(c) == [-0.5, 0.5] and params["n"][0].tolist() == [-0.5, -0.5]
    one = array.array("f", [1.0])
    fastopt.SGD(lr=0.5).update(one, np.ones(1))
    assert list(one) == [0.5]
    with pytest.raises(ValueError, match=r"params\['a'\] is read-only"):
        fastopt.SGD().update({"a": memoryview(bytes(8)).cast("d")}, {"a": np.ones(1)})
    for params, grads in (([OnAGpu()], [np.ones(2)]), ([np.ones(2)], [OnAGpu()])):
        with pytest.raises(TypeError, match=r"SGD: (params|grads)\[0\] .* lies on cuda:0.* hand in .*\[0\]\.cpu\(\)"):
            fastopt.SGD().update(params, grads)


def test_arrays_of_torch_are_stepped_in_place():
    torch = pytest.importorskip("torch")
    model, optimizer = torch.nn.Linear(3, 2), Adam(lr=0.1)
    ours = {name: p.detach().numpy().copy() for name, p in model.named_parameters()}
    check = Adam(lr=0.1)
    for _ in range(4):
        model.zero_grad()
        (model(torch.ones(4, 3)) ** 2).sum().backward()
        check.update(ours, {name: p.grad.numpy() for name, p in model.named_parameters()})
        optimizer.update(model)
    for name, p in model.named_parameters():
        assert_same_bits(p.detach().numpy(), ours[name])
    assert list(optimizer.m) == list(ours)
    tensor = torch.ones(3, requires_grad=True)
    fastopt.SGD(lr=0.5).update([tensor], [torch.ones(3)])
    assert tensor.tolist() == [0.5] * 3
    with pytest.raises(TypeError, match=r"params\[0\] .* has the dtype torch.bfloat16"):
        fastopt.SGD().update([torch.ones(3, dtype=torch.bfloat16)], [np.ones(3)])
    with pytest.raises(TypeError, match=r"params\[0\] .* lies on meta"):
        fastopt.SGD().update([torch.ones(3, device="meta")], [np.ones(3)])


def test_arrays_of_jax_are_gradients_without_a_copy():
    jax = pytest.importorskip("jax")
    params, gradient = [np.ones(3, np.float32)], jax.numpy.ones(3)
    fastopt.SGD(lr=0.5).update(params, [gradient])
    assert params[0].tolist() == [0.5] * 3
    with pytest.raises(ValueError, match=r"params\[0\] is read-only, .* np\.array\(params\[0\]\)"):
        fastopt.SGD().update([gradient], params)


def test_arrays_of_arrow_are_gradients_without_a_copy():
    arrow = pytest.importorskip("pyarrow")
    params = {"W": np.ones(2)}
    fastopt.SGD(lr=0.5).update(params, {"W": arrow.array([1.0, 2.0])})
    assert params["W"].tolist() == [0.5, 0.0]


def test_a_parameter_that_comes_late_begins_and_one_that_goes_keeps_its_state(rng):
    model, optimizer, plain, params = Model(rng), Adam(lr=0.1), fastopt.reference.Adam(lr=0.1), {}
    for number in range(8):
        filled(model, rng)
        if number == 2:
            model.rest.append(Linear(rng))
            model.params = lambda: [model.l1.W, model.l1.b, model.rest[-1].W]
        if number > 1:
            model.rest[-1].W.grad = Variable(rng.standard_normal(model.rest[-1].W.data.shape))
        if number > 5:
            model.params = lambda: [model.l1.W, model.rest[0].W]
        held = {
            id(model.l1.W): "l1.W",
            id(model.l1.b): "l1.b",
            id(model.rest[0].W): "rest.0.W",
            id(model.rest[0].b): "rest.0.b",
            id(model.rest[-1].W) if number > 1 else 0: "rest.2.W",
        }
        stepped = {held[id(thing)]: thing for thing in model.params() if thing.data is not None}
        for name, thing in stepped.items():
            params.setdefault(name, thing.data.copy())
        plain.update(
            {name: params[name] for name in stepped}, {name: thing.grad.data for name, thing in stepped.items()}
        )
        optimizer.update(model)
        for name, thing in stepped.items():
            assert_same_bits(thing.data, params[name])
    counts = {name: steps for name, (steps, _) in optimizer._leaf_counts().items()}
    assert counts == {"l1.W": 8, "l1.b": 6, "rest.0.W": 4, "rest.0.b": 2, "rest.2.W": 4}


def variables(model):
    return [model.l1.W, model.l1.b, model.rest[0].W, model.rest[0].b]


@pytest.mark.parametrize(
    "given", [lambda m: m, variables, lambda m: iter(variables(m)), lambda m: set(variables(m))], ids="mlis"
)
def test_every_method_takes_a_model_and_its_parameters(given, rng, tmp_path):
    model, optimizer = Model(rng), Adam(lr=0.1, averaging=fastopt.EMA(decay=0.5))
    for _ in range(3):
        filled(model, rng)
        optimizer.update(model)
    names, before = ["l1.W", "l1.b", "rest.0.W", "rest.0.b"], [thing.data.copy() for thing in variables(model)]
    averaged = optimizer.averaged(given(model))
    assert set(averaged) == set(names)
    with optimizer.averaged_weights(given(model)):
        for name, thing in zip(names, variables(model), strict=True):
            assert_same_bits(thing.data, averaged[name])
    optimizer.catch_up(given(model))
    optimizer.save(tmp_path / "state", given(model))
    for thing in variables(model):
        thing.data += 1.0
    optimizer.load(tmp_path / "state", given(model))
    for thing, old in zip(variables(model), before, strict=True):
        assert_same_bits(thing.data, old)
    with pytest.raises(
        TypeError, match=r"Adam: updated\(\) makes new arrays.* update\(model\).* updated\(params, grads\)"
    ):
        optimizer.updated(given(model))
    assert optimizer.iter == 3


def test_a_file_goes_on_in_another_model_with_either_optimizer(rng, tmp_path):
    model, optimizer = Model(rng), Adam(lr=0.1)
    filled(model, rng)
    optimizer.update(model)
    optimizer.save(tmp_path / "state", model)
    for resumed in (optimizer, Adam()):
        other = Model(rng)
        assert not any(resumed.load(tmp_path / "state", other))
        assert_same_bits(other.rest[0].W.data, model.rest[0].W.data)
        filled(other, rng)
        resumed.update(other)
        assert resumed.iter == 2 and set(resumed.m) == {"l1.W", "l1.b", "rest.0.W", "rest.0.b"}
        with pytest.raises(TypeError, match=r"updated\(\) makes new arrays"):
            resumed.updated(other, [np.ones(2)])
