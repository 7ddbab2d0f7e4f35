"""Centred RMSProp (Graves, Generating sequences with recurrent neural networks, 2013, arXiv:1308.0850, eq. 38 to 41).

    h_t = decay_rate h_{t-1} + (1 - decay_rate) g_t^2
    m_t = decay_rate m_{t-1} + (1 - decay_rate) g_t
    v_t = momentum v_{t-1} + g_t / (sqrt(max(h_t - m_t^2, 0) + eps_root) + eps)
    p_t = p_{t-1} - lr v_t

State: h and m, the running means of the squared gradient and of the gradient, and v, the velocity, without lr. The mean
of squares is never less than the square of the mean, but where gradients hardly change both are nearly equal and their
difference, rounded, may be negative; its root would be NaN, and the parameter with it.
"""

import math

from fastopt.kernels.modulus import product, squared
from fastopt.kernels.rule import Rule


def centred_rmsprop(p, g, h, m, v, lr, decay_rate, one_minus_decay_rate, eps, eps_root, momentum, zero):
    h = decay_rate * h
    h = h + product(one_minus_decay_rate * g, g)  # h_t
    m = m + one_minus_decay_rate * (g - m)  # m_t
    variance = h - squared(m)
    variance = zero if variance < zero else variance  # NaN compares false and stays
    v = momentum * v + g / (math.sqrt(variance + eps_root) + eps)  # v_t
    p = p - lr * v  # p_t
    return p, h, m, v


def centred_rmsprop_metric(h, m, v, lr, decay_rate, one_minus_decay_rate, eps, eps_root, momentum, zero):
    """By what the effective learning rate of an element is divided."""
    variance = h - squared(m)
    return math.sqrt((zero if variance < zero else variance) + eps_root) + eps


CENTRED_RMSPROP = Rule(centred_rmsprop, state=("h", "m", "v"), nonnegative=("h",), metric=centred_rmsprop_metric)
