"""Stochastic gradient descent (Robbins and Monro, 1951).

    p_t = p_{t-1} - lr g_t

No state.
"""

from fastopt.kernels.rule import Rule
from fastopt.kernels.skipped_steps import sgd_skipped


def sgd(p, g, lr):
    p = p - lr * g  # p_t
    return (p,)


SGD = Rule(sgd, rows=True, skipped=sgd_skipped)
