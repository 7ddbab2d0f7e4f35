"""AdEMAMix (Pagliardini, Ablin and Grangier, ICLR 2025, arXiv:2409.03137, Algorithm 1).

    m_t = beta1 m_{t-1} + (1 - beta1) g_t
    slow_t = beta3_t slow_{t-1} + (1 - beta3_t) g_t
    v_t = beta2 v_{t-1} + (1 - beta2) g_t^2
    p_t = p_{t-1} - (fast_step m_t + slow_step slow_t) / (sqrt(v_t) + eps)

State: two running means of the gradient, of which the slow one is not corrected for its start at zero, and that of its
square. With c = sqrt(1 - beta2^t): fast_step = lr c / (1 - beta1^t), slow_step = lr c alpha_t, and eps is multiplied by
c, so that it stands beside the root of the corrected v.
"""

import math

from fastopt.kernels.modulus import squared
from fastopt.kernels.rule import Rule


def ademamix(p, g, m, slow, v, fast_step, slow_step, one_minus_beta1, one_minus_beta3_t, one_minus_beta2, eps):
    m = m + one_minus_beta1 * (g - m)  # m_t
    slow = slow + one_minus_beta3_t * (g - slow)  # slow_t
    v = v + one_minus_beta2 * (squared(g) - v)  # v_t
    p = p - (fast_step * m + slow_step * slow) / (math.sqrt(v) + eps)  # p_t
    return p, m, slow, v


def ademamix_metric(m, slow, v, fast_step, slow_step, one_minus_beta1, one_minus_beta3_t, one_minus_beta2, eps):
    """By what the effective learning rate of an element is divided."""
    return math.sqrt(v) + eps


ADEMAMIX = Rule(ademamix, state=("m", "slow", "v"), nonnegative=("v",), metric=ademamix_metric)
