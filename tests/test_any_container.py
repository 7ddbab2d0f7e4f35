"""Hypothesis tries to break it: random sequences of steps on any container, and of many problems at once.

After each step all is what the reference, or an optimizer for each problem, makes of it, to the bit. How many are tried
is in `random_models.py`.
"""

import copy
import pickle
from collections import OrderedDict

import numpy as np
import pytest
from hypothesis import given, settings

from fastopt import reference, threads
from fastopt.optimizers import OPTIMIZERS
from fastopt.reference.walk import leaves
from fastopt.views import ViewFields
from tests.conftest import THREAD_COUNTS, assert_same_bits
from tests.engine.nested import Block, Layer
from tests.engine.test_problems import Alone
from tests.random_models import (
    COMPLEX,
    EXAMPLES,
    REAL,
    USUAL,
    VALUES,
    Tape,
    make,
    operations,
    tapes,
    told,
    try_many,
    values,
)

RULES = ["sgd", "momentum", "adam"]
few = settings(try_many, max_examples=EXAMPLES if EXAMPLES > USUAL else EXAMPLES // 4)

FORMS = {
    "bare": lambda a, b, c: a,
    "list": lambda a, b, c: [a, b, c],
    "tuples": lambda a, b, c: ((a, b), (c,)),
    "dicts": lambda a, b, c: {"x": {"W": a, "b": b}, "y": OrderedDict(W=c)},
    "namedtuples": lambda a, b, c: [Layer(a, b), None, Layer(c, None)],
    "dataclasses": lambda a, b, c: [Block(a, [b]), Block(c, [])],
    "dataclasses in one another": lambda a, b, c: Block(a, [Block(b, [None, c]), Layer(None, None)], "tanh"),
}


def by_name(container):
    """The arrays in a container of parameters or state."""
    if isinstance(container, np.ndarray):
        return {None: container}
    return {name: holder[key] for name, (holder, key) in leaves(fields_as_dicts(container), "")}


def fields_as_dicts(state):
    """State in which that of dataclasses is dicts."""
    if isinstance(state, ViewFields):
        return {name: fields_as_dicts(getattr(state, name)) for name in state}
    return [fields_as_dicts(part) for part in state] if isinstance(state, list) else state


@pytest.mark.parametrize("rule", RULES)
@few
@given(start=tapes, operations=operations)
def test_any_sequence_on_any_container(rule, start, operations, tmp_path_factory):
    path, count = tmp_path_factory.getbasetemp() / "container", 1
    with told(*map(Tape, (start, *operations))) as (tape, *others):
        form, dtypes = FORMS[tape.draw(FORMS)], tape.draw((REAL, REAL, COMPLEX))
        held = [make(*tape.array(dtypes)) for _ in range(3)]
        params, plain = form(*held), form(*(np.array(array) for array in held))
        fast, slow = OPTIMIZERS[rule](), getattr(reference, OPTIMIZERS[rule].__name__)()
        for tape in others:
            operation = tape.draw(("step", "step", "none", "branch", "pickle", "copy", "file", "params", "threads"))
            if operation == "threads":
                count = tape.draw(THREAD_COUNTS)
            elif operation == "pickle":
                fast = pickle.loads(pickle.dumps(fast))
            elif operation == "copy":
                fast, params = copy.deepcopy((fast, params))
            elif operation in ("file", "params"):
                given_params = [params] if operation == "params" else []
                fast.save(path, *given_params)
                fast = OPTIMIZERS[rule](lr=0.5)
                for array in by_name(params).values() if given_params else ():
                    array[...] = 7
                fast.load(path, *given_params)
            else:
                kind, seed = tape.draw(VALUES), tape.seed()
                new = [values(kind, array.shape, array.dtype, seed + number) for number, array in enumerate(held)]
                if operation != "step" and form is not FORMS["bare"]:
                    new[tape.draw(range(3))] = None
                grads = form(*new)
                if operation == "branch" and isinstance(grads, list | dict):
                    grads[next(iter(grads)) if isinstance(grads, dict) else 0] = None
                with np.errstate(all="ignore"), threads.exactly(count):
                    fast.update(params, grads)
                    slow.update(plain, grads)
            assert_same(fast, slow, params, plain)


def assert_same(fast, slow, params, plain):
    """Parameters, state and step counts."""
    for name, array in by_name(params).items():
        assert_same_bits(array, by_name(plain)[name])
    for slot in slow.slots:
        found, expected = getattr(fast, slot), getattr(slow, slot)
        if expected:
            assert list(by_name(found)) == list(expected)
            for name, array in by_name(found).items():
                assert_same_bits(array, expected[name])
    assert fast.iter == slow.iter


@pytest.mark.parametrize("rule", RULES)
@few
@given(start=tapes, operations=operations)
def test_any_sequence_of_many_problems(rule, start, operations, tmp_path_factory):
    kind, path = OPTIMIZERS[rule], tmp_path_factory.getbasetemp() / "problems"
    with told(*map(Tape, (start, *operations))) as (tape, *others):
        size, dtype = tape.draw(range(1, 6)), tape.draw(REAL)
        given_settings = {"on_nonfinite": tape.draw(("propagate", "skip"))}
        given_settings |= tape.draw(({}, {}, {"clip_norm": 0.5}, {"weight_decay": 0.1, "gradient_scale": 0.5}))
        shapes = {"W": (size, 2, 3), "b": (size,)}

        def model(kind):
            seed = tape.seed()
            return {
                key: values(kind, shape, dtype, seed + number) for number, (key, shape) in enumerate(shapes.items())
            }

        params = model("normal")
        optimizer = kind(batch_axis=0, **given_settings)
        alone = Alone(
            lambda problem: kind(lr=float(np.broadcast_to(optimizer.lr, size)[problem]), **given_settings), params
        )
        count, active = 1, np.ones(size, bool)
        names = ("step", "step", "step", "some", "restart", "lr", "pickle", "copy", "file", "threads")
        for tape in others:
            operation = tape.draw(names)
            if operation == "threads":
                count = tape.draw(THREAD_COUNTS)
            elif operation == "some":
                active = np.array([tape.flag() for _ in range(size)])
                optimizer.active = active
            elif operation == "restart" and optimizer.iter:
                problem = tape.draw(range(size))
                optimizer.restart([problem])
                alone.restart(problem)
                active[problem] = True  # it goes on
            elif operation == "lr":
                optimizer.lr = np.array([tape.draw((0.0, 1e-3, 0.5)) for _ in range(size)])
                for single, rate in zip(alone.optimizers, optimizer.lr.tolist(), strict=True):
                    single.lr = rate
            elif operation == "pickle":
                optimizer = pickle.loads(pickle.dumps(optimizer))
            elif operation == "copy":
                optimizer, params = copy.deepcopy((optimizer, params))
            elif operation == "file":
                optimizer.save(path)
                rates, optimizer = optimizer.lr, kind(batch_axis=0, **given_settings)
                optimizer.lr = rates
                optimizer.load(path)
            elif operation == "step":
                grads = model(tape.draw(VALUES))
                with np.errstate(all="ignore"), threads.exactly(count):
                    optimizer.update(params, grads)
                    alone.update(grads, active)
            if optimizer.iter:
                alone.assert_same(optimizer, params)
