"""Dicts whose values are views of memory that stays where it is."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterable, Mapping
from typing import Any, overload

import numpy as np
import numpy.typing as npt

from fastopt import array_checks, checks, flat_nested, structure
from fastopt.foreign import shared
from fastopt.pairs import COMPLEX, is_complex
from fastopt.views import ViewDict as ViewDict
from fastopt.views import aligned, copy_to

Array = npt.NDArray[Any]


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
        copy = aligned(buffer.size, buffer.dtype)
        copy[...] = buffer
        return cls(layout, copy)

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


@overload
def flatten(arrays: Mapping[Any, npt.ArrayLike], dtype: npt.DTypeLike | None = None) -> FlatDict: ...


@overload
def flatten(arrays: Any, dtype: npt.DTypeLike | None = None) -> Any: ...


def flatten(arrays: Any, dtype: npt.DTypeLike | None = None) -> Any:
    """Copies arrays into one buffer and returns a `FlatDict`, or nested containers, of views of it.

    Parameters
    ----------
    arrays : mapping of key to array, or nested lists, tuples, dicts, namedtuples and dataclasses
        float32, float64 or complex arrays of any shape; numbers become 0-d arrays.
    dtype : "float32" or "float64", optional
        The dtype of the buffer. Needed only where the arrays have different ones.

    Returns
    -------
    FlatDict, or a list, tuple or dict of the structure of `arrays`
        Its `buffer` is the array of shape (total size,). Assigning to an element of a list, dict or dataclass copies
        into its view. When parameters and gradients are both flat and alike, a step looks at two arrays, however many
        there are.

    Raises
    ------
    TypeError
        if `arrays` holds none, a value is not a float array, the dtypes differ and `dtype` is not given, or the
        outermost container is a namedtuple or dataclass.

    Examples
    --------
    >>> import numpy as np
    >>> params = flatten({"W": np.ones((2, 3)), "b": np.zeros(3)})
    >>> params.buffer
    array([1., 1., 1., 1., 1., 1., 0., 0., 0.])
    >>> params["b"] = 5.0
    >>> params.buffer[6:]
    array([5., 5., 5.])
    >>> layers = flatten([(np.ones(2), np.zeros(1)), (np.ones(1), np.zeros(1))])
    >>> layers[1][0][:] = 7.0
    >>> layers.buffer
    array([1., 1., 0., 7., 0.])
    """
    if isinstance(arrays, Mapping) and not any(map(structure.is_inner, arrays.values())):
        values, common = flattenable(arrays, dtype)
        buffer = aligned(sum(value.size for value in values.values()), common)
        flat = FlatDict(((key, value.shape) for key, value in values.items()), buffer)
        flat.update(values)
        return flat
    if not structure.is_container(arrays):
        raise TypeError(f"flatten: expected a dict or a list of arrays, got {type(arrays).__name__}")
    if structure.has_fields(type(arrays)):
        raise TypeError(
            f"flatten: the outermost container is of type {type(arrays).__name__}, whose attributes are its own, so it "
            "cannot have a buffer; flatten it in a list: (params,) = flatten([params])"
        )
    leaves: list[Any] = []
    node = structure.node_of(arrays)
    structure.values_of(node, arrays, leaves)
    places = [leaf.place for leaf in structure.leaves_of(node)]
    values, common = flattenable(dict(zip(places, leaves, strict=True)), dtype, str)
    joined = np.concatenate([np.zeros(0, common), *(np.ravel(value) for value in values.values())], dtype=common)
    shapes = tuple([value.shape for value in values.values()])
    return flat_nested.of_copy(structure.like(node, arrays, iter([None] * len(leaves))), (node, shapes), joined)


def _can_be_flat(value: Any) -> bool:
    return isinstance(value, np.ndarray) and value.dtype in array_checks.PARAMETER_DTYPES


def _in_brackets(key: Hashable) -> str:
    return f"[{key!r}]"


def flattenable(
    arrays: Mapping[Any, Any], dtype: npt.DTypeLike | None, place: Callable[[Any], str] = _in_brackets
) -> tuple[dict[Any, Array], np.dtype[Any]]:
    """The values as arrays, and the one dtype of the buffer; `place` is what leads to a key."""
    values: dict[Any, Array] = {}
    for key, given in arrays.items():
        value = shared(given)
        if not (array_checks.is_number(value) or _can_be_flat(value)):
            found = f"dtype {value.dtype}" if isinstance(value, np.ndarray) else f"type {type(value).__name__}"
            raise TypeError(f"flatten: arrays{place(key)} has {found}, expected a float or complex dtype; convert it")
        if array_checks.masked(value):
            raise TypeError(f"flatten: arrays{place(key)} is a masked array, expected a plain one; hand in its .data")
        values[key] = (
            np.asarray(value) if isinstance(value, np.ndarray) else array_checks.parameter("flatten", repr(key), value)
        )
    found_dtypes = {value.dtype for value in values.values()}
    first = {value.dtype: place(key) for key, value in reversed(values.items())}
    kinds = {is_complex(found): found for found in found_dtypes}
    if len(kinds) > 1:
        raise TypeError(
            f"flatten: arrays{first[kinds[True]]} is complex and arrays{first[kinds[False]]} is not, but one buffer "
            "has one dtype; flatten them apart, or make all of them complex"
        )
    if dtype is not None:
        known = COMPLEX if True in kinds else checks.DTYPES
        if dtype not in (*(name for kind in known for name in (kind.name, kind.type)), *known):
            raise TypeError(f"flatten: dtype must be {known[0].name!r} or {known[1].name!r}, got {dtype!r}")
        return values, np.dtype(dtype)
    if len(found_dtypes) > 1:
        small, large = sorted(found_dtypes, key=lambda found: found.itemsize)
        raise TypeError(
            f"flatten: arrays{first[small]} is of {small} and arrays{first[large]} of {large}, but one buffer has one "
            f"dtype; name it: flatten(arrays, dtype={small.name!r})"
        )
    return values, found_dtypes.pop() if found_dtypes else np.dtype(np.float64)
