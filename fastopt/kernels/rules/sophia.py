"""Sophia (Liu et al., ICLR 2024, arXiv:2305.14342, Algorithm 3).

    m_t = beta1 m_{t-1} + (1 - beta1) g_t
    h_t = beta2 h_{t-1} + (1 - beta2) estimate_t    where there is an estimate, else h_{t-1}
    p_t = p_{t-1} - lr clip(m_t / max(gamma h_t, eps), 1)

State: m and h, the running means of the gradient and of estimates of the Hessian's diagonal, both not corrected for
their start at zero. Estimates come once in some steps, so their mean is a formula of its own.
"""

from fastopt.kernels.rule import Rule


def sophia(p, g, m, h, lr, one_minus_beta1, gamma, eps, one):
    m = m + one_minus_beta1 * (g - m)  # m_t
    curvature = gamma * h
    ratio = m / (eps if curvature <= eps else curvature)
    p = p - lr * (one if ratio > one else (-one if ratio < -one else ratio))  # p_t; NaN compares false and stays
    return p, m, h


def sophia_hessian(p, estimate, m, h, one_minus_beta2):
    h = h + one_minus_beta2 * (estimate - h)  # h_t
    return p, m, h


SOPHIA = Rule(sophia, state=("m", "h"))
