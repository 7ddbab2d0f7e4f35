"""Gradients as a step reads them, in NumPy: which one is to blame for an error."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn

import numpy as np

from fastopt.engine import arguments
from fastopt.engine.address_table import Table
from fastopt.engine.launch import Leaf
from fastopt.engine.norms import OneProcess
from fastopt.engine.state import Layout
from fastopt.flat import Array
from fastopt.pairs import pairs
from fastopt.rows import Rows


def refuse_nonfinite(table: Table, grads: Any, processes: OneProcess) -> NoReturn:
    """Raises the error that names the first gradient with NaN or infinity."""
    table.gradients = []
    bad = first_bad(table, grads, lambda seen, leaf: ~np.isfinite(seen))
    text = processes.first(None if bad is None else arguments.nonfinite(table.owner, *bad))
    if text is None:
        raise AssertionError("no gradient is NaN or infinite")
    raise FloatingPointError(text)


def first_bad(table: Table, grads: Any, is_bad: Callable[[Array, Leaf], Array]) -> tuple[str, Array, Array] | None:
    """Name, values and bad elements of the first gradient that has some; of Rows, those of the first sum.

    is_bad : takes values, of complex numbers as pairs, and their leaf
    """
    leaves = {leaf.key: leaf for leaf in table.leaves}
    gradients = table.container.gradients_by_key(grads, table.frozen)
    for key in table.keys:
        if key in table.frozen:
            continue
        gradient = gradients[key]
        name, layout, leaf = table.name(key, "grads"), table.state.layouts[key], leaves.get(key, table.leaves[0])
        if isinstance(gradient, Rows):
            sparse = leaf.sparse
            bad = is_bad(sparse.sums, leaf)
            for row in np.flatnonzero(bad.any(axis=1))[:1]:
                sums, bad = (array[row].reshape(layout.shape[1:]) for array in (sparse.sums, bad))
                return f"the sum of row {sparse.distinct[row]} of {name}", sums, bad
            continue
        seen = as_read(0.0 if gradient is None else gradient, layout)
        bad = is_bad(pairs(seen), leaf)
        if bad.any():
            return name, seen, np.any(bad, axis=-1) if layout.is_complex else bad
    return None


def as_read(gradient: Any, layout: Layout) -> Array:
    """A gradient in the dtype and shape in which the kernels read it."""
    with np.errstate(over="ignore"):
        seen = np.asarray(gradient).astype(layout.dtype, copy=False)
    return seen.reshape(layout.shape) if seen.size == layout.size else seen
