"""The pictures of a report. Colours are Okabe and Ito's, which the colour-blind tell apart; markers differ too."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bench import inplace
from fastopt.kernels import RULES
from fastopt.optimizers import OPTIMIZERS

STYLE: dict[str, tuple[str, str]] = {
    "fastopt": ("#0072B2", "o"),
    "flat": ("#56B4E9", "o"),
    "fastopt serial": ("#56B4E9", "v"),
    "limit": ("#000000", ""),
    "textbook": ("#E69F00", "s"),
    "in place": ("#D55E00", "D"),
    "torch fused": ("#009E73", "^"),
    "torch": ("#009E73", "x"),
    "optax": ("#CC79A7", "P"),
    "scikit-learn": ("#999999", "*"),
}

COMPACT = {
    "bfloat16": ("#0072B2", "-.", "fastopt, bfloat16 state"),
    "int8": ("#0072B2", ":", "fastopt, int8 state"),
    "bfloat16 traffic": ("#000000", "-.", "traffic of bfloat16 state"),
}
"""Colour, line and label of what `bench.storage sizes` times beside the limit."""

SIZES = {"1e3": "1 thousand", "1e5": "100 thousand", "1e6": "1 million", "3e7": "30 million"}


def draw(results: dict[str, Any], states: dict[str, Any], storage: dict[str, Any], folder: Path) -> list[Path]:
    """Draws every picture for which there are results."""
    folder.mkdir(parents=True, exist_ok=True)
    groups, paths = results["groups"], []
    for name, figure in (
        ("training", training(states)),
        ("speedup", speedup(groups)),
        ("size", size(groups, storage)),
        ("rules", rules(groups)),
    ):
        if figure is not None:
            paths.append(folder / f"{name}.svg")
            with rc_context({"svg.hashsalt": name}):  # the same bytes each time
                figure.savefig(paths[-1], metadata={"Date": None})
    return paths


def _figure(width: float = 8, height: float = 4) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots()
    axes.grid(axis="y", alpha=0.3)
    axes.set_axisbelow(True)
    return figure, axes


SHADES = ("#B3D9EE", "#56B4E9", "#0072B2", "#003D66")
"""Of the sizes."""


def _bars(axes: Axes, groups: dict[str, Any], value: Any, digits: str) -> bool:
    """A group of bars for each of the textbook's rules, a bar per size; `value(rows)` is its height."""
    rules = list(inplace.RULES)
    found = False
    for number, (size_name, label) in enumerate(SIZES.items()):
        places, heights = [], []
        for place, rule in enumerate(rules):
            rows = groups.get(f"step {rule} float32 {size_name}")
            if rows:
                places.append(place + (number - 1.5) * 0.2)
                heights.append(value(rows))
        if heights:
            found = True
            bars = axes.bar(places, heights, 0.2, label=label, color=SHADES[number])
            axes.bar_label(bars, fmt=digits, fontsize=7.5, padding=1)
    axes.set_xticks(range(len(rules)), [OPTIMIZERS[rule].__name__ for rule in rules])
    if found:
        axes.legend(title="elements", ncols=4, loc="upper center", bbox_to_anchor=(0.5, -0.1), frameon=False)
    return found


def speedup(groups: dict[str, Any]) -> Figure | None:
    """How many times faster than the textbook's class, by rule and size."""
    figure, axes = _figure(height=4.4)
    found = _bars(axes, groups, lambda rows: rows["textbook"]["median"] / rows["fastopt"]["median"], "%.1f")
    axes.axhline(1, color="black", lw=0.8)
    axes.set(title="One step on one float32 array", ylabel="speed-up over the textbook's class")
    return figure if found else None


def rules(groups: dict[str, Any]) -> Figure | None:
    """How many times faster than NumPy every rule is, and how near to the same traffic without arithmetic."""
    timed = [rule for rule in RULES if "limit" in groups.get(f"step {rule} float32 3e7", ())]
    if not timed:
        return None
    figure = Figure(figsize=(8, 1.4 + 0.23 * len(timed)), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    for (size_name, label), shade, marker in zip(SIZES.items(), SHADES, "osD^", strict=True):
        rows = [groups.get(f"step {rule} float32 {size_name}", {}) for rule in timed]
        faster = {
            place: row["textbook"]["median"] / row["fastopt"]["median"]
            for place, row in enumerate(rows)
            if "textbook" in row
        }
        style: dict[str, Any] = {"color": shade, "marker": marker, "ls": "", "ms": 5, "mec": "#003D66", "mew": 0.5}
        left.plot(faster.values(), faster.keys(), label=label, **style)
        if size_name == "3e7":
            right.barh(range(len(rows)), [row["fastopt"]["share of limit"] for row in rows], color=shade, height=0.6)
    for place, rule in enumerate(timed):
        if not any("textbook" in groups.get(f"step {rule} float32 {name}", {}) for name in SIZES):
            left.text(1.1, place, "no NumPy form timed", va="center", fontsize=8, color="#666666")
    left.set_xscale("log")
    left.set_xticks([0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50], ["0.1", "0.2", "0.5", "1", "2", "5", "10", "20", "50"])
    left.set_yticks(range(len(timed)), [OPTIMIZERS[rule].__name__ for rule in timed], fontsize=8)
    left.set_ylim(len(timed) - 0.4, -0.6)  # the first one at the top
    left.set(xlim=(0.1, 60), xlabel="speed-up over the textbook's class", title="One step on one float32 array")
    right.set(xlabel="speed relative to the same traffic alone", title="30 million elements")
    for axes in (left, right):
        axes.axvline(1, color="black", lw=0.8)
        axes.grid(axis="x", alpha=0.3)
        axes.set_axisbelow(True)
    figure.legend(title="elements (left panel)", ncols=4, loc="outside lower left", frameon=False, fontsize=8)
    return figure


def size(groups: dict[str, Any], storage: dict[str, Any]) -> Figure | None:
    """Time of an Adam step against the size of the model, log-log.

    Of compact state, it is the limit's time here by the ratio to it, both in turns, in `bench.storage sizes`.
    """
    lines: dict[str, list[tuple[float, float]]] = {}
    for group, rows in groups.items():
        if group.startswith("size adam"):
            for name, row in rows.items():
                lines.setdefault(name, []).append((row["elements"], row["median"]))
    if not lines:
        return None
    figure, axes = _figure(height=5)
    for name in (name for name in STYLE if name in lines):
        colour, marker = STYLE[name]
        points = sorted(lines[name])
        style: dict[str, Any] = {"lw": 1, "ls": "--"} if name == "limit" else {"lw": 2.5 if name == "fastopt" else 1.3}
        label = "same traffic, no arithmetic" if name == "limit" else name
        axes.loglog(*zip(*points, strict=True), color=colour, marker=marker or None, ms=5, label=label, **style)
    limits = dict(lines["limit"])
    for name, (colour, line, label) in COMPACT.items():
        cases = {int(count): sides[name]["ratio"] for count, sides in storage["sizes"]["cases"].items()}
        shown = [(count, ratio * limits[count]) for count, ratio in cases.items() if count in limits]
        axes.loglog(*zip(*shown, strict=True), color=colour, ls=line, lw=1.5, label=label)
    axes.set(title="Adam, float32 parameters, one array", xlabel="elements", ylabel="time of a step, s")
    axes.grid(alpha=0.3, which="major")
    axes.legend(frameon=False)
    return figure


def training(states: dict[str, Any]) -> Figure | None:
    """A training step with Adam in parts, where the textbook's whole step is 1; each model in its first state."""
    chosen = {
        case.removeprefix("adam float32 "): next(iter(found.values()))
        for case, found in states["cases"].items()
        if case.startswith("adam float32 ")
    }
    if not chosen:
        return None
    figure, axes = _figure(height=0.9 + 0.62 * len(chosen))
    axes.grid(visible=False, axis="y")
    axes.grid(axis="x", alpha=0.3)
    for place, found in enumerate(chosen.values()):
        textbook, ours = found["sides"]["textbook"], found["sides"]["fastopt"]
        for offset, name, share, row in (
            (-0.19, "textbook", 1.0, textbook),
            (0.19, "fastopt", ours["share of textbook"], ours),
        ):
            update = share * row["update"] / row["step"]
            first = place == 0 and name == "textbook"
            axes.barh(
                place + offset, share - update, 0.34, color="#CCCCCC", label="gradient (NumPy)" if first else None
            )
            label = f"optimizer: {name}" if place == 0 else None
            axes.barh(place + offset, update, 0.34, left=share - update, color=STYLE[name][0], label=label)
            text = f"{share:.2f}" if name == "fastopt" else f"1 = {_milliseconds(row['step'])}"
            axes.text(share + 0.01, place + offset, text, va="center", fontsize=8)
    labels = [f"{name}, {batch}" if not batch else f"{name}\n{batch}" for name, _, batch in
              (case.rpartition(", ") for case in chosen)]  # fmt: skip
    axes.set_yticks(range(len(chosen)), labels, fontsize=8)
    axes.invert_yaxis()
    axes.set(title="A training step with Adam, float32", xlabel="time relative to the textbook's step", xlim=(0, 1.15))
    axes.legend(ncols=3, loc="upper center", bbox_to_anchor=(0.5, -0.11), frameon=False, fontsize=9)
    return figure


def _milliseconds(seconds: float) -> str:
    return f"{seconds * 1e3:.3g} ms"
