"""The pictures of a report. Colours are Okabe and Ito's, which the colour-blind tell apart; markers differ too."""

from __future__ import annotations

from pathlib import Path
from typing import Any

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

SIZES = {"1e3": "1 thousand", "1e5": "100 thousand", "1e6": "1 million", "3e7": "30 million"}


def draw(results: dict[str, Any], folder: Path) -> list[Path]:
    """Draws every picture for which there are results."""
    folder.mkdir(parents=True, exist_ok=True)
    groups, paths = results["groups"], []
    for name, function in (
        ("speedup", speedup),
        ("size", size),
        ("limit", limit),
        ("rules", rules),
        ("loop", loop),
        ("threads", threads),
    ):
        figure = function(groups)
        if figure is not None:
            paths.append(folder / f"{name}.png")
            figure.savefig(paths[-1], dpi=110)
    return paths


def _figure(width: float = 9, height: float = 4) -> tuple[Figure, Axes]:
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
            axes.bar_label(bars, fmt=digits, fontsize=7, padding=1)
    axes.set_xticks(range(len(rules)), rules)
    if found:
        axes.legend(title="elements", ncols=4, loc="upper center", bbox_to_anchor=(0.5, -0.1), frameon=False)
    return found


def speedup(groups: dict[str, Any]) -> Figure | None:
    """How many times faster than the textbook's class, by rule and size."""
    figure, axes = _figure(height=4.4)
    found = _bars(axes, groups, lambda rows: rows["textbook"]["median"] / rows["fastopt"]["median"], "%.1f")
    axes.axhline(1, color="black", lw=0.8)
    axes.set(title="One step on one float32 array", ylabel="times faster than the textbook's class")
    return figure if found else None


def limit(groups: dict[str, Any]) -> Figure | None:
    """Share of the same-traffic kernel's speed, by rule and size."""
    figure, axes = _figure(height=4.4)
    found = _bars(axes, groups, lambda rows: rows["fastopt"]["share of limit"], "%.2f")
    axes.axhline(1, color="black", lw=0.8)
    axes.set(title="One step on one float32 array", ylabel="speed, share of the same-traffic kernel's", ylim=(0, None))
    return figure if found else None


def rules(groups: dict[str, Any]) -> Figure | None:
    """How many times faster than NumPy every rule is, and how near to the same traffic without arithmetic."""
    timed = [rule for rule in RULES if "limit" in groups.get(f"step {rule} float32 3e7", ())]
    if not timed:
        return None
    figure = Figure(figsize=(9, 1.4 + 0.23 * len(timed)), layout="constrained")
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
    left.set_xscale("log")
    left.set_xticks([0.2, 0.5, 1, 2, 5, 10, 20, 50], ["0.2", "0.5", "1", "2", "5", "10", "20", "50"])
    left.set_yticks(range(len(timed)), [OPTIMIZERS[rule].__name__ for rule in timed], fontsize=8)
    left.invert_yaxis()
    left.set(xlim=(0.2, 60), xlabel="times faster than the textbook's class", title="One step on one float32 array")
    right.set(xlabel="speed at 30 million, share of the same traffic's", title="Beside memory alone")
    for axes in (left, right):
        axes.axvline(1, color="black", lw=0.8)
        axes.grid(axis="x", alpha=0.3)
        axes.set_axisbelow(True)
    figure.legend(title="elements, at the left", ncols=4, loc="outside lower left", frameon=False, fontsize=8)
    return figure


def size(groups: dict[str, Any]) -> Figure | None:
    """Time of an Adam step against the size of the model, log-log."""
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
    axes.set(title="Adam, float32, one array", xlabel="elements", ylabel="time of a step, s")
    axes.grid(alpha=0.3, which="major")
    axes.legend(frameon=False)
    return figure


def loop(groups: dict[str, Any]) -> Figure | None:
    """Time of a training step in parts, relative to the textbook's."""
    names = ("textbook", "in place", "fastopt")
    chosen = {
        g: r for g, r in groups.items() if g.startswith("loop") and g.endswith("default") and set(names) <= set(r)
    }
    if not chosen:
        return None
    figure, axes = _figure(height=4.8)
    for number, name in enumerate(names):
        for place, rows in enumerate(chosen.values()):
            # Each was timed in turns with the textbook: its share of that, in the parts it was seen to have.
            row = rows[name]
            scale = row["share of textbook"] / (row["gradient"] + row["update"])
            gradient, update = row["gradient"] * scale, row["update"] * scale
            x = place + (number - 1) * 0.27
            labels = {"gradient": "gradient (NumPy)", "update": f"optimizer: {name}"} if place == 0 else {}
            axes.bar(x, gradient, 0.25, color="#CCCCCC", label=labels.get("gradient") if number == 0 else None)
            axes.bar(x, update, 0.25, bottom=gradient, color=STYLE[name][0], label=labels.get("update"))
            axes.text(x, gradient + update + 0.01, f"{gradient + update:.2f}", ha="center", fontsize=8)
    labels = [group.removeprefix("loop ").removesuffix(", BLAS default").replace(", ", "\n") for group in chosen]
    axes.set_xticks(range(len(chosen)), labels, fontsize=8)
    axes.set(
        title="A training step, Adam, BLAS at its defaults", ylabel="time, share of the textbook's step", ylim=(0, 1.15)
    )
    axes.legend(ncols=4, loc="upper center", bbox_to_anchor=(0.5, -0.14), frameon=False)
    return figure


def threads(groups: dict[str, Any]) -> Figure | None:
    """Speed over the number of threads."""
    chosen = {group: rows for group, rows in groups.items() if group.startswith("threads")}
    if not chosen:
        return None
    figure, axes = _figure(6, 4)
    for (group, rows), marker in zip(chosen.items(), "os", strict=False):
        counts = sorted(int(count) for count in rows)
        speeds = [rows[str(counts[0])]["median"] / rows[str(count)]["median"] for count in counts]
        label = SIZES.get(group.rsplit(" ", 1)[1], "") + " elements"
        axes.plot(counts, speeds, marker=marker, label=label, color={"o": "#0072B2", "s": "#E69F00"}[marker])
        axes.set_xticks(counts)
    axes.plot(axes.get_xticks(), axes.get_xticks(), color="black", ls=":", lw=1, label="ideal")
    axes.set(title="Adam, float32", xlabel="threads", ylabel="times faster than one thread", ylim=(0, None))
    axes.legend(frameon=False)
    return figure
