"""Gradients by differences, to check those by back-propagation with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


def numerical_gradient(f: Callable[[Array], float], x: Array, step: float = 1e-5) -> Array:
    """The gradient of `f` at `x` by central differences, `(f(x + step) - f(x - step)) / (2 step)` for each element.

    Parameters
    ----------
    f : callable
        Gives a number for an array like x. It is called twice for each element, with x itself changed in place.
    x : array of float64, any shape
        Changed during the call, and restored to the same bits.
    step : float
        Near the cube root of float64's epsilon, where the error of the difference (of the order of its square) and that
        of rounding are about equal. A function with kinks, as ReLU makes them, must have none within it of x.

    Raises
    ------
    TypeError
        if x is not a float64 array: in float32 differences drown in rounding.

    Examples
    --------
    >>> import numpy as np
    >>> from fastopt.nn import numerical_gradient
    >>> numerical_gradient(lambda x: float((x**2).sum()), np.array([1.0, -2.0])).round(6)
    array([ 2., -4.])
    """
    if not isinstance(x, np.ndarray) or x.dtype != np.float64:
        found = f"dtype {x.dtype}" if isinstance(x, np.ndarray) else f"type {type(x).__name__}"
        raise TypeError(f"numerical_gradient: x has {found}, expected a float64 array; convert it: np.array(x, float)")
    gradient = np.empty_like(x)
    for index in np.ndindex(x.shape):
        kept = x[index]
        try:
            x[index] = kept + step
            above = f(x)
            x[index] = kept - step
            below = f(x)
        finally:
            x[index] = kept
        gradient[index] = (above - below) / (2 * step)
    return gradient
