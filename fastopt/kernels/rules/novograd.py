"""NovoGrad (Ginsburg et al., Stochastic gradient methods with layer-wise adaptive moments, 2019, arXiv:1905.11286).

    v_t = beta2 v_{t-1} + (1 - beta2) |g_t|^2, v_1 = |g_1|^2,   with the norm of each array
    m_t = beta1 m_{t-1} + g_t / (sqrt(v_t) + eps) + weight_decay p_{t-1}
    p_t = p_{t-1} - lr m_t

State: m, and v, one number for all elements of an array, which is kept with each of them. squared_norm = |g_t|^2.
"""

import math

from fastopt.kernels.rule import Rule


def novograd_measure(p, g, m, v, beta1, one_minus_beta2, eps, weight_decay, lr):
    return g, g


def novograd(p, g, m, v, beta1, one_minus_beta2, eps, weight_decay, lr, squared_norm):
    v = v + one_minus_beta2 * (squared_norm - v)  # v_t, at first 1
    m = beta1 * m + (g / (math.sqrt(v) + eps) + weight_decay * p)  # m_t
    return p - lr * m, m, v


NOVOGRAD = Rule(novograd, state=("m", "v"), measure=novograd_measure, squares_norms=True)
