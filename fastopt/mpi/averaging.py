"""Averages of the weights that are shared out, and steps that rows skipped."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from fastopt import averages, checks
from fastopt.engine.launch import as_number
from fastopt.mpi.binding import Binding


class SharedAverages:
    """Averages of the weights in `Sharded`, and rows that wait for steps."""

    def averaged(self: Any, params: Any) -> Any:
        """The averaged weights, as copies in the form of `params`, the same on all processes.

        Raises
        ------
        TypeError, ValueError, KeyError, RuntimeError
            as `Optimizer.averaged`, on all processes.
        """
        with self._alone():
            return self._gathered_average(params)

    @contextmanager
    def averaged_weights(self: Any, params: Any) -> Iterator[Any]:
        """Has the averaged weights in `params` of all processes as long as a `with` block lasts.

        Raises
        ------
        TypeError, ValueError, KeyError, RuntimeError
            as `Optimizer.averaged_weights`, on all processes, before anything is written.
        """
        with self._alone(checks.SWAPPED), averages.swapped(self._owner, params, self._gathered_average(params)):
            yield params

    def catch_up(self: Any, params: Any) -> None:
        """Makes the steps that rows skipped, with `Rows(..., exact=True)`, on all processes.

        Raises
        ------
        TypeError, ValueError, KeyError, RuntimeError
            as `Optimizer.catch_up`, on all processes, before anything is written.
        """
        with self._alone():
            binding = self._bind("catch_up", params)
            binding.fetch()
            self._on_all(lambda: self.optimizer.catch_up(binding.slices))
            self._exchange.gather(binding)

    def _gathered_average(self: Any, params: Any) -> Any:
        binding = self._bind("averaged", params)
        binding.fetch()
        of_rank = self._on_all(lambda: self.optimizer.averaged(binding.slices))
        arrays = {path: np.array(array, order="K") for path, array in binding.arrays.items()}
        copies = Binding(self._owner, arrays)
        copies.cut(self._exchange.shards, self.comm.rank)
        for leaf_slice, values in of_rank.items():
            copies.slices[leaf_slice][...] = values
        self._exchange.gather(copies)
        values = [
            array if isinstance(value, np.ndarray) else as_number(array, value)
            for array, value in zip(arrays.values(), binding.values.values(), strict=True)
        ]
        return binding.container.like(params, values)
