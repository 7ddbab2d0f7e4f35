"""Checks of a learner's input, with a sentence for each mistake: found, expected, and what to do."""

from __future__ import annotations

import math
import numbers
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from fastopt import names

Array = npt.NDArray[Any]


def choice(what: str, name: Any, expected: Iterable[str]) -> str:
    """The one of the names, in whatever case and spelling."""
    expected = list(expected)
    chosen = names.find(name, expected)
    if chosen is None:
        suggestion = names.did_you_mean(name, expected)
        raise ValueError(f"{what} must be one of {', '.join(expected)}, got {name!r}{suggestion}")
    return chosen


def sizes(input_size: Any, hidden_size_list: Any, output_size: Any) -> list[int]:
    """The widths of all layers, from the input's to the output's."""
    if isinstance(hidden_size_list, str) or not isinstance(hidden_size_list, Sequence | np.ndarray):
        raise TypeError(f"hidden_size_list must be a list of widths such as [100, 100], got {hidden_size_list!r}")
    widths = [input_size, *hidden_size_list, output_size]
    for width in widths:
        if isinstance(width, bool) or not isinstance(width, numbers.Integral) or width < 1:
            raise ValueError(f"sizes of layers must be whole numbers of at least 1, got {width!r}")
    return [int(width) for width in widths]


def float_dtype(dtype: npt.DTypeLike) -> np.dtype[Any]:
    if dtype not in ("float32", "float64", np.float32, np.float64, np.dtype(np.float32), np.dtype(np.float64)):
        raise TypeError(f"dtype must be 'float32' or 'float64', got {dtype!r}")
    return np.dtype(dtype)


def dropout_ratio(ratio: Any) -> float:
    if not isinstance(ratio, numbers.Real) or not 0 <= float(ratio) < 1:
        raise ValueError(f"a dropout ratio is a number in [0, 1), got {ratio!r}")
    return float(ratio)


def inputs(values: Any, input_size: int, dtype: np.dtype[Any]) -> Array:
    """Inputs as rows of the network's dtype."""
    x: Array = np.asarray(values)
    if x.ndim != 2 or x.shape[1] != input_size:
        cure = "give the network the input_size that the data have"
        if x.shape == (input_size,):
            cure = "a single input is a batch of one: x[None]"
        elif x.ndim > 2 and x[:1].size == input_size:
            cure = "make rows of the images: x.reshape(len(x), -1)"
        raise ValueError(f"x has shape {x.shape}, expected (batch, {input_size}), the network's input_size; {cure}")
    if len(x) == 0:
        raise ValueError(f"x has no rows: shape {x.shape}; hand in at least one input")
    if x.dtype.kind not in "fiub":
        raise TypeError(f"x has dtype {x.dtype}, expected numbers; convert it: x.astype({dtype.name!r})")
    return x.astype(dtype, copy=False)


def class_labels(labels: Any, rows: int, classes: int) -> Array:
    """Labels as integers of shape (rows,), from integers or from one-hot rows."""
    t: Array = np.asarray(labels)
    expected = f"integers from 0 to {classes - 1} of shape ({rows},) or one-hot rows of shape ({rows}, {classes})"
    if t.shape == (rows, classes) and t.dtype.kind in "fiub":
        classes_of_rows: Array = t.argmax(axis=1)
        if np.count_nonzero(t) != rows or not (t[np.arange(rows), classes_of_rows] == 1).all():
            raise ValueError(f"labels t of shape {t.shape} are not one-hot: each row needs one 1 and else zeros")
        return classes_of_rows
    if t.shape != (rows,):
        cure = "labels and inputs must have the same number of rows"
        if t.shape == (rows, 1):
            cure = "drop the second axis: t.ravel()"
        elif t.ndim == 2 and len(t) == rows:
            cure = "give the network the output_size that the one-hot rows have"
        elif t.shape == (classes,):
            cure = "a single one-hot label is a batch of one: t[None]"
        raise ValueError(f"labels t have shape {t.shape}, expected {expected}; {cure}")
    if t.dtype.kind not in "iu":
        raise TypeError(f"labels t have dtype {t.dtype}, expected {expected}; convert them: t.astype(int)")
    if t.min() < 0 or t.max() >= classes:
        wrong = t[(t < 0) | (t >= classes)][0]
        raise ValueError(
            f"labels t hold {wrong}, expected integers from 0 to {classes - 1} for a network of output_size {classes}; "
            "count classes from 0, or give the network more outputs"
        )
    return t


def replacement(expected: Mapping[Any, tuple[tuple[int, ...], np.dtype[Any]]], new: Any, what: str) -> None:
    """`new` holds arrays of the names, shapes and dtypes that are expected."""
    if not isinstance(new, Mapping):
        raise TypeError(f"{what} must be a dict of arrays, got {type(new).__name__}")
    if set(new) != set(expected):
        difference = ", ".join(repr(name) for name in sorted(map(str, set(new) ^ set(expected)))[:8])
        raise ValueError(f"{what} must have the names {', '.join(expected)}; {difference} is missing or too many")
    for name, (shape, dtype) in expected.items():
        array = new[name]
        if not isinstance(array, np.ndarray):
            raise TypeError(f"{what}[{name!r}] must be an array, got {type(array).__name__}; convert it: np.array(...)")
        if (array.shape, array.dtype) != (shape, dtype):
            raise ValueError(
                f"{what}[{name!r}] must be {dtype} of shape {shape}, got {array.dtype} of shape {array.shape}; write "
                "into the arrays in place, or make a network of these sizes and this dtype"
            )


def gradients_out(expected: Mapping[Any, Any], params: Mapping[Any, Array], out: Any) -> None:
    """`out` can take the gradients of `params`."""
    replacement(expected, out, "out")
    for name, value in params.items():
        if any(np.may_share_memory(value, out[other]) for other in expected):
            raise ValueError(
                f"out shares memory with params[{name!r}]; hand in arrays of its own, such as fastopt.flatten(params)"
            )


def not_negative(what: str, value: Any) -> float:
    """A Python float: np.float64 would drag float32 arrays through float64."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real) or not 0 <= float(value) < math.inf:
        raise ValueError(f"{what} must be a number of at least 0, got {value!r}")
    return float(value)


def whole_number(what: str, value: Any, least: int = 1) -> int:
    if isinstance(value, bool) or not isinstance(value, numbers.Integral) or int(value) < least:
        raise ValueError(f"{what} must be a whole number of at least {least}, got {value!r}")
    return int(value)


def same_length(x: Any, t: Any, what: str) -> tuple[Array, Array]:
    """Both as arrays, with a label for each input."""
    x, t = np.asarray(x), np.asarray(t)
    if x.ndim == 0 or t.ndim == 0 or len(x) != len(t):
        lengths = [values.shape[0] if values.ndim else 0 for values in (x, t)]
        raise ValueError(f"{what}: {lengths[0]} inputs and {lengths[1]} labels; there must be a label for each input")
    if len(x) == 0:
        raise ValueError(f"{what}: there are no inputs")
    return x, t


def batch_size(size: Any, rows: int) -> int:
    if whole_number("the size of a batch", size) > rows:
        raise ValueError(f"a batch of {size} is larger than the training data, {rows} rows; take at most {rows}")
    return int(size)
