"""What one kernel call works on: the parameters of a dtype, their addresses, and the tally of a report."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

import numpy as np

from fastopt.flat import Array
from fastopt.kernels import build
from fastopt.kernels.build import Rule
from fastopt.state import Layout
from fastopt.threads import threads_for


class Bare(Enum):
    """The key under which a bare array's state is kept; an enum member, so that it stays itself when pickled."""

    KEY = "bare array"


BARE = Bare.KEY


@dataclass
class Entry:
    """A parameter of the plan."""

    key: Hashable
    value: Any  # as it stands in params
    array: Array  # as an array
    layout: Layout
    row: int = -1  # its row in the table, -1 if its gradient is None
    staged: Array | None = None  # a contiguous copy to work on where the parameter itself cannot be

    def __post_init__(self) -> None:
        self.header = header_of(self.array)

    @property
    def identity(self) -> tuple[Any, ...]:
        """Equal for the same memory seen in the same way; numbers are never the same."""
        return self.header if isinstance(self.value, np.ndarray) else (id(self),)

    def fits(self, value: Any) -> bool:
        """Whether a staged parameter is still what it was; the scan sees to all others."""
        if isinstance(self.value, np.ndarray):
            return value is self.value and value.flags.writeable and header_of(value) == self.header
        return type(value) is type(self.value)


@dataclass
class Launch:
    """Arrays of one dtype, no two the same, that one kernel call updates."""

    table: Array  # int64[arrays + 1, 2 + state slots], the last row for the address of the tally
    starts: Array  # int64[arrays + 1]
    dtype: str
    moved_bytes: int
    staged: list[Entry]
    kernels: dict[tuple[str, bool], Any] = field(default_factory=dict)
    tally: Array | None = None  # float64[pieces and arrays, FIELDS]

    def call(self, rule: Rule, which: str) -> tuple[Any, Array, Array, int]:
        """Kernel and arguments but for the scalars; compiles the kernel at its first use."""
        threads = threads_for(self.moved_bytes)
        wanted = which, threads > 1
        kernel = self.kernels.get(wanted)
        if kernel is None:
            kernel = self.kernels[wanted] = rule.kernel(self.dtype, threads > 1, which)
        if which != "step" and self.tally is None:
            # A row for each piece of each array; those of an array follow one another.
            self.rows = self.starts[:-1] // build.PIECE + np.arange(len(self.starts) - 1)
            self.tally = np.zeros((self.starts[-1] // build.PIECE + len(self.starts), build.FIELDS))
            self.table[-1, 0] = self.tally.ctypes.data
        return kernel, self.table, self.starts, threads

    def sums(self) -> Array:
        """The tally's sums for each array, float64[arrays, FIELDS]."""
        assert self.tally is not None
        return np.asarray(np.add.reduceat(self.tally, self.rows, axis=0))

    def fetch(self, params: Any) -> None:
        """Copies into the staged arrays what stands in `params`."""
        for entry in self.staged:
            assert entry.staged is not None
            entry.staged[...] = params if entry.key is BARE else params[entry.key]

    def put_back(self, params: Any) -> None:
        """Copies the staged arrays to where they came from; doing it twice does no harm."""
        for entry in self.staged:
            assert entry.staged is not None
            if isinstance(entry.value, np.ndarray):
                entry.value[...] = entry.staged
            else:
                params[entry.key] = as_number(entry.staged, entry.value)


def header_of(array: Array) -> tuple[Any, ...]:
    """Where and how an array lies."""
    return array.ctypes.data, array.shape, array.strides, array.dtype


def as_number(staged: Array, before: Any) -> Any:
    """The new value of a parameter that is a plain number, of the type it had (an int becomes a float)."""
    return type(before)(staged[()]) if isinstance(before, np.floating) else staged.item()
