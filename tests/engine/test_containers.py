"""Parameters in lists, tuples, dicts, namedtuples and dataclasses, nested at will."""

import copy
from collections import OrderedDict, UserDict, defaultdict, namedtuple
from dataclasses import dataclass

import numpy as np
import pytest
from numba.core import config

from fastopt import Adam
from fastopt.engine import step
from fastopt.kernels import RULES
from fastopt.kernels.flags import CHECK
from tests.conftest import Pair, assert_same_bits

Layer = namedtuple("Layer", "W b")
Turned = namedtuple("Turned", "b W")


@dataclass
class Block:
    W: np.ndarray
    heads: list
    activation: str = "relu"


def nested(rng, dtype="float64", number=float):
    """Every kind of container in one another, with nothing in some of them."""

    def array(*shape):
        return np.asarray(rng.standard_normal(shape)).astype(dtype)

    return {
        "enc": [Layer(array(3, 2), array(2)), {"W": array(2, 2), "scale": number(0.5)}, (), None],
        "ordered": OrderedDict(b=array(3), a=np.asfortranarray(array(2, 3))),
        "block": Block(array(4), [array(2), [array(1)]]),
        "last": array(2),
    }


NAMES = ["enc.0.W", "enc.0.b", "enc.1.W", "enc.1.scale", "ordered.b", "ordered.a", "block.W", "block.heads.0"]
NAMES += ["block.heads.1.0", "last"]


def leaves(params):
    return [
        *params["enc"][0],
        *params["enc"][1].values(),
        *params["ordered"].values(),
        params["block"].W,
        params["block"].heads[0],
        params["block"].heads[1][0],
        params["last"],
    ]


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
    for number in range(6):
        if number == 3 and not CHECK and not config.DISABLE_JIT:
            monkeypatch.setattr(step, "make", lambda *given: pytest.fail("not in one call"))
        grads = arrays(rng)
        optimizer.update(params, FORMS[form](*grads))
        monkeypatch.undo() if number == 5 else None
        if number < 3 or number == 5:
            continue
    monkeypatch.undo()
    rng = np.random.default_rng(12345)
    arrays(rng)
    for _ in range(6):
        plain.update(flat, dict(zip("abc", arrays(rng), strict=True)))
    assert optimizer.iter == 6
    for mine, array in zip(held, flat.values(), strict=True):
        assert_same_bits(mine, array)
