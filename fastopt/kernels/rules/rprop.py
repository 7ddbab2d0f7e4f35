"""Rprop (Riedmiller and Braun, ICNN 1993), in the form that Igel and Huesken (2003) call iRprop-, as PyTorch has it.

    step_size_t = step_size_{t-1} times eta_plus where g_t g_{t-1} > 0, times eta_minus where it is < 0, within limits
    p_t = p_{t-1} - sign(g_t) step_size_t, but p_{t-1} where g_t g_{t-1} < 0

State: the gradient of the step before, taken for 0 after a change of sign, so that a step size shrinks once for each;
and the step size.
"""

from fastopt.kernels.rule import Rule


def rprop(p, g, previous, step_size, eta_minus, eta_plus, smallest, largest, zero, one):
    product = g * previous
    step_size = step_size * (eta_plus if product > zero else (eta_minus if product < zero else one))
    step_size = smallest if step_size < smallest else step_size
    step_size = largest if step_size > largest else step_size  # step_size_t
    g = zero if product < zero else g
    # p_t; g - g is 0 for zeros of both signs and NaN for NaN
    p = p - (step_size if g > zero else (-step_size if g < zero else g - g))
    return p, g, step_size


RPROP = Rule(rprop, state=("previous", "step_size"), nonnegative=("step_size",), exact=("previous",))
