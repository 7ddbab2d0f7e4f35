"""RMSProp with momentum (Tieleman and Hinton, 2012; Graves, arXiv:1308.0850, eq. 38 to 41 without the mean).

    h_t = decay_rate h_{t-1} + (1 - decay_rate) g_t^2
    v_t = momentum v_{t-1} + gain g_t / (sqrt(h_t + eps_root) + eps)
    p_t = p_{t-1} - rate v_t

with gain 1 and rate lr, or, where lr is in the velocity, gain lr and rate 1.

State: h, the running mean of squared gradients, not corrected for its start at zero, and v, the velocity;
without lr a new lr counts for all of it, with lr only for what is added from then on.
"""

import math

from fastopt.kernels.modulus import product
from fastopt.kernels.rule import Rule


def rmsprop_momentum(p, g, h, v, rate, decay_rate, one_minus_decay_rate, eps, eps_root, momentum, gain):
    h = decay_rate * h
    h = h + product(one_minus_decay_rate * g, g)  # h_t
    v = momentum * v + gain * g / (math.sqrt(h + eps_root) + eps)  # v_t
    p = p - rate * v  # p_t
    return p, h, v


def rmsprop_momentum_metric(h, v, rate, decay_rate, one_minus_decay_rate, eps, eps_root, momentum, gain):
    """By what the effective learning rate of an element is divided."""
    return math.sqrt(h + eps_root) + eps


RMSPROP_MOMENTUM = Rule(rmsprop_momentum, state=("h", "v"), nonnegative=("h",), metric=rmsprop_momentum_metric)
