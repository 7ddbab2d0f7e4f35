"""Adam (Kingma and Ba, ICLR 2015, arXiv:1412.6980, Algorithm 1 with the step size of section 2).

    m_t = beta1 m_{t-1} + (1 - beta1) g_t
    v_t = beta2 v_{t-1} + (1 - beta2) g_t^2
    p_t = p_{t-1} - step_size m_t / (sqrt(v_t + eps_root) + eps)

State: m and v, the running means of the gradient and of its square. The bias corrections are the same for all
elements, so they go into the scalars: step_size = lr sqrt(1 - beta2^t) / (1 - beta1^t), and where eps or eps_root is
meant beside the corrected v_t / (1 - beta2^t), into those too.
"""

import math

from fastopt.kernels.modulus import squared
from fastopt.kernels.rule import Rule


def adam(p, g, m, v, step_size, one_minus_beta1, one_minus_beta2, eps, eps_root):
    m = m + one_minus_beta1 * (g - m)  # m_t
    v = v + one_minus_beta2 * (squared(g) - v)  # v_t
    p = p - step_size * m / (math.sqrt(v + eps_root) + eps)  # p_t
    return p, m, v


def adam_metric(m, v, step_size, one_minus_beta1, one_minus_beta2, eps, eps_root):
    """By what the effective learning rate of an element is divided."""
    return math.sqrt(v + eps_root) + eps


ADAM = Rule(adam, state=("m", "v"), nonnegative=("v",), rows=True, metric=adam_metric)
ADAMW = ADAM
