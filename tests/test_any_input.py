"""Hypothesis tries to break it: bad input, edited checkpoints, arrays that change; `random_models.py` says how often."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import fastopt
from fastopt import CheckpointError
from fastopt.optimizers import OPTIMIZERS
from tests.conftest import python
from tests.random_models import Tape, tapes, told, try_many

BAD = {
    "shape": lambda params, grads, key: grads.update({key: np.zeros((9, 9))}),
    "missing": lambda params, grads, key: grads.pop(key),
    "complex": lambda params, grads, key: grads.update({key: np.zeros(params[key].shape, complex)}),
    "objects": lambda params, grads, key: grads.update({key: np.full(params[key].shape, None)}),
    "text": lambda params, grads, key: grads.update({key: "1.0"}),
    "list": lambda params, grads, key: grads.update({key: params[key].tolist() if params[key].ndim else [1.0]}),
    "read-only": lambda params, grads, key: params[key].setflags(write=False),
    "integers": lambda params, grads, key: params.update({key: np.ones(params[key].shape, int)}),
    "half": lambda params, grads, key: params.update({key: params[key].astype(np.float16)}),
    "no array": lambda params, grads, key: params.update({key: None}),
    "set": lambda params, grads, key: params.update({key: {1.0}}),
    "swapped bytes": lambda params, grads, key: params.update({key: params[key].astype(params[key].dtype.newbyteorder())}),
    "broadcast": lambda params, grads, key: params.update({key: np.broadcast_to(params[key].dtype.type(1), (4, 4))}),
    "other shape": lambda params, grads, key: (params.update({key: np.ones((9, 9), params[key].dtype)}), grads.update({key: np.ones((9, 9))})),
    "other dtype": lambda params, grads, key: params.update({key: params[key].astype("float32" if params[key].dtype == "float64" else "float64")}),
    "shared": lambda params, grads, key: (params.update(one=(block := np.zeros(9))[:6], two=block[3:]), grads.update(one=np.ones(6), two=np.ones(6))),
    "own state": lambda params, grads, key: None,
}  # fmt: skip


def snapshot(optimizer, params):
    saved = optimizer.state_dict()
    state = [value for slot in saved.pop("state").values() if slot for value in slot.values()]
    return repr(saved), [
        value.tobytes() if isinstance(value, np.ndarray) else repr(value) for value in [*state, *params.values()]
    ]


@pytest.mark.parametrize("rule", ["sgd", "momentum", "adam"])
@try_many
@given(content=tapes)
def test_bad_input_is_refused_and_changes_nothing(rule, content):
    with told(Tape(content)) as (tape,):
        bad_input(rule, tape)


def bad_input(rule, tape):
    params = tape.model() or {"W": np.ones(3)}
    optimizer = OPTIMIZERS[rule]()
    grads = {key: np.ones(value.shape) for key, value in params.items()}
    with np.errstate(all="ignore"):
        optimizer.update(params, grads)
    kind, key = tape.draw(BAD), tape.draw(params)
    if kind == "own state":
        if rule == "sgd" or params[key].size == 0:
            return
        params[key] = next(iter(optimizer._state.views.values()))[key]
    else:
        with np.errstate(all="ignore"):
            BAD[kind](params, grads, key)
    if rule == "sgd" and kind in ("other shape", "other dtype"):
        return  # it has no state that these would not fit
    before = snapshot(optimizer, params)
    with pytest.raises((TypeError, ValueError, KeyError)) as caught:
        optimizer.update(params, grads)
    assert type(caught.value) in (TypeError, ValueError, KeyError) and type(optimizer).__name__ in str(caught.value)
    assert snapshot(optimizer, params) == before


@pytest.fixture(scope="module")
def checkpoint_bytes(tmp_path_factory):
    optimizer, path = fastopt.Adam(), tmp_path_factory.mktemp("checkpoint") / "state"
    params = {"W": np.ones((3, 4), np.float32), "b": np.ones(2), 3: np.asfortranarray(np.ones((2, 3)))}
    optimizer.update(params, {key: np.ones(value.shape) for key, value in params.items()})
    optimizer.save(path)
    return path, path.read_bytes()


def refused(path, content):
    path = path.with_name("edited")
    path.write_bytes(content)
    optimizer, params = fastopt.Adam(), {"W": np.ones((3, 4), np.float32), "b": np.ones(2), 3: np.ones((2, 3))}
    optimizer.update(params, params)
    before = snapshot(optimizer, params)
    for strict in (True, False):
        with pytest.raises(CheckpointError) as caught:
            optimizer.load(path, strict=strict)
        assert "\n" not in str(caught.value) and snapshot(optimizer, params) == before


@try_many
@given(content=st.binary(max_size=300))
def test_random_bytes_are_refused(content, checkpoint_bytes):
    refused(checkpoint_bytes[0], content)


@try_many
@given(data=st.data())
def test_random_edits_of_a_checkpoint_are_refused(data, checkpoint_bytes):
    path, original = checkpoint_bytes
    content = bytearray(original)
    for _ in range(data.draw(st.integers(1, 3))):
        start = data.draw(st.integers(0, len(content)))
        end = data.draw(st.integers(start, min(len(content), start + 20)))
        content[start:end] = data.draw(st.binary(max_size=20))
    if bytes(content) != original:
        refused(path, bytes(content))


WRONG_ADDRESS = """
import numpy as np, fastopt
optimizer, params = fastopt.Adam(), {"W": np.ones(3), "b": np.ones(100)}
grads = {key: np.ones(value.shape) for key, value in params.items()}
optimizer.update(params, grads)
row = optimizer._plan.table.leaves[1].row
for column in (0, 1, 2, 3, -1):
    before = optimizer._plan.table.addresses[row, column]
    optimizer._plan.accepts(params, grads)
    optimizer._plan.table.addresses[row, column] += 8  # one element too far
    try:
        optimizer._plan.run(params, [optimizer.scalars(2)], report=False)
    except RuntimeError as error:
        size = 800 if column >= 0 else optimizer._plan.table.scalars.nbytes
        print(column, f"is not that of {size} bytes of a live array" in str(error))
    optimizer._plan.table.addresses[row, column] = before
"""


def test_a_wrong_address_is_found():
    assert python(WRONG_ADDRESS, FASTOPT_CHECK="1").stdout == "0 True\n1 True\n2 True\n3 True\n-1 True\n"


# -- arrays that change between steps ---------------------------------------------------------------------------------


def test_arrays_that_were_resized_freed_swapped_or_made_read_only_are_noticed():
    def stepped():
        optimizer, params = fastopt.Adam(), {"W": np.ones(1000), "b": np.ones(1000)}
        optimizer.update(params, {key: np.ones(1000) for key in params})
        return optimizer, params

    optimizer, params = stepped()
    params["W"].resize(5, refcheck=False)
    with pytest.raises(ValueError, match=r"params\['W'\] has shape \(5,\), but at the first step it had \(1000,\)"):
        optimizer.update(params, {"W": np.ones(5), "b": np.ones(1000)})
    optimizer, params = stepped()
    params["W"].resize(100_000, refcheck=False)  # lies elsewhere now
    with pytest.raises(ValueError, match=r"grads\['W'\] has shape \(1000,\)|params\['W'\] has shape"):
        optimizer.update(params, {key: np.ones(1000) for key in params})
    optimizer, params = stepped()
    params["W"].resize(100_000, refcheck=False)
    params["W"].resize(1000, refcheck=False)  # the same shape at another address
    before = params["W"].copy()
    optimizer.update(params, {key: np.ones(1000) for key in params})
    assert (params["W"] < before).all()
    optimizer, params = stepped()
    params["b"].setflags(write=False)
    with pytest.raises(ValueError, match=r"params\['b'\] is read-only"):
        optimizer.update(params, {key: np.ones(1000) for key in params})
    optimizer, params = stepped()
    kept = params["W"]
    params["W"], params["b"] = params["b"], params["W"]
    optimizer.update(params, {"W": np.ones(1000), "b": -np.ones(1000)})
    assert (kept > params["W"]).all()
    optimizer, params = stepped()
    old = params["W"].copy()
    params["W"] = np.ones(1000) * 5  # the old one has no owner but the optimizer's plan any more
    optimizer.update(params, {key: np.ones(1000) for key in params})
    assert (params["W"] < 5).all() and (old < 1).all()
