"""The effect of the spread of the initial weights on learning."""

from __future__ import annotations

from functools import partial

import numpy as np
from matplotlib.figure import Figure

from fastopt.experiments.experiment import Experiment, Result, Settings, draw_batches, train
from fastopt.experiments.figures import BLUE, GREEN, RED, finish, new_figure
from fastopt.nn import MultiLayerNet, smooth_curve
from fastopt.nn.layers import Array

INITS: dict[str, float | str] = {"std 0.01": 0.01, "Xavier": "xavier", "He": "he"}
HIDDEN = [100, 100, 100, 100]
BATCH = 128


@Experiment
def run(settings: Settings) -> Result:
    """Training loss of one network from three initialisations: standard deviation 0.01, Xavier and He."""
    x_train, t_train, x_test, t_test = settings.data
    steps = 150 if settings.quick else 2000
    batches = draw_batches(settings, len(x_train), steps, BATCH)
    losses, last, rows = {}, {}, []
    for name, init in INITS.items():
        network = MultiLayerNet(784, HIDDEN, 10, weight_init_std=init, seed=settings.seed)
        optimizer = settings.optimizer("sgd", lr=0.01)
        curve = train(network, optimizer, x_train, t_train, settings.track(batches, name))
        losses[name], last[name] = smooth_curve(curve), float(curve[-100:].mean())
        rows.append((name, f"{last[name]:.4f}", f"{network.accuracy(x_test, t_test):.4f}"))
    return Result(
        title="Initial weights",
        finding="With a standard deviation of 0.01 the signal dies on its way through five layers and the loss stays "
        f"at {last['std 0.01']:.2f}; after {steps} steps Xavier's is {last['Xavier']:.2f} and He's, made for ReLU, "
        f"{last['He']:.2f}.",
        curves={"step": np.arange(1, steps + 1), **losses},
        header=("initial weights", "loss, last 100 steps", "test accuracy"),
        rows=rows,
        draw=partial(_draw, losses),
    )


def _draw(losses: dict[str, Array]) -> Figure:
    figure = new_figure(4.8, "Initial weights: 784-100x4-10, ReLU, SGD with lr 0.01, batch 128")
    axes = figure.subplots()
    for (name, curve), color, marker in zip(losses.items(), (RED, GREEN, BLUE), "osD", strict=True):
        steps = np.arange(1, len(curve) + 1)
        axes.plot(steps, curve, label=name, lw=1.3, ms=7, markevery=len(curve) // 20, color=color, marker=marker)
    finish(axes, xlabel="step", ylabel="training loss (smoothed)", ylim=(0, 2.5), xlim=(0, len(curve)))
    axes.legend()
    return figure
