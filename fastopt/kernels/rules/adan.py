"""Adan (Xie et al., TPAMI 2024, arXiv:2208.06677, Algorithm 1, with bias corrections as in the authors' code).

    y_t = g_t - g_{t-1}, at the first step 0
    m_t = beta1 m_{t-1} + (1 - beta1) g_t
    v_t = beta2 v_{t-1} + (1 - beta2) y_t
    n_t = beta3 n_{t-1} + (1 - beta3) (g_t + beta2 y_t)^2
    p_t = p_{t-1} - (mean_step m_t + change_step v_t) / (sqrt(n_t) + eps)

The betas are the shares that are kept, 1 - beta in the paper. State: the running means m of the gradient, v of its
change and n of the square of both, and the gradient itself. With c = sqrt(1 - beta3^t): mean_step = lr c /
(1 - beta1^t), change_step = lr c beta2 / (1 - beta2^t), and eps is multiplied by c.
"""

import math

from fastopt.kernels.modulus import squared
from fastopt.kernels.rule import Rule


def adan(
    p, g, m, v, n, previous, mean_step, change_step, one_minus_beta1, one_minus_beta2, one_minus_beta3, beta2,
    eps, started, zero
):  # fmt: skip
    change = g - previous if started > zero else zero  # y_t
    m = m + one_minus_beta1 * (g - m)  # m_t
    v = v + one_minus_beta2 * (change - v)  # v_t
    ahead = g + beta2 * change
    n = n + one_minus_beta3 * (squared(ahead) - n)  # n_t
    p = p - (mean_step * m + change_step * v) / (math.sqrt(n) + eps)  # p_t
    return p, m, v, n, g


def adan_metric(
    m, v, n, previous, mean_step, change_step, one_minus_beta1, one_minus_beta2, one_minus_beta3, beta2,
    eps, started, zero
):  # fmt: skip
    """By what the effective learning rate of an element is divided."""
    return math.sqrt(n) + eps


ADAN = Rule(adan, state=("m", "v", "n", "previous"), nonnegative=("n",), metric=adan_metric)
