"""Training steps in each state of the machine, all sides in turns: `python -m bench.states [CASE...] [options]`.

The speed of a machine changes within seconds, above all what a store costs to memory that another core has read, and
every training loop feels it. So the sides (textbook, fastopt, another checkout by --beside) train equal networks in
short turns in one process, and each round of turns is put to a state by the time of its gradients, which is the same
code on all sides. Where arrays happen to lie makes 1 to 3 % of a whole step, so models are made anew every few rounds,
in another order and elsewhere in memory. CASE is words of a case's name, such as "adam float32"; without it all are
run.

A share is the time of a whole step, gradient and update, by that of the textbook's turn beside it.
"""

from __future__ import annotations

import argparse
import gc
import json
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

import fastopt
from bench import beside, models
from bench.cases import assert_equal, make
from bench.conftest import environment
from bench.selection import by_words, selected
from fastopt import machine

FILE = Path(__file__).with_name("states.json")
ENOUGH = 20  # turns of each side in each state
WARM = 300  # steps before, at most, in which fastopt tries ways to store
FILLING = 6  # steps of new models, in which pages and caches fill
COLD = 2  # steps of a turn that do not count, as the side before has left its own data in the caches
FEWEST, MOST = 6, 40  # steps of a turn that count
ROUNDS = 3  # of turns, after which models are made anew
SPACE = 3_000_000  # bytes that are left out before a model, at most
AGAIN = "beside again"
"""The name of a second side of the other checkout: its share of the first says how exact the shares are."""

DEEP, SMALL = (784, 100, 100, 100, 100, 10), (784, 40, 20, 10)


@dataclass
class Case:
    """A rule and a dtype on a model."""

    rule: str
    dtype: str
    model: str
    make: Callable[[str], Any]

    @property
    def name(self) -> str:
        return f"{self.rule} {self.dtype} {self.model}"


def _mlp(rule: str, dtype: str, sizes: tuple[int, ...], batch: int) -> Case:
    name = "784-100x4-10" if sizes == DEEP else "-".join(map(str, sizes))
    return Case(rule, dtype, f"{name}, batch {batch}", lambda dtype: models.Mlp(sizes, batch, dtype))


CASES = (
    *(
        _mlp(rule, dtype, DEEP, 128)
        for rule in ("adam", "momentum", "sgd", "nesterov")
        for dtype in ("float32", "float64")
    ),
    _mlp("adam", "float32", SMALL, 100),
    _mlp("adam", "float32", (784, 1024, 1024, 10), 128),
    _mlp("adam", "float32", (1024, 4096, 4096, 10), 32),
    Case("adam", "float32", "autograd, 784-100-100-10, batch 128", lambda dtype: models.Autograd(128, dtype)),
    Case("adam", "float32", "LSTM, 10,000 words, width 100", lambda dtype: models.Lstm(20, dtype)),
    Case("adam", "float32", "convolution, 30 of 5x5, batch 100", lambda dtype: models.Convolution(100, dtype)),
)


class Side:
    """Models that optimizers train, one after the other, and the seconds of their steps by turn."""

    def __init__(self, case: Case, name: str, make: Callable[[], Any]) -> None:
        self.name, self._case, self._make = name, case, make
        self.turns: list[np.ndarray] = []
        self.optimizer: Any = None
        self.begin()

    def begin(self, space: int = 0) -> None:
        """A new model and optimizer, `space` bytes further on; what trials have found stays."""
        tuners = None if self.optimizer is None else vars(self.optimizer).get("_tuners")
        self.model = self.optimizer = None
        self._space = np.empty(space, np.uint8)
        self.model, self.optimizer, self.done = self._case.make(self._case.dtype), self._make(), 0
        if tuners is not None:
            vars(self.optimizer)["_tuners"] = tuners

    @property
    def is_in_trial(self) -> bool:
        """Whether the optimizer still tries ways to store."""
        tuning = getattr(self.optimizer, "tuning", None)
        return tuning is not None and tuning.reason.startswith("candidates")

    def step(self) -> tuple[float, float]:
        start = time.perf_counter()
        grads = self.model.gradient(self.done)
        between = time.perf_counter()
        self.optimizer.update(self.model.params, grads)
        end = time.perf_counter()
        self.done += 1
        return between - start, end - between

    def turn(self, steps: int, cold: int = 0) -> None:
        """So many steps, of which the first do not count."""
        self.turns.append(np.array([self.step() for _ in range(cold + steps)][cold:]))


def sides_of(case: Case, in_place: bool, other: ModuleType | None) -> list[Side]:
    """All sides, the textbook first; found equal to the reference in their first steps."""
    optimizers: dict[str, Callable[[], Any]] = {"textbook": lambda: make(case.rule, "textbook")}
    if in_place:
        optimizers["in place"] = lambda: make(case.rule, "in place")
    optimizers["fastopt"] = lambda: beside.optimizer(fastopt, case.rule)
    if other:
        optimizers["beside"] = optimizers[AGAIN] = lambda: beside.optimizer(other, case.rule)
    sides = [Side(case, *item) for item in optimizers.items()]
    exact = Side(case, "", lambda: make(case.rule, "reference"))
    for side in (exact, *sides):
        side.turn(3)
        assert_equal(case.rule, side.name, side.model.params, exact.model.params)
        side.turns.clear()
    return sides


def run(case: Case, sides: list[Side], seconds: float) -> None:
    """Takes turns until there are enough in both states, or the time is up."""
    first = np.median([sum(sides[0].step()) for _ in range(3)])
    steps, end = int(np.clip(0.06 / first, FEWEST, MOST)), time.perf_counter() + seconds
    for side in sides:
        limit = time.perf_counter() + seconds / 4
        while side.done < FILLING or (side.is_in_trial and side.done < WARM and time.perf_counter() < limit):
            side.step()
    rng = np.random.default_rng(0)
    gc.disable()
    while not sides[0].turns or time.perf_counter() < end:
        if sides[0].turns and len(sides[0].turns) % ROUNDS == 0:
            begin_anew(sides, rng)
        for number in rng.permutation(len(sides)):
            sides[number].turn(steps, COLD)
        state = states(gradients(sides))
        if state.any() and min(np.bincount(state)) >= ENOUGH:
            break
    gc.enable()


def begin_anew(sides: list[Side], rng: np.random.Generator) -> None:
    """Makes models and optimizers anew, in any order and anywhere in memory."""
    for number in rng.permutation(len(sides)):
        sides[number].begin(int(rng.integers(SPACE)))
    gc.collect()
    for side in sides:
        for _ in range(FILLING):
            side.step()


def gradients(sides: list[Side]) -> np.ndarray:
    """Seconds of a gradient in each round of turns, the mean of all sides in the logarithm."""
    return np.exp(np.mean([[np.log(np.median(turn[:, 0])) for turn in side.turns] for side in sides], axis=0))


def states(seconds: np.ndarray) -> np.ndarray:
    """The state of each round, 0 for fast and 1 for slow; all 0 where the machine shows one state only.

    Means of two clusters of the logarithms. They are two states where the means are a sixth apart, and five times as
    far as is usual within a cluster (four times in an even spread, which has no gap); a few outliers are none.
    """
    values = np.log(seconds)
    low, high = values.min(), values.max()
    state = np.zeros(len(values), int)
    for _ in range(50):
        state = (values > (low + high) / 2).astype(int)
        if not state.any() or state.all():
            return np.zeros(len(values), int)
        means = values[state == 0].mean(), values[state == 1].mean()
        if means == (low, high):
            break
        low, high = means
    spread = np.median(np.abs(values - np.where(state == 1, high, low)))
    if high - low < max(np.log(7 / 6), 5 * spread) or min(np.bincount(state)) < max(2, 0.04 * len(values)):
        return np.zeros(len(values), int)
    return state


def summary(sides: list[Side]) -> dict[str, Any]:
    """Medians and minima of each side, by state. Shares of "beside" are those of the mean of both of its sides."""
    seconds = gradients(sides)
    state = states(seconds)
    names = ("fast", "slow") if state.any() else ("one state",)
    found = {}
    for number, name in enumerate(names):
        rounds = np.flatnonzero(state == number)
        rows = {}
        steps = {side.name: np.array([np.median(side.turns[r].sum(axis=1)) for r in rounds]) for side in sides}
        for side in sides:
            updates = np.concatenate([side.turns[r][:, 1] for r in rounds])
            row = {
                "gradient": float(np.median(np.concatenate([side.turns[r][:, 0] for r in rounds]))),
                "update": float(np.median(updates)),
                "smallest update": float(updates.min()),
                "step": float(np.median(steps[side.name])),
            }
            for other in ("textbook", "beside"):
                if other in steps and side.name not in ("textbook", other):
                    both = [steps[other]] if side.name == AGAIN else [steps[name] for name in steps if other in name]
                    shares = steps[side.name] / np.exp(np.mean(np.log(both), axis=0))
                    row[f"share of {other}"] = float(np.median(shares))
                    row[f"smallest share of {other}"] = float(shares.min())
            rows[side.name] = {key: float(f"{value:.4g}") for key, value in row.items()}
        found[name] = {"turns": len(rounds), "gradient": float(f"{np.median(seconds[rounds]):.4g}"), "sides": rows}
    return found


def show(found: dict[str, Any], sides: list[Side]) -> None:
    for state, values in found.items():
        print(f"  {state}: gradient {values['gradient'] * 1e6:,.0f} us, {values['turns']} turns a side")
        for name, row in values["sides"].items():
            text = (
                f"    {name:10} update {row['update'] * 1e6:9,.1f} us (smallest {row['smallest update'] * 1e6:,.1f}), "
            )
            text += f"gradient {row['gradient'] * 1e6:,.0f}, step {row['step'] * 1e6:,.0f}"
            for other in ("textbook", "beside"):
                if f"share of {other}" in row:
                    text += f"; {row[f'share of {other}']:.3f} of {other} ({row[f'smallest share of {other}']:.3f})"
            print(text, flush=True)
    for side in sides:
        tuning = getattr(side.optimizer, "tuning", None)
        if tuning is not None:
            print(f"    {side.name}: {tuning}")


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.states", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("cases", nargs="*", metavar="CASE", help='words of a name, such as "adam float32"')
    parser.add_argument("--beside", metavar="CHECKOUT", help="the folder of another checkout of fastopt")
    parser.add_argument("--in-place", action="store_true", help="in-place NumPy too")
    parser.add_argument("--blas-threads", type=int, metavar="N", help="of NumPy's BLAS; default: as it comes")
    parser.add_argument("--seconds", type=float, default=60, metavar="S", help="at most, for each case")
    parser.add_argument("--save", type=Path, nargs="?", const=FILE, metavar="FILE", help=f"write JSON; default {FILE}")
    options = parser.parse_args(arguments)
    chosen = selected(parser, options.cases, [case.name for case in CASES], by_words)
    other = beside.load(options.beside) if options.beside else None
    limits: Any = nullcontext()
    if options.blas_threads:
        from threadpoolctl import threadpool_limits

        limits = threadpool_limits(options.blas_threads, user_api="blas")
    result: dict[str, Any] = {"machine": environment(), "date": str(date.today()), "BLAS threads": options.blas_threads}
    result["cases"] = {}
    with limits:
        print(models.data().source)
        print(f"{machine.describe([machine.lines()])}; BLAS threads: {options.blas_threads or 'as they come'}")
        for case in CASES:
            if case.name not in chosen:
                continue
            load, sides = machine.OthersLoad(), sides_of(case, options.in_place, other)
            print(case.name, flush=True)
            run(case, sides, options.seconds)
            result["cases"][case.name] = summary(sides)
            show(result["cases"][case.name], sides)
            print(f"    {machine.describe([machine.lines()])}; others kept {load.value():.2f} CPUs busy", flush=True)
    if options.save:
        options.save.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
