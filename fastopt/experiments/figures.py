"""The look that the pictures share: legible on a slide, told apart by the colour-blind."""

from __future__ import annotations

from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

# Okabe and Ito's palette; markers help where lines cross.
BLUE, ORANGE, GREEN, RED, PINK, SKY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9"
STYLES: dict[str, dict[str, Any]] = {
    "SGD": {"color": RED, "marker": "o"},
    "Momentum": {"color": ORANGE, "marker": "x"},
    "Nesterov": {"color": PINK, "marker": "v"},
    "AdaGrad": {"color": GREEN, "marker": "s"},
    "RMSProp": {"color": SKY, "marker": "^"},
    "Adam": {"color": BLUE, "marker": "D"},
}


def new_figure(height: float, title: str) -> Figure:
    """An empty figure, 8 inches wide so that its text is legible at 700 pixels; its parts find their own places."""
    figure = Figure(figsize=(8, height), layout="constrained")
    figure.suptitle(title, fontsize=13)
    return figure


def finish(axes: Axes, **settings: Any) -> None:
    """Labels, limits and a light grid."""
    axes.set(**settings)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
