"""Optimizers that take each array as a matrix: its rows and columns, or its singular values, decide about the step."""

from __future__ import annotations

import math
from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Literal

from fastopt.engine.containers import BARE
from fastopt.flat import Array
from fastopt.kernels.rule import Factors
from fastopt.kernels.rules.adafactor import factored, rms
from fastopt.kernels.rules.muon import matrix_shape, normalise_rows, orthogonalise
from fastopt.optimizer import Optimizer
from fastopt.typed import Number, number

__all__ = ["Adafactor", "Muon"]


class MatrixOptimizer(Optimizer):
    """An optimizer that keeps factors: arrays of other shapes than the parameter."""

    def kept_direction(self) -> float | None:
        """The decay rate of the last slot as a running mean of directions, 0 where it is the last direction alone.

        None where that is of no use after the step: then its memory is given back.
        """
        return 0.0

    @property
    def factors(self) -> dict[Hashable, dict[str, Array]]:
        """Arrays kept for each parameter besides the state slots, by key and name, as read-only views.

        Steps replace them; a parameter that is one bare array has the key None.
        """
        return {
            None if key is BARE else key: {name: _read_only(array) for name, array in of_key.items()}
            for key, of_key in self._factors.items()
        }


@dataclass(eq=False)
class Adafactor(MatrixOptimizer):
    """Gradients divided by the root of their second moments, of which matrices keep means of rows and columns only.

    `R = R + (1 - beta2)(mean of g^2 + eps over columns - R)`, C likewise over rows, with `beta2 = 1 -
    t^-decay_exponent` at step t, `u = g / sqrt(R C / mean(R))`, divided by its root mean square where that is above
    `clip_threshold`, and `p = p - lr max(min_scale, rms(p)) u`: lr is relative to the size of the parameters. With
    `beta1` the step is along a running mean of these updates, `m = m + (1 - beta1)(max(min_scale, rms(p)) u - m)` and
    `p = p - lr m`, not corrected for its start at zero. An array of more than two dimensions is taken as a matrix of
    its first dimension by the others; of a vector the second moment of each element is kept.

    Parameters
    ----------
    lr : float, default 0.01
        Learning rate, 0 or more. That of the paper at step t is `lambda t: min(0.01, t**-0.5)`.
    decay_exponent : float, default 0.8
        The exponent of beta2, 0 or more: the larger, the faster beta2 grows towards 1.
    clip_threshold : float, default 1
        The largest root mean square of an update before it is multiplied by lr, 1e-3 or more.
    eps : float, default 1e-30
        Added to squared gradients, 0 or more.
    min_scale : float, default 0.001
        The smallest size of an array that steps are relative to, 0 or more.
    relative : bool, default True
        Whether steps are relative to the size of the parameters; otherwise `p = p - lr u`.
    beta1 : float, default 0
        Decay rate of the running mean of updates, in [0, 1); with 0 the step is the update.
    decoupled : default True
        As for every optimizer, but on by default.

    State: `factors`, of a matrix R and C as `row_squares` and `column_squares`, of a vector `squares`; `u`, with
    `beta1` the running mean m. Without, u is room for the update and zero after the step, when its memory is given back
    to the system (on Linux, of arrays of a megabyte or more).

    Examples
    --------
    >>> import numpy as np
    >>> params, optimizer = {"W": np.ones((2, 3))}, Adafactor(lr=0.1)
    >>> optimizer.update(params, {"W": np.outer([1.0, 10.0], [3.0, 2.0, 1.0])})
    >>> params["W"].round(6)  # one step size for each row and column
    array([[0.9, 0.9, 0.9],
           [0.9, 0.9, 0.9]])
    >>> optimizer.factors["W"]["row_squares"].shape, optimizer.factors["W"]["column_squares"].shape
    ((2,), (3,))

    References
    ----------
    Shazeer and Stern, Adafactor: adaptive learning rates with sublinear memory cost, ICML 2018, arXiv:1804.04235,
    Algorithms 4 and 5.

    Differences
    -----------
    PyTorch: `Adafactor` steps by lr, but by at most t^-0.5; takes eps for a bound, and rows and columns of the last two
        dimensions.
    Keras: `Adafactor`, with t^-0.5 as in PyTorch.
    optax: `adafactor`, the same formula, with lr within the running mean (`momentum`); factors matrices of at least 128
        rows and columns only, unless `min_dim_size_to_factor` is set, and of more dimensions the two largest.
    """

    rule = "adafactor"
    lr: Number = number(0.01)
    decay_exponent: Number = number(0.8)
    clip_threshold: Number = number(1.0)
    eps: Number = number(1e-30)
    min_scale: Number = number(0.001)
    relative: bool = True
    beta1: Number = number(0.0)
    decoupled: bool = field(default=True, kw_only=True, repr=False)

    def scalars(self, step: int) -> tuple[float, ...]:
        return (self.lr,)

    def kept_direction(self) -> float | None:
        return self.beta1 or None

    def prepared(self, direction: Array, parameter: Array, step: int, factors: Factors) -> Factors:
        size = max(self.min_scale, rms(parameter)) if self.relative else 1.0
        return factored(direction, factors, step**-self.decay_exponent, self.eps, self.clip_threshold, size)


@dataclass(eq=False)
class Muon(MatrixOptimizer):
    """Momentum whose steps are made nearly orthogonal, for matrices: all their singular values become about 1.

    `m = momentum m + g`, `o` is `g + momentum m` made nearly orthogonal by five steps of Newton and Schulz, in which
    NumPy multiplies matrices, and `p = p - lr s o` with s by the shape. An array of more than two dimensions is taken
    as a matrix of its first dimension by the others. A vector is a matrix of one row, whose direction is kept and whose
    length becomes about 1; usually vectors are given to Adam, and `groups={fastopt.is_vector: {"frozen": True}}` here.

    Parameters
    ----------
    lr : float, default 0.001
        Learning rate, 0 or more.
    momentum : float, default 0.95
        Decay rate of m, in [0, 1].
    adjust : "original" or "match_rms_adamw", default "original"
        What s is for n rows and k columns: sqrt(max(1, n / k)), or 0.2 sqrt(max(n, k)), with which lr and weight decay
        of AdamW can be kept.
    coefficients : "original" or "polar_express", default "original"
        Of the polynomials of the five steps: one for all, which leaves singular values between 0.7 and 1.2, or those of
        the Polar Express, each the best after the one before, which bring large and small ones nearer to 1.
    normalize_rows : bool, default False
        Whether rows of o are divided by the root of a running mean of their mean squares, and o then scaled back to the
        norm that it had: NorMuon, in which all neurons learn at one pace.
    beta2 : float, default 0.95
        Decay rate of that running mean, in [0, 1).
    weight_decay, decoupled : default 0.1 and True
        As for every optimizer, but on by default.

    State: `m`, the sum of decayed gradients, and `o`, the direction of the last step; with `normalize_rows` also
    `factors`, of each array `row_squares`, the running mean, of shape (rows,).

    Examples
    --------
    >>> import numpy as np
    >>> params = {"W": np.zeros((2, 2))}
    >>> Muon(lr=1.0).update(params, {"W": np.array([[3.0, 0.0], [0.0, 0.5]])})
    >>> params["W"].round(1)
    array([[-0.7,  0. ],
           [ 0. , -1. ]])

    References
    ----------
    Jordan et al., Muon: an optimizer for hidden layers in neural networks, 2024,
    https://kellerjordan.github.io/posts/muon/; "match_rms_adamw" is that of Liu et al., 2025, arXiv:2502.16982,
    "polar_express" that of Amsel et al., 2025, arXiv:2505.16932; `normalize_rows` is NorMuon: making Muon more
    efficient and scalable, Li et al., 2025, arXiv:2510.05491, Algorithm 1, whose 0.2 sqrt(n k) "match_rms_adamw" is.

    Differences
    -----------
    PyTorch: `Muon`, the same formula with (1 - momentum) m in m's place, and bfloat16 in the steps of Newton and
        Schulz.
    Keras: `Muon`, which gives vectors to an AdamW of its own.
    optax: `contrib.muon`, a running mean in m's place, corrected for its start at zero.
    """

    rule = "muon"
    lr: Number = number(0.001)
    momentum: Number = number(0.95)
    adjust: Literal["original", "match_rms_adamw"] = "original"
    coefficients: Literal["original", "polar_express"] = field(default="original", kw_only=True, repr=False)
    normalize_rows: bool = field(default=False, kw_only=True, repr=False)
    beta2: Number = field(default=number(0.95), kw_only=True, repr=False)
    weight_decay: Number = field(default=number(0.1), kw_only=True, repr=False)
    decoupled: bool = field(default=True, kw_only=True, repr=False)

    def scalars(self, step: int) -> tuple[float, ...]:
        return self.momentum, self.lr

    def prepared(self, direction: Array, parameter: Array, step: int, factors: Factors) -> Factors:
        orthogonalise(direction, self.coefficients)
        new = normalise_rows(direction, factors, self.beta2) if self.normalize_rows else {}
        rows, columns = matrix_shape(direction.shape)
        if self.adjust == "original":
            direction *= math.sqrt(max(1.0, rows / max(columns, 1)))
        else:
            direction *= 0.2 * math.sqrt(max(rows, columns))
        return new


def _read_only(array: Array) -> Array:
    view = array.view()
    view.flags.writeable = False
    return view
