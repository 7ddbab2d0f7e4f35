"""Results of `python -m bench.ratios --save`, and first steps, as Markdown for the page on benchmarks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

Parts = dict[str, Any]
"""By part of `bench.ratios`: machine, date, and cases with their sides."""

SETTINGS = {
    "on_nonfinite": '`on_nonfinite="skip"`',
    "report": "`report=True`",
    "decay": "decoupled `weight_decay`",
    "clip_norm": "`clip_norm`",
    "together": "decay, `clip_norm`, a schedule and groups",
    "centralize": "`centralize`, of matrices",
    "EMA": "`averaging=EMA(...)`",
    "SWA": "`averaging=SWA(...)`",
    "Lookahead": "`lookahead=Lookahead()`",
}
CONSTRAINTS = {
    "bounds": "`bounds` of numbers",
    "clip": "the plain step, then `np.clip`",
    "arrays": "`bounds` with an array",
    "l1": "`l1`",
    "l2_prox": "`l2_prox`",
    "mask": "`mask`",
    "cautious": "`cautious`",
    "max_norm": "`max_norm` of rows",
    "columns": "`max_norm` of columns",
    "unit_norm": "`unit_norm` of rows",
    "group_lasso": "`group_lasso` of rows",
    "simplex": "`simplex` of rows",
}
RETAKEN = {
    "accumulate 1": "`accumulate` once, then the step",
    "accumulate 4": "`accumulate` four times, then the step",
    "copy": "the step and a copy of parameters and state by NumPy",
    "trial": "the step on `trial`",
    "rejected": "the same, rejected",
}


def tables(parts: Parts, start: dict[str, Any], what: Any) -> Iterator[str]:
    """The lines of all sections whose parts are there.

    start : the group "start" of `bench/results.json`
    what : takes a part, returns one line on its machine and date
    """
    sections = {"extras": settings, "constraints": constraints, "retaken": retaken}
    sections |= {"rows": sparse_rows, "kernel": kernels, "dead": dead}
    for name, section in sections.items():
        if name in parts:
            yield from section(parts[name]["cases"])
            yield from ("", f"`python -m bench.ratios {name}`, {what(parts[name])}.", "")
    yield from first_steps(start)


def settings(cases: Parts) -> Iterator[str]:
    """How many times as long a step takes with each setting, beside the plain one."""
    yield "## What settings cost"
    yield ""
    yield "The time of a step relative to the plain step of the same arrays, float32."
    yield ""
    yield from _beside_plain("setting", SETTINGS, cases)


def constraints(cases: Parts) -> Iterator[str]:
    """The same with constraints."""
    yield "## What constraints cost"
    yield ""
    yield "The time of a step relative to the plain step of the same arrays, float32: ten of 109,810 numbers in all, or"
    yield "a matrix of 1,000,000. What acts on elements is in the step's pass, on rows or columns in one more."
    yield ""
    yield from _beside_plain("setting", CONSTRAINTS, cases)


def retaken(cases: Parts) -> Iterator[str]:
    """The same with micro-batches and steps that are taken back."""
    yield "## What micro-batches and steps on trial cost"
    yield ""
    yield "Relative to the plain step of the same arrays, float32; a trial copies what a step writes."
    yield ""
    yield from _beside_plain("", RETAKEN, cases)


def _beside_plain(heading: str, labels: dict[str, str], cases: Parts) -> Iterator[str]:
    """A table with a row for each label, a column for each rule and size."""
    found: dict[tuple[str, int], dict[str, float]] = {}
    for case, sides in cases.items():
        rule, size = case.split(", ", 1)
        column = found.setdefault((rule, int("".join(filter(str.isdigit, size)))), {})
        column.update({name: side["ratio"] for name, side in sides.items() if name not in column and name != "plain"})
    columns = sorted(found)
    yield f"| {heading} | {' | '.join(f'{rule}, {size:,}' for rule, size in columns)} |"
    yield f"| --- |{' ---: |' * len(columns)}"
    for name, label in labels.items():
        if any(name in found[column] for column in columns):
            cells = [f"{found[column][name]:.2f}" if name in found[column] else "" for column in columns]
            yield f"| {label} | {' | '.join(cells)} |"


def sparse_rows(cases: Parts) -> Iterator[str]:
    """Steps by rows beside dense ones."""
    yield "## Gradients of some rows"
    yield ""
    yield "A table of 100,000 x 100, float32: the step of the updated rows, and how many times as long others take."
    yield ""
    names = ("rows, exact", "dense", "dense, made", "SparseAdam")
    yield f"| rule, rows touched | ms | {' | '.join(names)} |"
    yield f"| --- | ---: |{' ---: |' * len(names)}"
    for case, sides in cases.items():
        cells = [f"{sides[name]['ratio']:.1f}" if name in sides else "" for name in names]
        yield f"| {case} | {sides['rows']['seconds'] * 1e3:.2f} | {' | '.join(cells)} |"


def kernels(cases: Parts) -> Iterator[str]:
    """How near the rules come to the same traffic."""
    shares = {case.split(",")[0]: 1 / sides["limit"]["ratio"] for case, sides in cases.items() if case.endswith("30 M")}
    slowest = max(shares, key=shares.__getitem__)
    yield "## Beside the same traffic"
    yield ""
    yield (
        f"On 30 million float32 elements the step of each of {len(shares)} element-wise rules takes at most "
        f"{shares[slowest]:.3f} times as long as the same traffic (`{slowest}`), both in turns."
    )
    for case, sides in cases.items():
        if "limit" in sides and not case.endswith("30 M"):
            yield f"On {case.split(', ', 1)[1]} Adam takes {1 / sides['limit']['ratio']:.2f} times as long."


def dead(cases: Parts) -> Iterator[str]:
    """The cost of dead gradients, which the flush of small state saves."""
    yield "## Once gradients die"
    yield ""
    yield "State that decays becomes subnormal. The worst 25 steps, relative to living ones; steps above 1.5 times."
    yield ""
    names = list(dict.fromkeys(name for sides in cases.values() for name in sides))
    yield f"| case | {' | '.join(names)} |"
    yield f"| --- |{' ---: |' * len(names)}"
    for case, sides in cases.items():
        cells = [f"{sides[n]['worst']:.1f}; {sides[n]['slow steps']:,}" if n in sides else "" for n in names]
        yield f"| {case} | {' | '.join(cells)} |"


def first_steps(start: dict[str, Any]) -> Iterator[str]:
    """Import and first step."""
    inside = {name: row["seconds inside"] for name, row in start.items()}
    yield "## The first step"
    yield ""
    cold, cold_parallel, warm, warm_parallel = (
        f"{inside[f'first_step[{name}]']:.2g}"
        for name in ("cold-serial", "cold-parallel", "warm-serial", "warm-parallel")
    )
    yield (
        f"`import fastopt` takes {inside['import']:.2f} s over numba's own. The first Adam step compiles its kernel in "
        f"{cold} s, on several threads in {cold_parallel} s, or loads it from the disk cache in {warm} and "
        f"{warm_parallel} s (`python -m bench.start`)."
    )
