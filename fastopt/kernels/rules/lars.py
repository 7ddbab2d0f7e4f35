"""LARS (You, Gitman and Ginsburg, Large batch training of convolutional networks, 2017, arXiv:1708.03888, Algorithm 1).

    ratio_t = lr trust_coefficient |p_{t-1}| / (|g_t| + eps),   with the norms of each array
    v_t = momentum v_{t-1} + ratio_t g_t
    p_t = p_{t-1} - v_t

Weight decay has been added to g_t.

State: v.
"""

from fastopt.kernels.rule import Rule


def lars_measure(p, g, v, momentum):
    return p, g


def lars(p, g, v, momentum, trust_ratio):
    v = momentum * v + trust_ratio * g
    return p - v, v


LARS = Rule(lars, state=("v",), measure=lars_measure)
