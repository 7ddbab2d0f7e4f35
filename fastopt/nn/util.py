"""Small helpers around a training loop."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from fastopt.nn import checks
from fastopt.nn.layers import Array


def shuffle_dataset(x: Array, t: Array, seed: int | None = None) -> tuple[Array, Array]:
    """Inputs and labels in the same random order, as copies.

    Examples
    --------
    >>> import numpy as np
    >>> from fastopt.nn import shuffle_dataset
    >>> x, t = shuffle_dataset(np.array([[1.0], [2.0], [3.0]]), np.array([1, 2, 3]), seed=0)
    >>> bool((x[:, 0] == t).all())
    True
    """
    x, t = checks.same_length(x, t, "shuffle_dataset")
    order = np.random.default_rng(seed).permutation(len(x))
    return x[order], t[order]


def smooth_curve(x: Sequence[float] | Array) -> Array:
    """A curve as float64, smoothed with a Kaiser window of 11 points (beta 2), of the length it had.

    The curve is mirrored at both ends, as in *Deep Learning from Scratch*.

    Examples
    --------
    >>> from fastopt.nn import smooth_curve
    >>> smooth_curve([0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0]).round(2)
    array([0.18, 0.18, 0.17, 0.12, 0.12, 0.16, 0.16])
    """
    curve = np.asarray(x, dtype=np.float64)
    if curve.ndim != 1 or len(curve) == 0:
        raise ValueError(f"smooth_curve: expected numbers in a row, got an array of shape {curve.shape}")
    window = np.kaiser(11, 2)
    # The left mirror leaves the first point out, the right one repeats the last.
    mirrored = np.pad(np.pad(curve, (5, 0), mode="reflect"), (0, 5), mode="symmetric")
    smooth: np.ndarray[Any, Any] = np.convolve(window / window.sum(), mirrored, mode="valid")
    return smooth
