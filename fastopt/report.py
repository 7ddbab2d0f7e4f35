"""A step in a few numbers."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from functools import cached_property

import numpy as np

from fastopt.engine.norms import norm_of_sums
from fastopt.flat import Array
from fastopt.kernels.passes import CHANGES, FIELDS, GRADIENTS, LARGE, NONFINITE, PARAMETERS, SMALL_ONES, ZEROS


class Norms:
    """Norms of gradient, parameter and update of one array, or of all together.

    Norms are Euclidean, added up in float64 in an order that does not depend on the number of threads, also where
    squares are beyond float64.
    """

    def __init__(self, sums: Array, size: int) -> None:
        self._sums, self.size = sums, size

    def _norm(self, column: int) -> float:
        plain, large, small = self._sums[[column, LARGE + column, SMALL_ONES + column]].tolist()
        return norm_of_sums(plain, large, small)

    @property
    def gradient_norm(self) -> float:
        """The norm of the gradient."""
        return self._norm(GRADIENTS)

    @property
    def parameter_norm(self) -> float:
        """The norm of the parameter after the step."""
        return self._norm(PARAMETERS)

    @property
    def update_norm(self) -> float:
        """The norm of what the step added to the parameter."""
        return self._norm(CHANGES)

    @property
    def update_ratio(self) -> float:
        """The update's norm by the parameter's; about 1e-3 is usual. 0 where nothing changed."""
        if self.update_norm == 0:
            return 0.0
        return self.update_norm / self.parameter_norm if self.parameter_norm else math.inf

    @property
    def zero_share(self) -> float:
        """The share of gradients that are zero, of complex ones that of parts."""
        return float(self._sums[ZEROS]) / self.size if self.size else 0.0

    @property
    def nonfinite_share(self) -> float:
        """The share of gradients that are NaN or infinite, of complex ones that of parts."""
        return float(self._sums[NONFINITE]) / self.size if self.size else 0.0

    def __repr__(self) -> str:
        names = ("gradient_norm", "parameter_norm", "update_norm", "update_ratio", "zero_share", "nonfinite_share")
        return f"{type(self).__name__}({', '.join(f'{name}={getattr(self, name):.6g}' for name in names)})"


class Report(Norms):
    """The result of `update(..., report=True)`: norms over all arrays that were updated, and for each of them.

    Examples
    --------
    >>> import numpy as np
    >>> from fastopt import SGD
    >>> report = SGD(lr=0.5).update({"W": np.full(4, 2.0)}, {"W": np.ones(4)}, report=True)
    >>> report.gradient_norm, report.parameter_norm, report.update_norm
    (2.0, 3.0, 1.0)
    >>> report.by_key["W"].zero_share, report.skipped
    (0.0, False)
    """

    def __init__(
        self,
        keys: Sequence[Hashable],
        sizes: Sequence[int],
        statistics: Sequence[tuple[Array, Array]],
        order: Array,
        skipped: bool,
    ) -> None:
        # The statistics of the launches, each with its arrays' first rows; added up when first asked for, so that a
        # step costs no more than their copies. `order` leads from the launches' arrays to the keys.
        self._keys, self._statistics, self._order = keys, statistics, order
        self._sizes, self.size = sizes, sum(sizes)
        self.skipped = skipped
        """Whether the step was skipped, by `on_nonfinite="skip"`."""

    @cached_property
    def _sums_by_key(self) -> Array:
        sums = [np.add.reduceat(statistics, rows, axis=0) for statistics, rows in self._statistics]
        return np.asarray(np.concatenate([np.zeros((0, FIELDS)), *sums])[self._order])

    @cached_property
    def _sums(self) -> Array:  # type: ignore[override]  # read-only here
        # One after the other: np.sum over the rows would do so as well, but does not promise it.
        return np.asarray(np.add.accumulate(np.vstack([np.zeros(FIELDS), self._sums_by_key]), axis=0)[-1])

    @property
    def by_key(self) -> dict[Hashable, Norms]:
        """The norms of each array that was updated; a bare array's key is None."""
        rows = zip(self._keys, self._sums_by_key, self._sizes, strict=True)
        return {key: Norms(sums, size) for key, sums, size in rows}
