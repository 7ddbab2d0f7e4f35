"""The classic picture of what each optimizer makes of a long, narrow valley."""

from __future__ import annotations

from functools import partial

import numpy as np
from matplotlib.figure import Figure

from fastopt.experiments.experiment import Experiment, Result, Settings
from fastopt.experiments.figures import STYLES, finish, new_figure
from fastopt.nn.layers import Array
from fastopt.optimizers import OPTIMIZERS

START = (-7.0, 2.0)
STEPS = 30
OPTIMIZER_SETTINGS = {
    "sgd": {"lr": 0.95},
    "momentum": {"lr": 0.1},
    "nesterov": {"lr": 0.1},
    "adagrad": {"lr": 1.5},
    "rmsprop": {"lr": 0.3, "decay_rate": 0.9},
    "adam": {"lr": 0.3},
}


def height(x: Array, y: Array) -> Array:
    """`f(x, y) = x^2 / 20 + y^2`."""
    return np.asarray(x**2 / 20 + y**2)


@Experiment
def run(settings: Settings) -> Result:
    """Paths of six optimizers down a valley that is steep across and flat along: f(x, y) = x²/20 + y².

    The parameters are two plain Python floats. SGD's step is right along the valley and too long across it.
    """
    paths: dict[str, Array] = {}
    for name in settings.track(list(OPTIMIZER_SETTINGS), "optimizers"):
        optimizer = settings.optimizer(name, **OPTIMIZER_SETTINGS[name])
        params = {"x": START[0], "y": START[1]}
        points = [START]
        for _ in range(STEPS):
            optimizer.update(params, {"x": params["x"] / 10, "y": 2 * params["y"]})
            points.append((params["x"], params["y"]))
        paths[OPTIMIZERS[name].__name__] = np.array(points)
    across = {name: float(np.abs(np.diff(path[:, 1])).sum()) for name, path in paths.items()}
    curves = {"step": np.arange(STEPS + 1)}
    for name, path in paths.items():
        curves |= {f"{name} x": path[:, 0], f"{name} y": path[:, 1]}
    rows = [
        (
            name,
            f"{OPTIMIZER_SETTINGS[name.lower()]['lr']:g}",
            f"{path[-1, 0]:.3f}",
            f"{path[-1, 1]:.3f}",
            f"{height(*path[-1]):.4f}",
            f"{across[name]:.1f}",
        )
        for name, path in paths.items()
    ]
    nearest = min(paths, key=lambda name: float(height(*paths[name][-1])))
    others = max(distance for name, distance in across.items() if name != "SGD")
    return Result(
        title="Paths of the optimizers on f(x, y) = x²/20 + y²",
        finding=f"SGD zig-zags: in {STEPS} steps it travels {across['SGD']:.0f} across the valley, whose floor was 2 "
        f"away; the others travel at most {others:.0f} and turn along it. "
        + (
            "SGD still ends nearest to the minimum: its rate is the largest that is stable here, which nobody can "
            "choose for a problem that is not known beforehand."
            if nearest == "SGD"
            else f"{nearest} ends nearest to the minimum."
        ),
        curves=curves,
        header=("optimizer", "lr", "last x", "last y", "f(x, y)", "way across"),
        rows=rows,
        draw=partial(_draw, paths),
    )


def _draw(paths: dict[str, Array]) -> Figure:
    figure = new_figure(5.0, f"f(x, y) = x²/20 + y², {STEPS} steps from (-7, 2)")
    x, y = np.meshgrid(np.linspace(-10, 10, 201), np.linspace(-5, 5, 101))
    levels = np.arange(0.5, 4.5, 0.5) ** 2
    for axes, (name, path) in zip(figure.subplots(2, 3, sharex=True, sharey=True).flat, paths.items(), strict=True):
        axes.contour(x, y, height(x, y), levels=levels, colors="#999999", linewidths=0.7)
        axes.plot(path[:, 0], path[:, 1], lw=1.3, ms=3, color=STYLES[name]["color"], marker="o")
        axes.plot(*START, "o", ms=9, mfc="white", mec=STYLES[name]["color"], mew=2)
        axes.plot(*path[-1], "s", ms=8, color=STYLES[name]["color"], mec="black")
        axes.plot(0, 0, "k+", ms=14, mew=2)
        finish(axes, title=f"{name}, lr {OPTIMIZER_SETTINGS[name.lower()]['lr']:g}", xlim=(-10, 10), ylim=(-5, 5))
        axes.set_xticks(range(-8, 9, 4))
        axes.label_outer()
    figure.supxlabel("x    (circle: start; square: end; cross: minimum)")
    figure.supylabel("y")
    return figure
