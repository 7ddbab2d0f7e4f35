"""optax as an independent authority, where it is installed, for rules that PyTorch does not have."""

import numpy as np
import pytest

import fastopt

jax = pytest.importorskip("jax")
optax = pytest.importorskip("optax")


def from_zero_mean(state):
    """optax's Yogi starts the mean of the gradient where it starts v; the paper and fastopt start it at zero."""
    return (state[0]._replace(mu=jax.numpy.zeros_like(state[0].mu)), *state[1:])


def unchanged(state):
    return state


# ours, theirs, their state before the first step, and their state beside ours as a function of theirs
CASES = {
    "signum": (
        lambda: fastopt.Signum(lr=0.1),
        lambda: optax.signum(0.1),
        unchanged,
        {"m": lambda state: state[0].ema},
    ),
    "lion": (
        lambda: fastopt.Lion(lr=0.1),
        lambda: optax.lion(0.1, weight_decay=0.0),
        unchanged,
        {"m": lambda state: state[0].mu},
    ),
    "adabelief": (
        lambda: fastopt.AdaBelief(lr=0.1, eps=0.01, eps_root=0.02),
        lambda: optax.adabelief(0.1, eps=0.01, eps_root=0.02),
        unchanged,
        {"m": lambda state: state[0].mu, "s": lambda state: state[0].nu},
    ),
    "laprop": (
        lambda: fastopt.LaProp(lr=0.1, eps=0.01),
        lambda: optax.chain(
            optax.scale_by_rms(0.999, eps=0.01, eps_in_sqrt=False, bias_correction=True),
            optax.ema(0.9),
            optax.scale(-0.1),
        ),
        unchanged,
        {"v": lambda state: state[0].nu},
    ),
    "yogi": (
        lambda: fastopt.Yogi(lr=0.1),
        lambda: optax.yogi(0.1),
        from_zero_mean,
        {"m": lambda state: state[0].mu, "v": lambda state: state[0].nu},
    ),
    "ademamix": (
        lambda: fastopt.AdEMAMix(lr=0.1, eps=0.01, alpha=3.0, beta3=0.99),
        lambda: optax.contrib.ademamix(0.1, eps=0.01, alpha=3.0, b3=0.99),
        unchanged,
        {"m": lambda state: state[0].m1, "slow": lambda state: state[0].m2, "v": lambda state: state[0].nu},
    ),
    "lars": (
        lambda: fastopt.LARS(lr=0.5, trust_coefficient=0.1, eps=0.01, weight_decay=0.1),
        lambda: optax.lars(0.5, weight_decay=0.1, trust_coefficient=0.1, eps=0.01),
        unchanged,
        {},
    ),
    "lamb": (
        lambda: fastopt.LAMB(lr=0.1, weight_decay=0.1),
        lambda: optax.lamb(0.1, weight_decay=0.1),
        unchanged,
        {"m": lambda state: state[0].mu, "v": lambda state: state[0].nu},
    ),
    "novograd": (
        lambda: fastopt.NovoGrad(lr=0.1, weight_decay=0.1),
        lambda: optax.novograd(0.1, weight_decay=0.1),
        unchanged,
        {"m": lambda state: state[0].mu},
    ),
    "schedule_free_sgd": (
        lambda: fastopt.ScheduleFreeSGD(lr=0.1, weight_decay=0.1),
        lambda: optax.contrib.schedule_free_sgd(0.1, weight_decay=0.1),
        unchanged,
        {},
    ),
    "schedule_free_adamw": (
        lambda: fastopt.ScheduleFreeAdamW(lr=0.1, eps=0.01, weight_decay=0.1),
        lambda: optax.contrib.schedule_free_adamw(0.1, eps=0.01, weight_decay=0.1),
        unchanged,
        {"v": lambda state: state.base_optimizer_state[0].nu},
    ),
}


@pytest.fixture
def in_float64():
    """jax computes in float64 where it is asked to."""
    before = jax.config.jax_enable_x64
    jax.config.update("jax_enable_x64", True)
    yield
    jax.config.update("jax_enable_x64", before)


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 2e-5), ("float64", 1e-13)])
@pytest.mark.parametrize("rule", CASES)
def test_optax_takes_the_same_path(rule, dtype, tolerance, rng, in_float64):
    make_ours, make, begin, state_of = CASES[rule]
    ours, theirs = make_ours(), make()
    start = rng.standard_normal((40, 30)).astype(dtype)
    params, p = {"W": start.copy()}, jax.numpy.asarray(start)
    state = begin(theirs.init(p))
    for _ in range(50):
        g = rng.standard_normal(start.shape).astype(dtype)
        ours.update(params, {"W": g})
        change, state = theirs.update(jax.numpy.asarray(g), state, p)
        p = optax.apply_updates(p, change)
    assert p.dtype == dtype
    np.testing.assert_allclose(params["W"], np.asarray(p), rtol=tolerance, atol=tolerance)
    for slot, translate in state_of.items():
        expected = np.asarray(translate(state))
        np.testing.assert_allclose(getattr(ours, slot)["W"], expected, rtol=tolerance, atol=tolerance)
    if rule.startswith("schedule_free"):
        expected = optax.contrib.schedule_free_eval_params(state, p)
        np.testing.assert_allclose(ours.averaged(params)["W"], expected, rtol=tolerance, atol=tolerance)
