"""Constraints of reference optimizers: bounds, proximal steps, masks, and those of rows, in plain NumPy."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from fastopt.pairs import is_complex, joined, pairs

Array = npt.NDArray[Any]


class Masked:
    """The elements that a mask keeps, with what was there before a step."""

    def __init__(self, mask: Any, key: Any, *arrays: Array) -> None:
        mask = mask if mask is None or isinstance(mask, Mapping) else {None: mask}
        self._kept = None if mask is None or key not in mask else ~np.broadcast_to(mask[key], arrays[0].shape)
        self._before = [x.copy() for x in arrays] if self._kept is not None else []

    def write(self, x: Array, new: Array) -> None:
        """Writes the other elements."""
        x[...] = new if self._kept is None else np.where(self._kept, x, new)

    def put_back(self, *arrays: Array) -> None:
        for x, before in zip(arrays, self._before, strict=False):
            x[self._kept] = before[self._kept]


def elementwise(part: Any, p: Array, state: list[Array], whole: Any, rows: Any) -> None:
    """Proximal steps and bounds of new parameters, by the settings of their part; p are these rows of the whole one."""
    metric = part.metric(*state) if part.l1 or part.l2_prox else None
    amount = p.dtype.type(part.l1 * part.effective_lr()) if part.l1 else 0.0
    if amount:
        threshold = amount if metric is None else amount / metric
        p[...] = np.where(p > threshold, p - threshold, np.where(p < -threshold, p + threshold, p - p))
    amount = part.l2_prox * part.effective_lr() if part.l2_prox else 0.0
    if p.dtype.type(amount):
        p[...] = p - amount / (1 + amount) * p if metric is None else p * (metric / (metric + amount))
    if part.bounds is None and not part.nonnegative:
        return
    bounds = zip(part.bounds or (None, None), (-math.inf, math.inf), strict=True)
    low, high = (otherwise if bound is None else bound for bound, otherwise in bounds)
    low = np.maximum(low, 0.0) if part.nonnegative else low
    low, high = (np.broadcast_to(bound, np.shape(whole))[rows].astype(p.dtype) for bound in (low, high))
    p[...] = np.where(p < low, low, np.where(p > high, high, p))


def by_rows(part: Any, p: Array) -> None:
    """Constraints on rows, columns or all of an array, in place."""
    if not p.size or not (part.group_lasso or part.max_norm < math.inf or part.unit_norm or part.simplex):
        return
    axis = part.constraint_axis
    new = p.reshape(1, -1) if axis is None or p.ndim < 2 else np.moveaxis(p, axis, -1)
    new = pairs(new).reshape(*new.shape[:-1], -1)  # complex elements are two real ones side by side
    shape, new = new.shape, new.reshape(-1, new.shape[-1]).copy()
    for row in new:
        if part.group_lasso:
            threshold, length = part.group_lasso * part.effective_lr(), norm(row)
            if length <= threshold:
                row[:] = 0.0
            elif length < math.inf:
                _multiply(row, 1 - threshold / length)
        if part.max_norm < math.inf and norm(row) > part.max_norm:
            _multiply(row, part.max_norm / norm(row) if norm(row) < math.inf else 1.0)
        if part.unit_norm and np.finfo(np.float64).tiny <= norm(row) < math.inf:  # by which 1 can be divided
            _multiply(row, 1 / norm(row))
        if part.simplex and np.isfinite(row).all():
            row[:] = on_simplex(row)
    new = joined(new.reshape(*shape[:-1], -1, 2)) if is_complex(p.dtype) else new.reshape(shape)
    p[...] = new.reshape(p.shape) if axis is None or p.ndim < 2 else np.moveaxis(new, -1, axis)


def norm(row: Array) -> float:
    """The root of the number nearest to the sum of the float64 squares, which neither overflow nor vanish."""
    largest = float(np.abs(row).max())
    if not 0 < largest < math.inf:
        return largest
    exponent = math.frexp(largest)[1] if row.dtype == np.float64 and not 1e-100 < largest < 1e100 else 0
    root = math.sqrt(math.fsum(np.square(np.ldexp(row.astype(np.float64), -exponent)).tolist()))
    try:
        return math.ldexp(root, exponent)
    except OverflowError:  # elements are finite, and their norm is not
        return math.inf


def _multiply(row: Array, factor: float) -> None:
    row[:] = row.astype(np.float64) * factor


def on_simplex(row: Array) -> Array:
    """The nearest numbers that are not negative and sum to one, by sorting (Held, Wolfe and Crowder 1974)."""
    values = np.sort(row.astype(np.float64) - row.astype(np.float64).max())[::-1]
    values = values[values > -1]  # those that are not smaller by one than the largest; sums of others may overflow
    shifts = [(math.fsum(values[:count].tolist()) - 1) / count for count in range(1, len(values) + 1)]
    shift = max(shift for value, shift in zip(values.tolist(), shifts, strict=True) if value > shift)
    return np.asarray(np.maximum(row.astype(np.float64) - row.astype(np.float64).max() - shift, 0.0))
