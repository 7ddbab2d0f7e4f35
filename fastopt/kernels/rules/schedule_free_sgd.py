"""Schedule-free SGD (Defazio et al., The road less scheduled, NeurIPS 2024, arXiv:2405.15682, Algorithm 1 without v).

    z_t = z_{t-1} - lr_t g_t
    x_t = (1 - c_t) x_{t-1} + c_t z_t
    p_t = (1 - beta1) z_t + beta1 x_t

p is where gradients are taken, y in the paper; x is the average that is used in the end. State: offset = x - p, which
starts at zero, as all three start at one point, and gives back both: x = p + offset, z = x - offset / (1 - beta1). With
these the equations above become those of the code: pull = c_t beta1 / (1 - beta1), gradient_step = lr_t (1 - beta1
(1 - c_t)), kept = 1 - c_t and offset_step = (1 - beta1) lr_t.
"""

from fastopt.kernels.rule import Rule


def schedule_free_sgd(p, g, offset, pull, gradient_step, kept, offset_step):
    p = p - (pull * offset + gradient_step * g)  # p_t
    offset = kept * (offset + offset_step * g)  # x_t - p_t
    return p, offset


SCHEDULE_FREE_SGD = Rule(schedule_free_sgd, state=("offset",))
