"""What is checked of a learner's input, with a sentence for each mistake: found, expected, and what to do."""

from __future__ import annotations

import numbers
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


def known(what: str, name: Any, names: Iterable[str]) -> str:
    """The name in lower case, if it is one of `names`."""
    names = list(names)
    if not isinstance(name, str) or name.lower() not in names:
        raise ValueError(f"{what} must be one of {', '.join(names)}, got {name!r}")
    return name.lower()


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


def replacement(params: Mapping[Any, Array], new: Any) -> None:
    """`new` has the names, shapes and dtypes of `params`."""
    if not isinstance(new, Mapping):
        raise TypeError(f"params must be a dict of arrays, got {type(new).__name__}")
    if set(new) != set(params):
        difference = ", ".join(repr(name) for name in sorted(map(str, set(new) ^ set(params)))[:8])
        raise ValueError(f"params must have the names {', '.join(params)}; {difference} is missing or too many")
    for name, value in params.items():
        found = np.asarray(new[name])
        if (found.shape, found.dtype) != (value.shape, value.dtype):
            raise ValueError(
                f"params[{name!r}] must be {value.dtype} of shape {value.shape}, got {found.dtype} of shape "
                f"{found.shape}; make a network of these sizes"
            )


def same_length(x: Array, t: Array, what: str) -> None:
    if len(x) != len(t):
        raise ValueError(f"{what}: {len(x)} inputs and {len(t)} labels; there must be a label for each input")


def batch_size(size: Any, rows: int) -> int:
    if isinstance(size, bool) or not isinstance(size, numbers.Integral) or int(size) < 1:
        raise ValueError(f"the size of a batch must be a whole number of at least 1, got {size!r}")
    if int(size) > rows:
        raise ValueError(f"a batch of {size} is larger than the training data, {rows} rows; take at most {rows}")
    return int(size)
