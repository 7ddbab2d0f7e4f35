"""Batch normalization against the choice of initial weights."""

from __future__ import annotations

from functools import partial

import numpy as np
from matplotlib.figure import Figure

from fastopt.experiments.experiment import Experiment, Result, Settings
from fastopt.experiments.figures import BLUE, RED, finish, new_figure
from fastopt.nn import MultiLayerNetExtend, Trainer
from fastopt.nn.layers import Array

SAMPLES = 1000
HIDDEN = [100] * 5
SCALES = np.logspace(0, -4, num=16)


@Experiment
def run(settings: Settings) -> Result:
    """Accuracy on 1000 digits with and without batch normalization, for 16 deviations of the initial weights."""
    x_train, t_train, x_test, t_test = settings.data
    data = x_train[:SAMPLES], t_train[:SAMPLES], x_test, t_test
    epochs = 2 if settings.quick else 20
    curves: dict[str, Array] = {"epoch": np.arange(epochs)}
    cases = [(scale, use) for scale in SCALES for use in (True, False)]
    for scale, use in settings.track(cases, "trainings"):
        network = MultiLayerNetExtend(784, HIDDEN, 10, weight_init_std=scale, use_batchnorm=use, seed=settings.seed)
        trainer = Trainer(
            network,
            *data,
            epochs=epochs,
            mini_batch_size=100,
            optimizer=settings.optimizer("sgd", lr=0.01),
            evaluate_sample_num_per_epoch=SAMPLES,
            verbose=False,
            seed=settings.seed,
        )
        with np.errstate(over="ignore", invalid="ignore"):  # without normalization large weights end in NaN
            trainer.train()
        curves[_column(scale, use)] = np.array(trainer.train_acc_list)
    ends = [(curves[_column(scale, True)][-1], curves[_column(scale, False)][-1]) for scale in SCALES]
    better = sum(with_it > without for with_it, without in ends)
    learnt = [sum(end[index] > 0.5 for end in ends) for index in (0, 1)]
    return Result(
        title="Batch normalization",
        finding=f"With batch normalization training is ahead after {epochs} epochs for {better} of {len(SCALES)} "
        f"deviations of the initial weights; {learnt[0]} of them get beyond an accuracy of 0.5 with it, {learnt[1]} "
        "without.",
        curves=curves,
        header=("initial deviation", "with", "without"),
        rows=[(f"{scale:.4f}", f"{a:.3f}", f"{b:.3f}") for scale, (a, b) in zip(SCALES, ends, strict=True)],
        draw=partial(_draw, curves),
    )


def _column(scale: float, use: bool) -> str:
    return f"{'with' if use else 'without'} {scale:.4f}"


def _draw(curves: dict[str, Array]) -> Figure:
    figure = new_figure(7.0, f"Initial weights of 16 sizes: 784-100x5-10, ReLU, SGD with lr 0.01, {SAMPLES:,} digits")
    panels = figure.subplots(4, 4, sharex=True, sharey=True)
    for axes, scale in zip(panels.flat, SCALES, strict=True):
        axes.plot(curves["epoch"], curves[_column(scale, True)], color=BLUE, lw=2, label="with batch normalization")
        axes.plot(curves["epoch"], curves[_column(scale, False)], color=RED, lw=2, ls="--", label="without")
        finish(axes, title=f"std {scale:.2g}", ylim=(0, 1.02), xlim=(0, curves["epoch"][-1]))
        axes.title.set_fontsize(10)
    for axes in panels[-1]:
        axes.set(xlabel="epoch", xticks=curves["epoch"][:: max(len(curves["epoch"]) // 4, 1)])
    figure.supylabel("accuracy on the training data")
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return figure
