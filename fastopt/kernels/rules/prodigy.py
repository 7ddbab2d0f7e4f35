"""Prodigy (Mishchenko and Defazio, ICML 2024, arXiv:2306.06101, Algorithm 3, for Adam).

    r_t = sqrt(beta2) r_{t-1} + (1 / d_0) d_t^2 lr_t sum of g_t (p_0 - p_{t-1})
    s_t = sqrt(beta2) s_{t-1} + (1 / d_0) d_t^2 lr_t g_t
    d_{t+1} = max(d_t, r_t / sum of |s_t|),   with the sums over all arrays
    m_t = beta1 m_{t-1} + (1 - beta1) d_t g_t
    v_t = beta2 v_{t-1} + (1 - beta2) d_t^2 g_t^2
    p_t = p_{t-1} - d_t lr_t (m_t / (sqrt(v_t) + d_{t+1} eps) + weight_decay p_{t-1})

State: m, v, s, and the parameters at the start, p_0. weight = d_t^2 lr_t / d_0, step_size = d_t lr_t, eps is multiplied
by d_{t+1}; s_weight is weight, or without lr_t.
"""

import math

from fastopt.kernels.rule import Rule


def prodigy_totals(
    p, g, m, v, s, start, d, one_minus_beta1, one_minus_beta2, beta3, weight, s_weight, step_size, weight_decay
):
    return weight * g * (start - p), abs(beta3 * s + s_weight * g)


def prodigy(
    p, g, m, v, s, start, d, one_minus_beta1, one_minus_beta2, beta3, weight, s_weight, step_size, weight_decay, eps
):
    scaled = d * g
    m = m + one_minus_beta1 * (scaled - m)  # m_t
    v = v + one_minus_beta2 * (scaled * scaled - v)  # v_t
    s = beta3 * s + s_weight * g  # s_t
    return p - step_size * (m / (math.sqrt(v) + eps) + weight_decay * p), m, v, s, start


PRODIGY = Rule(prodigy, state=("m", "v", "s", "start"), totals=prodigy_totals, nonnegative=("v",), exact=("start",))
