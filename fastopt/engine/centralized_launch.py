"""A launch in which means are taken from gradients, for the setting `centralize`."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from numba import from_dtype, types
from numba.core import config

from fastopt.engine.launch import Launch, Leaf
from fastopt.engine.state import Layout
from fastopt.flat import Array
from fastopt.kernels import column_means, flags, loops
from fastopt.kernels.averages import AVERAGES
from fastopt.kernels.compile import compiled
from fastopt.kernels.rule import GRADIENT_MEASURE, NO_RULE, Rule
from fastopt.kernels.transforms import TRANSFORMS
from fastopt.tuning import AS_THEY_COME, Choice

# Runs of an array have about so many elements, several rows of a matrix where these are short: the kernels should have
# more to do in runs than between them.
RUN = 2048
# Where one mean is that of many elements in a row, so many copies of it are written, and a run has no more elements.
COPIES = 256


class CentralizedLaunch(Launch):
    """A launch of arrays of which some are centralized: to the kernels each of them is several arrays.

    These are such that the means lie beside their elements, in a column of the table that other launches do not have.
    What is not centralized has means of zero there, so that it is one launch all the same.
    """

    def begin(self, leaves: list[Leaf], scalars: Array) -> None:
        """Takes up the parameters, in the order of the table that the launch was made with, and the plan's scalars."""
        self._whole, self._scalars, self._leaves = self.table, scalars, leaves
        left_out = [leaf.layout.numbers for leaf in leaves if not leaf.centralized]
        at, sums = min(RUN, max(left_out, default=0)), 0  # the zeros come first
        matrices: list[list[int]] = []
        jobs: list[list[int]] = []
        cuts = []
        for row, leaf in enumerate(leaves):
            if not leaf.centralized:
                cuts.append(cut(1, leaf.layout.numbers, RUN, 0))
                continue
            stacks, rows, columns = matrices_of(leaf.layout)
            copies = min(rows, max(1, (RUN if stacks == 1 else COPIES) // columns))
            cuts.append(cut(stacks, rows * columns, copies * columns, at))
            for stack in range(stacks):
                begin = stack * rows * columns
                stack_jobs, chunks = jobs_of(row, leaf.scalar_row, begin, rows, columns, sums)
                matrices.append([row, leaf.scalar_row, begin, rows, columns, sums, chunks, at, copies])
                jobs += stack_jobs
                at += copies * columns
                sums += chunks * columns
            self.moved_bytes += leaf.layout.nbytes
        self._matrices, self._jobs = np.array(matrices, np.int64), np.array(jobs, np.int64)
        self._means, self._sums = np.zeros(at, self.dtype), np.zeros((3, sums))
        self._doubtful = np.zeros((int(self._matrices[:, column_means.COLUMNS].sum()), 2), np.int64)
        self._cut(cuts)

    def _cut(self, cuts: list[tuple[Array, Array, Array]]) -> None:
        """Makes the table of the arrays that the parameters are cut into."""
        offsets, sizes, places = map(np.concatenate, zip(*cuts, strict=True))
        counts = [len(begins) for begins, *_ in cuts]
        self._owners, self._offsets = np.repeat(np.arange(len(cuts)), counts), offsets * self._means.itemsize
        self.table = np.zeros((len(offsets) + 1, self._whole.shape[1] + 1), np.int64)
        whole = self._whole[self._owners]
        self.table[:-1, :-2] = whole[:, :-1] + self._offsets[:, None] * (whole[:, :-1] != 0)
        self.table[:-1, -2] = self._means.ctypes.data + places * self._means.itemsize
        self.table[:-1, -1] = whole[:, -1]
        self.starts = np.cumsum([0, *sizes], dtype=np.int64)
        firsts = np.cumsum([0, *counts[:-1]])
        self.rows = self.starts[firsts] // loops.PIECE + firsts

    def call(
        self, rule: Rule, which: str, transforms: tuple[str, ...] = (), choice: Choice = AS_THEY_COME
    ) -> tuple[Any, Array, Array, int]:
        """As in `Launch`; finds the means first, with scale and clipping as the plan's scalars have them."""
        self.table[:-1, 1] = self._whole[self._owners, 1] + self._offsets
        if rule is NO_RULE or rule is GRADIENT_MEASURE:  # which read gradients as they come
            return super().call(rule, which, transforms, choice)
        call = super().call(rule, which, centralized(transforms), choice)
        if not rule.is_by_array:  # otherwise they were found for the pass before the step
            applied = [transform for transform in transforms if transform in TRANSFORMS]
            last = len(rule.scalars) + len(applied) - 1
            places = [
                last - applied.index(transform) if transform in applied else -1 for transform in ("scale", "clip")
            ]
            self._find_means(np.array(places), call[-1])
        return call

    def _find_means(self, places: Array, threads: int) -> None:
        given = self._whole, self._scalars, places
        if flags.CHECK or config.DISABLE_JIT:
            columns = self._matrices[:, column_means.COLUMNS].tolist()
            doubtful = [(number, column) for number, count in enumerate(columns) for column in range(count)]
        else:
            find = compiled_find_means(self._means.dtype, threads > 1)
            count = find(self._jobs, self._matrices, *given, self._sums, self._means, self._doubtful, threads)
            doubtful = self._doubtful[:count].tolist()
        for number, column in doubtful:
            column_means.write_exactly(self._matrices[number], column, *given, self._means)

    def check_rows(self, owner: str, blocks: list[Array]) -> None:
        """Raises if an address is not that of a run of its array, or of means; the arrays are checked as wholes."""
        sizes = np.diff(self.starts) * self._means.itemsize
        room = np.array([leaf.layout.numbers for leaf in self._leaves])[self._owners] * self._means.itemsize
        low, high = self._whole[self._owners, :-1], self._whole[self._owners, :-1] + room[:, None]
        begin = np.full((len(sizes), 1), self._means.ctypes.data)
        low, high = np.hstack([low, begin]), np.hstack([high, begin + self._means.nbytes])
        addresses = self.table[:-1, :-1]
        wrong = ((addresses < low) | (addresses + sizes[:, None] > high)) & (low != 0)
        for row, column in np.argwhere(wrong)[:1]:
            raise RuntimeError(
                f"{owner}: the address {addresses[row, column]:#x} in column {column} of a part of params["
                f"{self._leaves[self._owners[row]].key!r}] is not that of a live array; please report this error"
            )


def matrices_of(layout: Layout) -> tuple[int, int, int]:
    """How many matrices in C order an array is, and their rows and columns, if its means are those of the columns."""
    kept = layout.shape[1 if len(layout.shape) == 2 else 0]
    if (len(layout.shape) == 2) == (layout.order == "C"):
        return 1, layout.size // kept, kept
    return kept, layout.size // kept, 1


def jobs_of(row: int, scalar_row: int, begin: int, rows: int, columns: int, out: int) -> tuple[list[list[int]], int]:
    """The rows of `jobs` that add up a matrix, and into how many chunks it is cut, each with sums of all columns."""
    together = 1
    while together * columns < column_means.LANES and 16 * together < rows:
        together *= 2
    each = max(1, column_means.JOB // min(columns, column_means.BLOCK) // together) * together
    jobs = []
    for chunk, first in enumerate(range(0, rows, each)):
        count = min(each, rows - first)
        for block in range(0, columns, column_means.BLOCK):
            kept = min(column_means.BLOCK, columns - block)
            offset, stride, width = begin + first * columns + block, together * columns, together * kept
            runs, remainder = divmod(count, together)
            jobs.append(
                [row, scalar_row, offset, stride, runs, width, remainder * kept, kept, out + chunk * columns + block]
            )
    return jobs, -(-rows // each)


def cut(stacks: int, size: int, run: int, means_at: int) -> tuple[Array, Array, Array]:
    """Of the runs that matrices of `size` elements are cut into: first elements, sizes, and where their means begin."""
    begins = np.arange(0, max(1, size), max(1, run))
    offsets = np.arange(stacks)[:, None] * size + begins
    places = np.arange(stacks)[:, None] * run + np.zeros_like(begins) + means_at
    return offsets.ravel(), np.tile(np.minimum(run, size - begins), stacks), places.ravel()


@cache
def centralized(transforms: tuple[str, ...]) -> tuple[str, ...]:
    """The transforms with `centralize`, in their order."""
    return tuple(name for name in TRANSFORMS | AVERAGES if name in transforms or name == "centralize")


@cache
def compiled_find_means(dtype: np.dtype[Any], in_parallel: bool) -> Any:
    """`find_means`, compiled for arrays of a dtype."""
    row, table = types.Array(types.int64, 1, "C"), types.Array(types.int64, 2, "C")
    numbers, array = types.Array(types.float64, 2, "C"), types.Array(from_dtype(dtype), 1, "C")
    signature = table, table, table, numbers, row, numbers, array, table, types.int64
    return compiled(column_means.find_means, *signature, nogil=True, in_parallel=in_parallel)
