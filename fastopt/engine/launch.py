"""One kernel call: the parameters of a dtype, their addresses, and the statistics of a report."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
from numba.core.errors import NumbaError
from numpy.lib.array_utils import byte_bounds

from fastopt import formula_checks
from fastopt.array_checks import masked
from fastopt.engine.state import Layout, lies_in
from fastopt.flat import Array
from fastopt.kernels import loops
from fastopt.kernels.compile import kernel as kernel_of
from fastopt.kernels.constraints import COLUMNS
from fastopt.kernels.rule import Rule
from fastopt.tuning import AS_THEY_COME, Choice


@dataclass
class Leaf:
    """A parameter of the plan."""

    key: Hashable
    value: Any  # as it stands in params
    array: Array  # as an array
    layout: Layout
    row: int = -1  # its row in the table, -1 if its gradient is None
    groups: tuple[int, ...] = ()  # the groups that it belongs to
    cohort: int = 0  # by which its steps are counted
    scalar_row: int = 0  # its row of scalars, if it is updated
    centralized: bool = False  # whether means are taken from its gradient
    staged: Array | None = None  # a contiguous copy to work on where the parameter itself cannot be
    sparse: Any = None  # a `SparseGradient` where the gradient is Rows
    columns: dict[str, Array] = field(default_factory=dict)  # arrays of bounds and mask, by their column of the table
    copied: bool = False  # whether params hands out a copy of it at each access, and is assigned to

    def __post_init__(self) -> None:
        self.header = header_of(self.array)

    @property
    def identity(self) -> tuple[Any, ...]:
        """Equal for the same memory seen in the same way; numbers are never the same."""
        return self.header if isinstance(self.value, np.ndarray) and not self.copied else (id(self),)

    @property
    def is_assigned(self) -> bool:
        """Whether `params` is assigned the new value, which is no array, or of which it hands out copies."""
        return self.copied or not isinstance(self.value, np.ndarray)

    @property
    def size(self) -> int:
        """The number of elements that a step updates."""
        return self.layout.size if self.sparse is None else int(self.sparse.size)

    @property
    def nbytes(self) -> int:
        """The size of the parameter."""
        return self.layout.size * self.layout.dtype.itemsize

    def is_like(self, value: Any) -> bool:
        """Whether something could take the parameter's place."""
        return (
            type(value) is np.ndarray
            and value.dtype == self.layout.dtype
            and value.shape == self.layout.shape
            and value.flags.writeable
            and lies_in(value, self.layout.order)
        )

    def fits(self, value: Any) -> bool:
        """Whether a parameter that the scan does not see to is still what it was."""
        if self.copied:
            expected = self.layout.shape, self.layout.dtype
            return isinstance(value, np.ndarray) and not masked(value) and (value.shape, value.dtype) == expected
        if isinstance(self.value, np.ndarray):
            return value is self.value and value.flags.writeable and header_of(value) == self.header
        return type(value) is type(self.value)


@dataclass
class Launch:
    """Arrays of one dtype, no two the same, that one kernel call updates."""

    table: Array  # int64[arrays + 1, columns], the last row for the address of the statistics
    starts: Array  # int64[arrays + 1]
    dtype: str
    moved_bytes: int
    staged: list[Leaf]
    scalar_rows: list[int]  # the row of scalars of each array
    columns: tuple[str, ...] = ()  # the columns of the table that all of its arrays have besides
    kernels: dict[tuple[str, bool, tuple[str, ...], int], Any] = field(default_factory=dict)
    statistics: Array | None = None  # float64[pieces and arrays, FIELDS], a row for each piece of each array

    def __post_init__(self) -> None:
        # The first row of each array in the statistics; its others follow.
        self.rows = self.starts[:-1] // loops.PIECE + np.arange(len(self.starts) - 1)

    is_stored: ClassVar[bool] = False
    """Whether state is decoded before the rule and encoded after it."""

    @property
    def parameter_bytes(self) -> int:
        """The bytes of the parameters whose own memory the kernel writes."""
        staged = sum(leaf.layout.size for leaf in self.staged)
        return (int(self.starts[-1]) - staged) * np.dtype(self.dtype).itemsize

    def call(
        self, rule: Rule, which: str, transforms: tuple[str, ...] = (), choice: Choice = AS_THEY_COME
    ) -> tuple[Any, Array, Array, int]:
        """Kernel and arguments; compiles the kernel at its first use."""
        threads = choice.threads_for(self.moved_bytes)
        if self.columns and which in ("step", "report"):
            transforms = (*transforms, *self.columns)
        variant = which, threads > 1, transforms, choice.form
        kernel = self.kernels.get(variant)
        if kernel is None:
            try:
                kernel = self.kernels[variant] = kernel_of(
                    rule, self.dtype, threads > 1, which, transforms, choice.form
                )
            except NumbaError as error:
                raise TypeError(formula_checks.not_compiled(rule.formula, rule.state, error)) from error
        if which not in ("step", "prepare") and self.statistics is None:
            statistics = np.zeros((self.starts[-1] // loops.PIECE + len(self.starts), loops.FIELDS))
            self.table[-1, 0] = statistics.ctypes.data
            self.statistics = statistics  # last: Ctrl-C may come before, and the next call then does it all again
        return kernel, self.table, self.starts, threads

    def fetch(self, leaves: Any) -> None:
        """Copies into the staged arrays what stands among the leaves of the parameters."""
        for leaf in self.staged:
            assert leaf.staged is not None
            leaf.staged[...] = leaves[leaf.key]

    def check_rows(self, owner: str, blocks: list[Array]) -> None:
        """Raises if the address of a row is wrong, where arrays are rows."""


def header_of(array: Array) -> tuple[Any, ...]:
    """Where and how an array lies."""
    return array.ctypes.data, array.shape, array.strides, array.dtype


def as_number(staged: Array, before: Any) -> Any:
    """The new value of a parameter that is a plain number, of the type it had (an int becomes a float)."""
    return type(before)(staged[()]) if isinstance(before, np.floating) else staged.item()


def check_addresses(plan: Any) -> None:
    """Raises if an address in a plan is not that of a live array, large enough and, where written, writable."""
    for number, leaf in enumerate(plan.leaves):
        if leaf.row < 0 or leaf.sparse:
            continue
        size = leaf.layout.size * leaf.layout.dtype.itemsize
        owners = [[leaf.array if leaf.staged is None else leaf.staged]]
        owners += [[array for array in (plan._scratch.get(number), plan._gradients[number]) if _is_array(array)]]
        owners += [plan.state.blocks] * (plan._table.shape[1] - 3 - len(COLUMNS))
        owners += [[leaf.columns[name]] if name in leaf.columns else [] for name in COLUMNS] + [[plan._scalars]]
        for column, (address, arrays) in enumerate(zip(plan._table[leaf.row].tolist(), owners, strict=True)):
            places = [byte_bounds(array) for array in arrays if column == 1 or array.flags.writeable]
            most = plan._scalars[0].nbytes if column == plan._table.shape[1] - 1 else size
            if 2 <= column < 2 + len(plan.rule.state):
                most = plan.state.bytes_of(leaf.key, size)
            if address == 0 and column >= 2 + len(plan.rule.state):  # an average that is not wanted
                continue
            if size and not any(low <= address and address + most <= high for low, high in places):
                raise RuntimeError(
                    f"{plan.owner}: the address {address:#x} in column {column} of {plan._name(leaf.key)} is not that "
                    f"of {most} bytes of a live array; please report this error"
                )
    for launch in plan._launches:
        launch.check_rows(plan.owner, plan.state.blocks)
        if launch.statistics is not None and launch.table[-1, 0] != launch.statistics.ctypes.data:
            raise RuntimeError(f"{plan.owner}: the address of the statistics is wrong; please report this error")


def _is_array(value: Any) -> bool:
    return isinstance(value, np.ndarray)
