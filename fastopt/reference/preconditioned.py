"""Optimizers that keep a matrix for each dimension of an array, in plain NumPy."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from fastopt.reference.base import Array, Reference

__all__ = ["SOAP", "Shampoo"]

LARGEST = 1200


def rows_of(x: Array, axis: int) -> Array:
    """The slices across a dimension, each as a row."""
    moved = np.ascontiguousarray(np.moveaxis(x, axis, 0))
    return moved.reshape(len(moved), math.prod(moved.shape[1:]))


def times(x: Array, axis: int, matrix: Array) -> Array:
    """Each vector along a dimension times a matrix, from the left."""
    shape = np.moveaxis(x, axis, 0).shape
    return np.moveaxis((matrix @ rows_of(x, axis)).reshape(shape), 0, axis)


def eigen(matrix: Array) -> tuple[Array, Array]:
    if np.isfinite(matrix).all():
        return tuple(np.linalg.eigh(matrix.astype(np.float64)))  # type: ignore[return-value]
    return np.full(len(matrix), np.nan), np.full(matrix.shape, np.nan)


@dataclass(eq=False)
class Shampoo(Reference):
    lr: float = 0.1
    momentum: float = 0.9
    eps: float = 1e-6
    decay_rate: float = 1.0
    precondition_every: float = 10.0
    decoupled: bool = field(default=True, kw_only=True, repr=False)
    slots = ("m", "u")
    by_array = True

    def step(self, p: Array, g: Array, m: Array, u: Array) -> None:  # type: ignore[override]
        weight = 1.0 if self.decay_rate == 1 else 1 - self.decay_rate
        for axis, length in enumerate(g.shape):
            rows = rows_of(g, axis)
            is_whole = g.ndim > 1 and length <= LARGEST
            products = rows @ rows.T if is_whole else np.square(rows).sum(axis=1)
            start = self.eps * (np.eye(length, dtype=g.dtype) if is_whole else np.ones(length, g.dtype))
            before = self.factors.get(f"sums_{axis}", start)
            self.factors[f"sums_{axis}"] = self.decay_rate * before + weight * products
        every, old = max(1, round(self.precondition_every)), dict(self.factors)
        x = self.times_roots(g, self.iter <= every or (self.iter - 1) % every == 0)
        squares = np.square(np.ascontiguousarray(x), dtype=np.float64).sum()
        is_old = any(self.factors[f"root_{axis}"] is old.get(f"root_{axis}") for axis in range(g.ndim))
        if is_old and not squares <= math.prod(g.shape) ** (1 / g.ndim) / weight:
            x = self.times_roots(g, True)
        u[...] = x
        m *= self.momentum
        m += u
        p -= self.lr * m

    def times_roots(self, x: Array, is_due: bool) -> Array:
        for axis in range(x.ndim):
            sums, name = self.factors[f"sums_{axis}"], f"root_{axis}"
            if is_due or sums.ndim == 1 or name not in self.factors:
                self.factors[name] = self.root(sums, 2 * x.ndim)
            root = self.factors[name]
            if root.ndim == 2:
                x = times(x, axis, root)
            else:
                x = x * root.reshape([-1 if other == axis else 1 for other in range(x.ndim)])
        return x

    def root(self, sums: Array, power: int) -> Array:
        values, vectors = (sums.astype(np.float64), None) if sums.ndim == 1 else eigen(sums)
        values = np.where(values < self.eps, self.eps, values)
        roots = np.where(values == 0, 0.0, values ** (-1 / power))
        return np.ascontiguousarray(roots if vectors is None else (vectors * roots) @ vectors.T, dtype=sums.dtype)


@dataclass(eq=False)
class SOAP(Reference):
    lr: float = 0.003
    beta1: float = 0.95
    beta2: float = 0.95
    eps: float = 1e-8
    precondition_every: float = 10.0
    weight_decay: float = field(default=0.01, kw_only=True, repr=False)
    decoupled: bool = field(default=True, kw_only=True, repr=False)
    slots = ("u",)
    by_array = True

    def step(self, p: Array, g: Array, u: Array) -> None:  # type: ignore[override]
        kept, axes = self.factors, [axis for axis, n in enumerate(g.shape) if g.ndim > 1 and n <= LARGEST]
        slices = {axis: rows_of(g, axis) for axis in axes}
        products = {axis: rows @ rows.T for axis, rows in slices.items()}
        if not kept:
            kept |= {"m": np.zeros_like(g), "v": np.zeros_like(g)}
            for axis in axes:
                kept[f"sums_{axis}"] = sums = (1 - self.beta2) * products[axis]
                kept[f"basis_{axis}"] = np.ascontiguousarray(eigen(sums)[1][:, ::-1], dtype=g.dtype)
            u[...] = g * 0
            p -= self.lr * u
            return
        t = max(1, self.iter - 1)
        turned = g
        for axis in axes:
            turned = times(turned, axis, kept[f"basis_{axis}"].T)
        kept["m"] = kept["m"] + (1 - self.beta1) * (g - kept["m"])
        kept["v"] = kept["v"] + (1 - self.beta2) * (np.square(turned) - kept["v"])
        x = kept["m"]
        for axis in axes:
            x = times(x, axis, kept[f"basis_{axis}"].T)
        x = x / (np.sqrt(kept["v"]) + self.eps)
        for axis in axes:
            x = times(x, axis, kept[f"basis_{axis}"])
        u[...] = x
        u *= math.sqrt(1 - self.beta2**t) / (1 - self.beta1**t)
        p -= self.lr * u
        for axis in axes:
            sums = kept[f"sums_{axis}"] + (1 - self.beta2) * (products[axis] - kept[f"sums_{axis}"])
            kept[f"sums_{axis}"] = sums
            if t % max(1, round(self.precondition_every)) == 0:
                basis = kept[f"basis_{axis}"]
                turned = sums @ basis
                order = np.argsort(-(basis * turned).sum(axis=0), kind="stable")
                kept["v"] = np.take(kept["v"], order, axis=axis)
                new = np.full_like(basis, np.nan)
                if np.isfinite(turned).all():
                    new = np.linalg.qr(turned[:, order].astype(np.float64))[0]
                kept[f"basis_{axis}"] = np.ascontiguousarray(new, dtype=g.dtype)
