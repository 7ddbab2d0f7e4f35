"""AdaGrad's steps shrink, RMSProp's do not: what that means at two learning rates."""

from __future__ import annotations

from functools import partial

import numpy as np
from matplotlib.figure import Figure

import fastopt
from fastopt.experiments.experiment import Experiment, Result, Settings, draw_batches
from fastopt.experiments.figures import STYLES, finish, new_figure
from fastopt.nn import MultiLayerNet, smooth_curve
from fastopt.nn.layers import Array
from fastopt.optimizers import OPTIMIZERS

RATES = (0.1, 0.01)
HIDDEN = [200, 200]
BATCH = 100


@Experiment
def run(settings: Settings) -> Result:
    """Loss and length of steps of RMSProp and AdaGrad on MNIST, at the learning rates 0.1 and 0.01.

    The length of a step is the mean change of a weight, among the weights whose gradient is not zero.
    """
    x_train, t_train, _, _ = settings.data
    steps = 100 if settings.quick else 1000
    batches = draw_batches(settings, len(x_train), steps, BATCH)
    curves: dict[str, Array] = {"step": np.arange(1, steps + 1)}
    rows = []
    for lr in RATES:
        for rule in ("rmsprop", "adagrad"):
            name = f"{OPTIMIZERS[rule].__name__} {lr:g}"
            network = MultiLayerNet(784, HIDDEN, 10, weight_init_std=0.01, seed=settings.seed)
            network.params = params = fastopt.flatten(network.params)
            grads, optimizer = fastopt.flatten(params), settings.optimizer(rule, lr=lr)
            losses, lengths = [], []
            for batch in settings.track(batches, name):
                x, t, before = x_train[batch], t_train[batch], params.buffer.copy()
                optimizer.update(params, network.gradient(x, t, out=grads))
                losses.append(network.last_loss)
                moved = np.abs(params.buffer - before)[grads.buffer != 0]
                lengths.append(float(moved.mean()) if moved.size else 0.0)
            curves[f"{name} loss"], curves[f"{name} length"] = np.array(losses), np.array(lengths)
            last = float(np.mean(losses[-100:]))
            rows.append((name, f"{last:.4f}", f"{lengths[0]:.4f}", f"{lengths[-1]:.1e}"))
    loss = {name: float(text) for name, text, *_ in rows}
    first = curves["RMSProp 0.1 length"][0]
    return Result(
        title="RMSProp and AdaGrad",
        finding=f"At lr 0.1 RMSProp's first step changes a weight by {first:.1f} on average, nearly lr / "
        f"sqrt(1 - decay_rate), and its loss ends at {loss['RMSProp 0.1']:.2f} against AdaGrad's "
        f"{loss['AdaGrad 0.1']:.2f}; at lr 0.01 both learn, to {loss['RMSProp 0.01']:.2f} and "
        f"{loss['AdaGrad 0.01']:.2f}.",
        curves=curves,
        header=("optimizer, lr", "loss, last 100 steps", "first step", "last step"),
        rows=rows,
        draw=partial(_draw, curves),
    )


def _draw(curves: dict[str, Array]) -> Figure:
    figure = new_figure(6.4, "AdaGrad's steps shrink, RMSProp's do not: 784-200-200-10, ReLU, batch 100")
    panels = figure.subplots(2, 2, sharex=True, sharey="row")
    for column, lr in enumerate(RATES):
        for name in ("RMSProp", "AdaGrad"):
            style = {"label": name, "lw": 1.3, "ms": 6, "markevery": len(curves["step"]) // 15, **STYLES[name]}
            losses, lengths = curves[f"{name} {lr:g} loss"], curves[f"{name} {lr:g} length"]
            panels[0, column].plot(curves["step"], losses, color=STYLES[name]["color"], lw=0.8, alpha=0.35)
            panels[0, column].plot(curves["step"][5:], smooth_curve(losses)[5:], **style)  # before, mirrored losses
            panels[1, column].semilogy(curves["step"], lengths, **style | {"lw": 0.8})
        panels[0, column].set_yscale("log")
        finish(panels[0, column], title=f"lr {lr:g}")
        finish(panels[1, column], xlabel="step")
    panels[0, 0].set_ylabel("training loss (bold: smoothed)")
    panels[1, 0].set_ylabel("mean change of a weight in a step")
    panels[0, 1].legend()
    return figure
