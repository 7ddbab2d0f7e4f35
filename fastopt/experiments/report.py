"""Output of the command `fastopt experiment`."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

from fastopt.commands.console import Console, Table, box
from fastopt.experiments.experiment import Result, check_writable, experiment, files

INDEX = "index.html"

PAGE = """<!DOCTYPE html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>fastopt: experiments</title>
<style>
body {{ font-family: sans-serif; max-width: 70rem; margin: 2rem auto; padding: 0 1rem; }}
img {{ max-width: 100%; }}
td, th {{ padding: 0.15rem 0.9rem 0.15rem 0; text-align: right; font-variant-numeric: tabular-nums; }}
td:first-child, th:first-child {{ text-align: left; }}
</style>
<h1>Experiments</h1>
<p>{settings}</p>
{sections}
</html>
"""


def main(
    names: Sequence[str],
    out: Path,
    index: bool,
    settings: dict[str, Any],
    options: dict[str, bool],
    picture_format: str = "png",
) -> bool:
    """Runs experiments with progress bars, tables and files; returns whether all came to their end.

    `options` go to those experiments that have them. With `index` a page that shows all pictures is written.
    """
    console, results = Console(), []
    for path in (path for name in names for path in files(out, name, picture_format)):
        check_writable(path)
    if index:
        check_writable(out / INDEX)
    try:
        for name in names:
            run = experiment(name)
            console.print(f"[bold]{name}[/]: {run.summary}", highlight=False)
            given: dict[str, Any] = {option: value for option, value in options.items() if option in run.options}
            result = run(**settings, **given, console=console)
            result.save(out, picture_format)
            results.append(result)
            _show(result, out, console, picture_format)
            if result.stopped:
                return False
    except KeyboardInterrupt:
        if not (index and results):
            raise
        return False
    finally:
        if index and results:
            text = ", ".join(f"{name}: {value}" for name, value in settings.items() if value is not None)
            (out / INDEX).write_text(page(results, text, picture_format), encoding="utf-8")
            console.print(f"all pictures: {out / INDEX}", highlight=False, markup=False, soft_wrap=True)
    return True


def _show(result: Result, out: Path, console: Console, picture_format: str) -> None:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column, heading in enumerate(result.header):
        table.add_column(heading, justify="right" if column else "left")
    for row in result.rows:
        table.add_row(*row)
    console.print(table)
    picture, curves = files(out, result.name, picture_format)
    console.print(f"picture: {picture}, curves: {curves}", highlight=False, markup=False, soft_wrap=True)
    console.print(f"{result.finding}\n", highlight=False, markup=False)


def page(results: Sequence[Result], settings: str, picture_format: str = "png") -> str:
    """An HTML page with a section per result; the pictures lie beside it."""
    sections = []
    for result in results:
        picture, curves = (path.name for path in files(Path(), result.name, picture_format))
        cells = ["".join(f"<th>{escape(text)}</th>" for text in result.header)]
        cells += ["".join(f"<td>{escape(text)}</td>" for text in row) for row in result.rows]
        rows = "\n".join(f"<tr>{row}</tr>" for row in cells)
        sections.append(
            f'<h2 id="{result.name}">{escape(result.title)}</h2>\n<p>{escape(result.finding)}</p>\n'
            f'<p><img src="{picture}" alt="{escape(result.title)}"></p>\n'
            f'<details><summary>Figures (<a href="{curves}">{curves}</a>)</summary>\n'
            f"<table>\n{rows}\n</table>\n<p>{escape(result.data)}</p></details>"
        )
    return PAGE.format(settings=escape(settings), sections="\n".join(sections))
