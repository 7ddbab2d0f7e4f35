"""Checks and error texts at their limits: the last value that is taken, the first that is not, and what is named."""

from types import SimpleNamespace

import numpy as np
import pytest

import fastopt
from fastopt import array_checks, checks, container_checks
from fastopt.optimizers import OPTIMIZERS


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "no keys"), (1, "0"), (8, "0, 1, 2, 3, 4, 5, 6, 7"), (9, "0, 1, 2, 3, 4, 5, 6, 7 and 1 more")],
)
def test_keys_are_named_up_to_eight(count, text):
    assert checks.names_of(range(count)) == text


def test_seventeen_keys_are_eight_and_nine_more():
    assert checks.names_of(range(17)).endswith("7 and 9 more")


def test_other_lists_end_after_eight():
    for text in (
        checks.not_in_module("m", "x", map(str, range(9))),
        checks.no_state("Adam", "x", range(9)),
        checks.array_or_dict("Adam", "x", range(9)),
    ):
        assert "7" in text and "8" not in text
    assert "has none" in checks.not_in_module("m", "x", [])
    assert checks.bad_thread_count("N", "1" * 70, 4, 2).startswith("N=" + "1" * 60 + " must be")


WHOLE = {
    "iter": (checks.step_count, [0, 1, 2**53, np.int64(3)], [-1, 2**53 + 1]),
    "steps": (lambda owner, value: checks.positive(owner, "every", value), [1, 2, 2**60], [0, -1]),
    "threads": (lambda owner, value: checks.thread_count(owner, value, 300), [1, 2, 300], [0, -1, 301]),
}


@pytest.mark.parametrize("kind", WHOLE)
def test_whole_numbers_and_their_limits(kind):
    check, taken, refused = WHOLE[kind]
    for value in taken:
        assert check("Adam", value) == value and type(check("Adam", value)) is int
    for value in refused:
        with pytest.raises(ValueError, match=rf"must be .*got {value}"):
            check("Adam", value)
    for value in (True, 1.0, "1", None):
        with pytest.raises(TypeError, match="must be a whole number"):
            check("Adam", value)


def test_parameters_as_a_setting_are_told_from_numbers():
    for first in ({}, [np.ones(2)], (1.0,), iter([1]), np.ones(2)):
        with pytest.raises(TypeError, match=r"the first setting is lr, got (dict|list|tuple|list_iterator|ndarray)"):
            fastopt.Adam(first, 0.9)
        checks.arguments("Adam", (0.1, first), {}, ["lr", "beta1"])
    with pytest.raises(TypeError, match="the first setting is none, got dict"):
        checks.arguments("Own", ({}, 0.1), {}, [])


def test_advice_where_a_checkpoint_does_not_fit():
    def layout(dtype, *shape):
        return SimpleNamespace(dtype=np.dtype(dtype), shape=shape)

    def text(reshaped, saved, missing=()):
        differences = {"missing": list(missing), "unexpected": [], "settings": [], "reshaped": reshaped}
        expected = dict.fromkeys(reshaped, layout("float32", 3))
        return checks.mismatch("Adam", "it", differences, expected, dict.fromkeys(reshaped, saved))

    precision = "cast=True converts the precision, strict=False"
    for count in (1, 8, 9):
        found = text([f"k{number}" for number in range(count)], layout("float64", 3))
        assert precision in found and found.count("float64 of shape") == min(count, 8)
    for saved, missing in ((layout("float64", 2), ()), (layout("float64", 4), ()), (layout("float64", 3), ("b",))):
        assert precision not in text(["k"], saved, missing)


@pytest.mark.parametrize(
    ("shape", "strides", "overlaps"),
    [
        ((3,), (8,), False),
        ((3,), (-8,), False),
        ((3,), (4,), True),
        ((2,), (0,), True),
        ((1,), (0,), False),
        ((0, 3), (0, 0), False),
        ((1, 3), (0, 8), False),
        ((2, 2), (8, 8), True),
        ((2, 3), (24, 8), False),
        ((2, 3), (16, 8), True),
        ((2, 3), (8, 16), False),
        ((3, 3), (23, 8), True),
        ((2, 3, 2), (48, 16, 8), False),
        ((2, 3, 2), (40, 16, 8), True),
        ((1,), (3,), False),
    ],
)
def test_arrays_that_lie_over_themselves(shape, strides, overlaps):
    memory = np.zeros(64)
    array = np.lib.stride_tricks.as_strided(memory[32:], shape, strides)
    if overlaps:
        with pytest.raises(ValueError, match="several elements in one place"):
            array_checks.parameter("Adam", "params['W']", array)
    else:
        assert array_checks.parameter("Adam", "params['W']", array) is array


class Carrier(np.ndarray):
    """A subclass that may carry a mask."""


def test_masked_arrays_and_other_subclasses():
    plain = np.zeros(2).view(Carrier)
    assert not array_checks.masked(np.zeros(2)) and not array_checks.masked(plain)
    assert type(array_checks.parameter("Adam", "params", plain)) is np.ndarray
    carrying = np.zeros(2).view(Carrier)
    carrying.mask = [True, False]
    for array in (np.ma.masked_array(np.zeros(2)), carrying):
        with pytest.raises(TypeError, match=r"params is a masked array, .* hand in params\.data"):
            array_checks.parameter("Adam", "params", array)


@pytest.mark.parametrize(
    ("dtype", "advice"),
    [("float16", "float64"), ("int64", "float64"), ("bool", "float64"), (">c16", "complex128"), ("S1", "float64")],
)
def test_the_dtype_to_convert_to(dtype, advice):
    with pytest.raises(TypeError, match=rf"params\['W'\]\.astype\(np\.{advice}\)$"):
        array_checks.parameter("Adam", "params['W']", np.zeros(2, dtype))


@pytest.mark.parametrize(
    ("module", "advice"),
    [("cupy", "cupy.asnumpy(g)"), ("cupy._core", "cupy.asnumpy(g)"), ("jaxlib.x", "np.asarray(g)"), ("mlx", "np.as")],
)
def test_arrays_elsewhere_are_told_how_to_get_here(module, advice):
    value = type("Array", (), {"__module__": module})()
    assert advice in array_checks.conversion("g", value)


def test_other_things_get_no_such_advice():
    assert array_checks.conversion("g", type("Array", (), {"__module__": "other.cupy"})()) is None
    assert "such as 'enc.W'" in array_checks.conversion("params['enc']", {"W": 1, "b": 2})
    assert "such as 'enc.W'" in array_checks.conversion("params['enc']", {})


@pytest.mark.parametrize(("one", "other"), [("float32", "float64"), ("float64", "float32")])
def test_a_parameter_of_another_dtype_than_its_state(one, other):
    array_checks.replaced("Adam", "p", np.zeros(2, one), (2,), np.dtype(one))
    with pytest.raises(TypeError, match=f"p has dtype {one}, but at the first step it had {other}"):
        array_checks.replaced("Adam", "p", np.zeros(2, one), (2,), np.dtype(other))


def test_pairs_in_one_argument_are_two():
    assert "gives pairs" in container_checks.no_objects("Adam", [], (1, 2)) and "gives pairs" in (
        container_checks.no_objects("Adam", zip([1], [2], strict=True))
    )
    for thing in ((1,), (1, 2, 3), None):
        assert "gives pairs" not in container_checks.no_objects("Adam", [], thing)


def test_groups_without_norms_of_arrays_take_one_array_under_two_keys():
    array = np.zeros(2)
    fastopt.SGD(lr=1.0, groups={"a": {"lr": 0.5}}).update({"a": array, "b": array}, {"a": np.ones(2), "b": np.ones(2)})
    assert array.tolist() == [-1.5, -1.5]


def test_vectors_without_decay():
    params = {"W": np.ones((1, 1)), "b": np.ones(1)}
    fastopt.SGD(lr=1.0, weight_decay=0.25, groups=fastopt.groups.NO_DECAY_ON_VECTORS).update(
        params, {"W": np.zeros((1, 1)), "b": np.zeros(1)}
    )
    assert params["W"] == 0.75 and params["b"] == 1


def test_lr_scale_is_for_rules_with_a_learning_rate():
    for kind in OPTIMIZERS.values():
        with pytest.raises(ValueError, match=f"{kind.__name__}: groups\\['a'\\] cannot have 'nope'") as caught:
            kind(groups={"a": {"nope": 1}})
        assert ("lr_scale" in str(caught.value)) == ("lr" in kind._hyperparameters())
        assert "frozen" in str(caught.value)


def test_texts_that_depend_on_what_was_found():
    assert "in which there is one of type tuple" in container_checks.no_objects("Adam", [], (1,))
    assert "in which there is" not in container_checks.no_objects("Adam", [])
    assert "is a method" in container_checks.no_array_in("Adam", "W", "grad", print)
    assert "is of type float" in container_checks.no_array_in("Adam", "W", "grad", 1.0)
    assert "averaged_weights" in checks.in_use("Adam", checks.SWAPPED)
    for doing in ("aa", "stepping", True):
        assert "in the middle of a step" in checks.in_use("Adam", doing)
    assert "ask for one" in checks.nothing_averaged("Adam", None, 3)
    assert "after 3 steps with EMA" in checks.nothing_averaged("Adam", fastopt.EMA(0.9), 3)
    assert checks.too_many_skips("grads are NaN; nothing was written", 2).startswith("grads are NaN, after 2 steps")


LATER = {
    "transposed": lambda: np.zeros((3, 2)),
    "another size": lambda: np.zeros((2, 4)),
    "float32": lambda: np.zeros((2, 3), np.float32),
    "Fortran": lambda: np.zeros((2, 3), order="F"),
    "strided": lambda: np.zeros((2, 6))[:, ::2],
    "C": lambda: np.zeros((2, 3)),
}


@pytest.mark.parametrize("form", LATER)
@pytest.mark.parametrize("kind", [fastopt.SGD, fastopt.Momentum])
def test_another_array_at_a_later_step(kind, form):
    optimizer, params, array = kind(lr=1.0), {"W": np.zeros((2, 3)), "b": np.zeros(1)}, LATER[form]()
    for _ in range(3):
        optimizer.update(params, {"W": np.zeros((2, 3)), "b": np.zeros(1)})
    old, params["W"] = params["W"], array
    grads = {"W": np.arange(1.0, array.size + 1).reshape(array.shape), "b": np.ones(1)}
    if kind is fastopt.Momentum and form in ("transposed", "another size", "float32"):
        with pytest.raises((ValueError, TypeError), match=r"params\['W'\] has (shape|dtype) .* at the first step"):
            optimizer.update(params, grads)
        assert not array.any() and not params["b"].any()
    else:
        optimizer.update(params, grads)
        assert (array == -grads["W"]).all() and params["b"] == -1
        array.flags.writeable = False
        with pytest.raises(ValueError, match=r"params\['W'\] is read-only"):
            optimizer.update(params, grads)
        assert (array == -grads["W"]).all() and params["b"] == -1
    assert not old.any()
