"""DoWG (Khaled, Mishchenko and Jin, NeurIPS 2023, arXiv:2305.16284, Algorithm 1).

    r_t = max(r_{t-1}, |p_{t-1} - p_0|)
    v_t = v_{t-1} + r_t^2 |g_t|^2,   with the norms of all arrays together
    p_t = p_{t-1} - lr r_t^2 / sqrt(v_t) (g_t + weight_decay p_{t-1})

State: the parameters at the start, p_0. In the first step, whose r_1 is by the norm of p_0, kept is 0; after that it is
1. eta = lr r_t^2 / sqrt(v_t).
"""

from fastopt.kernels.rule import Rule
from fastopt.kernels.rules.dog import distance_totals


def dowg(p, g, start, kept, weight_decay, eta):
    return p - eta * (g + weight_decay * p), start


DOWG = Rule(dowg, state=("start",), totals=distance_totals, exact=("start",))
