"""LAMB (You et al., Large batch optimization for deep learning, ICLR 2020, arXiv:1904.00962, Algorithm 2).

    m_t = beta1 m_{t-1} + (1 - beta1) g_t
    v_t = beta2 v_{t-1} + (1 - beta2) g_t^2
    u_t = m_hat_t / (sqrt(v_hat_t) + eps) + weight_decay p_{t-1}
    p_t = p_{t-1} - lr |p_{t-1}| / |u_t| u_t,   with the norms of each array

with m_hat_t = m_t / (1 - beta1^t) and v_hat_t = v_t / (1 - beta2^t).

State: m and v. correction = sqrt(1 - beta2^t) / (1 - beta1^t), eps is multiplied by sqrt(1 - beta2^t), and
trust_ratio = lr |p| / |u|.
"""

import math

from fastopt.kernels.modulus import squared
from fastopt.kernels.rule import Rule


def lamb_measure(p, g, m, v, one_minus_beta1, one_minus_beta2, correction, eps, weight_decay):
    m = m + one_minus_beta1 * (g - m)
    v = v + one_minus_beta2 * (squared(g) - v)
    return p, correction * m / (math.sqrt(v) + eps) + weight_decay * p


def lamb(p, g, m, v, one_minus_beta1, one_minus_beta2, correction, eps, weight_decay, trust_ratio):
    m = m + one_minus_beta1 * (g - m)  # m_t
    v = v + one_minus_beta2 * (squared(g) - v)  # v_t
    u = correction * m / (math.sqrt(v) + eps) + weight_decay * p  # u_t
    return p - trust_ratio * u, m, v


LAMB = Rule(lamb, state=("m", "v"), measure=lamb_measure)
