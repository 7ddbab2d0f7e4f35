"""Momentum, the heavy ball (Polyak, 1964).

    v_t = momentum v_{t-1} - lr g_t
    p_t = p_{t-1} + v_t

State: v, the velocity. PyTorch keeps v without lr (v_t = momentum v_{t-1} + g_t, p_t = p_{t-1} - lr v_t): the same
path as long as lr does not change.
"""

from fastopt.kernels.rule import Rule
from fastopt.kernels.skipped_steps import momentum_skipped


def momentum(p, g, v, lr, momentum):
    v = momentum * v - lr * g  # v_t
    p = p + v  # p_t
    return p, v


MOMENTUM = Rule(momentum, state=("v",), rows=True, skipped=momentum_skipped)
