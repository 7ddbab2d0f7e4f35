"""Other libraries' Adam at their best settings, on copies of the same arrays: what each is given, and how it is called.

A function per library takes the parameters and gradients as dicts and returns a step, a function that reads the
parameters back, and the keyword arguments of `fastopt.Adam` that mean the same. Importing happens inside, so a library
that is not installed is missing alone.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import numpy as np

Arrays = dict[str, Any]
Peer = tuple[Callable[[], Any], Callable[[], list[Any]], dict[str, Any]]

PAPER = {"form": "paper", "eps": 1e-8}


def _torch(params: Arrays, grads: Arrays, **options: bool) -> Peer:
    import torch

    tensors = [torch.nn.Parameter(torch.tensor(value)) for value in params.values()]
    for tensor, gradient in zip(tensors, grads.values(), strict=True):
        tensor.grad = torch.tensor(gradient)
    optimizer = torch.optim.Adam(tensors, lr=0.001, eps=1e-8, **options)
    return optimizer.step, lambda: [tensor.detach().numpy() for tensor in tensors], PAPER


def torch_fused(params: Arrays, grads: Arrays) -> Peer:
    """`torch.optim.Adam(fused=True)`."""
    return _torch(params, grads, fused=True)


def torch_foreach(params: Arrays, grads: Arrays) -> Peer:
    """`torch.optim.Adam(foreach=True)`."""
    return _torch(params, grads, foreach=True)


def torch_default(params: Arrays, grads: Arrays) -> Peer:
    """`torch.optim.Adam()`."""
    return _torch(params, grads)


def optax(params: Arrays, grads: Arrays) -> Peer:
    """`optax.adam` and `apply_updates` under one `jax.jit`, parameters and state donated."""
    import jax
    import optax

    rule = optax.adam(0.001, eps=1e-8)

    def step(params: Any, state: Any, grads: Any) -> Any:
        updates, state = rule.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    compiled = jax.jit(step, donate_argnums=(0, 1))
    now = {"params": jax.tree.map(jax.numpy.array, params)}
    now["state"] = rule.init(now["params"])
    given = jax.tree.map(jax.numpy.array, grads)

    def call() -> None:
        now["params"], now["state"] = compiled(now["params"], now["state"], given)
        jax.block_until_ready(now["params"])

    return call, lambda: [np.asarray(now["params"][key]) for key in params], PAPER


def numexpr(params: Arrays, grads: Arrays) -> Peer:
    """Three `numexpr.evaluate` per array, in place, on all its threads."""
    import numexpr

    params_of_peer = [value.copy() for value in params.values()]
    columns = [(p, g, np.zeros_like(p), np.zeros_like(p)) for p, g in zip(params_of_peer, grads.values(), strict=True)]
    t = 0

    def call() -> None:
        nonlocal t
        t += 1
        number = params_of_peer[0].dtype.type
        c1, c2, eps = number(1 - 0.9), number(1 - 0.999), number(1e-7)
        rate = number(0.001 * np.sqrt(1 - 0.999**t) / (1 - 0.9**t))
        for p, g, m, v in columns:
            names = {"p": p, "g": g, "m": m, "v": v, "c1": c1, "c2": c2, "eps": eps, "rate": rate}
            numexpr.evaluate("m + c1 * (g - m)", names, out=m)
            numexpr.evaluate("v + c2 * (g * g - v)", names, out=v)
            numexpr.evaluate("p - rate * m / (sqrt(v) + eps)", names, out=p)

    return call, lambda: params_of_peer, {}


def scikit_learn(params: Arrays, grads: Arrays) -> Peer:
    """`AdamOptimizer` of `sklearn.neural_network`."""
    from sklearn.neural_network._stochastic_optimizers import AdamOptimizer

    params_of_peer, given = [value.copy() for value in params.values()], list(grads.values())
    optimizer = AdamOptimizer(params_of_peer, 0.001, epsilon=1e-7)
    return lambda: optimizer.update_params(params_of_peer, given), lambda: params_of_peer, {}


def thinc(params: Arrays, grads: Arrays) -> Peer:
    """`thinc.api.Adam` without clipping and averages; it zeroes the gradients, so they are copied each time."""
    from thinc.api import Adam

    params_of_peer, given = (
        {key: value.copy() for key, value in params.items()},
        {k: v.copy() for k, v in grads.items()},
    )
    optimizer = Adam(0.001, eps=1e-7, L2=0.0, grad_clip=0.0, use_averages=False)

    def call() -> None:
        for key, value in params_of_peer.items():
            np.copyto(given[key], grads[key])
            params_of_peer[key], _ = optimizer((0, key), value, given[key])
        optimizer.step_schedules()

    return call, lambda: list(params_of_peer.values()), {}


def keras(params: Arrays, grads: Arrays) -> Peer:
    """`keras.optimizers.Adam` on the torch backend."""
    os.environ.setdefault("KERAS_BACKEND", "torch")
    import keras

    variables = [keras.Variable(value, dtype=value.dtype.name) for value in params.values()]
    given = [keras.ops.convert_to_tensor(value, dtype=value.dtype.name) for value in grads.values()]
    optimizer = keras.optimizers.Adam(0.001, epsilon=1e-7)
    optimizer.build(variables)
    return (
        lambda: optimizer.apply(given, variables),
        lambda: [keras.ops.convert_to_numpy(value) for value in variables],
        {},
    )


PEERS: dict[str, tuple[str, Callable[[Arrays, Arrays], Peer]]] = {
    "torch fused": ("torch", torch_fused),
    "torch foreach": ("torch", torch_foreach),
    "torch": ("torch", torch_default),
    "optax": ("optax", optax),
    "numexpr": ("numexpr", numexpr),
    "scikit-learn": ("sklearn", scikit_learn),
    "thinc": ("thinc", thinc),
    "keras": ("keras", keras),
}
"""The package to look for, and the function, by the name of the implementation."""
