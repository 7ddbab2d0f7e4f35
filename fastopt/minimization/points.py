"""Points that a function is minimized over: SciPy's vectors, and the containers that optimizers take."""

from __future__ import annotations

import copy
from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np

from fastopt import array_checks, checks, container_checks
from fastopt.engine.containers import container_of
from fastopt.flat import Array
from fastopt.pairs import is_complex


class Form:
    """The form of points and gradients, learnt from the first point."""

    def __init__(
        self, owner: str, x0: Any, name: str = "x0", dtypes: tuple[np.dtype[Any], ...] = checks.DTYPES
    ) -> None:
        """TypeError or ValueError if x0 is no container of numbers or arrays of these dtypes.

        name : what the errors call it
        """
        self.owner, self._dtypes = owner, dtypes
        if _is_vector(x0):
            x0 = self._array(np.asarray(x0), name)
        self._x0, self._container = x0, container_of(owner, x0, name)
        self._values = self._container.values(x0) or []
        for key, value in zip(self.keys, self._values, strict=True):
            self._array(value, self._container.name(key, name))  # raises

    @property
    def keys(self) -> list[Hashable]:
        """The names of the arrays, by which gradients, bounds and groups know them."""
        return self._container.keys

    @property
    def is_array(self) -> bool:
        """Whether a point is one array."""
        return self._container.is_bare

    def name(self, key: Hashable) -> str:
        """Return the name of an array in error texts."""
        return self._container.name(key, "x")

    def start(self) -> Any:
        """A copy of x0 to step in: floats, and an array under several keys stays one."""
        if all(isinstance(value, np.ndarray) and value.dtype in self._dtypes for value in self._values):
            return copy.deepcopy(self._x0)
        copies = {id(value): np.array(self._array(value, "")) for value in self._values}
        return self.like([copies[id(value)] for value in self._values])

    def like(self, arrays: list[Array]) -> Any:
        """A point of these arrays, in the order of the keys."""
        return self._container.like(self._x0, arrays)

    def leaves(self, x: Any) -> dict[Hashable, Array]:
        """The arrays of a point by key."""
        return dict(zip(self.keys, self._container.values(x) or [], strict=True))

    def gradients(self, gradient: Any, x: Any) -> dict[Hashable, Array]:
        """The arrays of a gradient by key, without those that are None; an error if the form or a shape differs."""
        given = self._container.gradients_by_key(gradient)
        if not isinstance(given, Mapping):
            raise TypeError(
                f"{self.owner}: the gradient must be of the form of the point, a {type(self._x0).__name__}, got "
                f"{type(gradient).__name__}"
            )
        for key in self.keys:
            if key not in given:
                raise KeyError(container_checks.missing_gradient(self.owner, key, given))
        arrays = {key: np.asarray(given[key]) for key in self.keys if given[key] is not None}
        if self.keys and not arrays:
            raise TypeError(f"{self.owner}: the gradient is None; return it from the function that computes it")
        leaves = self.leaves(x)
        for key, array in arrays.items():
            if array.dtype.kind not in ("fiubc" if is_complex(leaves[key].dtype) else "fiub"):
                numbers = "numbers" if is_complex(leaves[key].dtype) else "real numbers"
                raise TypeError(
                    f"{self.owner}: the gradient of {self.name(key)} must be an array of {numbers}, got "
                    f"{type(given[key]).__name__}{'' if array.dtype.kind == 'O' else f' of dtype {array.dtype}'}"
                )
            expected = leaves[key].shape
            if array.shape != expected and not (array.ndim == 0 and expected == (1,)):
                raise ValueError(
                    f"{self.owner}: the gradient of {self.name(key)} has shape {array.shape}, expected that of the "
                    f"parameter, {expected}"
                )
        return arrays

    def _array(self, value: Any, name: str) -> Array:
        """A value as an array of one of the dtypes; an error if it is none."""
        array = np.asarray(value)
        if array.dtype.kind in "iu":
            return array.astype(np.float64)
        if array.dtype not in self._dtypes:
            cure = f"convert it: np.asarray({name}, dtype=np.float64)"
            if is_complex(array.dtype):
                cure = f"hand in real and imaginary parts, {name}.view(float), and view x as complex in fun"
            raise TypeError(
                f"{self.owner}: {name} has dtype {array.dtype}, expected numbers or arrays of "
                f"{', '.join(map(str, self._dtypes[:-1]))} or {self._dtypes[-1]}; {cure}"
            )
        return array


def is_scalar(value: Any) -> bool:
    """Whether a value is one number, complex or not."""
    return array_checks.is_number(value) or isinstance(value, complex | np.complexfloating)


def _is_vector(x0: Any) -> bool:
    """Whether x0 is one number or a list of numbers, which is one array to SciPy."""
    if type(x0) in (list, tuple):
        return all(map(_is_vector, x0))
    return is_scalar(x0) or isinstance(x0, np.bool_ | bool | str)  # the last are errors
