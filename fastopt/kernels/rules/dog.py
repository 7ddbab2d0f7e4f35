"""DoG (Ivgi, Hinder and Carmon, ICML 2023, arXiv:2302.12022).

    r_t = max(r_{t-1}, |p_{t-1} - p_0|)
    G_t = G_{t-1} + |g_t|^2,   with the norms of all arrays together
    p_t = p_{t-1} - lr r_t / sqrt(G_t) (g_t + weight_decay p_{t-1})

State: the parameters at the start, p_0. In the first step, whose r_1 is by the norm of p_0, kept is 0; after that it is
1. eta = lr r_t / sqrt(G_t).
"""

from fastopt.kernels.rule import Rule


def distance_totals(p, g, start, kept, weight_decay):
    distance = p - kept * start
    return distance * distance, g * g


def dog(p, g, start, kept, weight_decay, eta):
    return p - eta * (g + weight_decay * p), start


DOG = Rule(dog, state=("start",), totals=distance_totals, exact=("start",))
