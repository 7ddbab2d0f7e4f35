"""Adadelta (Zeiler, 2012, arXiv:1212.5701, Algorithm 1, with a learning rate).

    h_t = decay_rate h_{t-1} + (1 - decay_rate) g_t^2
    x_t = sqrt(d_{t-1} + eps) g_t / sqrt(h_t + eps)
    d_t = decay_rate d_{t-1} + (1 - decay_rate) x_t^2
    p_t = p_{t-1} - lr x_t

State: h and d, the running means of squared gradients and of squared steps x.
"""

import math

from fastopt.kernels.modulus import product
from fastopt.kernels.rule import Rule


def adadelta(p, g, h, d, lr, decay_rate, one_minus_decay_rate, eps):
    h = decay_rate * h
    h = h + product(one_minus_decay_rate * g, g)  # h_t
    x = math.sqrt(d + eps) * g / math.sqrt(h + eps)  # x_t
    d = decay_rate * d
    d = d + product(one_minus_decay_rate * x, x)  # d_t
    p = p - lr * x  # p_t
    return p, h, d


def adadelta_metric(h, d, lr, decay_rate, one_minus_decay_rate, eps):
    """By what the effective learning rate of an element is divided, from d_t, with which the next step is made."""
    return math.sqrt(h + eps) / math.sqrt(d + eps)


ADADELTA = Rule(adadelta, state=("h", "d"), nonnegative=("h", "d"), metric=adadelta_metric)
