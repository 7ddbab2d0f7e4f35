"""Dicts whose values are views of memory that stays where it is."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from fastopt import checks

Array = npt.NDArray[Any]


class ViewDict(dict[Hashable, Array]):
    """A dict of arrays with fixed keys: assigning to a key copies into its array.

    The state of an optimizer is one (`optimizer.m["W1"]`), and so is `FlatDict`.
    """

    def __setitem__(self, key: Hashable, value: Any) -> None:
        if key not in self:
            raise KeyError(checks.unknown_key(type(self).__name__, key, self))
        copy_to(f"{type(self).__name__}[{key!r}]", self[key], value)

    def update(self, *mappings: Any, **values: Any) -> None:
        new = dict(*mappings, **values)
        for key, value in new.items():  # all checks before the first write
            if key not in self:
                raise KeyError(checks.unknown_key(type(self).__name__, key, self))
            assignable(f"{type(self).__name__}[{key!r}]", value, self[key])
        for key, value in new.items():
            self[key] = value

    def __ior__(self, other: Any) -> ViewDict:  # type: ignore[override,misc]
        self.update(other)
        return self

    def __reduce__(self) -> Any:
        return type(self), (dict(self),)

    def _fixed(self, *_args: Any, **_kwargs: Any) -> Any:
        raise TypeError(checks.fixed_keys(type(self).__name__))

    __delitem__ = pop = popitem = clear = setdefault = _fixed

    @classmethod
    def fromkeys(cls, *_args: Any) -> Any:
        """Refused: there would be no memory behind the views."""
        raise TypeError(checks.fixed_keys(cls.__name__))


# One object for each layout, so that two can be compared by identity at every step.
_LAYOUTS: dict[tuple[tuple[Hashable, tuple[int, ...]], ...], tuple[tuple[Hashable, tuple[int, ...]], ...]] = {}


class FlatDict(ViewDict):
    """A dict of arrays that lie one after the other in a single 1-D buffer, made by `flatten`.

    `buffer` is that array, of shape (total size,), 64-byte aligned; the values are C-ordered views of it in the order
    of the keys. Assigning to a key copies into its view. Pickle and copy keep one buffer.

    When parameters and gradients are both FlatDicts with the same keys and shapes, a step of an optimizer looks at
    two arrays, however many there are in the model.
    """

    layout: tuple[tuple[Hashable, tuple[int, ...]], ...]

    def __init__(self, layout: Iterable[tuple[Hashable, tuple[int, ...]]], buffer: Array) -> None:
        """Views of `buffer` (1-D, C-ordered) by `layout`, pairs of key and shape. Users call `flatten`."""
        self._buffer = buffer
        layout = tuple((key, tuple(shape)) for key, shape in layout)
        self.layout = _LAYOUTS.setdefault(layout, layout)
        views: dict[Hashable, Array] = {}
        start = 0
        for key, shape in self.layout:
            size = math.prod(shape)
            views[key] = buffer[start : start + size].reshape(shape)
            start += size
        super().__init__(views)

    @property
    def buffer(self) -> Array:
        """All values, as one array of shape (total size,); assigning to it copies into it."""
        return self._buffer

    @buffer.setter
    def buffer(self, value: Any) -> None:
        if value is not self._buffer:
            copy_to(f"{type(self).__name__}.buffer", self._buffer, value)

    @classmethod
    def _of_copy(cls, layout: Any, buffer: Array) -> FlatDict:
        aligned = _aligned(buffer.size, buffer.dtype)
        aligned[...] = buffer
        return cls(layout, aligned)

    def copy(self) -> FlatDict:
        """A FlatDict with a buffer of its own."""
        return self._of_copy(self.layout, self.buffer)

    __copy__ = copy

    def __deepcopy__(self, memo: dict[int, Any]) -> FlatDict:
        other = self.copy()
        memo[id(self.buffer)] = other.buffer
        return other

    def __reduce__(self) -> Any:
        return self._of_copy, (self.layout, self.buffer)


def flatten(arrays: Mapping[Any, Any], dtype: npt.DTypeLike | None = None) -> FlatDict:
    """Copies a dict of arrays into one buffer and returns a `FlatDict` of views of it.

    Parameters
    ----------
    arrays : mapping of key to array
        float32 or float64 arrays of any shape; numbers become 0-d arrays.
    dtype : "float32" or "float64", optional
        The dtype of the buffer. Needed only where the arrays have different ones.

    Raises
    ------
    TypeError
        if `arrays` is not a mapping, a value is not a float array, or the dtypes differ and `dtype` is not given.

    Examples
    --------
    >>> import numpy as np
    >>> params = flatten({"W": np.ones((2, 3)), "b": np.zeros(3)})
    >>> params.buffer
    array([1., 1., 1., 1., 1., 1., 0., 0., 0.])
    >>> params["b"] = 5.0
    >>> params.buffer[6:]
    array([5., 5., 5.])
    """
    values, common = flattenable(arrays, dtype)
    buffer = _aligned(sum(value.size for value in values.values()), common)
    flat = FlatDict(((key, value.shape) for key, value in values.items()), buffer)
    flat.update(values)
    return flat


def _aligned(size: int, dtype: npt.DTypeLike) -> Array:
    itemsize = np.dtype(dtype).itemsize
    block = np.zeros(size * itemsize + 64, dtype=np.uint8)
    start = -block.ctypes.data % 64
    return block[start : start + size * itemsize].view(dtype)


def flattenable(arrays: Any, dtype: npt.DTypeLike | None) -> tuple[dict[Any, Array], np.dtype[Any]]:
    """The values as arrays, and the one dtype of the buffer."""
    if not isinstance(arrays, Mapping):
        raise TypeError(f"flatten: expected a dict of arrays, got {type(arrays).__name__}")
    values: dict[Any, Array] = {}
    for key, value in arrays.items():
        if not (checks.is_number(value) or (isinstance(value, np.ndarray) and value.dtype in checks.DTYPES)):
            found = f"dtype {value.dtype}" if isinstance(value, np.ndarray) else f"type {type(value).__name__}"
            raise TypeError(f"flatten: arrays[{key!r}] has {found}, expected a float32 or float64 array; convert it")
        if checks.masked(value):
            raise TypeError(f"flatten: arrays[{key!r}] is a masked array, expected a plain one; hand in its .data")
        values[key] = (
            np.asarray(value) if isinstance(value, np.ndarray) else checks.parameter("flatten", repr(key), value)
        )
    found_dtypes = {value.dtype for value in values.values()}
    if dtype is not None:
        if dtype not in ("float32", "float64", np.float32, np.float64, *checks.DTYPES):
            raise TypeError(f"flatten: dtype must be 'float32' or 'float64', got {dtype!r}")
        return values, np.dtype(dtype)
    if len(found_dtypes) > 1:
        first = {value.dtype: key for key, value in reversed(values.items())}
        raise TypeError(
            f"flatten: arrays[{first[checks.DTYPES[0]]!r}] is of float32 and arrays[{first[checks.DTYPES[1]]!r}] of "
            "float64, but one buffer has one dtype; name it: flatten(arrays, dtype='float32')"
        )
    return values, found_dtypes.pop() if found_dtypes else np.dtype(np.float64)


def copy_to(name: str, target: Any, value: Any) -> None:
    """Copies a value into a view; an error calls the view by a name."""
    # The textbook writes `params[key] += ...`, which ends in assigning the array to its own place.
    if value is not target:
        target[...] = assignable(name, value, target)


def assignable(name: str, value: Any, target: Any) -> Any:
    """A value that may be copied into a view: broadcastable real numbers."""
    if not isinstance(target, np.ndarray):
        raise TypeError(f"{name} holds several arrays, which are views of memory that stays; assign to each of them")
    if isinstance(value, np.ndarray) and checks.masked(value):
        raise TypeError(f"{name} is a plain array, got a masked one; assign its .data or .filled(0)")
    found = np.asarray(value)
    if not np.can_cast(found.dtype, target.dtype, casting="same_kind"):
        raise TypeError(
            f"{name} has dtype {target.dtype}, to which values of dtype {found.dtype} do not convert; "
            "assign real numbers"
        )
    try:
        return np.broadcast_to(found, target.shape)
    except ValueError:
        raise ValueError(
            f"{name} is a view of shape {target.shape}, got values of shape {found.shape}; reshape them, or make a "
            "new dict"
        ) from None
