"""Lion (Chen et al., Symbolic discovery of optimization algorithms, 2023, arXiv:2302.06675, Algorithm 2).

    c_t = beta1 m_{t-1} + (1 - beta1) g_t
    p_t = p_{t-1} - lr sign(c_t)
    m_t = beta2 m_{t-1} + (1 - beta2) g_t

State: m, the running mean of the gradient; the sign is taken of another mean, c, that weighs the new gradient more.
"""

from fastopt.kernels.rule import Rule


def lion(p, g, m, lr, one_minus_beta1, one_minus_beta2, zero):
    c = m + one_minus_beta1 * (g - m)  # c_t
    # p_t; c - c is 0 for zeros of both signs and NaN for NaN
    p = p - (lr if c > zero else (-lr if c < zero else c - c))
    m = m + one_minus_beta2 * (g - m)  # m_t
    return p, m


LION = Rule(lion, state=("m",), signed=("m",))
