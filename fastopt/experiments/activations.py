"""The signal on its way through a deep network, by initial weights and activation."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
from matplotlib.figure import Figure

from fastopt.experiments.experiment import Experiment, Result, Settings
from fastopt.experiments.figures import BLUE, GREEN, ORANGE, new_figure
from fastopt.nn.layers import Array, Relu, Sigmoid

SAMPLES, WIDTH, LAYERS = 1000, 100, 5
INITS = {"std 1": 1.0, "std 0.01": 0.01, "Xavier": (1 / WIDTH) ** 0.5, "He": (2 / WIDTH) ** 0.5}
ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "sigmoid": lambda x: Sigmoid().forward(x),
    "ReLU": lambda x: Relu().forward(x),
    "tanh": np.tanh,
}
RANGES = {"sigmoid": (0.0, 1.0), "ReLU": (0.0, 3.0), "tanh": (-1.0, 1.0)}
COLORS = {"sigmoid": BLUE, "ReLU": ORANGE, "tanh": GREEN}
BINS = 40
NEAR = 0.005  # what counts as at zero, or at a limit
CUT = 0.15  # the share of all values at which a bar in the picture has its full height


@Experiment
def run(settings: Settings) -> Result:
    """Histograms of the activations in five layers of 100, from 1000 normally distributed inputs.

    The last bin of ReLU's histograms holds all larger values too.
    """
    curves: dict[str, Array] = {"bin": np.arange(BINS)}
    rows = []
    values: Array
    for activation, forward in ACTIVATIONS.items():
        for init in settings.track(list(INITS), activation):
            rng = np.random.default_rng(settings.seed)  # the same inputs and the same weights but for their scale
            values, deviations = rng.standard_normal((SAMPLES, WIDTH)), []
            for layer in range(1, LAYERS + 1):
                values = forward(values @ (INITS[init] * rng.standard_normal((WIDTH, WIDTH))))
                counts, _ = np.histogram(np.clip(values, *RANGES[activation]), BINS, RANGES[activation])
                curves[f"{activation} {init} layer {layer}"] = counts / values.size
                deviations.append(values.std())
            low, high = RANGES[activation]
            saturated = ((values < low + NEAR) | (values > high - NEAR)).mean()
            zero = (np.abs(values) < NEAR).mean()
            rows.append(
                (
                    activation,
                    init,
                    f"{deviations[0]:.2g}",
                    f"{deviations[-1]:.2g}",
                    "-" if activation == "ReLU" else f"{saturated:.0%}",
                    "-" if activation == "sigmoid" else f"{zero:.0%}",
                )
            )
    table = {row[:2]: row for row in rows}
    at_limits, bunched = table["sigmoid", "std 1"][4], table["sigmoid", "std 0.01"][3]
    relu = {init: table["ReLU", init][3] for init in INITS}
    return Result(
        title="Activations",
        finding=f"In the fifth layer of a sigmoid network {at_limits} of the activations sit at 0 or 1 for weights of "
        f"deviation 1, and for 0.01 all bunch at 0.5 (deviation {bunched}); Xavier's weights keep them spread, He's do "
        f"so for ReLU (deviation {relu['He']} against {relu['Xavier']}).",
        curves=curves,
        header=("activation", "weights", "deviation in layer 1", f"in layer {LAYERS}", "saturated", "zero"),
        rows=rows,
        draw=partial(_draw, curves),
    )


def _draw(curves: dict[str, Array]) -> Figure:
    title = f"Activations in {LAYERS} layers of {WIDTH}, by initial weights (bars are cut off at {CUT:.0%})"
    figure = new_figure(8.5, title)
    panels = figure.subplots(len(ACTIVATIONS), len(INITS), sharex="row")
    for row, activation in zip(panels, ACTIVATIONS, strict=True):
        low, high = RANGES[activation]
        width = (high - low) / BINS
        for axes, init in zip(row, INITS, strict=True):
            for layer in range(1, LAYERS + 1):
                base = LAYERS - layer
                shares = np.minimum(curves[f"{activation} {init} layer {layer}"] / CUT, 1.0)
                left = low + width * np.arange(BINS)
                axes.bar(left, 0.85 * shares, width, bottom=base, align="edge", color=COLORS[activation])
                axes.axhline(base, color="#999999", lw=0.6)
            axes.set(xlim=(low - width, high + width), ylim=(0, LAYERS))
            axes.set_yticks(np.arange(LAYERS) + 0.4, [str(LAYERS - layer) for layer in range(LAYERS)])
            axes.tick_params(axis="y", length=0)
            if activation == "ReLU":
                axes.set_xticks([0, 1, 2, 3], ["0", "1", "2", "≥ 3"])
            axes.spines[["top", "right", "left"]].set_visible(False)
            if activation == "sigmoid":
                axes.set_title(init, fontsize=11)
        row[0].set_ylabel(f"{activation}: layer")
    figure.supxlabel("activation")
    return figure
