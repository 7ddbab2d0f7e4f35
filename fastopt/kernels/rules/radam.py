"""RAdam (Liu et al., ICLR 2020, arXiv:1908.03265, Algorithm 2).

    m_t = beta1 m_{t-1} + (1 - beta1) g_t
    v_t = beta2 v_{t-1} + (1 - beta2) g_t^2
    p_t = p_{t-1} - step_size m_t / (sqrt(v_t) + eps)    once the variance of the step is tractable,
    p_t = p_{t-1} - step_size m_t                        before

State: m and v as in Adam. Which of the two it is depends on t and beta2 only, so it is a scalar, `rectified`, and so is
the rectification, in step_size.
"""

import math

from fastopt.kernels.modulus import squared
from fastopt.kernels.rule import Rule


def radam(p, g, m, v, step_size, one_minus_beta1, one_minus_beta2, eps, rectified, zero, one):
    m = m + one_minus_beta1 * (g - m)  # m_t
    v = v + one_minus_beta2 * (squared(g) - v)  # v_t
    root = math.sqrt(v) + eps
    p = p - step_size * m / (root if rectified > zero else one)  # p_t
    return p, m, v


def radam_metric(m, v, step_size, one_minus_beta1, one_minus_beta2, eps, rectified, zero, one):
    """By what the effective learning rate of an element is divided."""
    root = math.sqrt(v) + eps
    return root if rectified > zero else one


RADAM = Rule(radam, state=("m", "v"), nonnegative=("v",), metric=radam_metric)
