"""Nesterov's accelerated gradient (Nesterov, 1983), in the form of Bengio et al. (2012, arXiv:1212.0901, eq. 7).

    p_t = p_{t-1} + momentum^2 v_{t-1} - (1 + momentum) lr g_t
    v_t = momentum v_{t-1} - lr g_t

p is the look-ahead position, at which the gradient is taken. State: v, the velocity; the formula for p reads the old
one. Printings of *Deep Learning from Scratch* before January 2021 updated v first and so read the new one, which is
not Nesterov's method.
"""

from fastopt.kernels.rule import Rule


def nesterov(p, g, v, momentum_squared, gradient_step, momentum, lr):
    p = p + momentum_squared * v
    p = p - gradient_step * g  # p_t; gradient_step = (1 + momentum) lr
    v = momentum * v
    v = v - lr * g  # v_t
    return p, v


NESTEROV = Rule(nesterov, state=("v",))
