"""SGD with Nesterov's momentum, in PyTorch's form (Sutskever et al., ICML 2013, with the learning rate outside).

    v_t = momentum v_{t-1} + g_t
    p_t = p_{t-1} - lr (g_t + momentum v_t)

p is the look-ahead position, at which the gradient is taken. State: v, the sum of earlier gradients, without lr.
"""

from fastopt.kernels.rule import Rule


def sgd_nesterov(p, g, v, lr, momentum):
    v = momentum * v + g  # v_t
    p = p - lr * (g + momentum * v)  # p_t
    return p, v


SGD_NESTEROV = Rule(sgd_nesterov, state=("v",))
