"""D-Adaptation for Adam (Defazio and Mishchenko, ICML 2023, arXiv:2301.07733, Algorithm 5).

    m_t = beta1 m_{t-1} + (1 - beta1) d_t lr_t g_t
    v_t = beta2 v_{t-1} + (1 - beta2) g_t^2
    r_t = sqrt(beta2) r_{t-1} + (1 - sqrt(beta2)) d_t lr_t sum of g_t s_{t-1} / (sqrt(v_{t-1}) + eps)
    s_t = sqrt(beta2) s_{t-1} + (1 - sqrt(beta2)) d_t lr_t g_t
    d_{t+1} = max(d_t, r_t / ((1 - sqrt(beta2)) sum of |s_t|)),   with the sums over all arrays
    p_t = p_{t-1} - m_t / (sqrt(v_t) + eps) - d_t lr_t weight_decay p_{t-1}

State: m, v and s. step_size = d_t lr_t.
"""

import math

from fastopt.kernels.rule import Rule


def dadapt_adam_totals(p, g, m, v, s, step_size, one_minus_beta1, one_minus_beta2, beta3, one_minus_beta3, eps, decay):
    moved = step_size * g
    return moved * (s / (math.sqrt(v) + eps)), abs(beta3 * s + one_minus_beta3 * moved)


def dadapt_adam(p, g, m, v, s, step_size, one_minus_beta1, one_minus_beta2, beta3, one_minus_beta3, eps, decay):
    moved = step_size * g
    m = m + one_minus_beta1 * (moved - m)  # m_t
    v = v + one_minus_beta2 * (g * g - v)  # v_t
    s = beta3 * s + one_minus_beta3 * moved  # s_t
    return p - (m / (math.sqrt(v) + eps) + decay * p), m, v, s


DADAPT_ADAM = Rule(dadapt_adam, state=("m", "v", "s"), totals=dadapt_adam_totals, nonnegative=("v",))
