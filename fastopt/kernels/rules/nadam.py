"""NAdam (Dozat, ICLR workshop 2016, with the schedule of mu that its text suggests).

    mu_t = beta1 (1 - 0.96^(t momentum_decay) / 2)
    m_t = beta1 m_{t-1} + (1 - beta1) g_t
    v_t = beta2 v_{t-1} + (1 - beta2) g_t^2
    p_t = p_{t-1} - (gradient_step g_t + mean_step m_t) / (sqrt(v_t) + eps)

State: m and v as in Adam. The corrections are in the scalars, with M_t = mu_1 mu_2 ... mu_t and
c = sqrt(1 - beta2^t): gradient_step = lr c (1 - mu_t) / (1 - M_t), mean_step = lr c mu_{t+1} / (1 - M_{t+1}), and eps
is multiplied by c.
"""

import math

from fastopt.kernels.modulus import squared
from fastopt.kernels.rule import Rule


def nadam(p, g, m, v, gradient_step, mean_step, one_minus_beta1, one_minus_beta2, eps):
    m = m + one_minus_beta1 * (g - m)  # m_t
    v = v + one_minus_beta2 * (squared(g) - v)  # v_t
    p = p - (gradient_step * g + mean_step * m) / (math.sqrt(v) + eps)  # p_t
    return p, m, v


def nadam_metric(m, v, gradient_step, mean_step, one_minus_beta1, one_minus_beta2, eps):
    """By what the effective learning rate of an element is divided."""
    return math.sqrt(v) + eps


NADAM = Rule(nadam, state=("m", "v"), nonnegative=("v",), metric=nadam_metric)
