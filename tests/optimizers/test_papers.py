"""Steps as books and papers have them, written out in NumPy."""

import copy
import math

import numpy as np
import pytest

import fastopt
from fastopt.optimizers import OPTIMIZERS
from tests.conftest import assert_same_bits
from tests.optimizers.test_optimizers import run


def relative(a, b):
    return np.max(np.abs(a - b) / np.abs(b))


def adam_of_the_paper(g_of_step, p, root, lr=0.001, beta1=0.9, beta2=0.999):
    m, v = np.zeros_like(p), np.zeros_like(p)
    for t, g in enumerate(g_of_step, start=1):
        m = beta1 * m + (1 - beta1) * g
        v = beta2 * v + (1 - beta2) * g * g
        p = p - lr * (m / (1 - beta1**t)) / root(v / (1 - beta2**t))
    return p


@pytest.mark.parametrize(
    ("settings", "root"),
    [
        ({"form": "paper"}, lambda v_hat: np.sqrt(v_hat) + 1e-8),
        ({"form": "paper", "eps": 0.5}, lambda v_hat: np.sqrt(v_hat) + 0.5),
        ({"eps_root": 0.5}, lambda v_hat: np.sqrt(v_hat + 0.5)),
        ({"form": "paper", "eps_root": 0.5, "eps": 0.25}, lambda v_hat: np.sqrt(v_hat + 0.5) + 0.25),
    ],
)
def test_adam_as_in_the_paper(settings, root, rng):
    start, gradients = rng.standard_normal(50), rng.standard_normal((20, 50))
    params, optimizer = {"W": start.copy()}, fastopt.Adam(**settings)
    for g in gradients:
        optimizer.update(params, {"W": g})
    assert relative(params["W"], adam_of_the_paper(gradients, start, root)) < 1e-13


def test_rmsprop_with_eps_inside_the_root(rng):
    start, gradients = rng.standard_normal(50), rng.standard_normal((20, 50))
    params, optimizer = {"W": start.copy()}, fastopt.RMSProp(eps_root=0.5)
    h, p = np.zeros(50), start
    for g in gradients:
        optimizer.update(params, {"W": g})
        h = 0.99 * h + (1 - 0.99) * g * g
        p = p - 0.01 * g / np.sqrt(h + 0.5)
    assert_same_bits(params["W"], p)


@pytest.mark.parametrize(("textbook", "pytorch"), [("momentum", "sgd_momentum"), ("nesterov", "sgd_nesterov")])
def test_both_forms_of_momentum_go_one_way_until_lr_changes(textbook, pytorch):
    def lower(optimizer):
        optimizer.lr = 0.001

    first, second = OPTIMIZERS[textbook], OPTIMIZERS[pytorch]
    np.testing.assert_allclose(run(first()), run(second()), rtol=1e-13, atol=1e-13)
    assert np.abs(run(first(), change=lower) - run(second(), change=lower)).max() > 0.01


def test_centred_rmsprop_without_any_deviation():
    """h - m^2 of a constant gradient goes to zero, and rounding makes it negative now and then."""
    params, negative = {"W": np.linspace(0.1, 9, 500)}, 0
    optimizer, g = fastopt.CentredRMSProp(decay_rate=0.5, eps=1.0), params["W"].copy()
    for _ in range(100):
        optimizer.update(params, {"W": g})
        negative += np.sum(optimizer.h["W"] < np.square(optimizer.m["W"]))
    assert negative and np.isfinite(params["W"]).all()
    np.testing.assert_allclose(optimizer.v["W"], g, rtol=1e-6)


def test_adagrad_with_an_initial_accumulator(rng):
    theta, g = 1e-4, rng.standard_normal(50)
    params, optimizer = {"W": np.zeros(50)}, fastopt.AdaGrad(initial_accumulator=theta, eps=theta)
    optimizer.update(params, {"W": g})
    assert_same_bits(params["W"], 0 - 0.01 * g / (np.sqrt(theta + g * g) + theta))
    assert_same_bits(optimizer.h["W"], theta + g * g)


def adan_of_the_paper(p, gradients, lr=0.001, beta1=0.02, beta2=0.08, beta3=0.01, eps=1e-8):
    """Algorithm 1 with the bias corrections of the authors' code; the betas are the paper's, shares of the new."""
    m = v = n = 0.0
    for k, g in enumerate(gradients, start=1):
        y = g - gradients[k - 2] if k > 1 else 0.0
        m = (1 - beta1) * m + beta1 * g
        v = (1 - beta2) * v + beta2 * y
        n = (1 - beta3) * n + beta3 * (g + (1 - beta2) * y) ** 2
        m_hat, v_hat, n_hat = (x / (1 - (1 - b) ** k) for x, b in ((m, beta1), (v, beta2), (n, beta3)))
        p = p - lr / (math.sqrt(n_hat) + eps) * (m_hat + (1 - beta2) * v_hat)
    return p


def ademamix_of_the_paper(p, gradients, lr=0.01, beta1=0.9, beta2=0.999, beta3=0.99, alpha=5.0, eps=1e-8, warmup=20):
    m1 = m2 = v = 0.0
    for t, g in enumerate(gradients, start=1):
        share, low, high = t / warmup, math.log(beta1), math.log(beta3)
        alpha_t = min(share * alpha, alpha)
        beta3_t = min(math.exp(low * high / ((1 - share) * high + share * low)), beta3) if share < 1 else beta3
        m1 = beta1 * m1 + (1 - beta1) * g
        m2 = beta3_t * m2 + (1 - beta3_t) * g
        v = beta2 * v + (1 - beta2) * g**2
        p = p - lr * (m1 / (1 - beta1**t) + alpha_t * m2) / (math.sqrt(v / (1 - beta2**t)) + eps)
    return p


@pytest.mark.parametrize(
    ("optimizer", "paper"),
    [
        (fastopt.Adan(), adan_of_the_paper),
        (fastopt.AdEMAMix(lr=0.01, beta3=0.99, warmup=20), ademamix_of_the_paper),
    ],
    ids=["adan", "ademamix"],
)
def test_as_in_the_paper(optimizer, paper, rng):
    params, gradients = {"x": 1.7}, (1.0 + rng.standard_normal(40)).tolist()
    optimizer = copy.copy(optimizer)
    for g in gradients:
        optimizer.update(params, {"x": g})
    assert params["x"] == pytest.approx(paper(1.7, gradients), rel=1e-13)


def test_the_polar_express_brings_singular_values_near_one(rng):
    """From 0.01 to 1 in five steps; one polynomial for all of them leaves them between 0.6 and 1.3."""
    one, other = (np.linalg.qr(rng.standard_normal((40, 40)))[0] for _ in range(2))
    spread = np.geomspace(0.01, 1, 40)
    gaps = {}
    for coefficients in ("original", "polar_express"):
        params = {"W": np.zeros((40, 40))}
        optimizer = fastopt.Muon(lr=1.0, momentum=0.0, weight_decay=0.0, coefficients=coefficients)
        optimizer.update(params, {"W": one * spread @ other})
        gaps[coefficients] = np.abs(np.linalg.svd(params["W"], compute_uv=False) - 1).max()
    assert gaps["polar_express"] < 0.15 < 0.2 < gaps["original"] < 0.4


def test_momentum_as_a_running_mean_from_zero(rng):
    gradients = rng.standard_normal((10, 5))
    p, v, params = np.ones(5), np.zeros(5), {"W": np.ones(5)}
    optimizer = fastopt.SGDMomentum(lr=0.1, momentum=0.9, dampening=0.9, damp_first=True)
    for g in gradients:
        v = 0.9 * v + (1 - 0.9) * g
        p = p - 0.1 * v
        optimizer.update(params, {"W": g})
    assert_same_bits(params["W"], p)


def test_rmsprop_momentum_with_lr_in_the_velocity_that_starts_at_one(rng):
    """TensorFlow's `ApplyRMSProp`: mean square from one, eps under the root, lr in the momentum."""
    gradients = rng.standard_normal((10, 5))
    p, h, v, params = np.ones(5), np.ones(5), np.zeros(5), {"W": np.ones(5)}
    settings = {"decay_rate": 0.9, "eps_root": 1e-7, "momentum": 0.5, "initial_accumulator": 1.0}
    optimizer = fastopt.RMSPropMomentum(lr=0.1, lr_in_velocity=True, **settings)
    for step, g in enumerate(gradients):
        lr = optimizer.lr = 0.1 / (1 + step)
        h = 0.9 * h + (1 - 0.9) * g * g
        v = 0.5 * v + lr * g / np.sqrt(h + 1e-7)
        p = p - v
        optimizer.update(params, {"W": g})
    assert_same_bits(params["W"], p)
    start = {"W": np.array([1.0])}
    fastopt.RMSProp(lr=0.1, decay_rate=0.5, eps=0.0, initial_accumulator=1.0).update(start, {"W": np.array([1.0])})
    assert start["W"] == 0.9


def test_adagrad_with_eps_under_the_root():
    params = {"W": np.array([1.0])}
    optimizer = fastopt.AdaGrad(lr=0.1, eps_root=7.0, initial_accumulator=1.0)
    assert optimizer.eps == 0.0 and fastopt.AdaGrad().eps == 1e-7
    optimizer.update(params, {"W": np.array([1.0])})
    assert params["W"] == 1.0 - 0.1 / 3.0
