"""RMSProp (Tieleman and Hinton, Coursera lecture 6.5, 2012).

    h_t = decay_rate h_{t-1} + (1 - decay_rate) g_t^2
    p_t = p_{t-1} - lr g_t / (sqrt(h_t + eps_root) + eps)

State: h, the running mean of squared gradients, not corrected for its start at zero: the first step is about
lr / sqrt(1 - decay_rate).
"""

import math

from fastopt.kernels.modulus import product
from fastopt.kernels.rule import Rule
from fastopt.kernels.skipped_steps import rmsprop_skipped


def rmsprop(p, g, h, lr, decay_rate, one_minus_decay_rate, eps, eps_root):
    h = decay_rate * h
    h = h + product(one_minus_decay_rate * g, g)  # h_t
    p = p - lr * g / (math.sqrt(h + eps_root) + eps)  # p_t
    return p, h


def rmsprop_metric(h, lr, decay_rate, one_minus_decay_rate, eps, eps_root):
    """By what the effective learning rate of an element is divided."""
    return math.sqrt(h + eps_root) + eps


RMSPROP = Rule(rmsprop, state=("h",), nonnegative=("h",), rows=True, skipped=rmsprop_skipped, metric=rmsprop_metric)
