"""Lists and fields whose values are views of memory that stays where it is, as those of a `ViewDict`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from fastopt.flat import copy_to


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
