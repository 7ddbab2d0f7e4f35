"""The path of every optimizer down the ravine, for its page: f(x, y) = x^2/20 + y^2 from (-7, 2)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from fastopt import reference
from fastopt.experiments import ravine
from fastopt.experiments.figures import BLUE, finish, new_figure
from fastopt.kernels import RULES
from fastopt.optimizers import OPTIMIZERS

STEPS = 30
RATES = [digit * 10.0**power for power in range(-3, 3) for digit in (1, 2, 5)]
CHOICE = "Learning rate: the one of 1, 2 and 5 times powers of ten whose path is lowest on average."
KNOWN = ravine.OPTIMIZER_SETTINGS
CURVATURE = np.array([0.1, 2.0])
"""Second derivatives along x and y; Sophia, which asks for estimates of them, is told."""


def path(rule: str, settings: dict[str, float]) -> np.ndarray:
    """Points of shape (STEPS + 1, 2), by the reference in plain NumPy, without the decay that some have by default."""
    optimizer = getattr(reference, OPTIMIZERS[rule].__name__)(**{"weight_decay": 0.0, **settings})
    shape = (2, 1) if RULES[rule].prepare else (2,)
    params = {"w": np.reshape(ravine.START, shape).astype(float)}
    points = [params["w"].ravel().copy()]
    for _ in range(STEPS):
        optimizer.update(params, {"w": params["w"] * CURVATURE.reshape(shape)})
        if hasattr(optimizer, "update_hessian"):
            optimizer.update_hessian(params, {"w": CURVATURE.reshape(shape).copy()})
        points.append(params["w"].ravel().copy())
    return np.array(points)


def settings(rule: str) -> dict[str, float]:
    """Those of the experiment `ravine`, else the learning rate whose path is lowest on average."""
    if rule in KNOWN:
        return dict(KNOWN[rule])
    if rule not in _BEST:
        with np.errstate(all="ignore"):
            means = [float(ravine.height(*path(rule, {"lr": lr}).T).mean()) for lr in RATES]
        _BEST[rule] = {"lr": RATES[int(np.nanargmin(means))]}
    return _BEST[rule]


_BEST: dict[str, dict[str, float]] = {}


def draw(rule: str) -> Any:
    """Contours, the path, its start and the minimum."""
    points = path(rule, settings(rule))
    figure = new_figure(4.1, "")
    axes = figure.subplots()
    x, y = np.meshgrid(np.linspace(-10, 10, 201), np.linspace(-5, 5, 101))
    axes.contour(x, y, ravine.height(x, y), levels=np.arange(0.5, 4.5, 0.5) ** 2, colors="#999999", linewidths=0.7)
    axes.plot(points[:, 0], points[:, 1], color=BLUE, lw=1.6, marker="o", ms=4)
    axes.plot(*points[0], "o", ms=9, mfc="white", mec=BLUE, mew=2, label="start")
    axes.plot(*points[-1], "s", ms=8, color=BLUE, mec="white", label=f"after {STEPS} steps")
    axes.plot(0, 0, "k+", ms=14, mew=2, ls="none", label="minimum")
    axes.legend(loc="upper right", fontsize=9)
    axes.set_xticks(range(-10, 11, 5))
    finish(axes, xlabel="x", ylabel="y", xlim=(-10, 10), ylim=(-5, 5))
    return figure


def write(folder: Path) -> None:
    """An SVG for each optimizer."""
    folder.mkdir(parents=True, exist_ok=True)
    for rule in OPTIMIZERS:
        draw(rule).savefig(folder / f"{rule}.svg", metadata={"Date": None})
