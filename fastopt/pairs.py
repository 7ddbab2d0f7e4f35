"""Complex numbers as pairs of real ones, which is what kernels step: the only place that knows both."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

COMPLEX: tuple[np.dtype[Any], ...] = (np.dtype(np.complex64), np.dtype(np.complex128))
"""The dtypes of complex parameters, in this machine's byte order."""

_PARTS: dict[np.dtype[Any], np.dtype[Any]] = {
    COMPLEX[0]: np.dtype(np.float32),
    COMPLEX[1]: np.dtype(np.float64),
}


def is_complex(dtype: np.dtype[Any]) -> bool:
    return dtype in _PARTS


def part_dtype(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """The dtype of real and imaginary parts; of real numbers their own."""
    return _PARTS.get(dtype, dtype)


def pairs(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Complex numbers of shape (...) as real ones of shape (..., 2), in the same memory; real ones unchanged."""
    return array[..., None].view(_PARTS[array.dtype]) if array.dtype in _PARTS else array


def widened(shape: tuple[int, ...], order: str) -> tuple[int, ...]:
    """The shape of contiguous complex numbers as real ones: their contiguous axis is twice as long."""
    if not shape:
        return (2,)
    return (2 * shape[0], *shape[1:]) if order == "F" else (*shape[:-1], 2 * shape[-1])


def joined(numbers: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Pairs of shape (..., 2) as complex numbers of shape (...), in the same memory where they lie side by side."""
    if numbers.strides[-1] != numbers.itemsize:
        numbers = np.ascontiguousarray(numbers)
    whole = next(dtype for dtype, part in _PARTS.items() if part == numbers.dtype)
    return numbers.view(whole).reshape(numbers.shape[:-1])


def like_kind(part: np.dtype[Any], dtype: np.dtype[Any]) -> np.dtype[Any]:
    """A dtype whose parts have the precision `part`, complex where `dtype` is."""
    return next(whole for whole, of in _PARTS.items() if of == part) if is_complex(dtype) else part
