"""The rows that a step updates, of gradients that are `Rows`: each is an array of its own to the kernels."""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import numpy as np
from numba import from_dtype, types
from numpy.lib.array_utils import byte_bounds

from fastopt import rows
from fastopt.engine.launch import Launch, Leaf
from fastopt.engine.state import Layout
from fastopt.flat import Array
from fastopt.kernels import loops
from fastopt.kernels.compile import compiled
from fastopt.kernels.rule import Rule
from fastopt.kernels.sparse_rows import add_up, spread
from fastopt.rows import Rows
from fastopt.tuning import AS_THEY_COME, Choice


class SparseGradient:
    """The updated rows of one parameter and the sums of their gradients; its buffers stay from step to step."""

    def __init__(self, layout: Layout) -> None:
        self.width = math.prod(layout.shape[1:])
        self.width_bytes = self.width * layout.dtype.itemsize
        self.count, self.exact = 0, False
        self._slots = np.full(layout.shape[0], -1, np.int64)
        self._distinct = np.zeros(0, np.int64)
        self._sums = np.zeros((0, self.width), layout.dtype)

    def take(self, owner: str, name: str, given: Rows, parameter_name: str, target: Array) -> None:
        """Checks the gradient of a step and sums it; writes nothing of the user's."""
        indices, values = rows.arrays(owner, name, given, parameter_name, target)
        most = min(len(indices), len(self._slots))
        if most > len(self._distinct):
            self._distinct = np.empty(most + most // 8, np.int64)
            self._sums = np.empty((len(self._distinct), self.width), target.dtype)
        values = values.reshape(len(indices), self.width)
        with np.errstate(all="ignore"):  # in pure Python
            count = compiled_add_up(target.dtype)(indices, values, self._slots, self._distinct, self._sums)
        if count < 0:
            raise ValueError(rows.out_of_range(owner, name, given, -1 - count, parameter_name, len(self._slots)))
        self.count, self.exact = count, bool(given.exact)

    @property
    def distinct(self) -> Array:
        """The numbers of the updated rows, each once."""
        return self._distinct[: self.count]

    @property
    def sums(self) -> Array:
        """The gradient of each, of shape (count, width)."""
        return self._sums[: self.count]

    @property
    def size(self) -> int:
        return self.count * self.width


class RowsLaunch(Launch):
    """A launch whose arrays are the updated rows of some parameters, other ones at each step.

    It is made with the addresses of the whole parameters, of which `arrange` makes those of the rows.
    """

    def begin(self, leaves: list[Leaf]) -> None:
        """Takes up the parameters, in the order of the table that the launch was made with."""
        self._leaves, self._whole = leaves, self.table
        self._bytes = self.moved_bytes // max(1, int(self.starts[-1]))  # for each element
        self._table, self._starts = np.zeros((0, self.table.shape[1]), np.int64), np.zeros(1, np.int64)

    parameter_bytes = 0  # BLAS reads copies of the rows, so no other core has them

    def call(
        self, rule: Rule, which: str, transforms: tuple[str, ...] = (), choice: Choice = AS_THEY_COME
    ) -> tuple[Any, Array, Array, int]:
        """As in `Launch`, but stored as they come, and averages are of all rows and not moved here.

        Their scalar, the last, is not read then.
        """
        return super().call(rule, which, tuple(transform for transform in transforms if transform != "averaging"))

    def arrange(self) -> None:
        """Makes the table of a step, when all its gradients have been taken."""
        needed = sum(leaf.sparse.count + 1 for leaf in self._leaves if leaf.sparse is not None)
        if needed > len(self._table) - 1:
            self._table = np.zeros((needed + needed // 8 + 1, self._whole.shape[1]), np.int64)
            self._starts = np.zeros(len(self._table), np.int64)
        fill, first, firsts = compiled_spread(), 0, []
        for leaf, whole in zip(self._leaves, self._whole, strict=False):  # its last row is for statistics
            sparse = leaf.sparse
            assert sparse is not None
            firsts.append(first)
            whole[1] = sparse._sums.ctypes.data
            shape = sparse.count, sparse.width, sparse.width_bytes
            first = fill(whole, sparse._distinct, *shape, first, self._table, self._starts)
        self.table, self.starts = self._table[: first + 1], self._starts[: first + 1]
        self.moved_bytes = self._bytes * int(self.starts[-1])
        self.rows = self.starts[firsts] // loops.PIECE + np.array(firsts, np.int64)
        self.statistics = None  # its size is another one

    def check_rows(self, owner: str, blocks: list[Array]) -> None:
        """Raises if an address is not that of a row of a live array."""
        first = 0
        for leaf in self._leaves:
            sparse = leaf.sparse
            assert sparse is not None
            others = [*blocks, *leaf.columns.values()]
            arrays = [[leaf.array], [sparse._sums]] + [others] * (self.table.shape[1] - 3)
            for row in self.table[first : first + sparse.count].tolist():
                for column, (address, owners) in enumerate(zip(row[:-1], arrays, strict=True)):
                    places = map(byte_bounds, owners)
                    if self._whole[0, column] and not any(
                        low <= address and address + sparse.width_bytes <= high for low, high in places
                    ):
                        raise RuntimeError(
                            f"{owner}: the address {address:#x} in column {column} of a row of params[{leaf.key!r}] "
                            "is not that of a live array; please report this error"
                        )
            first += sparse.count + 1


_INT64 = types.int64
_COLUMN = types.Array(_INT64, 1, "C")


@cache
def compiled_add_up(dtype: np.dtype[Any]) -> Any:
    """`add_up`, compiled for values of a dtype."""
    values = types.Array(from_dtype(dtype), 2, "C")
    return compiled(add_up, _COLUMN, values, _COLUMN, _COLUMN, values)


@cache
def compiled_spread() -> Any:
    """`spread`, compiled."""
    table = types.Array(_INT64, 2, "C")
    return compiled(spread, _COLUMN, _COLUMN, *[_INT64] * 4, table, _COLUMN)
