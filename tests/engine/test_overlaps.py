"""Arrays that share memory are found, in pairs or by runs, as NumPy finds them; and in linear time."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fastopt
from fastopt.engine import overlaps
from fastopt.engine.overlaps import Memory, moved_blocks


@st.composite
def views(draw):
    """Views of one buffer, of any direction, step, shape and dtype, transposed, broadcast or overlapping themselves."""
    buffer = np.zeros(draw(st.integers(4, 60)), np.float32)
    made = []
    for _ in range(draw(st.integers(1, 12))):
        view = buffer[
            draw(st.integers(0, 20)) : draw(st.integers(0, 60)) : draw(st.sampled_from([-3, -2, -1, 1, 2, 3, 7]))
        ]
        kind = draw(st.integers(0, 4))
        if kind == 1 and view.size >= 4:
            view = view[: view.size // 2 * 2].reshape(2, -1).T
        elif kind == 2 and view.size and view.flags.c_contiguous:
            view = view[: view.size // 2 * 2].view(np.float64) if view.ctypes.data % 8 == 0 else view
        elif kind == 3 and view.size:
            view = np.broadcast_to(view, (3, view.size))
        elif kind == 4 and view.size > 3:
            view = np.lib.stride_tricks.as_strided(view, (view.size - 1, 2), view.strides * 2)
        made.append(view)
    return made


@settings(deadline=None)
@given(views(), st.sampled_from([0, 2, 16]), st.sampled_from([0, 1, 10**6]), st.sampled_from([0, 10, 10**6]))
def test_the_same_as_numpy(arrays, few, per_pair, most):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(overlaps, "FEW", few)
        patch.setattr(overlaps, "RUNS_PER_PAIR", per_pair)
        patch.setattr(overlaps, "MOST_RUNS", most)
        memory = Memory(arrays)
        sharing = [
            pair
            for pair in itertools.combinations(range(len(arrays)), 2)
            if np.shares_memory(*(arrays[i] for i in pair))
        ]
        assert (memory.overlapping is not None) == bool(sharing)
        if memory.overlapping:
            assert tuple(sorted(memory.overlapping)) in sharing
        for array in arrays:
            expected = [number for number, other in enumerate(arrays) if np.shares_memory(array, other)]
            assert sorted(memory.sharing(array)) == expected


def test_blocks_are_disjoint_and_hold_all(rng):
    buffer = np.zeros((4, 10))
    memory = Memory([buffer[3], buffer[0, ::2], buffer[0, 1::2], buffer[1, :0]])
    start = buffer.ctypes.data
    assert [(block.start - start, block.end - start, block.members) for block in memory.blocks] == [
        (0, 80, [1, 2]),
        (240, 320, [0]),
    ]


@settings(deadline=None)
@given(st.data())
def test_blocks_that_move(data):
    """The same one by one and all at once."""
    starts = np.cumsum(data.draw(st.lists(st.integers(10, 14), min_size=1, max_size=30)))
    written = np.array([starts, starts + 10], dtype=np.int64)
    chosen = data.draw(st.lists(st.integers(0, len(starts) - 1), max_size=40, unique=data.draw(st.booleans())))
    moved = [
        (int(starts[place]), data.draw(st.integers(0, 600)), data.draw(st.sampled_from([10, 10, 10, 10, 9])))
        for place in chosen
    ]
    found = []
    for few in (0, 100):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(overlaps, "FEW", few)
            blocks = moved_blocks(written, moved) if moved else None
        found.append(None if blocks is None else np.array(blocks).tolist())
    assert found[0] == found[1]


COUNT = 3000


def plain(count):
    return {f"p{number}": np.ones(3) for number in range(count)}


def interleaved(count):
    buffer = np.ones((3, count))
    return {f"p{number}": buffer[:, number] for number in range(count)}


@pytest.mark.parametrize("make", [plain, interleaved])
def test_no_array_is_compared_with_all_others(make, monkeypatch):
    """Comparisons once grew with the square of their number: they are counted, not timed."""
    calls = []
    share_memory = overlaps.share_memory
    monkeypatch.setattr(overlaps, "share_memory", lambda a, b: (calls.append(1), share_memory(a, b))[1])
    params, expected = make(COUNT), {key: value.copy() for key, value in make(COUNT).items()}
    one, other = fastopt.SGD(lr=0.5), fastopt.SGD(lr=0.5)
    for _ in range(2):
        one.update(params, params)
        other.update(expected, {key: value.copy() for key, value in expected.items()})
    assert all((params[key] == expected[key]).all() for key in params)
    assert len(calls) <= 4 * COUNT


def test_gradients_between_the_parameters(monkeypatch):
    calls = []
    monkeypatch.setattr(overlaps, "share_memory", lambda a, b: calls.append(1))
    buffer = np.ones((3, 2 * COUNT))
    params = {number: buffer[:, 2 * number] for number in range(COUNT)}
    fastopt.SGD(lr=0.5).update(params, {number: buffer[:, 2 * number + 1] for number in range(COUNT)})
    assert calls == [] and (buffer[:, ::2] == 0.5).all() and (buffer[:, 1::2] == 1).all()


@pytest.mark.parametrize("make", [plain, interleaved])
def test_overlapping_arrays_among_many_are_named(make):
    params = make(COUNT)
    before = {key: value.copy() for key, value in params.items()}
    grads = {key: np.ones(3) for key in params} | {"p7": params["p8"]}
    with pytest.raises(ValueError, match=r"grads\['p7'\].*params\['p8'\]"):
        fastopt.SGD().update(params, grads)
    params["q"] = params["p9"][1:]
    grads |= {"p7": np.ones(3), "q": np.ones(2)}
    with pytest.raises(ValueError, match=r"params\['p9'\].*params\['q'\]"):
        fastopt.SGD().update(params, grads)
    assert all((params[key] == before[key]).all() for key in before)


def test_many_replaced_at_once():
    params, optimizer = plain(COUNT), fastopt.Momentum(lr=0.5)
    grads = {key: np.ones(3) for key in params}
    for _ in range(3):
        optimizer.update(params, grads)
        plan = optimizer._plan
        for key in params:
            params[key] = params[key].copy()
    optimizer.update(params, grads)
    assert optimizer._plan is plan and params["p5"][0] == 1 - 0.5 * (1 + 1.9 + 2.71 + 3.439)
    optimizer.update(params, params)  # the memory that is looked through is that of the new ones
    params["p7"] = params["p7"].copy()
    with pytest.raises(ValueError, match=r"grads\['p6'\].*params\['p7'\]"):
        optimizer.update(params, grads | {"p6": params["p7"]})


def test_a_gradient_that_becomes_a_parameter_is_looked_at_again():
    """Its address was checked beside the parameters of the step before."""
    params, grads = plain(3), plain(3)
    optimizer = fastopt.SGD(lr=0.5)
    for _ in range(2):
        optimizer.update(params, grads)
    params["p1"] = grads["p0"]
    before = {key: value.copy() for key, value in params.items()}
    with pytest.raises(ValueError, match=r"grads\['p0'\].*params\['p1'\]"):
        optimizer.update(params, grads)
    assert all((params[key] == before[key]).all() for key in params)


class Compared(str):
    """A key that counts how often it is compared."""

    calls = 0

    def __eq__(self, other):
        Compared.calls += 1
        return str.__eq__(self, other)

    __hash__ = str.__hash__


def test_loading_compares_keys_a_few_times_each():
    params = {Compared(key): value for key, value in plain(COUNT).items()}
    optimizer = fastopt.Momentum()
    optimizer.update(params, params)
    saved, other = optimizer.state_dict(), fastopt.Momentum()
    Compared.calls = 0
    other.load_state_dict(saved)
    other.load_state_dict(saved)
    del saved["state"]["v"][Compared("p3")]
    assert other.load_state_dict(saved, strict=False).missing == ["p3"]
    assert Compared.calls < 40 * COUNT
