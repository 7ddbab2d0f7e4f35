"""AdaBelief (Zhuang et al., NeurIPS 2020, arXiv:2010.07468, Algorithm 2).

    m_t = beta1 m_{t-1} + (1 - beta1) g_t
    s_t = beta2 s_{t-1} + (1 - beta2) (g_t - m_t)^2 + eps_root
    p_t = p_{t-1} - step_size m_t / (sqrt(s_t) + eps)

State: m, the running mean of the gradient, and s, that of the squared distance between the two; eps_root is added to s
itself, at every step. step_size = lr sqrt(1 - beta2^t) / (1 - beta1^t), and eps is multiplied by that root too, so that
it stands beside the root of the corrected s.
"""

import math

from fastopt.kernels.modulus import squared
from fastopt.kernels.rule import Rule


def adabelief(p, g, m, s, step_size, one_minus_beta1, one_minus_beta2, eps, eps_root):
    m = m + one_minus_beta1 * (g - m)  # m_t
    surprise = g - m
    s = s + one_minus_beta2 * (squared(surprise) - s)
    s = s + eps_root  # s_t
    p = p - step_size * m / (math.sqrt(s) + eps)  # p_t
    return p, m, s


def adabelief_metric(m, s, step_size, one_minus_beta1, one_minus_beta2, eps, eps_root):
    """By what the effective learning rate of an element is divided."""
    return math.sqrt(s) + eps


ADABELIEF = Rule(adabelief, state=("m", "s"), nonnegative=("s",), metric=adabelief_metric)
