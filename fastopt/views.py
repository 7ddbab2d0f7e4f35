"""Dicts, lists and fields whose values are views of memory that stays where it is."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt

from fastopt import array_checks, checks

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


class ViewList(list[Any]):
    """A list of arrays, or of what holds arrays, of fixed length: assigning to an index copies into its array."""

    def __setitem__(self, index: Any, value: Any) -> None:
        for number, new in (
            zip(range(len(self))[index], value, strict=True) if isinstance(index, slice) else [(index, value)]
        ):
            copy_to(f"{type(self).__name__}[{number}]", self[number], new)

    def _fixed(self, *_args: Any, **_kwargs: Any) -> Any:
        raise TypeError("the length of state is that of the parameters; make a list of it: list(...)")

    append = extend = insert = pop = remove = clear = sort = reverse = __delitem__ = __iadd__ = __imul__ = _fixed

    def __reduce__(self) -> Any:
        return type(self), (list(self),)


class NoState(Mapping[Any, Any]):
    """State before the first step: an empty mapping that says so to whoever looks something up.

    name : of the slot, as `Adam.m`
    """

    def __init__(self, name: str) -> None:
        self._name = name

    def __getitem__(self, key: Any) -> NoReturn:
        raise KeyError(self._text(f"array {key!r:.100}"))

    __setitem__ = __delitem__ = lambda self, key, *_: self[key]

    def __getattr__(self, name: str) -> NoReturn:
        raise AttributeError(name if name.startswith("_") else self._text(f"arrays, and no {name!r},"))

    def _text(self, what: str) -> str:
        return f"{self._name} has no {what} yet: the first `update` makes state for the parameters that it gets"

    def __iter__(self) -> Iterator[Any]:
        return iter(())

    def __len__(self) -> int:
        return 0

    def __contains__(self, key: object) -> bool:
        return False

    def get(self, key: Any, default: Any = None) -> Any:
        return default

    def __repr__(self) -> str:
        return "{}"


class ViewFields:
    """State of a dataclass: its fields by name; assigning to one copies into its array."""

    _kind: str

    def __init__(self, kind: str, fields: dict[str, Any]) -> None:
        self.__dict__.update(fields)
        self.__dict__["_kind"] = kind

    def __setattr__(self, name: str, value: Any) -> None:
        if name not in self.__dict__:
            raise AttributeError(f"{self._kind} has no array {name!r}; it has {', '.join(map(str, self))}")
        copy_to(f"{self._kind}.{name}", self.__dict__[name], value)

    def __iter__(self) -> Iterator[str]:
        return (name for name in self.__dict__ if name != "_kind")

    def __repr__(self) -> str:
        return f"{self._kind}({', '.join(f'{name}={self.__dict__[name]!r}' for name in self)})"


def aligned(size: int, dtype: npt.DTypeLike) -> Array:
    itemsize = np.dtype(dtype).itemsize
    block = np.zeros(size * itemsize + 64, dtype=np.uint8)
    start = -block.ctypes.data % 64
    return block[start : start + size * itemsize].view(dtype)


def copy_to(name: str, target: Any, value: Any) -> None:
    """Copies a value into a view; an error calls the view by a name."""
    # The textbook writes `params[key] += ...`, which ends in assigning the array to its own place.
    if value is not target:
        target[...] = assignable(name, value, target)


def assignable(name: str, value: Any, target: Any) -> Any:
    """A value that may be copied into a view: broadcastable real numbers."""
    if not isinstance(target, np.ndarray):
        raise TypeError(f"{name} holds several arrays, which are views of memory that stays; assign to each of them")
    if isinstance(value, np.ndarray) and array_checks.masked(value):
        raise TypeError(f"{name} is a plain array, got a masked one; assign its .data or .filled(0)")
    values = np.asarray(value)
    if not np.can_cast(values.dtype, target.dtype, casting="same_kind"):
        raise TypeError(
            f"{name} has dtype {target.dtype}, to which values of dtype {values.dtype} do not convert; "
            "assign real numbers"
        )
    try:
        return np.broadcast_to(values, target.shape)
    except ValueError:
        raise ValueError(
            f"{name} is a view of shape {target.shape}, got values of shape {values.shape}; reshape them, or make a "
            "new dict"
        ) from None
