"""LaProp (Ziyin, Wang and Ueda, 2020, arXiv:2002.04839, Algorithm 1).

    v_t = beta2 v_{t-1} + (1 - beta2) g_t^2
    m_t = beta1 m_{t-1} + (1 - beta1) lr g_t / (sqrt(v_t / (1 - beta2^t)) + eps)
    p_t = p_{t-1} - m_t / (1 - beta1^t)

State: v, the running mean of squared gradients, and m, that of the steps without momentum. The correction of v goes
into the scalars: scale = lr sqrt(1 - beta2^t), eps is multiplied by sqrt(1 - beta2^t), and
correction = 1 / (1 - beta1^t).
"""

import math

from fastopt.kernels.modulus import squared
from fastopt.kernels.rule import Rule


def laprop(p, g, m, v, scale, one_minus_beta1, one_minus_beta2, correction, eps):
    v = v + one_minus_beta2 * (squared(g) - v)  # v_t
    m = m + one_minus_beta1 * (scale * g / (math.sqrt(v) + eps) - m)  # m_t
    p = p - correction * m  # p_t
    return p, m, v


def laprop_metric(m, v, scale, one_minus_beta1, one_minus_beta2, correction, eps):
    """By what the effective learning rate of an element is divided."""
    return math.sqrt(v) + eps


LAPROP = Rule(laprop, state=("m", "v"), nonnegative=("v",), metric=laprop_metric)
