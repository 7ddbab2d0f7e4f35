"""The same training twice, from the same seed: with the textbook's class in plain NumPy and with fastopt.

Both take turns, a few steps each, so that whatever else the machine does falls on both alike. A ratio is the median of
those of neighbouring turns, so it holds though the machine's speed changes between them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from fastopt import machine, reference
from fastopt.commands.console import (
    BarColumn,
    Console,
    MofNCompleteColumn,
    Progress,
    Table,
    TextColumn,
    TimeElapsedColumn,
    box,
)
from fastopt.commands.explain import find
from fastopt.experiments.textbook import has_exact_bits, textbook
from fastopt.kernels import RULES
from fastopt.kernels.pure_python import in_pure_python
from fastopt.nn import MultiLayerNet, smooth_curve
from fastopt.nn.layers import Array
from fastopt.nn.mnist import Mnist, as_arrays
from fastopt.optimizers import OPTIMIZERS

TURN = 20  # steps before the other one goes on
PROBES = 5  # of the machine's state, over the whole training

# Steps that are made again with the exact reference, untimed, where the textbook rounds differently. The reference of
# rules with norms adds up exactly, and that of a rule of one's own is pure Python, which takes longer than all else.
CHECKED, CHECKED_SLOWLY = 500, 20


@dataclass
class Run:
    """One of the two trainings."""

    name: str
    network: MultiLayerNet
    optimizer: Any
    losses: list[float] = field(default_factory=list)
    gradient_seconds: list[float] = field(default_factory=list)
    update_seconds: list[float] = field(default_factory=list)
    accuracy: float = 0.0

    def step(self, x: Array, t: Array) -> None:
        start = time.perf_counter()
        grads = self.network.gradient(x, t)
        between = time.perf_counter()
        self.optimizer.update(self.network.params, grads)
        end = time.perf_counter()
        self.losses.append(self.network.last_loss)
        self.gradient_seconds.append(between - start)
        self.update_seconds.append(end - between)

    def seconds(self) -> Array:
        """Of each step: gradient, update, both; shape (3, steps). Without the first ones, in which kernels compile."""
        gradient, update = np.array(self.gradient_seconds), np.array(self.update_seconds)
        return np.stack([gradient, update, gradient + update])[:, TURN if len(gradient) > TURN else len(gradient) > 1 :]

    def median_seconds(self) -> tuple[float, float, float]:
        """Per step: gradient, update, both."""
        gradient, update, both = np.median(self.seconds(), axis=1)
        return float(gradient), float(update), float(both)


@dataclass
class Comparison:
    """The result of `compare`."""

    textbook: Run
    compiled: Run
    parameters: int
    identical: bool
    """Whether the parameters of fastopt's network equal those of the reference bit for bit."""
    same_as_textbook: bool
    """Whether those of both networks do. The textbook may round differently: see `fastopt.experiments.textbook`."""
    checked_steps: int
    """After how many steps `identical` was looked at."""
    lines: list[machine.Lines | None]
    """Times of a store to a shared line, taken now and then."""
    others: float
    """CPUs that other processes kept busy."""

    def ratios(self) -> tuple[float, float, float]:
        """The textbook's time by fastopt's, of gradient, update and both: medians over pairs of turns."""
        seconds = [run.seconds() for run in (self.textbook, self.compiled)]
        starts = range(0, seconds[0].shape[1], TURN)
        slow, fast = (np.add.reduceat(each, starts, axis=1) for each in seconds)
        gradient, update, both = np.median(slow / fast, axis=1)
        return float(gradient), float(update), float(both)


def compare(
    data: tuple[tuple[Array, Array], tuple[Array, Array]],
    optimizer: str = "adam",
    hidden: Sequence[int] = (100, 100, 100, 100),
    batch: int = 128,
    steps: int = 2000,
    dtype: str = "float32",
    seed: int = 0,
    settings: Mapping[str, Any] = MappingProxyType({}),
    progress: Callable[[Run], None] = lambda run: None,
) -> Comparison:
    """Trains two equal networks on the same batches, and compares fastopt's with the exact reference.

    Parameters
    ----------
    data : (x_train, t_train), (x_test, t_test)
        As `load_mnist` gives them.
    optimizer : str
        A key of `fastopt.optimizers.OPTIMIZERS`, or `module:name` of one's own.
    hidden, batch, steps, dtype, seed
        Widths of the hidden ReLU layers, rows per batch, number of steps, "float32" or "float64", and the seed of the
        initial weights and of the batches.
    settings : dict
        Settings of the optimizer that are not the default.
    progress : callable
        Called with the `Run` after each of its turns.
    """
    (x_train, t_train), (x_test, t_test) = data
    x_train, x_test = x_train.astype(dtype), x_test.astype(dtype)
    runs = [
        Run(name, MultiLayerNet(784, hidden, 10, dtype=dtype, seed=seed), rule)
        for name, rule in (
            ("textbook NumPy", textbook(optimizer, **settings)),
            ("fastopt", find(optimizer)(**settings)),
        )
    ]
    batches = np.random.default_rng(seed).integers(0, len(x_train), size=(steps, batch))
    checked = _checked_steps(optimizer, dtype, steps)
    others, lines = machine.OthersLoad(), []
    for start in range(0, steps, TURN):
        if start // TURN % -(-steps // (TURN * PROBES)) == 0:
            lines.append(machine.lines())
        for run in runs:
            for rows in batches[start : start + TURN]:
                run.step(x_train[rows], t_train[rows])
            progress(run)
        if len(runs[1].losses) == checked:
            to_check = {key: value.copy() for key, value in runs[1].network.params.items()}
    load = others.value()
    for run in runs:
        run.accuracy = run.network.accuracy(x_test, t_test)
    first, second = (run.network.params for run in runs)
    same = _same_bits(first, second)
    identical = same and has_exact_bits(optimizer, dtype)
    if not identical:
        exact = MultiLayerNet(784, hidden, 10, dtype=dtype, seed=seed)
        rule = exact_reference(optimizer, settings)
        for rows in batches[:checked]:
            rule.update(exact.params, exact.gradient(x_train[rows], t_train[rows]))
        identical = _same_bits(exact.params, to_check)
    size = sum(value.size for value in first.values())
    return Comparison(runs[0], runs[1], size, identical, same, checked, lines, load)


def exact_reference(optimizer: str, settings: Mapping[str, Any]) -> Any:
    """The reference of a rule; of one's own the formula in pure Python."""
    kind = find(optimizer)
    if optimizer in OPTIMIZERS:
        return getattr(reference, kind.__name__)(**settings)
    exact = kind(**settings)
    exact.__dict__["_rule"] = in_pure_python(kind._rule)
    return exact


def _checked_steps(optimizer: str, dtype: str, steps: int) -> int:
    """The last of the steps that are compared with the reference: all, or the end of a turn."""
    if has_exact_bits(optimizer, dtype):
        return steps
    return min(steps, CHECKED if optimizer in RULES and not RULES[optimizer].is_by_array else CHECKED_SLOWLY)


def _same_bits(first: Mapping[Any, Array], second: Mapping[Any, Array]) -> bool:
    return all(first[key].tobytes() == second[key].tobytes() for key in first)


def main(
    data: Mnist,
    optimizer: str,
    hidden: Sequence[int],
    batch: int,
    steps: int,
    dtype: str,
    seed: int,
    out: Path,
    settings: Mapping[str, Any] = MappingProxyType({}),
    file_format: str = "png",
) -> Comparison:
    """`compare` with progress bars, a table of the outcome, and a picture in the folder `out`."""
    console = Console()
    sizes = "-".join(map(str, (784, *hidden, 10)))
    changed = "".join(f"{name}={value!r}, " for name, value in settings.items())
    title = f"{find(optimizer).__name__}{f'({changed[:-2]})' if changed else ''}, {sizes}, ReLU, batch {batch}, {dtype}"
    console.print(data.source, highlight=False, markup=False)
    console.print(f"{title}, {count(steps)}", highlight=False)
    columns = (
        TextColumn("{task.description:>14}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("loss {task.fields[loss]:.4f}"),
    )
    with Progress(*columns, TimeElapsedColumn(), console=console) as progress:
        tasks: dict[str, Any] = {}

        def show(run: Run) -> None:
            if run.name not in tasks:
                tasks[run.name] = progress.add_task(run.name, total=steps, loss=0.0)
            progress.update(tasks[run.name], completed=len(run.losses), loss=float(np.mean(run.losses[-TURN:])))

        result = compare(as_arrays(data), optimizer, hidden, batch, steps, dtype, seed, settings, show)
    console.print(_table(result, dtype))
    for line in _remarks(result, optimizer, dtype):
        console.print(line, highlight=False)
    path = picture(out, optimizer, file_format)
    plot(result, title, path)
    console.print(f"picture: {path}", highlight=False, markup=False, soft_wrap=True)
    return result


def picture(folder: Path, optimizer: str, file_format: str = "png") -> Path:
    """Where the picture goes."""
    return folder / f"train-{optimizer.rpartition(':')[2]}.{file_format}"


def _table(result: Comparison, dtype: str) -> Table:
    table = Table(
        title=f"{result.parameters:,} parameters; medians per step, ratios of neighbouring turns",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
    )
    runs = (result.textbook, result.compiled)
    table.add_column()
    for run in runs:
        table.add_column(run.name, justify="right")
    table.add_column()
    medians, ratios = [run.median_seconds() for run in runs], result.ratios()
    for name, slow, fast, ratio in zip(("gradient", "optimizer step", "both"), *medians, ratios, strict=True):
        comment = "the same code" if name == "gradient" else faster(ratio) if len(runs[0].losses) > 1 else ""
        table.add_row(name, f"{slow * 1e6:,.1f} µs", f"{fast * 1e6:,.1f} µs", comment)
    first = [f"{run.update_seconds[0] * 1e3:,.1f} ms" for run in runs]
    table.add_row("first step", *first, "compile or load", end_section=True)
    # All digits that the dtype has.
    losses = [str(np.dtype(dtype).type(run.losses[-1])) for run in runs]
    table.add_row("last loss", *losses, _equal(result, result.textbook.losses == result.compiled.losses))
    accuracies = [f"{run.accuracy:.4f}" for run in runs]
    table.add_row("test accuracy", *accuracies, _equal(result, accuracies[0] == accuracies[1]))
    table.add_row("all parameters", "", "", _equal(result, result.same_as_textbook, "identical bits"))
    return table


def count(steps: int) -> str:
    """`1 step`, `2 steps`."""
    return f"{steps} step{'' if steps == 1 else 's'}"


def bytes_needed(optimizer: str, hidden: Sequence[int], batch: int, steps: int, dtype: str) -> int:
    """At least what a comparison keeps in memory: two networks, gradients, state, and the rows of all batches."""
    sizes = (784, *hidden, 10)
    parameters = sum(inputs * outputs + outputs for inputs, outputs in pairwise(sizes))
    return 2 * parameters * (2 + len(find(optimizer)._rule.state)) * np.dtype(dtype).itemsize + 8 * batch * steps


def faster(ratio: float) -> str:
    """How many times faster; below 1, which share of the speed."""
    return f"{ratio:.2f} x faster" if ratio >= 1 else f"{ratio:.2f} of the speed"


def _equal(result: Comparison, same: bool, text: str = "equal") -> str:
    if same:
        return text
    return "differs by rounding" if result.identical else "[bold red]DIFFERENT[/]"


def _remarks(result: Comparison, optimizer: str, dtype: str) -> list[str]:
    """The ground of the figures: bits, and the machine."""
    lines = []
    if not result.same_as_textbook:
        if result.identical:
            lines.append(f"The textbook rounds differently, which grows in training: {_reason(optimizer, dtype)}.")
        beside = "identical bits" if result.identical else "[bold red]DIFFERENT[/]"
        exact = "fastopt.reference" if optimizer in OPTIMIZERS else "the formula in pure Python"
        lines.append(f"fastopt beside {exact}, {count(result.checked_steps)}: {beside}")
    lines.append(f"machine: {machine.describe(result.lines)}; others kept {result.others:.2f} CPUs busy")
    if result.others > machine.BUSY:
        lines.append("[bold yellow]The machine is busy with other processes: do not rely on the ratios above.[/]")
    return lines


def _reason(optimizer: str, dtype: str) -> str:
    if has_exact_bits(optimizer, dtype):
        return "its state became subnormal, which fastopt sets to zero"
    if optimizer not in RULES:
        return "a function of NumPy gives other last digits than its compiled form"
    if RULES[optimizer].is_by_array:
        return "np.linalg.norm is not exact"
    return "it computes float32 steps in float64, as its lr_t is an np.float64"


def plot(result: Comparison, title: str, path: Path) -> None:
    """Writes a picture with both loss curves and the time of a step in parts."""
    figure = Figure(figsize=(8, 4.2), layout="constrained")
    curves, bars = figure.subplots(1, 2, width_ratios=(3, 2))
    figure.suptitle(title)
    # Blue, orange and grey of Okabe and Ito's palette, told apart by the colour-blind too.
    for run, style in (
        (result.textbook, {"color": "#E69F00", "lw": 4.5, "ms": 11}),
        (result.compiled, {"color": "#0072B2", "lw": 1.3, "ms": 5}),
    ):
        marker = "o" if len(run.losses) < 20 else None
        curves.plot(range(1, len(run.losses) + 1), smooth_curve(run.losses), marker=marker, label=run.name, **style)
    curves.set(xlabel="step", ylabel="training loss (smoothed, log scale)", yscale="log")
    steps = len(result.textbook.losses)
    curves.set_xlim(1, steps) if steps > 1 else curves.set_xticks([1])
    equal = (
        "identical"
        if result.same_as_textbook
        else "equal at first, then rounded differently"
        if result.identical
        else "DIFFERENT"
    )
    curves.legend(title=f"parameters are {equal}")
    curves.grid(alpha=0.3)

    names = [result.textbook.name, result.compiled.name]
    times = np.array([run.median_seconds()[:2] for run in (result.textbook, result.compiled)])
    factor, unit = (1e3, "ms") if times.sum(axis=1).max() >= 1e-3 else (1e6, "µs")
    times *= factor
    bars.bar(names, times[:, 0], 0.6, color="#BBBBBB", label="gradient")
    bars.bar(names, times[:, 1], 0.6, bottom=times[:, 0], color=["#E69F00", "#0072B2"])
    bars.plot([], [], "s", ms=9, color="#555555", label="optimizer step (coloured)")
    for place, (gradient, update) in enumerate(times):
        text = f"gradient {gradient:.3g}\noptimizer {update:.3g}"
        bars.text(place, gradient + update + 0.02 * times.sum(axis=1).max(), text, ha="center", va="bottom", fontsize=9)
    label = "median time of a step" if steps > 1 else "time of the first step"
    bars.set(ylabel=f"{label}, {unit}", ylim=(0, 1.3 * times.sum(axis=1).max()))
    bars.legend(loc="lower center", bbox_to_anchor=(0.5, -0.32), ncols=2, frameon=False, fontsize=9)
    figure.savefig(path, dpi=150)
