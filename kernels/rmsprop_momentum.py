"""RMSProp with momentum (Tieleman and Hinton, 2012; Graves, arXiv:1308.0850, eq. 38 to 41 without the mean).

    h_t = decay_rate h_{t-1} + (1 - decay_rate) g_t^2
    v_t = momentum v_{t-1} + g_t / (sqrt(h_t + eps_root) + eps)
    p_t = p_{t-1} - lr v_t

State: h, the running mean of squared gradients, not corrected for its start at zero, and v, the velocity, without lr,
so that a new lr counts for all of it.
"""

import math


def rmsprop_momentum(p, g, h, v, lr, decay_rate, gradient_share, eps, eps_root, momentum):  # type: ignore[no-untyped-def]
    h = decay_rate * h
    h = h + gradient_share * g * g  # h_t; gradient_share = 1 - decay_rate
    v = momentum * v + g / (math.sqrt(h + eps_root) + eps)  # v_t
    p = p - lr * v  # p_t
    return p, h, v
