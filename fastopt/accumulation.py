"""Gradients of several batches for one step."""

from __future__ import annotations

from typing import Any

from fastopt.engine import objects
from fastopt.engine.gradient_sums import GradientSums


class Accumulation:
    """The methods of an optimizer that adds up gradients until the next step."""

    @property
    def accumulated(self: Any) -> int:
        """The number of gradients accumulated since the last step."""
        return int(self._accumulated)

    def accumulate(self: Any, grads: Any) -> None:
        """Add gradients up until the next `update(params)`, which steps with their mean; no parameter is written.

        For batches that do not fit into memory at once. The optimizer keeps the sums in a buffer, which it makes at the
        first call; each call is one pass over it. They are part of `save`, `state_dict`, pickles and copies, so
        resuming between two calls is exact.

        Numbers: the gradient of a leaf is `((g1 + g2) + ...) * (gradient_scale / n)` after n calls, in the order of the
        calls, in float32 where the first gradient is float32 or float16, else in float64, whatever the number of
        threads. So `update(params)` after one call equals `update(params, grads)` bit for bit, and after n calls that
        of the sum with `gradient_scale=1 / n`; the factor is part of the step's own pass.

        Parameters
        ----------
        grads : as in `update`
            The same leaves and shapes at each call. None counts as a zero gradient; a leaf that got nothing else is
            left alone by the step. A model, or objects with `.grad`, will do too.

        Raises
        ------
        TypeError, ValueError, KeyError
            if a gradient is not an array of numbers, or is `Rows`, or leaves or shapes differ from those before; sums
            and `accumulated` are then as they were.
        RuntimeError
            in the middle of a step.

        Examples
        --------
        >>> import numpy as np
        >>> from fastopt import SGD
        >>> params, optimizer = {"W": np.array([1.0])}, SGD(lr=0.5)
        >>> for gradient in (1.0, 3.0):
        ...     optimizer.accumulate({"W": np.array([gradient])})
        >>> optimizer.accumulated
        2
        >>> optimizer.update(params)  # with their mean, 2
        >>> params["W"], optimizer.accumulated
        (array([0.]), 0)
        """
        with self._not_stepping():
            owner, names = type(self).__name__, self.__dict__.setdefault("_objects", {})
            if objects.by_name(self, grads)[1]:
                _, grads = objects.arrays_of(owner, grads, names)
            count = self._accumulated
            sums = self._sums or GradientSums()
            # What a step in one call would not see is told to `step.make`.
            attributes = self.__dict__
            attributes["_calls"] = ()
            sums.add(owner, grads, not count, lambda after: attributes.update(_sums=after, _accumulated=count + 1))

    def discard_accumulated(self: Any) -> None:
        """Drop the gradients accumulated since the last step.

        Raises
        ------
        RuntimeError
            in the middle of a step.
        """
        with self._not_stepping():
            self.__dict__["_accumulated"] = 0
