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
from hypothesis import strategies as st

from fastopt import reference, threads
from fastopt.optimizers import OPTIMIZERS
from fastopt.reference.walk import leaves
from tests.conftest import THREAD_COUNTS, assert_same_bits
from tests.engine.nested import Layer
from tests.engine.test_problems import Alone
from tests.random_models import EXAMPLES, USUAL, VALUES, arrays, make, try_many, values

RULES = ["sgd", "momentum", "adam"]
few = settings(try_many, max_examples=EXAMPLES if EXAMPLES > USUAL else EXAMPLES // 4)

FORMS = {
    "bare": lambda a, b, c: a,
    "list": lambda a, b, c: [a, b, c],
    "tuples": lambda a, b, c: ((a, b), (c,)),
    "dicts": lambda a, b, c: {"x": {"W": a, "b": b}, "y": OrderedDict(W=c)},
    "namedtuples": lambda a, b, c: [Layer(a, b), None, Layer(c, None)],
}


def by_name(container):
    """The arrays in a container."""
    if isinstance(container, np.ndarray):
        return {None: container}
    return {name: holder[key] for name, (holder, key) in leaves(container, "")}


@pytest.mark.parametrize("rule", RULES)
@few
@given(data=st.data())
def test_any_sequence_on_any_container(rule, data, tmp_path_factory):
    form, path = FORMS[data.draw(st.sampled_from(list(FORMS)))], tmp_path_factory.getbasetemp() / "container"
    held = [make(*data.draw(arrays)) for _ in range(3)]
    params, plain = form(*held), form(*(np.array(array) for array in held))
    fast, slow = OPTIMIZERS[rule](), getattr(reference, OPTIMIZERS[rule].__name__)()
    operations = ["step", "step", "none", "branch", "pickle", "copy", "file", "params", "threads"]
    count = None
    for operation in data.draw(st.lists(st.sampled_from(operations), min_size=1, max_size=8)):
        if operation == "threads":
            count = data.draw(st.sampled_from(THREAD_COUNTS))
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
            kind, seed = data.draw(st.sampled_from(VALUES)), data.draw(st.integers(0, 2**32 - 1))
            new = [values(kind, array.shape, array.dtype, seed + number) for number, array in enumerate(held)]
            if operation != "step" and form is not FORMS["bare"]:
                new[data.draw(st.integers(0, 2))] = None
            grads = form(*new)
            if operation == "branch" and isinstance(grads, list | dict):
                grads[next(iter(grads)) if isinstance(grads, dict) else 0] = None
            with np.errstate(all="ignore"), threads.exactly(count or 1):
                fast.update(params, grads)
                slow.update(plain, grads)
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
@given(data=st.data())
def test_any_sequence_of_many_problems(rule, data, tmp_path_factory):
    kind, path = OPTIMIZERS[rule], tmp_path_factory.getbasetemp() / "problems"
    size, seeds = data.draw(st.integers(1, 5)), st.integers(0, 2**32 - 1)
    dtype, shapes = data.draw(st.sampled_from(["float32", "float64"])), {"W": (size, 2, 3), "b": (size,)}

    def model(kind):
        seed = data.draw(seeds)
        return {key: values(kind, shape, dtype, seed + number) for number, (key, shape) in enumerate(shapes.items())}

    given_settings = {"on_nonfinite": data.draw(st.sampled_from(["propagate", "skip"]))}
    params = model("normal")
    optimizer = kind(batch_axis=0, **given_settings)
    alone = Alone(
        lambda problem: kind(lr=float(np.broadcast_to(optimizer.lr, size)[problem]), **given_settings), params
    )
    operations = ["step", "step", "step", "some", "restart", "lr", "pickle", "copy", "file", "threads"]
    count, active = 1, np.ones(size, bool)
    for operation in data.draw(st.lists(st.sampled_from(operations), min_size=1, max_size=8)):
        if operation == "threads":
            count = data.draw(st.sampled_from(THREAD_COUNTS))
        elif operation == "some":
            active = np.array([data.draw(st.booleans()) for _ in range(size)])
            optimizer.active = active
        elif operation == "restart" and optimizer.iter:
            problem = data.draw(st.integers(0, size - 1))
            optimizer.restart([problem])
            alone.restart(problem)
            active[problem] = True  # it goes on
        elif operation == "lr":
            optimizer.lr = np.array([data.draw(st.sampled_from([0.0, 1e-3, 0.5])) for _ in range(size)])
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
            grads = model(data.draw(st.sampled_from(VALUES)))
            with np.errstate(all="ignore"), threads.exactly(count):
                optimizer.update(params, grads)
                alone.update(grads, active)
        if optimizer.iter:
            alone.assert_same(optimizer, params)
