"""The benches as a table and as pictures, and the README's figures: `python -m bench.report [options]`.

Without `--json` it runs `pytest --benchmark-only` first. With `--readme` it also writes `bench/results.json`, the
medians behind the figures, draws the pictures into `docs/source/explanation/benchmarks/`, and fills the space between
the markers of the README and of the site's pages "Benchmarks", "Will it help me?" and "State in 16 or 8 bits": training
steps from what `python -m bench.states --save` wrote last, what settings cost from `python -m bench.ratios --save`,
compact state from `python -m bench.storage ... --save`, all else from these results. With `--kept` it runs nothing and
takes `bench/results.json`, where rows from the files of `--json` replace older ones. Lost cases stay.
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

from bench import ratio_tables, storage_tables
from fastopt.optimizers import OPTIMIZERS

ROOT = Path(__file__).parent.parent
RESULTS = Path(__file__).with_name("results.json")
README = ROOT / "README.md"
PAGE = ROOT / "docs" / "source" / "explanation" / "benchmarks.md"
PLOTS = PAGE.with_suffix("")
HELP = ROOT / "docs" / "source" / "getting_started" / "will_it_help.md"
STORAGE = PAGE.with_name("low_precision_state.md")
FIGURES, SPEED, SIZES, TRAINING = "figures", "speed", "sizes", "training"
"""The names of what is written between two lines."""

ORDER = (
    *("fastopt", "flat", "fastopt serial", "limit", "in place", "textbook"),
    *("torch fused", "torch foreach", "torch", "optax", "numexpr", "scikit-learn", "thinc", "keras"),
)

Results = dict[str, Any]
"""`machine`, and `groups`: {group: {implementation: {min, median in seconds, and what else was noted}}}."""


def condensed(raw: dict[str, Any]) -> Results:
    """The part of pytest-benchmark's JSON that is kept."""
    groups: dict[str, dict[str, Any]] = {}
    for entry in raw["benchmarks"]:
        parameters = entry["params"] or {}
        name = str(parameters.get("implementation", parameters.get("count", entry["name"].removeprefix("test_"))))
        noted = {key: value for key, value in entry["extra_info"].items() if key not in ("CPU", "versions")}
        found = {"min": entry["stats"]["min"], "median": entry["stats"]["median"], **noted}
        kept = {key: float(f"{value:.4g}") if isinstance(value, float) else value for key, value in found.items()}
        groups.setdefault(entry["group"], {})[name] = kept
    return {"machine": raw["machine_info"]["fastopt"], "date": raw["datetime"][:10], "groups": groups}


def renew(results: Results, newer: list[Results]) -> None:
    """Replaces rows of results by newer ones of the same names."""
    for group, rows in (item for part in newer for item in part["groups"].items()):
        results["groups"].setdefault(group, {}).update(rows)


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


# -- the README and the page on benchmarks -----------------------------------------------------------------------------

SHOWN = (
    "adam float32 784-40-20-10, batch 100",
    "adam float32 784-100x4-10, batch 128",
    "momentum float32 784-100x4-10, batch 128",
    "sgd float32 784-100x4-10, batch 128",
    "adam float32 784-1024-1024-10, batch 128",
    "adam float32 1024-4096-4096-10, batch 32",
    "adam float32 LSTM, 10,000 words, width 100",
    "adam float32 convolution, 30 of 5x5, batch 100",
)
"""The README's training steps."""

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


def readme(results: Results, states: Results, storage: Results) -> str:
    """The README's figures: training steps, where fastopt was behind, a picture, compact state."""
    lines = [
        "Training steps of plain-NumPy networks, gradient included, float32; the textbook's class and fastopt in turns",
        f"(`python -m bench.states`; {machine(states)}).",
        "**Step** is the time of the whole step relative to the textbook's.",
        "",
        *_training(states, SHOWN),
        "",
        _behind(results),
        "",
        "![Time of a training step, gradient and optimizer](docs/source/explanation/benchmarks/training.svg)",
        "",
        *storage_tables.in_readme(storage, machine, duration),
    ]
    return "\n".join(lines)


def by_kind(states: Results) -> str:
    """The gain of fastopt by kind of model, for the page "Will it help me?": Adam, each in its first state."""
    lines = [
        "The whole step, gradient included, relative to the same step with the textbook's class, in the faster state "
        f"of the machine (float32; `python -m bench.states`; {machine(states)}).",
        "",
        "| model | Adam's share of a textbook step | step with fastopt |",
        "| --- | ---: | ---: |",
    ]
    simple = []
    for case, found in states["cases"].items():
        rule, dtype, model = case.split(" ", 2)
        sides = next(iter(found.values()))["sides"]
        share = _share_text(sides["fastopt"]["share of textbook"])
        if dtype == "float32" and rule == "adam":
            name = f"dense, {model}" if model[0].isdecimal() else model
            part = sides["textbook"]["update"] / sides["textbook"]["step"]
            lines.append(f"| {name} | {100 * part:.0f} % | {share} |")
        elif dtype == "float32" and model.startswith("784-100x4-10"):
            simple.append(f"{share} with {OPTIMIZERS[rule].__name__}")
    if simple:
        others = ", ".join(simple[:-1]) + f" and {simple[-1]}" if simple[1:] else simple[0]
        lines += ["", "Simpler rules leave less to gain: of the textbook's time, a step of the 784-100x4-10 net takes"]
        lines += [f"{others}."]
    return "\n".join(lines)


def page(results: Results, states: Results, ratios: Results) -> str:
    """All figures, for the page on benchmarks."""
    lines = [
        "## Training steps",
        "",
        "Many machines change their speed within seconds, and so does what a store costs to parameters that BLAS's "
        "threads have just read. So a case is shown in each state in which it was seen, told apart by its gradients. "
        "The textbook's class and fastopt took turns. **Step** is the time of the whole step relative to the "
        "textbook's.",
        "",
        f"`python -m bench.states`, {machine(states)}.",
        "",
        *_training(states, None),
        "",
        _picture("training", "A training step with Adam in parts: fastopt shrinks the coloured part, not the grey one"),
        "",
        "## One step",
        "",
        f"Adam, float32; medians, {machine(results)}. Every case was checked against the exact `fastopt.reference` "
        "before it was timed. **Gain**: speed-up over the fastest competitor, including ones not shown.",
        "",
        *_steps(results["groups"]),
        "",
        _picture("speedup", "Rules of many operations gain most: for NumPy each operation is a pass over memory"),
        "",
        _picture("size", "Adam: Python overhead below 1,000 elements, memory traffic from a million on"),
        "",
        _picture(
            "rules",
            "Large steps of most rules run at the speed of memory; those with norms or sums of whole arrays (LAMB, "
            "LARS, MARS, NovoGrad, StableAdamW, and those without a learning rate) read them twice",
        ),
        "",
        "## Where fastopt was behind",
        "",
        *_losses(results["groups"]),
        "",
        "The cases of one step run one after the other, so a change of the machine's speed between two of them shows "
        "too; `python -m bench.ratios` and `python -m bench.small` time all sides in turns.",
        "",
        *ratio_tables.tables(ratios["parts"], results["groups"]["start"], machine),
    ]
    return "\n".join(lines)


def _picture(name: str, text: str) -> str:
    return f"```{{figure}} benchmarks/{name}.svg\n:alt: {text}\n\n{text}.\n```"


def _steps(groups: dict[str, Any]) -> Iterable[str]:
    """The table of one step."""
    yield "| one step | textbook | in place | PyTorch fused | optax, jit | scikit-learn | fastopt | gain |"
    yield "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |"
    for label, group in STEPS:
        rows = groups[group]
        cells = [duration(rows[name]["median"]) if name in rows else "-" for name in COLUMNS]
        factor = min(row["median"] for row in _other_libraries(rows).values()) / rows["fastopt"]["median"]
        yield f"| {label} | {' | '.join(cells)} | {_factor(factor)} |"


def _other_libraries(rows: dict[str, Any]) -> dict[str, Any]:
    """The competitors in a group."""
    return {name: row for name, row in rows.items() if name not in ("fastopt", "flat", "fastopt serial", "limit")}


def _training(states: Results, shown: tuple[str, ...] | None) -> Iterable[str]:
    """The table of training steps, a row for each state of the machine in which a case was seen."""
    yield "| model, optimizer, state of the machine | gradient | update: textbook | fastopt | step |"
    yield "| --- | ---: | ---: | ---: | ---: |"
    for case, found in states["cases"].items():
        if shown is not None and case not in shown:
            continue
        for state, values in found.items():
            textbook, ours = values["sides"]["textbook"], values["sides"]["fastopt"]
            label = case_name(case) if state == "one state" else f"{case_name(case)}: {state}"
            gradient, update, our_update = map(duration, (values["gradient"], textbook["update"], ours["update"]))
            yield f"| {label} | {gradient} | {update} | {our_update} | {_share_text(ours['share of textbook'])} |"


def case_name(case: str) -> str:
    """A case of `bench.states` as people read it: the model first; float32 goes without saying."""
    rule, dtype, model = case.split(" ", 2)
    kind = OPTIMIZERS[rule].__name__
    return f"{model}; {kind}" + ("" if dtype == "float32" else f", {dtype}")


def _factor(factor: float) -> str:
    return f"{factor:.1f}" if factor >= 1 else f"**{factor:.2f}**"


def _share_text(share: float) -> str:
    """Of the textbook's step, in turns with which it was timed."""
    return f"{share:.2f}" if share <= 1 else f"**{share:.2f}**"


def _slower_cases(groups: dict[str, Any]) -> list[tuple[str, str, float, float]]:
    """Competitor, case, its seconds and fastopt's, wherever something that is not fastopt's was faster."""
    found = []
    for group, rows in groups.items():
        ours = rows.get("fastopt")
        if ours and ours.get("share of textbook", 0) > 1:
            found.append(("textbook", group, ours["median"] / ours["share of textbook"], ours["median"]))
        elif ours and not group.startswith("loop"):
            faster = {name: row for name, row in _other_libraries(rows).items() if row["median"] < ours["median"]}
            found += [(name, group, row["median"], ours["median"]) for name, row in faster.items()]
    return found


def _losses(groups: dict[str, Any]) -> Iterable[str]:
    """Every case in which something that is not fastopt's was faster."""
    found = _slower_cases(groups)
    if not found:
        yield "In no case of this run."
        return
    yield "| case | faster | its time | fastopt |"
    yield "| --- | --- | ---: | ---: |"
    for name, group, theirs, ours in found:
        yield f"| {group} | {name} | {duration(theirs)} | {duration(ours)} |"
    small = [row["fastopt"]["median"] for group, row in groups.items() if re.fullmatch("step .* 1e3", group)]
    yield ""
    yield (
        "Below 1,000 elements Python overhead dominates: fastopt checks every array before it writes and takes at "
        f"least {duration(min(small))} a step."
    )


def _behind(results: dict[str, Any]) -> str:
    """One sentence on the losses, for the README."""
    groups = results["groups"]
    found = _slower_cases(groups)
    if not found:
        return "fastopt was behind in no case of the benches."
    most = max(ours / theirs for _, _, theirs, ours in found)
    by_name: dict[str, list[str]] = {}
    for name, group, _, _ in found:
        by_name.setdefault("the textbook's class" if name == "textbook" else name, []).append(f'"{group}"')
    listed = "; ".join(f"{name} in {', '.join(cases)}" for name, cases in by_name.items())
    return (
        f"Where fastopt was behind in the last full run ({results['date']}, {len(groups)} cases), by a factor of "
        f"{most:.1f} at most: {listed}. [All figures](https://fastopt.github.io/fastopt/explanation/benchmarks.html)."
    )


def fill(text: str, name: str, figures: str) -> str:
    """A file's text with new figures between the lines of that name."""
    begin, end = f"<!-- {name}: begin, written by python -m bench.report --readme -->", f"<!-- {name}: end -->"
    pattern = re.compile(f"{re.escape(begin)}.*?{re.escape(end)}", re.S)
    if not pattern.search(text):
        raise SystemExit(f"found no lines {begin} and {end} to write between")
    return pattern.sub(lambda _: f"{begin}\n\n{figures}\n\n{end}", text)


def filled(results: Results, states: Results, ratios: Results, storage: Results) -> dict[Path, str]:
    """The README and the pages of the site, with their figures."""
    figures = (
        (README, FIGURES, readme(results, states, storage)),
        (PAGE, FIGURES, page(results, states, ratios)),
        (HELP, FIGURES, by_kind(states)),
        (STORAGE, SPEED, "\n".join(storage_tables.speed(storage, machine))),
        (STORAGE, SIZES, "\n".join(storage_tables.sizes(storage, machine))),
        (STORAGE, TRAINING, "\n".join(storage_tables.training(storage))),
    )
    texts = {path: path.read_text(encoding="utf-8") for path, _, _ in figures}
    for path, name, text in figures:
        texts[path] = fill(texts[path], name, text)
    return texts


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m bench.report", description="Shows the benches, or writes the README's figures."
    )
    parser.add_argument(
        "--json", type=Path, nargs="+", metavar="FILE", help="of pytest --benchmark-json, or several of parts"
    )
    parser.add_argument(
        "--readme",
        action="store_true",
        help="write bench/results.json, the pictures, and the figures of the README and of the site",
    )
    parser.add_argument(
        "--plots", type=Path, metavar="DIR", default=Path("results/plots"), help="where the pictures go"
    )
    parser.add_argument("--kept", action="store_true", help="run nothing; take bench/results.json")
    options = parser.parse_args(arguments)
    if options.kept:
        results = json.loads(RESULTS.read_text())
        renew(results, [condensed(json.loads(file.read_text())) for file in options.json or ()])
    elif options.json is None:
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "benches.json"
            command = [sys.executable, "-m", "pytest", "--benchmark-only", f"--benchmark-json={file}", "-q", "bench"]
            subprocess.run([*command, "--benchmark-columns=min,median"], cwd=ROOT, check=True)
            results = condensed(json.loads(file.read_text()))
    else:
        parts = [json.loads(file.read_text()) for file in options.json]
        results = condensed(parts[0] | {"benchmarks": [entry for part in parts for entry in part["benchmarks"]]})
    console = Console()
    show(results, console)
    from bench import plots, ratios, states, storage

    kept = {module: json.loads(module.FILE.read_text()) for module in (states, ratios, storage)}
    folder = PLOTS if options.readme else options.plots
    for path in plots.draw(results, kept[states], kept[storage], folder):
        console.print(f"picture: {path}", highlight=False, soft_wrap=True)
    if options.readme:
        RESULTS.write_text(json.dumps(results, indent=1) + "\n")
        texts = filled(results, *kept.values())
        for path, text in texts.items():
            path.write_text(text, encoding="utf-8")
        console.print(f"written: {RESULTS}, {', '.join(map(str, texts))}", highlight=False, soft_wrap=True)


if __name__ == "__main__":
    main()
