"""The benches as a table and as pictures, and the README's figures: `python -m bench.report [--json FILE] [--readme]`.

Without `--json` it runs `pytest --benchmark-only` first. With `--readme` it also writes `bench/results.json`, the
medians behind the README's table, draws the pictures into `bench/plots/` and fills the tables between the README's
markers, that of training steps from what `python -m bench.states --save` wrote last. Rows in which fastopt loses stay.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).parent.parent
RESULTS = Path(__file__).with_name("results.json")
PLOTS = Path(__file__).with_name("plots")
BEGIN, END = "<!-- figures: begin, written by python -m bench.report --readme -->", "<!-- figures: end -->"

ORDER = (
    *("fastopt", "flat", "fastopt serial", "limit", "in place", "textbook"),
    *("torch fused", "torch foreach", "torch", "optax", "numexpr", "scikit-learn", "thinc", "keras"),
)

Results = dict[str, Any]
"""`machine`, and `groups`: {group: {implementation: {min, median in seconds, and what else was noted}}}."""


def condensed(raw: dict[str, Any]) -> Results:
    """What is kept of pytest-benchmark's JSON."""
    groups: dict[str, dict[str, Any]] = {}
    for entry in raw["benchmarks"]:
        parameters = entry["params"] or {}
        name = str(parameters.get("implementation", parameters.get("count", entry["name"].removeprefix("test_"))))
        noted = {key: value for key, value in entry["extra_info"].items() if key not in ("CPU", "versions")}
        found = {"min": entry["stats"]["min"], "median": entry["stats"]["median"], **noted}
        kept = {key: float(f"{value:.4g}") if isinstance(value, float) else value for key, value in found.items()}
        groups.setdefault(entry["group"], {})[name] = kept
    return {"machine": raw["machine_info"]["fastopt"], "date": raw["datetime"][:10], "groups": groups}


def duration(seconds: float) -> str:
    """Three digits and a unit."""
    factor, unit = (1, "s") if seconds >= 1 else (1e3, "ms") if seconds >= 1e-3 else (1e6, "µs")
    value = seconds * factor
    return f"{value:.0f} {unit}" if value >= 100 else f"{value:.3g} {unit}"


def machine(results: Results) -> str:
    """One line on what the figures are from."""
    m = results["machine"]
    return (
        f"{m['cpus']} CPUs ({m['cpu']}), Python {m['python']}, NumPy {m['numpy']} with {m['blas']}, numba {m['numba']} "
        f"on {m['layer'] or 'one thread'}, {results['date']}"
    )


def show(results: Results, console: Console) -> None:
    """Prints every group: median, minimum, and how many times as long as fastopt each takes."""
    console.print(machine(results), highlight=False)
    for group, rows in results["groups"].items():
        table = Table(title=group, box=box.SIMPLE_HEAD, title_justify="left", pad_edge=False)
        for heading in ("", "median", "minimum", "times fastopt's", "GB/s", "of limit", "others"):
            table.add_column(heading, justify="left" if not heading else "right")
        ours = rows.get("fastopt")
        for name in sorted(rows, key=lambda n: ORDER.index(n) if n in ORDER else 99):
            row = rows[name]
            times = f"{row['median'] / ours['median']:.2f}" if ours and not group.startswith("loop") else ""
            if "share of textbook" in row:
                times = f"{row['share of textbook']:.2f} of textbook's"
            table.add_row(
                name,
                duration(row.get("step", row["median"])),
                duration(row["min"] / row.get("steps per round", 1)),
                times,
                f"{row['GB/s']:.1f}" if "GB/s" in row else "",
                f"{row['share of limit']:.0%}" if "share of limit" in row else "",
                f"{row['CPUs busy with others']:.2f}",
            )
        console.print(table)


# -- the README -------------------------------------------------------------------------------------------------------

STEPS = (
    ("one array of 30 million", "step adam float32 3e7"),
    ("one array of 1 million", "step adam float32 1e6"),
    ("one array of 100,000", "step adam float32 1e5"),
    ("one array of 1,000", "step adam float32 1e3"),
    ("dict, 784-40-20-10", "dict 784-40-20-10"),
    ("dict, 784-100-100-100-100-10", "dict 784-100x4-10"),
    ("dict, 784-1024-1024-10", "dict 784-1024-1024-10"),
    ("dict, embedding of 50,000 x 64", "dict embedding"),
    ("dict, 200 arrays of 500", "dict 200 arrays of 500"),
)

COLUMNS = ("textbook", "in place", "torch fused", "optax", "scikit-learn", "fastopt")


def readme(results: Results, states: Results) -> str:
    """The Markdown between the README's markers: from the benches, and from `python -m bench.states --save`."""
    groups = results["groups"]
    lines = [
        f"Adam, float32; medians on {machine(results)}.",
        "Textbook: the class as *Deep Learning from Scratch* has it. Every case was checked against the exact",
        "`fastopt.reference` before it was timed. Gain: how many times faster than the best of all others, those not",
        "shown included.",
        *([results["note"]] if "note" in results else []),
        "",
        "| one step | textbook | in place | PyTorch fused | optax, jit | scikit-learn | fastopt | gain |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for label, group in STEPS:
        rows = groups[group]
        cells = [duration(rows[name]["median"]) if name in rows else "-" for name in COLUMNS]
        others = [
            row["median"] for name, row in rows.items() if name not in ("fastopt", "flat", "fastopt serial", "limit")
        ]
        factor = min(others) / rows["fastopt"]["median"]
        lines.append(f"| {label} | {' | '.join(cells)} | {_factor(factor)} |")
    lines += ["", *_training(states), "", *_losses(groups), "", *pictures()]
    return "\n".join(lines)


def _training(states: Results) -> Iterable[str]:
    """The table of training steps, a row for each state of the machine in which a case was seen."""
    yield "Many machines change their speed within seconds, and so does what a store costs to parameters that BLAS's"
    yield "threads have read. So a case is shown in each state in which it was seen, told apart by its gradients."
    yield "The textbook's class and fastopt took turns (`python -m bench.states`; on"
    yield f"{machine(states)}). Share: of the textbook's whole step."
    yield ""
    yield "| gradient and update, state | gradient | textbook | fastopt | share | update: textbook | fastopt |"
    yield "| --- | ---: | ---: | ---: | ---: | ---: | ---: |"
    for case, found in states["cases"].items():
        for state, values in found.items():
            textbook, ours = values["sides"]["textbook"], values["sides"]["fastopt"]
            label = case if state == "one state" else f"{case}: {state}"
            seconds = values["gradient"], textbook["step"], ours["step"], textbook["update"], ours["update"]
            gradient, step, our_step, update, our_update = map(duration, seconds)
            share = _share(ours["share of textbook"])
            yield f"| {label} | {gradient} | {step} | {our_step} | {share} | {update} | {our_update} |"


def _factor(factor: float) -> str:
    return f"{factor:.1f}" if factor >= 1 else f"**{factor:.2f}**"


def _share(share: float) -> str:
    """Of the textbook's step, in turns with which it was timed."""
    return f"{share:.2f}" if share <= 1 else f"**{share:.2f}**"


def _losses(groups: dict[str, Any]) -> Iterable[str]:
    """Every case in which something that is not fastopt's was faster."""
    found = []
    for group, rows in groups.items():
        ours = rows.get("fastopt")
        if ours and ours.get("share of textbook", 0) > 1:
            found.append(f'textbook in "{group}" ({_share(ours["share of textbook"])} of its time)')
        for name, row in rows.items():
            if (
                ours
                and not group.startswith("loop")
                and name not in ("fastopt", "flat", "fastopt serial", "limit")
                and row["median"] < ours["median"]
            ):
                found.append(f'{name} in "{group}" ({duration(row["median"])} against {duration(ours["median"])})')
    if found:
        small = [row["fastopt"]["median"] for group, row in groups.items() if re.fullmatch("step .* 1e3", group)]
        least = duration(min(small))
        yield f"Where fastopt was behind: {'; '.join(found)}. On a thousand numbers and fewer a step is Python on both"
        yield f"sides, and fastopt's, which looks at all arrays before it writes, takes at least {least}."
        yield "The cases of one step run one after the other, so a change of the machine's speed between two of them"
        yield "shows too; `python -m bench.ratios` and `python -m bench.small` time all sides in turns."
    else:
        yield "fastopt was behind in no case of this run."


def pictures() -> list[str]:
    """Links to the pictures, with what they show."""
    return [
        f"![{text}](bench/plots/{name}.png)\n"
        for name, text in (
            ("speedup", "Speed-up over the textbook's class, by rule and size"),
            ("rules", "Speed-up and share of the memory's speed, all rules"),
            ("size", "Time of an Adam step against the size of the model"),
            ("loop", "Time of a training step, gradient and optimizer"),
        )
    ]


def fill(text: str, figures: str) -> str:
    """The README with new figures between its markers."""
    pattern = re.compile(f"{re.escape(BEGIN)}.*?{re.escape(END)}", re.S)
    if not pattern.search(text):
        raise SystemExit(f"README.md has no lines {BEGIN} and {END}")
    return pattern.sub(lambda _: f"{BEGIN}\n\n{figures}\n{END}", text)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m bench.report", description="Shows the benches, or writes the README's figures."
    )
    parser.add_argument(
        "--json", type=Path, metavar="FILE", help="of pytest --benchmark-json; without it the benches are run"
    )
    parser.add_argument(
        "--readme", action="store_true", help="write bench/results.json, the pictures and the README's table"
    )
    parser.add_argument(
        "--plots", type=Path, metavar="DIR", default=Path("results/plots"), help="where the pictures go"
    )
    options = parser.parse_args(arguments)
    if options.json is None:
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "benches.json"
            command = [sys.executable, "-m", "pytest", "--benchmark-only", f"--benchmark-json={file}", "-q", "bench"]
            subprocess.run([*command, "--benchmark-columns=min,median"], cwd=ROOT, check=True)
            raw = json.loads(file.read_text())
    else:
        raw = json.loads(options.json.read_text())
    results = condensed(raw)
    console = Console()
    show(results, console)
    from bench import plots, states

    folder = PLOTS if options.readme else options.plots
    for path in plots.draw(results, folder):
        console.print(f"picture: {path}", highlight=False, soft_wrap=True)
    if options.readme:
        RESULTS.write_text(json.dumps(results, indent=1) + "\n")
        path = ROOT / "README.md"
        path.write_text(
            fill(path.read_text(encoding="utf-8"), readme(results, json.loads(states.FILE.read_text()))),
            encoding="utf-8",
        )
        console.print(f"written: {RESULTS}, {path}", highlight=False, soft_wrap=True)


if __name__ == "__main__":
    main()
