"""One kernel call: the parameters of a dtype, their addresses, and the statistics of a report."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
from numba.core.errors import NumbaError

from fastopt import formula_checks, machine
from fastopt.array_checks import masked
from fastopt.engine.state import Layout, lies_in
from fastopt.flat import Array
from fastopt.kernels import loops, passes
from fastopt.kernels.compile import IN_PAIRS
from fastopt.kernels.compile import kernel as kernel_of
from fastopt.kernels.rule import Rule
from fastopt.kernels.stores import AHEAD, PLAIN
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
    modulus: bool = False  # whether both parts of a complex number have one second moment
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
        """The number of real numbers that a step updates."""
        return self.layout.numbers if self.sparse is None else int(self.sparse.size)

    @property
    def nbytes(self) -> int:
        """The size of the parameter."""
        return self.layout.nbytes

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
    modulus: bool = False  # whether numbers are pairs, the parts of complex ones, whose squares are taken together
    kernels: dict[tuple[str, bool, tuple[str, ...], int], Any] = field(default_factory=dict)
    statistics: Array | None = None  # float64[pieces and arrays, FIELDS], a row for each piece of each array

    def __post_init__(self) -> None:
        # The first row of each array in the statistics; its others follow.
        self.rows = self.starts[:-1] // loops.PIECE + np.arange(len(self.starts) - 1)

    is_stored: ClassVar[bool] = False
    """Whether state is decoded before the rule and encoded after it."""

    def loop_of(self, which: str) -> str:
        """The loop of a kernel, as `which` of `compile.kernel`."""
        return which

    @property
    def outgrows_caches(self) -> bool:
        """Whether the arrays of a step are more than the caches keep until the next one."""
        # All but the gradient is written too.
        return (self.moved_bytes + int(self.starts[-1]) * np.dtype(self.dtype).itemsize) // 2 >= machine.cache_bytes()

    def form_of(self, choice: Choice) -> int:
        """The form of `fastopt.kernels.stores` in which it stores parameters."""
        if choice.form is not None:
            return choice.form
        return AHEAD if self.outgrows_caches else PLAIN

    @property
    def parameter_bytes(self) -> int:
        """The bytes of the parameters whose own memory the kernel writes."""
        staged = sum(leaf.layout.numbers for leaf in self.staged)
        return (int(self.starts[-1]) - staged) * np.dtype(self.dtype).itemsize

    def call(
        self, rule: Rule, which: str, transforms: tuple[str, ...] = (), choice: Choice = AS_THEY_COME
    ) -> tuple[Any, Array, Array, int]:
        """Kernel and arguments; compiles the kernel at its first use."""
        threads, form = choice.threads_for(self.moved_bytes), self.form_of(choice)
        if self.columns and which in ("step", "report"):
            transforms = (*transforms, *self.columns)
        variant = which, threads > 1, transforms, form
        kernel = self.kernels.get(variant)
        if kernel is None:
            try:
                kernel = self.kernels[variant] = kernel_of(
                    rule,
                    self.dtype,
                    threads > 1,
                    self.loop_of(which),
                    transforms,
                    form,
                    self.modulus and which in IN_PAIRS and (rule.squares_elements or which == "finite_squares"),
                )
            except NumbaError as error:
                raise TypeError(formula_checks.not_compiled(rule.formula, rule.state, error)) from error
        if which not in ("step", "prepare") and self.statistics is None:
            statistics = np.zeros((self.starts[-1] // loops.PIECE + len(self.starts), passes.FIELDS))
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
