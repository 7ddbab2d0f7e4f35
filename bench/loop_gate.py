"""Bounds that training loops must reach, in a quarter of an hour: `python -m bench.loop_gate --beside CHECKOUT`.

Each row is a case of `python -m bench.states`: the textbook's class, fastopt and another checkout of fastopt in turns,
by state of the machine. Behind each median and smallest share stands what it must be, with `ok` or `MISSED`. The other
checkout takes part twice, and the share of the one in the other says how exact shares are. Then come
the same loops with NumPy's BLAS on one thread, where no parameter is shared, and the update alone, in turns with a
kernel of the same traffic. Nothing else may run on the machine.

A share counts as reached up to the second decimal. Of a machine that shows one state only, the bound of the fast one
counts.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from bench import beside, models, states
from bench.cases import array, checked_step
from bench.conftest import environment
from bench.selection import by_words, selected
from bench.turns import interleaved
from fastopt import machine, tuning

Bounds = dict[str, tuple[float, float]]
"""The largest share of a side's whole step, in the fast state and in the slow one."""

NEVER_SLOWER: Bounds = {"textbook": (1.0, 1.0), "beside": (1.0, 1.0)}

MUST: dict[str, Bounds] = {
    "adam float32 784-100x4-10": {"textbook": (0.61, 0.68)},
    "adam float64 784-100x4-10": {"textbook": (0.79, 0.76)},
    "momentum float32 784-100x4-10": {"textbook": (0.97, 0.80)},
    "momentum float64 784-100x4-10": {"textbook": (0.94, 0.80)},
    "adam float32 784-40-20-10": {"textbook": (0.66, 0.68)},
    "adam float32 784-1024-1024-10": {"beside": (1.0, 0.85)},
}
"""By the beginning of a case's name; where nothing else is said a step is never slower."""

ONE_THREAD: Bounds = {"beside": (1.01, 1.01)}
ALONE = 1.02
ONE_THREAD_CASES = states.CASES[:9]  # the others are of the same update, or take long


@dataclass
class Row:
    """A share that must be reached."""

    what: str
    of: str
    median: float
    smallest: float
    most: float | None
    """None for a share of a side in itself."""

    @property
    def is_reached(self) -> bool:
        return self.most is None or self.median < self.most + 0.005

    def __str__(self) -> str:
        must = "the same code"
        if self.most is not None:
            must = f"at most {self.most:.2f} {'ok' if self.is_reached else 'MISSED'}"
        return f"{self.what:58} of {self.of:8} {self.median:6.3f} (min {self.smallest:.3f}), {must}"


def bounds(name: str) -> Bounds:
    """The figures that a case must reach."""
    return NEVER_SLOWER | next((must for start, must in MUST.items() if name.startswith(start)), {})


def rows_of(name: str, summary: dict[str, Any], must: Bounds) -> Iterator[Row]:
    """The rows of a case, by state."""
    for state, found in summary.items():
        for one, side in (("fastopt", "textbook"), ("fastopt", "beside"), (states.AGAIN, "beside")):
            shares = found["sides"].get(one, {})
            if side in must and f"share of {side}" in shares:
                share = shares[f"share of {side}"], shares[f"smallest share of {side}"]
                yield Row(f"{name}: {state}", side, *share, must[side][state == "slow"] if one == "fastopt" else None)


def loops(
    cases: list[states.Case], other: ModuleType | None, seconds: float, must: Bounds | None, label: str = ""
) -> Iterator[tuple[str, dict[str, Any], list[Row]]]:
    """Name, summary and rows of each case."""
    for case in cases:
        sides = states.sides_of(case, False, other)
        states.run(case, sides, seconds)
        name, summary = case.name + label, states.summary(sides)
        rows = list(rows_of(name, summary, bounds(case.name) if must is None else must))
        states.show(summary, sides)
        yield name, summary, rows


def alone(sizes: tuple[int, ...], other: ModuleType | None) -> Iterator[Row]:
    """Adam on one large float32 array, beside the same traffic without arithmetic, and beside another checkout.

    As it comes, as a trial of other forms would take more steps than there are here.
    """
    mode = tuning.mode()
    tuning.set_tuning("off")
    for size in sizes:
        params = array(size)
        steps = [checked_step("adam", name, params) for name in ("fastopt", "limit")]
        names = ["limit"]
        if other is not None:
            theirs, optimizer = {"p": params["p"].copy()}, beside.optimizer(other, "adam")
            grads = {"p": params["p"] * np.float32(0.01)}
            steps.append(lambda theirs=theirs, grads=grads, optimizer=optimizer: optimizer.update(theirs, grads))
            names.append("beside")
        seconds = interleaved(steps, 15, 2 if size < 50_000_000 else 1)
        for number, name in enumerate(names, start=1):
            shares = seconds[0] / seconds[number]
            yield Row(f"adam float32 {size:,} alone", name, float(np.median(shares)), float(shares.min()), ALONE)
    tuning.set_tuning(mode)


@contextmanager
def blas_threads(count: int) -> Iterator[None]:
    """NumPy's BLAS on so many threads."""
    from threadpoolctl import threadpool_limits

    with threadpool_limits(count, user_api="blas"):
        yield


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.loop_gate", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("cases", nargs="*", metavar="CASE", help='words of a name, such as "adam float32"')
    parser.add_argument("--beside", metavar="CHECKOUT", help="the folder of another checkout of fastopt")
    parser.add_argument("--minutes", type=float, default=15.0, metavar="M", help="about how long it may take in all")
    parser.add_argument("--save", type=Path, metavar="FILE", help="write what was measured as JSON")
    options = parser.parse_args(arguments)
    chosen = selected(parser, options.cases, [case.name for case in states.CASES], by_words)
    cases = [case for case in states.CASES if case.name in chosen]
    single = [case for case in ONE_THREAD_CASES if case.name in chosen]
    other = beside.load(options.beside) if options.beside else None
    # Models are made and warmed up in about half as long again; 90 s are left for large arrays.
    share = max(0.0, (60 * options.minutes - (0 if options.cases else 90)) / (1.5 * len(cases) + 0.75 * len(single)))
    load, begin = machine.OthersLoad(), time.perf_counter()
    print(models.data().source)
    print(machine.describe([machine.lines()]), flush=True)
    rows: list[Row] = []
    saved: dict[str, Any] = {"machine": environment(), "date": str(date.today()), "cases": {}}

    def note(found: Iterator[tuple[str, dict[str, Any], list[Row]]]) -> None:
        for name, summary, reached in found:
            saved["cases"][name] = summary
            rows.extend(reached)
            print(*reached, sep="\n", flush=True)

    note(loops(cases, other, share, None))
    with blas_threads(1):
        note(loops(single, other, share / 2, ONE_THREAD, ", BLAS on one thread"))
    for row in () if options.cases else alone((30_000_000, 100_000_000), other):
        rows.append(row)
        print(row, flush=True)

    minutes = (time.perf_counter() - begin) / 60
    print(f"\nAll rows; {minutes:.1f} minutes, others kept {load.value():.2f} CPUs busy")
    print(*rows, sep="\n")
    bounded = [row for row in rows if row.most is not None]
    print(f"{sum(row.is_reached for row in bounded)} of {len(bounded)} reached")
    if options.save:
        saved["rows"] = [vars(row) | {"reached": row.is_reached} for row in rows]
        options.save.write_text(json.dumps(saved, indent=1) + "\n")


if __name__ == "__main__":
    main()
