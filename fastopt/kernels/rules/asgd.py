"""Averaged SGD (Polyak and Juditsky, SIAM J. Control Optim. 30, 1992, with the step sizes of Xu, arXiv:1107.2490).

    lr_t = lr / (1 + lambd lr (t - 1))^alpha
    p_t = (1 - lambd lr_t) p_{t-1} - lr_t g_t
    average_t = average_{t-1} + mu_t (p_t - average_{t-1}), mu_t = 1 / max(1, t - 1 - t0)

State: the average of the parameters from step t0 + 2 on; until then mu is 1 and the average is the parameter itself.
"""

from fastopt.kernels.rule import Rule


def asgd(p, g, average, lr, kept, average_share, one):
    p = kept * p  # kept = 1 - lambd lr_t
    p = p - lr * g  # p_t; lr = lr_t
    # average_t; a + 1 (p - a) would not be p to the last bit
    average = average + average_share * (p - average) if average_share < one else p
    return p, average


ASGD = Rule(asgd, state=("average",))
