"""Signum (Bernstein et al., signSGD, ICML 2018, arXiv:1802.04434, Algorithm 2).

    m_t = beta1 m_{t-1} + (1 - beta1) g_t
    p_t = p_{t-1} - lr sign(m_t)

State: m, the running mean of the gradient.
"""

from fastopt.kernels.rule import Rule


def signum(p, g, m, lr, one_minus_beta1, zero):
    m = m + one_minus_beta1 * (g - m)  # m_t
    # p_t; m - m is 0 for zeros of both signs and NaN for NaN
    p = p - (lr if m > zero else (-lr if m < zero else m - m))
    return p, m


SIGNUM = Rule(signum, state=("m",), signed=("m",))
