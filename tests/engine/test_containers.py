"""Parameters in lists, tuples, dicts, namedtuples and dataclasses, nested at will."""

import copy
import pickle
from collections import OrderedDict, UserDict, defaultdict
from dataclasses import dataclass, field

import numpy as np
import pytest
from numba.core import config

import fastopt
from fastopt import Adam
from fastopt.engine import step
from fastopt.kernels import RULES
from fastopt.kernels.flags import CHECK
from tests.conftest import Pair, assert_same_bits
from tests.engine.nested import NAMES, Block, Layer, Turned, leaves, nested


@pytest.mark.parametrize("rule", RULES)
def test_steps_of_nested_containers_are_those_of_the_reference(rule, rng):
    params, pair = nested(rng), Pair(rule)
    plain = copy.deepcopy(params)
    for number in range(4):
        grads = nested(rng)
        if number == 2:
            grads["enc"][0] = None
            grads["last"] = None
        pair.update(params, plain, grads)
    for fast, slow in zip(leaves(params), leaves(plain), strict=True):
        assert_same_bits(fast, slow)
        assert type(fast) is type(slow)
    for slot in pair.plain.slots:
        state = getattr(pair.plain, slot)
        assert list(state) == NAMES
        for fast, name in zip(leaves(getattr(pair.fast, slot)), NAMES, strict=True):
            assert_same_bits(fast, state[name])


FORMS = {
    "list of lists": lambda a, b, c: [[a, b], [c]],
    "tuples in a list": lambda a, b, c: [(a, b), (c,)],
    "tuple": lambda a, b, c: (a, (b, c)),
    "dicts": lambda a, b, c: {"x": {"W": a, "b": b}, "y": {"W": c}},
    "ordered": lambda a, b, c: OrderedDict(x=OrderedDict(b=a, W=b), y=c),
    "default": lambda a, b, c: defaultdict(list, x=[a, b], y=c),
    "namedtuples": lambda a, b, c: [Layer(a, b), Layer(c, None)],
    "list": lambda a, b, c: [a, b, c],
    "dataclass": lambda a, b, c: Block(a, [b, c]),
    "mapping": lambda a, b, c: [UserDict(W=a, b=b), c],
}


def arrays(rng):
    return [rng.standard_normal(shape) for shape in ((3, 2), (2,), (4,))]


@pytest.mark.parametrize("form", FORMS)
def test_small_steps_of_every_form_are_one_call_with_the_bits_of_a_flat_dict(form, rng, monkeypatch):
    held = arrays(rng)
    flat = {name: array.copy() for name, array in zip("abc", held, strict=True)}
    params, optimizer, plain = FORMS[form](*held), Adam(lr=0.1), Adam(lr=0.1)
    gradients = [arrays(rng) for _ in range(6)]
    for grads in gradients:
        plain.update(flat, dict(zip("abc", grads, strict=True)))
    for number, grads in enumerate(gradients):
        if number == 3 and not CHECK and not config.DISABLE_JIT:
            monkeypatch.setattr(step, "make", lambda *given: pytest.fail("not in one call"))
        optimizer.update(params, FORMS[form](*grads))
    assert optimizer.iter == 6
    for mine, array in zip(held, flat.values(), strict=True):
        assert_same_bits(mine, array)


def blocks(rng):
    return [(rng.standard_normal((3, 2)), {"b": rng.standard_normal(2)}), Block(rng.standard_normal(3), [None, 0.5])]


def test_flatten_takes_any_container(rng):
    held = blocks(rng)
    flat, optimizer, plain = fastopt.flatten(held), Adam(lr=0.1), Adam(lr=0.1)
    held[1].heads[1] = np.array(0.5)
    assert flat.buffer.shape == (12,) and type(flat[0]) is tuple and isinstance(flat[1], Block)
    assert flat[1].activation == "relu" and flat[1].heads[0] is None
    for _ in range(4):
        grads = blocks(rng)
        optimizer.update(flat, fastopt.flatten(grads))
        plain.update(held, grads)
    for mine, array, m, n in zip(*(
        (x[0][0], x[0][1]["b"], x[1].W, x[1].heads[1]) for x in (flat, held, optimizer.m, plain.m)
    ), strict=True):  # fmt: skip
        assert_same_bits(mine, array)
        assert_same_bits(m, n)
        assert mine.base is not None and np.shares_memory(mine, flat.buffer)
    report = optimizer.update(flat, fastopt.flatten(blocks(rng)), report=True)
    assert list(report.by_key) == ["0.0", "0.1.b", "1.W", "1.heads.1"]


def test_assigning_to_what_flatten_made_copies_into_the_buffer(rng):
    flat = fastopt.flatten(blocks(rng))
    flat[0][1]["b"] = 2.0
    flat[1].W = 3.0
    flat[1].heads[1] = 4.0
    flat[1].activation = "tanh"
    assert flat.buffer[6:].tolist() == [2.0, 2.0, 3.0, 3.0, 3.0, 4.0]
    for wrong in (lambda: setattr(flat[1], "heads", [1.0]), lambda: flat.__setitem__(1, [1.0])):
        with pytest.raises(TypeError, match=r"holds several arrays, .* assign to each of them"):
            wrong()
    with pytest.raises(ValueError, match=r"Block.W is a view of shape \(3,\), got values of shape \(2,\)"):
        flat[1].W = np.ones(2)
    with pytest.raises(TypeError, match=r"the length of .* is that of the parameters"):
        flat.append(1.0)
    for other in (copy.copy(flat), copy.deepcopy(flat), pickle.loads(pickle.dumps(flat))):
        assert other.layout is flat.layout and not np.shares_memory(other.buffer, flat.buffer)
        assert_same_bits(other.buffer, flat.buffer)
        assert type(other) is type(flat) and isinstance(other[1], Block)
    flat.buffer = np.arange(12.0)
    assert flat[0][0].tolist() == [[0.0, 1.0], [2.0, 3.0], [4.0, 5.0]]


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (lambda: Layer(np.ones(2), np.ones(1)), r"of type Layer, .*: \(params,\) = flatten\(\[params\]\)"),
        (lambda: [{"a": np.ones(2, int)}], r"flatten: arrays\[0\]\['a'\] has dtype int64"),
        (lambda: [np.ones(1), Layer("x", None)], r"flatten: arrays\[1\]\.W has type str"),
        (lambda: [[np.ones(1)], np.ones(1, np.float32)], r"arrays\[1\] is of float32 and arrays\[0\]\[0\] of float64"),
        (lambda: iter([np.ones(1)]), "flatten: expected a dict or a list of arrays, got list_iterator"),
    ],
)
def test_flatten_refuses(given, words):
    with pytest.raises(TypeError, match=words):
        fastopt.flatten(given())


def good():
    return {"enc": [np.ones(3), {"W": np.ones((2, 2))}], "t": (np.ones(2), None)}


WRONG = {
    "missing key": ({"enc": [np.ones(3), {"W": np.ones((2, 2))}]}, KeyError, r"nothing for params\['t'\]\[0\]\. Add"),
    "missing inside": ({**good(), "enc": [np.ones(3), {}]}, KeyError, r"nothing for params\['enc'\]\[1\]\['W'\]"),
    "extra key": ({**good(), "x": 1}, KeyError, r"grads has 'x', which params does not have; it has 'enc', 't'"),
    "extra inside": (
        {**good(), "enc": [np.ones(3), {"W": np.ones((2, 2)), "c": 1}]},
        KeyError,
        r"grads\['enc'\]\[1\] has 'c', which params\['enc'\]\[1\] does not have",
    ),
    "short list": (
        {**good(), "enc": [np.ones(3)]},
        ValueError,
        r"grads\['enc'\] has 1 elements, params\['enc'\] has 2",
    ),
    "an array": (
        {**good(), "enc": np.ones(3)},
        TypeError,
        r"grads\['enc'\] is of type ndarray, but params\['enc'\] is of",
    ),
    "of nothing": (
        {**good(), "t": (np.ones(2), np.ones(2))},
        ValueError,
        r"params\['t'\]\[1\] is None, but grads\['t'\]",
    ),
    "shape": (
        {**good(), "t": (np.ones(3), None)},
        ValueError,
        r"grads\['t'\]\[0\] has shape \(3,\), params\['t'\]\[0\]",
    ),
    "a list for an array": ({**good(), "t": ([1.0, 1.0], None)}, TypeError, r"grads\['t'\]\[0\] is of type list"),
    "no container": (np.ones(3), TypeError, "params is of type dict and grads of type ndarray"),
    "fields of its own": ({**good(), "t": Turned(np.ones(2), None)}, None, ""),
}


@pytest.mark.parametrize("case", WRONG)
@pytest.mark.parametrize("steps", [0, 3])
def test_gradients_that_are_held_otherwise_change_nothing(case, steps):
    grads, error, words = WRONG[case]
    params, optimizer = good(), Adam()
    for _ in range(steps):
        optimizer.update(params, good())
    before = copy.deepcopy(params)
    if error is None:
        optimizer.update(params, grads)
        return
    with pytest.raises(error, match=words):
        optimizer.update(params, grads)
    assert optimizer.iter == steps
    assert_same_bits(params["enc"][1]["W"], before["enc"][1]["W"])
    optimizer.update(params, good())
    assert optimizer.iter == steps + 1


def itself():
    held = [np.ones(1)]
    held.append(held)
    return held


class Copying(dict):
    def __getitem__(self, key):
        return np.array(super().__getitem__(key))

    def values(self):
        return [self[key] for key in self]


@dataclass
class Setting:
    W: np.ndarray
    rate: float = 0.5
    size: int = field(default=3, metadata={"static": True})


REFUSED = {
    "number in a tuple": (
        lambda: [(0.5, np.ones(2))],
        TypeError,
        r"params\[0\]\[0\] is a plain number, .*a tuple holds",
    ),
    "in a namedtuple": (
        lambda: [Layer(0.5, None)],
        TypeError,
        r"params\[0\]\.W is a plain number, .* namedtuple holds it",
    ),
    "in a dataclass": (lambda: [Setting(np.ones(2))], TypeError, r"params\[0\]\.rate is .*\{'static': True\}"),
    "two of one name": (lambda: {"a.b": np.ones(1), "a": {"b": np.ones(1)}}, ValueError, r"both have the name 'a\.b'"),
    "itself": (itself, ValueError, "params cannot be walked: a list holds itself"),
    "copies": (lambda: [Copying(W=np.ones(2))], TypeError, r"params\[0\]\['W'\] is another array at each access"),
    "text": (lambda: [["x"]], TypeError, r"params\[0\]\[0\] is of type str"),
    "integers": (lambda: [{"a": np.ones(2, int)}], TypeError, r"params\[0\]\['a'\] has dtype int64"),
    "overlap": (
        lambda: (lambda a: [[a], a[:1]])(np.ones(2)),
        ValueError,
        r"params\[0\]\[0\] and params\[1\] share memory",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_parameters_that_are_refused(case):
    make, error, words = REFUSED[case]
    optimizer, params = Adam(), make()
    with pytest.raises(error, match=f"Adam: .*{words}"):
        optimizer.update(params, make())
    assert optimizer.iter == 0 and not optimizer.m


def test_fields_that_are_static_are_left_alone():
    params = [Setting(np.ones(2), rate=np.array(0.5))]
    fastopt.SGD(lr=1.0).update(params, [Setting(np.ones(2), rate=np.array(0.5), size=7)])
    assert params[0].W.tolist() == [0.0, 0.0] and params[0].rate == 0.0 and params[0].size == 3


def test_another_array_in_a_list_is_taken_over(rng):
    params, optimizer = [[rng.standard_normal(3)], np.ones(2)], Adam(lr=0.1)
    for _ in range(6):
        optimizer.update(params, [[np.ones(3)], np.ones(2)])
        params[0][0] = np.clip(params[0][0], -1, 1)
    assert optimizer.iter == 6 and (np.abs(params[0][0]) <= 1).all()


def test_a_namedtuple_with_other_fields_is_refused():
    for grads in (Turned(np.ones(2), np.ones(2)), {"W": np.ones(2), "b": np.ones(2)}):
        with pytest.raises(
            TypeError, match=r"grads is of type \w+, but params is of type Layer|params is of type Layer"
        ):
            Adam().update(Layer(np.ones(2), np.ones(2)), grads)
    for grads in ((np.ones(2), np.ones(2)), [np.ones(2), np.ones(2)]):
        params = Layer(np.ones(2), np.ones(2))
        for _ in range(3):
            fastopt.SGD(lr=1.0).update(params, grads)
        assert params.W.tolist() == [-2.0, -2.0]


def test_a_container_that_averages_built_of_a_flattened_dataclass_can_be_pickled():
    params, optimizer = fastopt.flatten([Block(np.ones(2), [np.ones(1)])]), Adam(averaging=fastopt.EMA())
    for _ in range(2):
        optimizer.update(params, fastopt.flatten([Block(np.ones(2), [np.ones(1)])]))
    averaged = optimizer.averaged(params)
    again = pickle.loads(pickle.dumps(averaged))
    for held in (again, copy.deepcopy(averaged)):
        assert type(held[0]) is Block
        assert held[0].heads[0].tolist() == optimizer.weight_average[0].heads[0].tolist() and held[0].W.shape == (2,)
