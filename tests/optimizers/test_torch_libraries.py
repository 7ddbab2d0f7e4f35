"""timm and pytorch_optimizer as independent authorities, where they are installed, for what PyTorch does not have."""

import warnings

import numpy as np
import pytest

import fastopt

torch = pytest.importorskip("torch")
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    timm = pytest.importorskip("timm.optim")
    others = pytest.importorskip("pytorch_optimizer")

CASES = {
    "cautious Adam": (
        lambda: fastopt.AdamW(lr=0.1, weight_decay=0.1, cautious=True),
        lambda p: timm.AdamWLegacy([p], lr=0.1, weight_decay=0.1, caution=True),
    ),
    "cautious Lion": (
        lambda: fastopt.Lion(lr=0.1, weight_decay=0.1, decoupled=True, cautious=True),
        lambda p: timm.Lion([p], lr=0.1, weight_decay=0.1, caution=True),
    ),
    "adopt": (
        lambda: fastopt.ADOPT(lr=0.1, beta2=0.99),
        lambda p: timm.Adopt([p], lr=0.1, betas=(0.9, 0.99), clip_exp=0.25),
    ),
    "cautious ADOPT": (
        lambda: fastopt.ADOPT(lr=0.1, beta2=0.99, cautious=True),
        lambda p: timm.Adopt([p], lr=0.1, betas=(0.9, 0.99), clip_exp=0.25, caution=True),
    ),
    "mars": (
        lambda: fastopt.MARS(lr=0.1, gamma=0.5, weight_decay=0.1),
        lambda p: timm.Mars([p], lr=0.1, betas=(0.95, 0.99), gamma=0.5, weight_decay=0.1, optimize_1d=True),
    ),
}


def path(ours, make, start, gradients):
    """Parameters after some steps of both."""
    params, p = {"W": start.copy()}, torch.nn.Parameter(torch.tensor(start))
    theirs = make(p)
    for g in gradients:
        ours.update(params, {"W": g})
        p.grad = torch.tensor(g)
        theirs.step()
    return params["W"], p.detach().numpy()


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-4), ("float64", 1e-12)])
@pytest.mark.parametrize("case", CASES)
def test_takes_the_same_path(case, dtype, tolerance, rng):
    make_ours, make = CASES[case]
    start = rng.standard_normal((40, 30)).astype(dtype)
    gradients = rng.standard_normal((30, 40, 30)).astype(dtype)
    ours, theirs = path(make_ours(), make, start, gradients)
    np.testing.assert_allclose(ours, theirs, rtol=tolerance, atol=tolerance)
