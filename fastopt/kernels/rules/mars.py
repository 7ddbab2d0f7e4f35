"""MARS (Yuan et al., ICML 2025, arXiv:2411.10438): MARS-AdamW, Algorithm 3, with the gradient of the step before.

    c_t = g_t + gamma beta1 / (1 - beta1) (g_t - g_{t-1})
    c_t = c_t / max(1, |c_t|),   with the norm of each array
    m_t = beta1 m_{t-1} + (1 - beta1) c_t
    v_t = beta2 v_{t-1} + (1 - beta2) c_t^2
    p_t = p_{t-1} - lr m_hat_t / (sqrt(v_hat_t) + eps)

with m_hat_t = m_t / (1 - beta1^t) and v_hat_t = v_t / (1 - beta2^t).

State: m and v, and the gradient of the step before. gain = gamma beta1 / (1 - beta1), 0 in the first step; step_size
and eps are multiplied by sqrt(1 - beta2^t), step_size is divided by 1 - beta1^t; ratio = 1 / max(1, |c|).
"""

import math

from fastopt.kernels.modulus import squared
from fastopt.kernels.rule import Rule


def mars_measure(p, g, m, v, previous, step_size, one_minus_beta1, one_minus_beta2, eps, gain):
    c = g + gain * (g - previous)
    return c, c


def mars(p, g, m, v, previous, step_size, one_minus_beta1, one_minus_beta2, eps, gain, ratio):
    c = ratio * (g + gain * (g - previous))  # c_t
    m = m + one_minus_beta1 * (c - m)  # m_t
    v = v + one_minus_beta2 * (squared(c) - v)  # v_t
    return p - step_size * m / (math.sqrt(v) + eps), m, v, g


MARS = Rule(mars, state=("m", "v", "previous"), measure=mars_measure, nonnegative=("v",))
