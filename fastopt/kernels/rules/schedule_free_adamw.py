"""Schedule-free AdamW (Defazio et al., The road less scheduled, NeurIPS 2024, arXiv:2405.15682, Algorithm 1).

    v_t = beta2 v_{t-1} + (1 - beta2) g_t^2
    d_t = g_t / (sqrt(v_t / (1 - beta2^t)) + eps) + weight_decay p_{t-1}
    z_t = z_{t-1} - lr_t d_t
    x_t = (1 - c_t) x_{t-1} + c_t z_t
    p_t = (1 - beta1) z_t + beta1 x_t

State: v, the running mean of squared gradients, and offset = x - p; for that and the scalars see `schedule_free_sgd`.
correction = sqrt(1 - beta2^t), by which eps is multiplied too.
"""

import math

from fastopt.kernels.modulus import squared
from fastopt.kernels.rule import Rule


def schedule_free_adamw(
    p, g, v, offset, one_minus_beta2, correction, eps, weight_decay, pull, gradient_step, kept, offset_step
):
    v = v + one_minus_beta2 * (squared(g) - v)  # v_t
    direction = correction * g / (math.sqrt(v) + eps) + weight_decay * p  # d_t
    p = p - (pull * offset + gradient_step * direction)  # p_t
    offset = kept * (offset + offset_step * direction)  # x_t - p_t
    return p, v, offset


SCHEDULE_FREE_ADAMW = Rule(schedule_free_adamw, state=("v", "offset"), nonnegative=("v",))
