"""Yogi (Zaheer et al., Adaptive methods for nonconvex optimization, NeurIPS 2018, Algorithm 2).

    m_t = beta1 m_{t-1} + (1 - beta1) g_t
    v_t = v_{t-1} - (1 - beta2) sign(v_{t-1} - g_t^2) g_t^2
    p_t = p_{t-1} - step_size m_t / (sqrt(v_t) + eps)

State: m, the running mean of the gradient, and v, which follows its square in steps that do not grow with their
distance. step_size = lr sqrt(1 - beta2^t) / (1 - beta1^t), and eps is multiplied by that root too, so that it stands
beside the root of the corrected v.
"""

import math

from fastopt.kernels.modulus import squared
from fastopt.kernels.rule import Rule


def yogi(p, g, m, v, step_size, one_minus_beta1, one_minus_beta2, eps):
    m = m + one_minus_beta1 * (g - m)  # m_t
    square = squared(g)
    change = one_minus_beta2 * square
    # v_t; what is neither more nor less is equal, or NaN, or both infinite, whose difference is NaN
    v = v - change if v > square else (v + change if v < square else v + (v - square))
    p = p - step_size * m / (math.sqrt(v) + eps)  # p_t
    return p, m, v


def yogi_metric(m, v, step_size, one_minus_beta1, one_minus_beta2, eps):
    """By what the effective learning rate of an element is divided."""
    return math.sqrt(v) + eps


YOGI = Rule(yogi, state=("m", "v"), nonnegative=("v",), metric=yogi_metric)
