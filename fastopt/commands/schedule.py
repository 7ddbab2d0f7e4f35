"""A picture of a schedule, as `fastopt schedule` draws it."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from inspect import signature
from math import exp
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from fastopt import schedules
from fastopt.experiments.experiment import check_writable
from fastopt.experiments.figures import BLUE, finish, new_figure
from fastopt.names import unknown_setting
from fastopt.nn.layers import Array
from fastopt.schedules import SCHEDULES, Schedule

PEAK = 0.001

EXAMPLES: dict[str, Callable[[int], Schedule]] = {
    "Constant": lambda steps: schedules.Constant(PEAK),
    "Step": lambda steps: schedules.Step(PEAK, every=_part(steps, 0.25), gamma=0.5),
    "Milestones": lambda steps: schedules.Milestones(
        PEAK, at=tuple(sorted({_part(steps, 0.5), _part(steps, 0.75)})), gamma=0.1
    ),
    "Exponential": lambda steps: schedules.Exponential(PEAK, gamma=0.01 ** (1 / steps)),
    "InverseTime": lambda steps: schedules.InverseTime(PEAK, decay=10 / steps),
    "Linear": lambda steps: schedules.Linear(PEAK, 0.0, steps),
    "Polynomial": lambda steps: schedules.Polynomial(PEAK, steps, power=2.0),
    "Warmup": lambda steps: schedules.Warmup(PEAK, _part(steps, 0.1)),
    "Cosine": lambda steps: schedules.Cosine(PEAK, steps, warmup=steps // 20),
    "CosineRestarts": lambda steps: schedules.CosineRestarts(PEAK, period=_part(steps, 1 / 7), growth=2),
    "OneCycle": lambda steps: schedules.OneCycle(PEAK, steps),
    "WSD": lambda steps: schedules.WSD(PEAK, steps, warmup=steps // 20, decay=steps // 5),
    "InverseSquareRoot": lambda steps: schedules.InverseSquareRoot(PEAK, warmup=_part(steps, 0.05)),
    "Sequence": lambda steps: schedules.Warmup(PEAK, _part(steps, 0.1)).then(
        schedules.Step(PEAK, every=_part(steps, 0.3), gamma=0.3)
    ),
    "Product": lambda steps: (
        schedules.Linear(1.0, 0.0, steps) * schedules.CosineRestarts(PEAK, period=_part(steps, 0.2))
    ),
    "ReduceOnPlateau": lambda steps: schedules.ReduceOnPlateau(PEAK, factor=0.5, patience=steps // 8),
}
"""A schedule of each kind, with settings that show it in so many steps."""


def names() -> dict[str, str]:
    """The class of each schedule by its name on the command line: OneCycle is one-cycle."""
    return {re.sub("(?<=[a-z])(?=[A-Z])", "-", name).lower(): name for name in SCHEDULES}


def summary(name: str) -> str:
    """The first sentence on a schedule of a name on the command line."""
    text = " ".join(str(SCHEDULES[names()[name]].__doc__).split())
    return re.split(r"(?<=\w)[.:;] |: ", text.split(">>>")[0])[0].replace("`", "").rstrip(".")


def values(schedule: Schedule, steps: int) -> Array:
    """The value at each step from 1 on."""
    if not isinstance(schedule, schedules.ReduceOnPlateau):
        return np.array([schedule(step) for step in range(1, steps + 1)])
    rates = []
    for step in range(1, steps + 1):
        rates.append(schedule(step))
        # A loss that gets stuck twice, after a third and after two thirds of all steps.
        schedule.observe(exp(-3 * min(step / steps, 1 / 3) - 3 * max(0.0, min(step / steps - 0.5, 1 / 6))))
    return np.array(rates)


def main(name: str, steps: int, out: Path, settings: Mapping[str, Any] = MappingProxyType({})) -> None:
    """Draws a schedule of a name on the command line and prints what it is at a few steps."""
    check_writable(out)
    schedule = with_settings(EXAMPLES[names()[name]](steps), settings)
    text = repr(schedule)
    curve = values(schedule, steps)
    draw(name, text, curve).savefig(out, dpi=130)
    print(text)
    for step in sorted({1, *(_part(steps, share) for share in (0.05, 0.25, 0.5, 0.75)), steps}):
        print(f"step {step:>{len(f'{steps:,}')},}  {curve[step - 1]:.6g}")
    print(f"picture: {out}")


def with_settings(schedule: Schedule, settings: Mapping[str, Any]) -> Schedule:
    """The same kind of schedule with other settings, as the command line has them: whole numbers stay whole."""
    settable = list(signature(type(schedule)).parameters)
    for setting in settings:
        if setting not in settable:
            raise ValueError(unknown_setting(type(schedule).__name__, setting, settable))
    values = {setting: getattr(schedule, setting) for setting in settable}
    for setting, value in settings.items():
        is_whole = isinstance(value, float) and value.is_integer() and isinstance(values[setting], int)
        values[setting] = int(value) if is_whole else value
    return type(schedule)(**values)


def draw(name: str, text: str, curve: Array) -> Figure:
    figure = new_figure(4.5, name)
    axes = figure.subplots()
    steps = np.arange(1, len(curve) + 1)
    axes.plot(steps, curve, color=BLUE, lw=2, marker="o" if len(curve) <= 50 else None)
    told = " (told of a loss that is stuck from a third to a half, and from two thirds on)"
    finish(
        axes,
        xlabel="step" + (told if name == "reduce-on-plateau" else ""),
        ylabel="value",
        ylim=(0, 1.05 * curve.max()),
    )
    axes.set_title(text, fontsize=9, color="#555555", wrap=True)
    axes.ticklabel_format(axis="y", scilimits=(-4, 4))
    return figure


def _part(steps: int, share: float) -> int:
    return max(1, round(share * steps))
