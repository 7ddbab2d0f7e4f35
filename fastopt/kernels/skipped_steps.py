"""Steps without a gradient, k at once, of the rules in which they have a closed form.

With f = 1 - lr weight_decay where weight decay is decoupled, else 1, and r the share of its state that a step keeps
(momentum, decay_rate):

    state_k = r^k state
    p_k = f^k p + (r f^(k-1) + r^2 f^(k-2) + ... + r^k) state    the second term in Momentum alone

The scalars: kept = f^k, share = r^k, and moved, the sum in brackets. A formula takes the first of them that it needs.
"""


def sgd_skipped(p, g, kept):
    return (kept * p,)


def momentum_skipped(p, g, v, kept, share, moved):
    return kept * p + moved * v, share * v


def adagrad_skipped(p, g, h, kept):
    return kept * p, h


def rmsprop_skipped(p, g, h, kept, share):
    return kept * p, share * h
