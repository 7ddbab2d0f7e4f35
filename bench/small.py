"""Small steps, where Python is the cost, all sides in turns: `python -m bench.small [--beside CHECKOUT] [ROW...]`.

Each row prints the median and the smallest time of a call of every side: the textbook's class, in-place NumPy where it
does the same, fastopt, and the fastopt of another checkout. ROW is a part of a row's name; without it all are run.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np

import fastopt
from bench import beside
from bench.cases import Step, array, equal_arrays, gradients, mlp
from bench.inplace import InPlace
from bench.selection import by_part, selected
from bench.turns import interleaved
from fastopt.experiments.textbook import textbook

Arrays = dict[str, Any]
SMALL, LARGE = (784, 40, 20, 10), (784, 100, 100, 100, 100, 10)


@dataclass
class Row:
    """A row of the table: `make(optimizer)` returns a step, `settings(package)` what fastopt's optimizer is given."""

    name: str
    rule: str
    make: Callable[[Any], Step]
    settings: Callable[[ModuleType], dict[str, Any]] = lambda package: {}
    numpy: tuple[str, ...] = ("textbook", "in place")
    calls: int = 200


def on(params: Arrays) -> Callable[[Any], Step]:
    """Steps on a copy of the parameters."""

    def make(optimizer: Any) -> Step:
        updated, grads = {key: value.copy() for key, value in params.items()}, gradients(params)
        return lambda: optimizer.update(updated, grads)

    return make


def numbers(optimizer: Any) -> Step:
    """Two Python floats, as in the experiment `ravine`."""
    params = {"x": -7.0, "y": 2.0}
    return lambda: optimizer.update(params, {"x": params["x"] / 10, "y": 2 * params["y"]})


def another_array(optimizer: Any) -> Step:
    """The parameter is clipped into a new array between steps."""
    params, grads = {"x": np.zeros(4)}, {"x": np.full(4, 0.01)}

    def step() -> None:
        optimizer.update(params, grads)
        params["x"] = np.clip(params["x"], -1, 1)

    return step


def halves(params: Arrays, absent: bool = False) -> Callable[..., Step]:
    """Steps of one half of a model and of the other in turns, by one optimizer or by one for each half.

    A half is a dict of its own, or the whole dict in which gradients of the other half are None. A single optimizer
    makes its first step on the whole, as the book's classes make their state then.
    """

    def make(*optimizers: Any) -> Step:
        updated, grads, keys = {key: value.copy() for key, value in params.items()}, gradients(params), list(params)
        parts = keys[: len(keys) // 2], keys[len(keys) // 2 :]
        if absent:
            turns = [(updated, {key: grads[key] if key in part else None for key in keys}) for part in parts]
        else:
            turns = [({key: updated[key] for key in part}, {key: grads[key] for key in part}) for part in parts]
        if len(optimizers) == 1:
            optimizers[0].update(updated, grads)
        number = 0

        def step() -> None:
            nonlocal number
            number = 1 - number
            optimizers[number % len(optimizers)].update(*turns[number])

        return step

    return make


def extras(package: ModuleType) -> dict[str, Any]:
    """A step as in a transformer's training: clipping, no decay on vectors, a schedule."""
    schedule = package.schedules.Cosine(0.001, steps=1_000_000)
    return {"clip_norm": 1.0, "weight_decay": 0.01, "groups": package.NO_DECAY_ON_VECTORS, "lr": schedule}


THOUSAND = array(1_000)
ROWS = (
    Row("Adam, 1,000 in one array", "adam", on(THOUSAND)),
    Row("SGD, 1,000 in one array", "sgd", on(THOUSAND)),
    Row("Momentum, 1,000 in one array", "momentum", on(THOUSAND)),
    Row("Adam, ten arrays of 10", "adam", on(equal_arrays(10, 10))),
    Row("Adam, 784-40-20-10", "adam", on(mlp(*SMALL))),
    Row("Adam, two Python floats", "adam", numbers, numpy=("textbook",)),
    Row("AdamW, clip_norm, groups, schedule, 784-100x4-10", "adamw", on(mlp(*LARGE)), extras, (), 50),
    Row("Adam, another array at each step, 4 numbers", "adam", another_array),
    Row("Adam, 784-40-20-10, halves in turns by None", "adam", halves(mlp(*SMALL), absent=True), numpy=()),
    Row("Adam, 784-40-20-10, halves in turns by dict", "adam", halves(mlp(*SMALL)), numpy=("textbook",)),
)
# The same with an optimizer for each half, whose steps are plain ones.
PLAIN_HALVES = halves(mlp(*SMALL))


def sides(row: Row, other: ModuleType | None) -> dict[str, Step]:
    """A step of each side, by name."""
    steps = {}
    for name in row.numpy:
        steps[name] = row.make(textbook(row.rule) if name == "textbook" else InPlace(row.rule))
    if "halves" in row.name:
        steps["fastopt, two"] = PLAIN_HALVES(*(beside.optimizer(fastopt, row.rule) for _ in range(2)))
    packages = {"fastopt": fastopt} | ({"beside": other} if other else {})
    for name, package in packages.items():
        steps[name] = row.make(beside.optimizer(package, row.rule, **row.settings(package)))
    return steps


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.small", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("rows", nargs="*", metavar="ROW", help="a part of the name of a row")
    parser.add_argument("--beside", metavar="CHECKOUT", help="the folder of another checkout of fastopt")
    parser.add_argument("--turns", type=int, default=40, metavar="N", help="of each side")
    options = parser.parse_args(arguments)
    chosen = selected(parser, options.rows, [row.name for row in ROWS], by_part)
    other = beside.load(options.beside) if options.beside else None
    print("float32 but where numbers are Python's; us, median (smallest)")
    for row in ROWS:
        if row.name not in chosen:
            continue
        steps = sides(row, other)
        seconds = interleaved(list(steps.values()), options.turns, row.calls) * 1e6
        times = zip(steps, np.median(seconds, axis=1), seconds.min(axis=1), strict=True)
        print(f"{row.name:50} " + "  ".join(f"{name} {m:.2f} ({s:.2f})" for name, m, s in times), flush=True)


if __name__ == "__main__":
    main()
