"""ADOPT (Taniguchi et al., NeurIPS 2024, arXiv:2411.02853, Algorithm 2 with clipping).

    n_t = clip(g_t / max(sqrt(v_{t-1}), eps), (t - 1)^clip_exponent)
    m_t = beta1 m_{t-1} + (1 - beta1) n_t
    p_t = p_{t-1} - lr m_t
    v_t = beta2 v_{t-1} + (1 - beta2) g_t^2,   but v_1 = g_1^2

State: m and v. The first step only begins v: its clip is 0, so m and p stay, and one_minus_beta2 is 1 in it.
"""

import math

from fastopt.kernels.modulus import clipped, squared
from fastopt.kernels.rule import Rule


def adopt(p, g, m, v, lr, one_minus_beta1, one_minus_beta2, eps, clip):
    root = math.sqrt(v)
    n = g / (eps if root < eps else root)
    n = clipped(n, clip)  # n_t
    m = m + one_minus_beta1 * (n - m)  # m_t
    v = v + one_minus_beta2 * (squared(g) - v)  # v_t
    return p - lr * m, m, v


ADOPT = Rule(adopt, state=("m", "v"), nonnegative=("v",))
