"""A matrix for each dimension of an array, as Shampoo and SOAP keep: in NumPy, whose BLAS and LAPACK do the work."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

LARGEST = 1200
"""Dimensions of more elements have no matrix, nor have vectors: it would cost more than it brings."""


def has_matrix(shape: tuple[int, ...], axis: int) -> bool:
    return len(shape) > 1 and shape[axis] <= LARGEST


def unfolded(x: Any, axis: int) -> Any:
    """An array as a matrix whose rows are one dimension and whose columns are all others."""
    moved = np.ascontiguousarray(np.moveaxis(x, axis, 0))
    return moved.reshape(moved.shape[0], math.prod(moved.shape[1:]))


def along(x: Any, axis: int, matrix: Any) -> Any:
    """An array whose vectors along a dimension are multiplied by a matrix."""
    moved = np.moveaxis(x, axis, 0)
    return np.moveaxis((matrix @ unfolded(x, axis)).reshape(moved.shape), 0, axis)


def products(x: Any, axis: int) -> Any:
    """The sums of products of slices across a dimension; without a matrix those of each slice with itself."""
    rows = unfolded(x, axis)
    return rows @ rows.T if has_matrix(x.shape, axis) else np.square(rows).sum(axis=1)


def eigen(matrix: Any) -> tuple[Any, Any]:
    """Eigenvalues, ascending, and vectors of a symmetric matrix, in float64; all NaN where it is not finite."""
    if not np.isfinite(matrix).all():
        return np.full(len(matrix), np.nan), np.full(matrix.shape, np.nan)
    values, vectors = np.linalg.eigh(matrix.astype(np.float64))
    return values, vectors


def inverse_root(sums: Any, power: float, eps: float) -> Any:
    """A matrix, or a diagonal, of sums to the power -1 / power; eigenvalues below eps count as eps.

    Where both are zero the result is: there was never a gradient.
    """
    values, vectors = (sums.astype(np.float64), None) if sums.ndim == 1 else eigen(sums)
    values = np.where(values < eps, eps, values)
    roots = np.where(values == 0, 0.0, values ** (-1 / power))
    return np.ascontiguousarray(roots if vectors is None else (vectors * roots) @ vectors.T, dtype=sums.dtype)


def first_basis(sums: Any) -> Any:
    """The eigenvectors of a matrix as columns, those of large eigenvalues first."""
    return np.ascontiguousarray(eigen(sums)[1][:, ::-1], dtype=sums.dtype)


def next_basis(sums: Any, basis: Any) -> tuple[Any, Any]:
    """A step of power iteration from a basis of eigenvectors, made orthogonal by QR; and the new order of the old."""
    turned = sums @ basis
    order = np.argsort(-(basis * turned).sum(axis=0), kind="stable")
    if not np.isfinite(turned).all():
        return np.full_like(basis, np.nan), order
    return np.ascontiguousarray(np.linalg.qr(turned[:, order].astype(np.float64))[0], dtype=sums.dtype), order
