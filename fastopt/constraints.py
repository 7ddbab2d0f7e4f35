"""Settings that constrain parameters: bounds, masks and axes; their checks, and their arrays for one parameter."""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from types import SimpleNamespace
from typing import Any

import numpy as np

from fastopt.flat import Array
from fastopt.pairs import pairs

NO_BOUNDS = (-math.inf, math.inf)


class Bounds(tuple[Any, Any]):
    """The bounds (low, high): numbers, or read-only arrays; equal where all elements are."""

    __slots__ = ()

    def __new__(cls, pair: Any) -> Bounds:
        for bound in pair:
            if isinstance(bound, np.ndarray):
                bound.flags.writeable = False
        return super().__new__(cls, pair)

    def __eq__(self, other: object) -> bool:
        return self is other or (isinstance(other, tuple) and len(other) == 2 and all(map(np.array_equal, self, other)))

    __hash__ = None  # type: ignore[assignment]

    def __deepcopy__(self, memo: Any) -> Bounds:
        return self


class Mask(Mapping[Hashable, Array]):
    """Read-only arrays of booleans by the key of a parameter, None where the parameters are one array."""

    def __init__(self, arrays: Mapping[Hashable, Array]) -> None:
        self._arrays = dict(arrays)
        for array in self._arrays.values():
            array.flags.writeable = False

    def __getitem__(self, key: Hashable) -> Array:
        return self._arrays[key]

    def __iter__(self) -> Iterator[Hashable]:
        return iter(self._arrays)

    def __len__(self) -> int:
        return len(self._arrays)

    def __repr__(self) -> str:
        return repr(self._arrays[None] if None in self._arrays else self._arrays)

    def __eq__(self, other: object) -> bool:
        return self is other or (
            isinstance(other, Mask)
            and self.keys() == other.keys()
            and all(np.array_equal(array, other[key]) for key, array in self.items())
        )

    __hash__ = None  # type: ignore[assignment]

    def __deepcopy__(self, memo: Any) -> Mask:
        return self

    def __reduce__(self) -> Any:
        return Mask, (self._arrays,)


def bounds(owner: str, value: Any) -> Bounds | None:
    """The setting `bounds` as `Bounds`, or an error."""
    if value is None:
        return None
    if not isinstance(value, tuple | list) or len(value) != 2:
        cure = ""
        if isinstance(value, dict) and value:
            cure = (
                f"; those of some parameters go into groups={{{next(iter(value))!r:.100}: {{'bounds': (low, high)}}}}"
            )
        raise TypeError(
            f"{owner}: bounds must be a pair (low, high), such as (0, 1) or (None, 10.0), got {value!r:.100} of type "
            f"{type(value).__name__}{cure}"
        )
    low, high = (
        _bound(owner, name, given, otherwise)
        for name, given, otherwise in zip(("low", "high"), value, NO_BOUNDS, strict=True)
    )
    try:
        crossed = np.any(np.greater(low, high))
    except ValueError:
        raise ValueError(
            f"{owner}: bounds have the shapes {np.shape(low)} and {np.shape(high)}, which do not broadcast; give both "
            "the shape of the parameter"
        ) from None
    if crossed:
        raise ValueError(f"{owner}: bounds must have low <= high, got {value!r:.200}")
    return Bounds((low, high))


def _bound(owner: str, name: str, value: Any, otherwise: float) -> Any:
    """A number as a float, an array as a copy in float64."""
    if value is None:
        return otherwise
    if isinstance(value, numbers.Real) and not isinstance(value, bool):
        bound: Any = float(value)
    elif isinstance(value, np.ndarray) and value.dtype.kind in "fiu":
        bound = np.array(value, np.float64, order="K")
    else:
        raise TypeError(
            f"{owner}: {name} of bounds must be a number, an array of numbers, or None for no bound, got "
            f"{value!r:.100} of type {type(value).__name__}"
        )
    if np.any(np.isnan(bound)):
        raise ValueError(f"{owner}: {name} of bounds must not be NaN; None is no bound")
    return bound


def mask(owner: str, value: Any) -> Mask | None:
    """The setting `mask` as `Mask`, or an error."""
    if value is None or isinstance(value, Mask):
        return value
    arrays = value if isinstance(value, Mapping) else {None: value}
    for key, array in arrays.items():
        if not isinstance(array, np.ndarray) or array.dtype != np.bool_:
            kind = f"dtype {array.dtype}" if isinstance(array, np.ndarray) else f"type {type(array).__name__}"
            name = "mask" if key is None else f"mask[{key!r}]"
            raise TypeError(
                f"{owner}: {name} must be an array of booleans, True where elements are updated, got {kind}; such as "
                "mask={'W': W != 0}"
            )
    return Mask({key: array.copy(order="K") for key, array in arrays.items()})


def axis(owner: str, value: Any) -> int | None:
    """The setting `constraint_axis`, or an error."""
    if value is not None and (isinstance(value, bool) or not isinstance(value, int | np.integer)):
        raise TypeError(
            f"{owner}: constraint_axis must be the number of an axis or None for whole arrays, got {value!r:.100} of "
            f"type {type(value).__name__}"
        )
    return None if value is None else int(value)


CHECKS: dict[str, Callable[[str, Any], Any]] = {"bounds": bounds, "mask": mask, "constraint_axis": axis}
"""Checks of the settings that are not numbers, by name."""


def lowest(settings: Any) -> Any:
    """The lower bound of some settings: a number, or an array."""
    low = (settings.bounds or NO_BOUNDS)[0]
    if not settings.nonnegative:
        return low
    return np.maximum(low, 0.0) if isinstance(low, np.ndarray) else max(low, 0.0)


def highest(settings: Any) -> Any:
    """The upper bound of some settings."""
    return (settings.bounds or NO_BOUNDS)[1]


def effective_lr_of_momentum(optimizer: Any) -> float:
    """The effective learning rate of a rule whose velocity is a sum of gradients."""
    if optimizer.momentum == 1:
        raise ValueError(
            f"{type(optimizer).__name__}: l1 and l2_prox need momentum below 1, got 1, with which steps along "
            "a constant gradient grow without limit; set it to 0.9, say"
        )
    return float(optimizer.lr / (1 - optimizer.momentum))


ON_GROUPS = "group_lasso, max_norm, unit_norm or simplex"
"""Their name in the table of combinations."""

PROJECTIONS = {"group_lasso": 0.0, "max_norm": math.inf, "unit_norm": False, "simplex": False}
"""Settings of constraints on groups of elements, with the value by which they do nothing."""

OF_PLANS = ("bounds", "nonnegative", "mask", "constraint_axis", *PROJECTIONS)
"""Settings after a change of which plans are made anew."""


def is_wanted(name: str, value: Any) -> bool:
    """Whether a value of a setting of `PROJECTIONS` needs a pass."""
    return bool(value != PROJECTIONS[name])


def wants(settings: Any, name: str) -> bool:
    """Whether an optimizer, or a group of it, has one of `PROJECTIONS`."""
    groups = settings.groups.data.values()
    return is_wanted(name, getattr(settings, name)) or any(name in group.data for group in groups)


def has_projections(settings: Any) -> bool:
    """Whether an optimizer, or a group of it, has constraints on groups of elements."""
    return any(wants(settings, name) for name in PROJECTIONS)


def check_axis(owner: str, name: str, shape: tuple[int, ...], axis: int | None) -> None:
    """Raises if an array has no such axis; a vector has one axis and is one group."""
    if axis is not None and not -max(1, len(shape)) <= axis < max(1, len(shape)):
        raise ValueError(
            f"{owner}: constraint_axis is {axis}, but {name} has shape {shape}; give it a group with an axis that it "
            "has, or None for the whole array"
        )


def check_complex_axis(owner: str, name: str, shape: tuple[int, ...], order: str, axis: int | None) -> None:
    """Raises if a group of complex elements is not contiguous, which pairs of real numbers must be."""
    nearest = len(shape) - 1 if order == "C" else 0
    if axis is not None and len(shape) > 1 and axis % len(shape) != nearest:
        raise ValueError(
            f"{owner}: constraint_axis is {axis}, but {name} is complex, of shape {shape} in the order {order}, so it "
            f"must be {nearest}, along which elements are contiguous, or None for the whole array; change the axis or "
            "transpose the array"
        )


def columns_for(optimizer: Any) -> Columns | None:
    """The maker of the columns of a plan's table; None where no setting needs any."""
    groups = optimizer.groups.data.values()
    has_arrays = any(_are_arrays(pair) for pair in (optimizer.bounds, *(group.data.get("bounds") for group in groups)))
    return Columns(optimizer) if has_arrays or optimizer.mask is not None else None


def _are_arrays(bounds: Any) -> bool:
    return bounds is not None and any(isinstance(bound, np.ndarray) for bound in bounds)


def masks_for(optimizer: Any) -> Columns | None:
    """The same without bounds, for updates of the state alone."""
    return None if optimizer.mask is None else Columns(optimizer, with_bounds=False)


class Columns:
    """Arrays of bounds and masks for the table: in the shape, dtype and order of a parameter."""

    def __init__(self, optimizer: Any, with_bounds: bool = True) -> None:
        self._with_bounds = with_bounds
        self._owner = type(optimizer).__name__
        self._settings = {name: getattr(optimizer, name) for name in ("bounds", "nonnegative", "mask")}
        self.mask: Any = optimizer.mask or {}

    def of(self, name: str, key: Hashable, like: Array, group_settings: Mapping[str, Any]) -> dict[str, Array]:
        """The arrays of a parameter, by name.

        name, key : of the parameter in error texts, and in a mask
        like : an array of the layout that they get
        group_settings : those of the groups that the parameter belongs to
        """
        settings, columns = SimpleNamespace(**(self._settings | dict(group_settings))), {}
        for column, what, bound in (
            ("lower_array", "the lower bound", lowest(settings)),
            ("upper_array", "the upper bound", highest(settings)),
        ):
            if isinstance(bound, np.ndarray) and self._with_bounds:
                columns[column] = self._column(what, name, bound, like)
        if key in self.mask:
            columns["mask"] = self._column("the mask", name, self.mask[key], like)
        return columns

    def _column(self, what: str, name: str, array: Array, like: Array) -> Array:
        try:
            numbers = pairs(like)
            numbers[...] = array if numbers is like else np.broadcast_to(array, like.shape)[..., None]
        except ValueError:
            raise ValueError(
                f"{self._owner}: {what} has shape {array.shape}, which does not broadcast to that of {name}, "
                f"{like.shape}; give it that shape, or the parameter a group with bounds of its own"
            ) from None
        return like.copy(order="K")

    def check_keys(self, keys: Iterable[Hashable]) -> None:
        """Raises if the mask has a key that no parameter has."""
        keys = list(keys)
        for key in self.mask:
            if key not in keys:
                if key is None and keys:
                    raise ValueError(
                        f"{self._owner}: mask is one array, which is for one parameter alone; there are "
                        f"{keys[:8]!r:.300}. Name whose it is: mask={{{keys[0]!r:.100}: array}}"
                    )
                raise ValueError(
                    f"{self._owner}: mask[{key!r}] belongs to no parameter; there are {keys[:8]!r:.300}. Correct the "
                    "key"
                )
