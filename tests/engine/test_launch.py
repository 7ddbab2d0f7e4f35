"""One kernel call: how large it is taken to be, which kernel it asks for, and what may take a parameter's place."""

import numpy as np
import pytest

import fastopt
from fastopt import machine, threads
from fastopt.engine import launch as launches
from fastopt.engine.launch import Launch, Leaf, as_number
from fastopt.engine.state import layout_of
from fastopt.kernels import RULES
from fastopt.kernels.loops import PIECE
from fastopt.kernels.stores import AHEAD, BURST, PLAIN
from fastopt.optimizers import OPTIMIZERS
from fastopt.tuning import AS_THEY_COME, Choice


def launches_of(rule, params, report=False, **settings):
    optimizer = OPTIMIZERS[rule](**settings)
    optimizer.update(params, {key: np.ones_like(value) for key, value in params.items()}, report=report)
    return (optimizer._report_plan if report else optimizer._plan).table.launches


SIZES = {  # bytes that a step of an element reads and writes, and those of the arrays behind them; dtype, settings
    "sgd": ("sgd", "float64", {}, 3 * 8, 2 * 8),
    "sgd float32": ("sgd", "float32", {}, 3 * 4, 2 * 4),
    "momentum": ("momentum", "float32", {}, 5 * 4, 3 * 4),
    "adam": ("adam", "float64", {}, 7 * 8, 4 * 8),
    "average": ("adam", "float64", {"averaging": fastopt.EMA()}, 9 * 8, 5 * 8),
    "bfloat16": ("adam", "float32", {"state_storage": "bfloat16"}, 3 * 4 + 4 * 2, 2 * 4 + 2 * 2),
    "complex": ("sgd", "complex128", {}, 3 * 16, 2 * 16),
}


@pytest.mark.parametrize("case", SIZES)
def test_a_launch_knows_its_size(case, monkeypatch):
    rule, dtype, settings, moved, held = SIZES[case]
    params = {"W": np.ones((100, 50), dtype), "V": np.ones(5000, dtype)}
    (launch,) = launches_of(rule, params, **settings)
    assert launch.moved_bytes == 10_000 * moved
    assert launch.parameter_bytes == sum(array.nbytes for array in params.values())
    for most, outgrows in ((10_000 * held, True), (10_000 * held + 1, False), (1, True)):
        monkeypatch.setattr(machine, "cache_bytes", lambda most=most: most)
        assert launch.outgrows_caches is outgrows
        assert launch.form_of(AS_THEY_COME) == (AHEAD if outgrows else PLAIN)
        assert launch.form_of(Choice(BURST)) == BURST and launch.form_of(Choice(PLAIN)) == PLAIN


def test_bounds_are_read():
    most = np.ones(50)
    for settings, more in (
        ({}, 0),
        ({"bounds": (-1, 1)}, 0),
        ({"bounds": (-1, most)}, 1),
        ({"bounds": (-most, most)}, 2),
    ):
        (launch,) = launches_of("sgd", {"W": np.zeros(50)}, **settings)
        assert launch.moved_bytes == 50 * 8 * (3 + more)


def test_copies_that_a_kernel_works_on_are_no_memory_of_the_parameters():
    (launch,) = launches_of("sgd", {"W": np.ones(50), "x": np.ones(40)[::2], "b": np.ones(3)})
    assert [leaf.key for leaf in launch.staged] == ["x"]
    assert launch.moved_bytes == 3 * 8 * (50 + 20 + 3) and launch.parameter_bytes == 8 * (50 + 3)


@pytest.mark.parametrize(
    "sizes", [[1], [PIECE], [1, 5 * PIECE], [PIECE + 1, 1, 2 * PIECE], [0, 3, 3 * PIECE - 1, 0, PIECE, 1]]
)
def test_each_piece_has_its_row_in_the_statistics(sizes):
    (launch,) = launches_of("sgd", {key: np.ones(size) for key, size in enumerate(sizes)}, report=True)
    pieces = [-(-size // PIECE) for size in sizes]
    ends = [first + count for first, count in zip(launch.rows.tolist(), pieces, strict=True)]
    assert all(end <= first for end, first in zip(ends, launch.rows[1:].tolist(), strict=False))
    assert launch.rows[0] == 0 and ends[-1] <= len(launch.statistics) <= sum(pieces) + len(sizes) + 1
    assert launch.table[-1, 0] == launch.statistics.ctypes.data


@pytest.fixture
def asked(monkeypatch):
    """The arguments of the kernels that launches ask for; none is compiled."""
    asked = []
    monkeypatch.setattr(launches, "kernel_of", lambda *given: (asked.append(given), object())[1])
    return asked


def launch_of(size=10, **settings):
    return Launch(np.zeros((2, 10), np.int64), np.array([0, size]), "float64", 3 * 8 * size, [], [0], **settings)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_a_kernel_for_several_threads_is_asked_for_where_there_are_several(count, asked):
    launch = launch_of()
    with threads.exactly(count):
        calls = [launch.call(RULES["sgd"], "step") for _ in range(2)]
    assert [given[2] for given in asked] == [count > 1] and [call[-1] for call in calls] == [count] * 2
    assert calls[0][0] is calls[1][0] and calls[0][1] is launch.table and calls[0][2] is launch.starts
    with threads.exactly(4):
        launch.call(RULES["sgd"], "step")
    assert len(asked) == 1 + (count == 1)


def test_each_kind_of_kernel_is_asked_for_once(asked):
    launch = launch_of(columns=("mask",))
    kinds = [("step", ()), ("report", ()), ("step", ("scale",)), ("measure", ()), ("prepare", ())]
    for _ in range(2):
        for which, transforms in kinds:
            launch.call(RULES["sgd"], which, transforms)
            assert (launch.statistics is None) == (len(asked) == 1), "there are statistics from the first report on"
    assert [given[3:5] for given in asked] == [
        ("step", ("mask",)), ("report", ("mask",)), ("step", ("scale", "mask")), ("measure", ()), ("prepare", ()),
    ]  # fmt: skip
    launch.call(RULES["sgd"], "step", (), Choice(2, None))
    assert asked[-1][5] == 2 and len(asked) == len(kinds) + 1


def test_steps_and_their_preparation_need_no_statistics(asked):
    launch = launch_of()
    for which in ("step", "prepare"):
        launch.call(RULES["sgd"], which)
        assert launch.statistics is None and not launch.table.any()
    launch.call(RULES["sgd"], "finite")
    before = launch.statistics
    launch.call(RULES["sgd"], "report")
    assert before is not None and launch.statistics is before


@pytest.mark.parametrize(
    ("rule", "which", "in_pairs"),
    [
        ("adam", "step", True),
        ("adam", "report", True),
        ("adam", "finite", False),
        ("adam", "finite_squares", True),
        ("sgd", "step", False),
        ("sgd", "finite_squares", True),
    ],
)
def test_squares_of_complex_numbers_are_taken_in_pairs_where_there_are_any(rule, which, in_pairs, asked):
    for modulus in (True, False):
        launch_of(modulus=modulus).call(RULES[rule], which)
        assert asked[-1][6] is (in_pairs and modulus)


def leaf(value, **settings):
    array = np.asarray(value)
    return Leaf("W", value, array, layout_of(array), **settings)


def locked(array):
    array.flags.writeable = False
    return array


class Subclass(np.ndarray):
    pass


ALIKE = {
    "another array": (np.zeros((2, 3)), True),
    "shape": (np.zeros((3, 2)), False),
    "fewer": (np.zeros((1, 3)), False),
    "dtype": (np.zeros((2, 3), np.float32), False),
    "wider dtype": (np.zeros((2, 3), complex), False),
    "order": (np.zeros((3, 2)).T, False),
    "strided": (np.zeros((2, 6))[:, ::2], False),
    "read-only": (locked(np.zeros((2, 3))), False),
    "subclass": (np.zeros((2, 3)).view(Subclass), False),
    "list": ([[0.0] * 3] * 2, False),
}


@pytest.mark.parametrize("what", ALIKE)
def test_arrays_that_may_take_the_place_of_another(what):
    value, alike = ALIKE[what]
    assert leaf(np.ones((2, 3))).is_like(value) is alike


def test_parameters_that_are_looked_at_one_by_one():
    array = np.zeros((4, 6))[:, ::2]
    strided, number = leaf(array), leaf(1.5)
    assert strided.fits(array) and not strided.fits(array.copy()) and not strided.fits(array[:])
    assert number.fits(2.5) and not number.fits(np.float64(2.5)) and not number.fits(np.array(2.5))
    locked(array)
    assert not strided.fits(array)


def test_copies_that_a_mapping_hands_out():
    copied = leaf(np.zeros((2, 3)), copied=True)
    for what in ("another array", "order", "strided", "read-only", "subclass"):
        assert copied.fits(ALIKE[what][0]), what
    for what in ("shape", "fewer", "dtype", "wider dtype", "list"):
        assert not copied.fits(ALIKE[what][0]), what
    assert not copied.fits(np.ma.masked_array(np.zeros((2, 3)), True))


def test_which_parameters_are_the_same_memory():
    array = np.zeros(4)
    assert leaf(array).identity == leaf(array[:]).identity != leaf(array[:2]).identity
    assert leaf(array, copied=True).identity != leaf(array, copied=True).identity
    assert leaf(1.5).identity != leaf(1.5).identity


@pytest.mark.parametrize("before", [1, 1.5, np.float32(1.5), np.float64(1.5), np.int64(1)])
def test_numbers_stay_what_they_were(before):
    new = as_number(np.array(2.5), before)
    assert new == 2.5 and type(new) is (type(before) if isinstance(before, np.floating) else float)


def test_a_new_launch_is_of_real_numbers_and_stores_as_they_come():
    assert not launch_of().modulus and not leaf(1.5).modulus and not Launch.is_stored
    assert launch_of().form_of(AS_THEY_COME) == PLAIN
