"""SGD with momentum and dampening, in PyTorch's form (Sutskever et al., ICML 2013, with the learning rate outside).

    v_t = momentum v_{t-1} + (1 - dampening) g_t, at the first step g_t
    p_t = p_{t-1} - lr v_t

State: v, the sum of earlier gradients, without lr: a new lr counts at once for all of it, while in `momentum` what was
added with the old one goes on.
"""

from fastopt.kernels.rule import Rule


def sgd_momentum(p, g, v, lr, momentum, one_minus_dampening):
    v = momentum * v + one_minus_dampening * g  # v_t
    p = p - lr * v  # p_t
    return p, v


SGD_MOMENTUM = Rule(sgd_momentum, state=("v",))
