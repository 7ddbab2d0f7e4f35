"""Optimizers that precondition gradients by a matrix for each dimension of an array."""

from __future__ import annotations

from dataclasses import dataclass, field

from fastopt.flat import Array
from fastopt.kernels.rule import Factors
from fastopt.kernels.rules.shampoo import precondition
from fastopt.kernels.rules.soap import adam_in_eigenbasis
from fastopt.optimizers.matrix import MatrixOptimizer
from fastopt.typed import Number, number

__all__ = ["SOAP", "Shampoo"]


@dataclass(eq=False)
class Shampoo(MatrixOptimizer):
    """Gradients multiplied by a preconditioner for each dimension, a root of the sum of products of its slices.

    For a matrix `L = L + g g^T` and `R = R + g^T g`, which begin as eps times the identity, `u = L^(-1/4) g R^(-1/4)`,
    `m = momentum m + u` and `p = p - lr m`. An array of k dimensions has k such matrices, each to the power -1 / 2k. Of
    vectors, for which that is AdaGrad, and of dimensions of more than 1,200 elements the diagonal alone is kept.
    NumPy's LAPACK finds the roots of matrices, at each of the first ten steps then at every tenth by default, and where
    the update by old ones would be longer than any by new ones can be: large ones cost seconds, so give embeddings and
    output layers to another optimizer. Several threads of BLAS may add up in another order than one. Steps have the
    length that the roots give them: lr is not Adam's, and there is neither grafting, which would take the length of
    another rule's steps, nor a division of large dimensions into blocks. SOAP has Adam's lr.

    Parameters
    ----------
    lr : float, default 0.1
        Learning rate, 0 or more.
    momentum : float, default 0.9
        Decay rate of m, in [0, 1].
    eps : float, default 1e-6
        What the diagonals of L and R begin with, and the least eigenvalue of which the root is taken, 0 or more.
    decay_rate : float, default 1
        Decay rate of L and R, in [0, 1]: 1 for the sums of the paper, less for running means,
        to which a step then adds (1 - decay_rate) g g^T.
    precondition_every : float, default 10
        The number of steps from one computation of the roots to the next, and of first ones with one each, 1 or more.
    decoupled : default True
        As for every optimizer, but on by default.

    State: `m`, the sum of decayed updates, and `u`, the last of them; `factors`, for each dimension i of an array
    `sums_i` and `root_i`, of shape (n, n), or (n,) for a large one.

    Examples
    --------
    >>> import numpy as np
    >>> params, optimizer = {"W": np.zeros((2, 2))}, Shampoo(lr=1.0)
    >>> optimizer.update(params, {"W": np.array([[3.0, 0.0], [0.0, 0.5]])})
    >>> params["W"].round(3)  # the first step makes singular values one
    array([[-1.,  0.],
           [ 0., -1.]])
    >>> optimizer.factors["W"]["sums_0"].round(2)
    array([[9.  , 0.  ],
           [0.  , 0.25]])

    References
    ----------
    Gupta, Koren and Singer, Shampoo: preconditioned stochastic tensor optimization, ICML 2018, arXiv:1802.09568,
    Algorithms 1 and 2.

    Differences
    -----------
    PyTorch: has none; the first step of `pytorch_optimizer.Shampoo`, which has momentum in the gradient, is the same.
    Keras: has none.
    optax: has none; Google's `distributed_shampoo` adds grafting and blocks.
    """

    rule = "shampoo"
    lr: Number = number(0.1)
    momentum: Number = number(0.9)
    eps: Number = number(1e-6)
    decay_rate: Number = number(1.0)
    precondition_every: Number = number(10.0)
    decoupled: bool = field(default=True, kw_only=True, repr=False)

    def scalars(self, step: int) -> tuple[float, ...]:
        return self.momentum, self.lr

    def prepared(self, direction: Array, parameter: Array, step: int, factors: Factors) -> Factors:
        every = max(1, round(self.precondition_every))
        # The first sums have no full rank: their roots would make the next gradients large.
        return precondition(direction, factors, self.decay_rate, self.eps, step <= every or (step - 1) % every == 0)


@dataclass(eq=False)
class SOAP(MatrixOptimizer):
    """Adam in the eigenbasis of Shampoo's preconditioner, updated every ten steps: Shampoo with less tuning.

    For a matrix `L = L + (1 - beta2)(g g^T - L)` and `R = R + (1 - beta2)(g^T g - R)`, whose eigenvectors are Q_L and
    Q_R, `m = m + (1 - beta1)(g - m)`, `v = v + (1 - beta2)((Q_L^T g Q_R)^2 - v)` and
    `p = p - lr c Q_L (Q_L^T m Q_R / (sqrt(v) + eps)) Q_R^T` with c of Adam's corrections,
    `sqrt(1 - beta2^t) / (1 - beta1^t)`. The bases follow by a step of power iteration and NumPy's QR. The first step
    makes the bases and does not move parameters, but by weight decay; t counts those after it. An array of more
    dimensions has a basis for each, one of fewer none: its steps are Adam's, and so are dimensions of more than 1,200
    elements left as they are. Several threads of BLAS may add up in another order than one.

    Parameters
    ----------
    lr : float, default 0.003
        Learning rate, 0 or more.
    beta1, beta2 : float, default 0.95
        Decay rates of the running means, those of L and R included, in [0, 1).
    eps : float, default 1e-8
        Added to the root, 0 or more.
    precondition_every : float, default 10
        The number of steps from one change of the bases to the next, 1 or more.
    weight_decay, decoupled : default 0.01 and True
        As for every optimizer, but on by default.

    State: `u`, the direction of the last step; `factors`, of each array `m` and `v`, v in the eigenbasis, and for
    each dimension i of n elements `sums_i` and `basis_i` of shape (n, n).

    Examples
    --------
    >>> import numpy as np
    >>> params, optimizer = {"W": np.zeros((2, 2))}, SOAP(lr=0.1, weight_decay=0.0)
    >>> for _ in range(3):
    ...     optimizer.update(params, {"W": np.array([[3.0, 0.0], [0.0, 0.5]])})
    >>> params["W"].round(3) + 0.0  # two steps, as long for both singular values
    array([[-0.2,  0. ],
           [ 0. , -0.2]])

    References
    ----------
    Vyas et al., SOAP: improving and stabilizing Shampoo using Adam, ICLR 2025, arXiv:2409.11321, Algorithm 3.

    Differences
    -----------
    PyTorch: has none; the authors' `SOAP`, and that of pytorch_optimizer, are the same but decay after the step, not at
        the first, and have bases for up to 10,000 elements.
    Keras: has none.
    optax: has none.
    """

    rule = "soap"
    lr: Number = number(0.003)
    beta1: Number = number(0.95)
    beta2: Number = number(0.95)
    eps: Number = number(1e-8)
    precondition_every: Number = number(10.0)
    weight_decay: Number = field(default=number(0.01), kw_only=True, repr=False)
    decoupled: bool = field(default=True, kw_only=True, repr=False)

    def scalars(self, step: int) -> tuple[float, ...]:
        return (self.lr,)

    def prepared(self, direction: Array, parameter: Array, step: int, factors: Factors) -> Factors:
        every = max(1, round(self.precondition_every))
        return adam_in_eigenbasis(direction, factors, step, self.beta1, self.beta2, self.eps, every)
