"""Arrays as parameters: dtype, memory, and the error texts of those that cannot be updated."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from fastopt import foreign
from fastopt.checks import DTYPES, Array
from fastopt.pairs import COMPLEX

PARAMETER_DTYPES: tuple[np.dtype[Any], ...] = (*DTYPES, *COMPLEX)


def parameter(owner: str, name: str, value: Any) -> Array:
    """A parameter as a base-class array: the array itself, or a 0-d copy of a number."""
    value = foreign.shared(value)
    if isinstance(value, np.ndarray):
        if value.dtype not in PARAMETER_DTYPES:
            near = "complex128" if value.dtype.kind == "c" else "float64"
            raise TypeError(
                f"{owner}: {name} has dtype {value.dtype}, expected float32, float64, complex64 or complex128 in this "
                f"machine's byte order; convert it once: {name} = {name}.astype(np.{near})"
            )
        if masked(value):
            raise TypeError(
                f"{owner}: {name} is a masked array, expected a plain one, as a step writes every element; "
                f"hand in {name}.data, and zero gradients where nothing is to change"
            )
        if not value.flags.writeable:
            raise ValueError(
                f"{owner}: {name} is read-only, but a step writes it in place; hand in a copy: np.array({name})"
            )
        if _overlaps_itself(value):
            raise ValueError(
                f"{owner}: {name} of shape {value.shape} has several elements in one place in memory "
                f"(strides {value.strides}); hand in a copy: {name}.copy()"
            )
        return np.asarray(value)
    if isinstance(value, complex | np.complexfloating):
        raise TypeError(
            f"{owner}: {name} is a complex number, which a step does not replace; make a 0-d array of it, "
            f"np.array({name}), which a step writes"
        )
    if not is_number(value):
        raise TypeError(
            f"{owner}: {name} is of type {type(value).__name__}, expected a float or complex array or a number; "
            f"{conversion(name, value) or f'convert it once: {name} = np.array({name}, dtype=np.float64)'}"
        )
    try:
        return np.array(value, dtype=number_dtype(value))
    except OverflowError:
        raise ValueError(f"{owner}: {name} is an integer beyond float64; hand in a float") from None


def masked(value: Any) -> bool:
    """Whether an array carries a mask, which `np.asarray` would drop without a word."""
    return isinstance(value, np.ma.MaskedArray) or (type(value) is not np.ndarray and hasattr(value, "mask"))


def conversion(name: str, value: Any) -> str | None:
    """Return the advice for a value that `np.array` does not convert."""
    if isinstance(value, Mapping):
        first = next(iter(value), "W")
        return f"make one flat dict of nested ones, with keys such as '{name.partition('[')[2][1:-2]}.{first}'"
    if foreign.is_array(value):
        return f"it {foreign.not_shared(name, value)}"
    library = type(value).__module__.partition(".")[0]
    if library in ("cupy", "jax", "jaxlib", "tensorflow", "mlx"):
        return (
            f"steps are made in NumPy arrays, in the memory of the CPU: keep the parameters there, and make one of a "
            f"gradient by {'cupy.asnumpy' if library == 'cupy' else 'np.asarray'}({name})"
        )
    return None


def is_number(value: Any) -> bool:
    """Whether a value is one of the numbers that may stand where an array is expected."""
    return isinstance(value, int | float | np.float32 | np.integer) and not isinstance(value, bool)


def number_dtype(value: Any) -> np.dtype[Any]:
    return np.dtype(np.float32 if isinstance(value, np.float32) else np.float64)


def _overlaps_itself(value: Array) -> bool:
    """Whether two indices may mean one element: an axis steps less far than all faster axes together reach."""
    reach = value.itemsize
    for stride, length in sorted((abs(s), n) for s, n in zip(value.strides, value.shape, strict=True) if n > 1):
        if stride < reach and value.size > 0:
            return True
        reach += stride * (length - 1)
    return False


def overlapping(owner: str, first: str, second: str) -> str:
    return (
        f"{owner}: {first} and {second} share memory but are not the same array; one would overwrite the other's "
        f"update. Hand in a copy of one, or the same array under both keys"
    )


def overlapping_state(owner: str, name: str) -> str:
    return f"{owner}: {name} shares memory with the optimizer's state, which a step writes; hand in a copy"


def replaced(owner: str, name: str, array: Array, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
    """A parameter still fits the state that was made for it."""
    if array.shape != shape:
        raise ValueError(
            f"{owner}: {name} has shape {array.shape}, but at the first step it had {shape} and its state still has; "
            "`optimizer.reindex` says which rows stay, `optimizer.forget` begins anew"
        )
    if array.dtype != dtype:
        raise TypeError(
            f"{owner}: {name} has dtype {array.dtype}, but at the first step it had {dtype} and its state still has; "
            "convert it, or begin anew with `optimizer.forget`"
        )
