"""AdamW with the update clipping of Adafactor (Shazeer and Stern, ICML 2018, arXiv:1804.04235, section 6).

    m_t = beta1 m_{t-1} + (1 - beta1) g_t
    v_t = beta2 v_{t-1} + (1 - beta2) g_t^2
    r_t = the root of the mean of g_t^2 / max(v_hat_t, eps^2) over each array
    p_t = p_{t-1} - lr / max(1, r_t) (m_hat_t / (sqrt(v_hat_t) + eps) + weight_decay p_{t-1})

with m_hat_t = m_t / (1 - beta1^t) and v_hat_t = v_t / (1 - beta2^t), as StableAdamW (Wortsman et al., Stable and
low-precision training for large-scale vision-language models, NeurIPS 2023, arXiv:2304.13013, Algorithm 2).

State: m and v. root = sqrt(1 - beta2^t), by which eps is multiplied too, correction = root / (1 - beta1^t), and
trust_ratio = lr / max(1, r_t).
"""

import math

from fastopt.kernels.modulus import squared
from fastopt.kernels.rule import Rule


def stable_adamw_measure(p, g, m, v, one_minus_beta1, one_minus_beta2, correction, root, eps, weight_decay):
    v = v + one_minus_beta2 * (squared(g) - v)
    spread = math.sqrt(v)
    return root * g / (spread if spread > eps else eps), p


def stable_adamw(p, g, m, v, one_minus_beta1, one_minus_beta2, correction, root, eps, weight_decay, trust_ratio):
    m = m + one_minus_beta1 * (g - m)  # m_t
    v = v + one_minus_beta2 * (squared(g) - v)  # v_t
    return p - trust_ratio * (correction * m / (math.sqrt(v) + eps) + weight_decay * p), m, v


STABLE_ADAMW = Rule(stable_adamw, state=("m", "v"), measure=stable_adamw_measure)
