"""Common ground of the experiments on overfitting: few digits, a deep network, the gap between training and test."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import numpy as np
from matplotlib.figure import Figure

from fastopt.experiments.experiment import Result, Settings
from fastopt.experiments.figures import BLUE, RED, finish, new_figure
from fastopt.nn import MultiLayerNet, Trainer
from fastopt.nn.layers import Array

SAMPLES = 300
HIDDEN = [100, 100, 100, 100, 100, 100]


def compare(settings: Settings, networks: Mapping[str, MultiLayerNet], epochs: int, title: str, cure: str) -> Result:
    """Trains two networks, the second with the cure, by SGD at lr 0.01 on the first 300 digits."""
    x_train, t_train, x_test, t_test = settings.data
    curves: dict[str, Array] = {"epoch": np.arange(epochs)}
    for name, network in networks.items():
        trainer = Trainer(
            network,
            x_train[:SAMPLES],
            t_train[:SAMPLES],
            x_test,
            t_test,
            epochs=epochs,
            mini_batch_size=100,
            optimizer=settings.optimizer("sgd", lr=0.01),
            verbose=False,
            seed=settings.seed,
        )
        for _ in settings.track(range(trainer.max_iter), name):
            trainer.train_step()
        curves[f"{name} train"] = np.array(trainer.train_acc_list)
        curves[f"{name} test"] = np.array(trainer.test_acc_list)
    ends = {name: (curves[f"{name} train"][-1], curves[f"{name} test"][-1]) for name in networks}
    (train, test), (cured_train, cured_test) = ends.values()
    lower = " It also holds training back, so test accuracy is lower." if cured_test < test else ""
    return Result(
        title=title,
        finding=f"After {epochs} epochs on {SAMPLES} digits the accuracy is {train:.2f} in training and {test:.2f} in "
        f"test, a gap of {train - test:.2f}; with {cure} it is {cured_train:.2f} and {cured_test:.2f}, "
        f"a gap of {cured_train - cured_test:.2f}.{lower}",
        curves=curves,
        header=("", "train accuracy", "test accuracy", "gap"),
        rows=[(name, f"{a:.3f}", f"{b:.3f}", f"{a - b:.3f}") for name, (a, b) in ends.items()],
        draw=partial(_draw, curves, list(networks), title),
    )


def _draw(curves: dict[str, Array], names: list[str], title: str) -> Figure:
    figure = new_figure(5.0, f"{title}: 784-100x6-10, ReLU, SGD with lr 0.01, {SAMPLES} digits")
    axes, epochs = figure.subplots(), curves["epoch"]
    for name, color in zip(names, (RED, BLUE), strict=True):
        train, test = curves[f"{name} train"], curves[f"{name} test"]
        axes.fill_between(epochs, test, train, color=color, alpha=0.12)
        axes.plot(epochs, train, color=color, lw=2, label=f"{name}, training data")
        axes.plot(epochs, test, color=color, lw=2, ls="--", label=f"{name}, test data (gap {train[-1] - test[-1]:.2f})")
    finish(axes, xlabel="epoch", ylabel="accuracy", ylim=(0, 1.02), xlim=(0, epochs[-1]))
    figure.legend(loc="outside lower center", ncols=2)
    return figure
