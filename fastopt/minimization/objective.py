"""The function to be minimized, with its gradient, whichever way they were handed in."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from fastopt.minimization import differences
from fastopt.minimization.bounds import Limits
from fastopt.minimization.points import Form


class OutOfBatches(Exception):
    """There is no batch for another evaluation."""


class Objective:
    """Evaluates function and gradient at a point, both on the same batch or with the same random numbers.

    Whatever is called gets a copy of the point, which it may keep; `nfev` and `njev` count calls of the function and
    of the gradient.
    """

    def __init__(
        self,
        fun: Any,
        jac: Any,
        args: Any,
        form: Form,
        limits: Limits,
        rng: Any = None,
        batches: Iterable[Any] | None = None,
    ) -> None:
        if not callable(fun):
            raise TypeError(f"minimize: fun must be a function fun(x, *args), got {type(fun).__name__}")
        if rng is not None and batches is not None:
            raise ValueError("minimize: the function takes rng or batches, got both; draw the batches with your rng")
        self._fun, self._jac = fun, _checked_jac(fun, jac)
        self._args, self._limits = args if isinstance(args, tuple) else (args,), limits
        self._form = form
        self._rng = None if rng is None else np.random.default_rng(rng)
        self._batches = None if batches is None else iter(batches)
        self._state: Any = None
        self._extra: tuple[Any, ...] = () if self._rng is None else (self._rng,)
        self.nfev = self.njev = 0
        self.problems: int | None = None
        """How many there are, where the function returns a value of each."""

    @property
    def can_go_on(self) -> bool:
        """Whether there is always another evaluation, and not only as long as there are batches."""
        return self._batches is None

    def evaluate(self, x: Any) -> tuple[Any, Any]:
        """Value and gradient at x, on the next batch or with new random numbers; raises OutOfBatches."""
        if self._batches is not None:
            try:
                self._extra = (next(self._batches),)
            except StopIteration:
                raise OutOfBatches from None
        if self._rng is not None:
            self._state = self._rng.bit_generator.state
        if isinstance(self._jac, str):
            value = self._value(x)
            return value, differences.gradient(self._value, self._form, x, value, self._jac, self._limits)
        if self._jac is True:
            return self._value_and_gradient(x)
        value = self._value(x)
        self.njev += 1
        gradient = self._call(self._jac, x)
        if callable(gradient):
            raise TypeError(
                "minimize: jac returned a function, not a gradient; with autograd hand in jac=grad(fun), not jac=grad"
            )
        return value, gradient

    def _value_and_gradient(self, x: Any) -> tuple[Any, Any]:
        self.nfev += 1
        self.njev += 1
        result = self._call(self._fun, x)
        if not isinstance(result, tuple | list) or len(result) != 2:
            raise TypeError(
                f"minimize: with jac=True fun must return the value and its gradient, got {type(result).__name__}"
            )
        return _checked_value(result[0], self.problems), result[1]

    def _value(self, x: Any) -> Any:
        self.nfev += 1
        return _checked_value(self._call(self._fun, x), self.problems)

    def _call(self, function: Callable[..., Any], x: Any) -> Any:
        if self._rng is not None:  # value, gradient and differences are those of one random function
            self._rng.bit_generator.state = self._state
        return function(copy.deepcopy(x), *self._extra, *self._args)


def _checked_jac(fun: Any, jac: Any) -> Any:
    if jac is None or jac is False:
        return "2-point"
    if jac is True or callable(jac) or (isinstance(jac, str) and jac in differences.SCHEMES):
        return jac
    raise ValueError(
        "minimize: jac must be True (fun returns value and gradient), a function such as autograd's grad(fun), "
        f"'2-point' or '3-point', got {jac!r:.100}; an optimizer is named by method='adam'"
    )


def _checked_value(value: Any, problems: int | None) -> Any:
    """The value as a number, or those of so many problems as an array; TypeError if it is neither."""
    array = np.asarray(value)
    if problems is not None:
        if array.shape != (problems,) or array.dtype.kind not in "fiub":
            raise TypeError(
                f"minimize: with batch_axis=0 fun must return the value of each problem, in shape ({problems},), got "
                f"shape {array.shape} and dtype {array.dtype}"
            )
        return array.astype(np.float64)
    if array.size != 1 or array.dtype.kind not in "fiub":
        raise TypeError(
            f"minimize: fun must return one real number, got {type(value).__name__} of shape {array.shape} and dtype "
            f"{array.dtype}{'; take its real part' if array.dtype.kind == 'c' else ''}"
        )
    return float(array.item())
