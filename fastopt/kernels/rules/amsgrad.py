"""AMSGrad (Reddi, Kale and Kumar, ICLR 2018, arXiv:1904.09237, Algorithm 2, with Adam's bias corrections).

    m_t = beta1 m_{t-1} + (1 - beta1) g_t
    v_t = beta2 v_{t-1} + (1 - beta2) g_t^2
    v_max_t = max(v_max_{t-1}, v_t)
    p_t = p_{t-1} - step_size m_t / (sqrt(v_max_t) + eps)

State: m and v as in Adam, and the largest v so far. step_size = lr sqrt(1 - beta2^t) / (1 - beta1^t), and eps is
multiplied by that root too, so that it stands beside the root of the corrected v_max.
"""

import math

from fastopt.kernels.modulus import squared
from fastopt.kernels.rule import Rule


def amsgrad(p, g, m, v, v_max, step_size, one_minus_beta1, one_minus_beta2, eps):
    m = m + one_minus_beta1 * (g - m)  # m_t
    v = v + one_minus_beta2 * (squared(g) - v)  # v_t
    # v_max_t; a NaN on either side compares false and stays, as in np.maximum
    v_max = v_max if v_max >= v else (v if v_max == v_max else v_max)
    p = p - step_size * m / (math.sqrt(v_max) + eps)  # p_t
    return p, m, v, v_max


def amsgrad_metric(m, v, v_max, step_size, one_minus_beta1, one_minus_beta2, eps):
    """By what the effective learning rate of an element is divided."""
    return math.sqrt(v_max) + eps


AMSGRAD = Rule(amsgrad, state=("m", "v", "v_max"), nonnegative=("v", "v_max"), metric=amsgrad_metric)
