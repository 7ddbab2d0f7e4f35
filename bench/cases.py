"""What is timed: models and implementations, the same for the suites and for `python -m bench.ratios`."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np

from bench.limit import LIMITS
from fastopt import flatten, reference, threads
from fastopt.kernels import RULES, memory
from fastopt.optimizers import OPTIMIZERS

Step = Callable[[], None]


def mlp(*sizes: int, dtype: str = "float32", seed: int = 0) -> dict[str, Any]:
    """The parameters of a fully connected network, as a dict."""
    rng = np.random.default_rng(seed)
    params: dict[str, Any] = {}
    for number, (inputs, outputs) in enumerate(pairwise(sizes), start=1):
        params[f"W{number}"] = (rng.standard_normal((inputs, outputs)) * np.sqrt(2 / inputs)).astype(dtype)
        params[f"b{number}"] = np.zeros(outputs, dtype=dtype)
    return params


def array(size: int, dtype: str, seed: int = 0) -> dict[str, Any]:
    """One array, as a dict."""
    return {"p": np.random.default_rng(seed).standard_normal(size).astype(dtype)}


def gradients(params: dict[str, Any], seed: int = 1) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    return {key: (0.01 * rng.standard_normal(value.shape)).astype(value.dtype) for key, value in params.items()}


def checked_step(rule: str, implementation: str, params: dict[str, Any]) -> Step:
    """A function that makes one step, after three steps were found equal to the reference's, bit by bit."""
    mine = {key: value.copy() for key, value in params.items()}
    grads = gradients(params)
    if implementation == "torch fused":
        return torch_step(rule, mine, grads)
    if implementation == "limit":
        return limit_step(len(RULES[rule].state), mine, grads)
    optimizer = make(rule, implementation)
    if implementation == "flat":
        mine, grads = flatten(mine), flatten(grads)
    if implementation != "reference":
        theirs, expected = make(rule, "reference"), {key: value.copy() for key, value in params.items()}
        for _ in range(3):
            theirs.update(expected, grads)
            optimizer.update(mine, grads)
        for key in params:
            assert mine[key].tobytes() == expected[key].tobytes(), f"{implementation} is not the reference at {key}"
    return lambda: optimizer.update(mine, grads)


def torch_step(rule: str, params: dict[str, Any], grads: dict[str, Any]) -> Step:
    """PyTorch's fused CPU step on copies of the same arrays; Adam only, which is what it is compared for."""
    import torch

    assert rule == "adam"
    tensors = [torch.nn.Parameter(torch.tensor(value)) for value in params.values()]
    for tensor, gradient in zip(tensors, grads.values(), strict=True):
        tensor.grad = torch.tensor(gradient)
    optimizer = torch.optim.Adam(tensors, lr=0.001, eps=1e-8, fused=True)
    mine, expected = {key: value.copy() for key, value in params.items()}, OPTIMIZERS[rule](form="paper")
    for _ in range(3):
        optimizer.step()
        expected.update(mine, grads)
    for tensor, value in zip(tensors, mine.values(), strict=True):
        np.testing.assert_allclose(tensor.detach().numpy(), value, rtol=1e-4, atol=1e-6)
    return lambda: optimizer.step() and None


def make(rule: str, implementation: str) -> Any:
    """An optimizer at its defaults.

    "reference" is `fastopt.reference`; "textbook" is the same without its flush of subnormal state, the lines of the
    book and nothing else.
    """
    if implementation in ("reference", "textbook"):
        optimizer = getattr(reference, OPTIMIZERS[rule].__name__)()
        optimizer.flush = implementation == "reference"
        return optimizer
    return OPTIMIZERS[rule]()


def limit_step(slots: int, params: dict[str, Any], grads: dict[str, Any]) -> Step:
    """The same-traffic kernel over the first array, on the threads that an optimizer would get."""
    (p,), (g,) = params.values(), grads.values()
    state = memory.arena(p.size, p.dtype, slots)
    table = np.array([[x.ctypes.data for x in (p, g, *state)]], dtype=np.int64)
    starts = np.array([0, p.size], dtype=np.int64)
    count = threads.threads_for(p.nbytes * (3 + 2 * slots))
    kernel = LIMITS[slots].kernel(p.dtype.name, count > 1)
    alive = (p, g, state)
    return lambda: kernel(table, starts, count, ()) if alive else None
