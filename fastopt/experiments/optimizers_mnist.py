"""How fast the optimizers learn MNIST, at their default settings."""

from __future__ import annotations

from functools import partial

import numpy as np
from matplotlib.figure import Figure

from fastopt.experiments.experiment import Experiment, Result, Settings, draw_batches, train
from fastopt.experiments.figures import STYLES, finish, new_figure
from fastopt.nn import MultiLayerNet, smooth_curve
from fastopt.nn.layers import Array
from fastopt.optimizers import OPTIMIZERS

NAMES = ("sgd", "momentum", "adagrad", "adam", "rmsprop")
HIDDEN = [100, 100, 100, 100]
BATCH = 128
POINTS = 100  # of a curve in the picture, so that five curves can be told apart


@Experiment
def run(settings: Settings) -> Result:
    """Training loss of five optimizers at their defaults on MNIST: 784-100-100-100-100-10, ReLU, the same batches."""
    x_train, t_train, x_test, t_test = settings.data
    steps = 200 if settings.quick else 2000
    batches = draw_batches(settings, len(x_train), steps, BATCH)
    losses, last, rows = {}, {}, []
    for rule in NAMES:
        name = OPTIMIZERS[rule].__name__
        network, optimizer = MultiLayerNet(784, HIDDEN, 10, seed=settings.seed), settings.optimizer(rule)
        curve = train(network, optimizer, x_train, t_train, settings.track(batches, name))
        losses[name], last[name] = smooth_curve(curve), float(curve[-100:].mean())
        rows.append((name, f"{optimizer.lr:g}", f"{last[name]:.4f}", f"{network.accuracy(x_test, t_test):.4f}"))
    others = {name: loss for name, loss in last.items() if name != "SGD"}
    best = min(others, key=lambda name: others[name])
    return Result(
        title="Optimizers on MNIST",
        finding=f"After {steps} steps SGD's loss is {last['SGD']:.2f}, that of the others at most "
        f"{max(others.values()):.2f}; {best} is ahead with {others[best]:.3f}.",
        curves={"step": np.arange(1, steps + 1), **losses},
        header=("optimizer", "lr", "loss, last 100 steps", "test accuracy"),
        rows=rows,
        draw=partial(_draw, losses),
    )


def _draw(losses: dict[str, Array]) -> Figure:
    figure = new_figure(4.8, "Optimizers at their defaults on MNIST: 784-100x4-10, ReLU, batch 128")
    axes = figure.subplots()
    for name, curve in losses.items():
        width = max(1, len(curve) // POINTS)
        means = curve[: len(curve) // width * width].reshape(-1, width).mean(axis=1)
        axes.plot((np.arange(len(means)) + 0.5) * width, means, label=name, lw=1.3, ms=6, markevery=6, **STYLES[name])
    axes.set_yscale("log")
    finish(axes, xlabel="step", ylabel=f"training loss (means of {width} steps, log scale)", xlim=(0, len(curve)))
    axes.legend()
    return figure
