"""AdaGrad (Duchi, Hazan and Singer, JMLR 12, 2011, the diagonal form of Figure 1).

    h_t = h_{t-1} + g_t^2
    p_t = p_{t-1} - lr g_t / (sqrt(h_t + eps_root) + eps)

State: h, the sum of squared gradients.
"""

import math

from fastopt.kernels.modulus import squared
from fastopt.kernels.rule import Rule
from fastopt.kernels.skipped_steps import adagrad_skipped


def adagrad(p, g, h, lr, eps, eps_root):
    h = h + squared(g)  # h_t
    p = p - lr * g / (math.sqrt(h + eps_root) + eps)  # p_t
    return p, h


def adagrad_metric(h, lr, eps, eps_root):
    """By what the effective learning rate of an element is divided."""
    return math.sqrt(h + eps_root) + eps


ADAGRAD = Rule(adagrad, state=("h",), nonnegative=("h",), rows=True, skipped=adagrad_skipped, metric=adagrad_metric)
