"""The scalars of many problems at a step: numbers where they are the same for all, else arrays."""

from __future__ import annotations

from typing import Any

import numpy as np

from fastopt.engine.transform_scalars import NEUTRAL, SCALARS
from fastopt.flat import Array

ONLY = (np.add, np.subtract, np.multiply, np.true_divide, np.negative)
"""Operations that NumPy computes as Python does, to the bit."""


class _Exact(np.ndarray[Any, Any]):
    """An array with which NumPy computes only what has the bits of Python's arithmetic; TypeError for all else."""

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **kwargs: Any) -> Any:
        if ufunc not in ONLY or method != "__call__" or kwargs:
            raise TypeError(f"{ufunc} may round otherwise than Python")
        return ufunc(*[np.asarray(each) for each in inputs]).view(_Exact)


def of_rule(settings: Any, count: int, chosen: Array | None) -> list[Any]:
    """The scalars of the rule at a step: numbers, or arrays where each of the chosen problems has a learning rate."""
    rates = settings.__dict__.get("lr")
    if not isinstance(rates, np.ndarray):
        return list(settings.scalars(count))
    one = object.__new__(type(settings))
    one.__dict__.update(settings.__dict__)
    rates = rates if chosen is None else rates[chosen]
    try:
        one.__dict__["lr"] = rates.view(_Exact)
        with np.errstate(all="ignore"):
            return [np.asarray(v) if isinstance(v, np.ndarray) else v for v in one.scalars(count)]
    except (TypeError, ValueError):  # a power, or a case by case
        distinct, places = np.unique(rates, return_inverse=True)
        rows = []
        for rate in distinct.tolist():
            one.__dict__["lr"] = rate
            rows.append(one.scalars(count))
        return [np.array(values, np.float64)[places] for values in zip(*rows, strict=True)]


def of_transform(name: str, settings: Any, chosen: Array | None) -> Any:
    """The scalar of a transform, of the chosen problems."""
    value = SCALARS[name](settings) if name in settings._transforms else NEUTRAL[name]
    return value[chosen] if isinstance(value, np.ndarray) and chosen is not None else value


def spread(values: Any, places: Array, members: list[Any]) -> Any:
    """A number where those of all step counts are the same, else an array of each problem's.

    values : for each step count a number, or an array of those of its members
    """
    if not any(isinstance(value, np.ndarray) for value in values):
        first = values[0]
        return first if all(value == first for value in values) else np.array(values, np.float64)[places]
    found = np.zeros(len(places))
    for value, chosen in zip(values, members, strict=True):
        found[chosen] = value
    return found
