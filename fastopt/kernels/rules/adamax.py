"""Adamax (Kingma and Ba, ICLR 2015, arXiv:1412.6980, Algorithm 2, with eps where PyTorch has it).

    m_t = beta1 m_{t-1} + (1 - beta1) g_t
    u_t = max(beta2 u_{t-1}, |g_t| + eps)
    p_t = p_{t-1} - step_size m_t / u_t

State: m, the running mean of the gradient, and u, its decaying largest magnitude. step_size = lr / (1 - beta1^t).
"""

from fastopt.kernels.modulus import magnitude
from fastopt.kernels.rule import Rule


def adamax(p, g, m, u, step_size, one_minus_beta1, beta2, eps):
    m = m + one_minus_beta1 * (g - m)  # m_t
    kept = beta2 * u
    largest = magnitude(g) + eps
    # u_t; a NaN on either side compares false and stays, as in np.maximum
    u = kept if kept >= largest else (largest if kept == kept else kept)
    p = p - step_size * m / u  # p_t
    return p, m, u


def adamax_metric(m, u, step_size, one_minus_beta1, beta2, eps):
    """By what the effective learning rate of an element is divided."""
    return u


ADAMAX = Rule(adamax, state=("m", "u"), nonnegative=("u",), metric=adamax_metric)
