"""Types of settings for type checkers: what may be assigned is more than what is read in a formula.

A setting that is a number may be assigned a function of the step. To a type checker `Number` is a descriptor, which
says so; to Python it is `float`, and `number` gives the default back.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fastopt.groups import Groups

    class Number:
        """A number, or a schedule or any function of the step."""

        def __get__(self, instance: object, owner: type | None = None) -> Any: ...

        def __set__(self, instance: Any, value: float | Callable[[int], float]) -> None: ...

    class GroupSettings:
        """A dict of settings by selector, which becomes `Groups`."""

        def __get__(self, instance: object, owner: type | None = None) -> Groups: ...

        def __set__(self, instance: Any, value: Mapping[Any, Mapping[str, Any]] | Groups | None) -> None: ...

    class BoundsSetting:
        """A pair of bounds."""

        def __get__(self, instance: object, owner: type | None = None) -> Any: ...

        def __set__(self, instance: Any, value: tuple[Any, Any] | None) -> None: ...

    class MaskSetting:
        """Arrays of booleans by key, or one array."""

        def __get__(self, instance: object, owner: type | None = None) -> Any: ...

        def __set__(self, instance: Any, value: Mapping[Any, Any] | Any | None) -> None: ...

    class Slot:
        """State by key, or one array; an empty mapping before the first step. None is assigned to forget it."""

        def __get__(self, instance: object, owner: type | None = None) -> Any: ...

        def __set__(self, instance: Any, value: Any) -> None: ...

else:
    Number, GroupSettings, BoundsSetting, MaskSetting = float, Any, Any, Any


def number(default: float | None) -> Any:
    """A default; None stands for one that the class works out."""
    return default
