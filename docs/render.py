"""Writes the pages of this folder from the docstrings of the optimizers: `python -m docs.render`."""

from __future__ import annotations

import inspect
import math
import re
import sys
from itertools import groupby
from pathlib import Path
from types import ModuleType

from fastopt.commands import docstrings
from fastopt.commands.docstrings import one_line
from fastopt.optimizer import Optimizer
from fastopt.optimizers import OPTIMIZERS

HERE = Path(__file__).parent
WRITTEN = "<!-- Written by `python -m docs.render` from the docstrings; edit those. -->"
OTHERS = "Differences are to PyTorch 2.13, Keras 3.15 and optax 0.2.8; in optax lr has no default."


def pages() -> dict[str, str]:
    """{file name: text}: a page for each family, a module of `fastopt.optimizers`, and the table of all rules."""
    by_family = sorted(OPTIMIZERS.values(), key=lambda optimizer: optimizer.__module__)
    families = {sys.modules[name]: list(found) for name, found in groupby(by_family, lambda made: made.__module__)}
    return {"README.md": _index(list(families))} | {
        _file(family): _page(family, families[family]) for family in families
    }


def _index(families: list[ModuleType]) -> str:
    rows = [_row(optimizer) for optimizer in OPTIMIZERS.values()]
    return "\n".join(
        [
            "# All optimizers",
            "",
            WRITTEN,
            "",
            *(f"- [{_title(family)}]({_file(family)})" for family in families),
            "",
            "Bytes are what a step reads and writes for each element in float32. What is the same for all elements is "
            "worked out once a step: step_size and the like are lr with the corrections of step t, which "
            "`fastopt explain NAME --step T` shows beside the code. [The README](../README.md#optimizers) has "
            f"examples. {OTHERS}",
            "",
            "## Settings of every optimizer",
            "",
            *(f"- **{name}**, default {_default(value)}: {text}" for name, value, text in docstrings.shared_settings()),
            "",
            "## Formulas",
            "",
            "| optimizer | formula | bytes | state | source | differences |",
            "| --- | --- | ---: | --- | --- | --- |",
            *rows,
            "",
        ]
    )


def _default(value: object) -> str:
    return "infinity" if value == math.inf else f"`{value!r}`"


def _row(optimizer: type[Optimizer]) -> str:
    about, name = docstrings.sections(optimizer), optimizer.__name__
    cells = [
        f"[`{name}`]({_file(sys.modules[optimizer.__module__])}#{name.lower()}): {docstrings.summary(optimizer)}",
        "<br>".join(f"`{re.sub('  +', '  ', line)}`" for line in docstrings.equations(optimizer)),
        str(docstrings.bytes_per_element(optimizer)),
        ", ".join(f"`{slot}`" for slot in optimizer._rule.state) or "none",
        one_line(about.get("References", "")),
        "<br>".join(f"{other}: {text}" for other, text in docstrings.entries(about.get("Differences", ""))),
    ]
    return "| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |"


def _page(family: ModuleType, optimizers: list[type[Optimizer]]) -> str:
    parts = [f"# {_title(family)}", WRITTEN, OTHERS]
    for optimizer in optimizers:
        about, name = docstrings.sections(optimizer), optimizer._rule.name
        parts += [
            f"## {optimizer.__name__}",
            about[""],
            _code("text", "\n".join(docstrings.equations(optimizer))),
            f"State: {about['State']}" if "State" in about else "No state.",
            f"{docstrings.bytes_per_element(optimizer)} bytes per element in float32, "
            f"{docstrings.bytes_per_element(optimizer, 8)} in float64. Files know the rule as `{optimizer.rule}`; the "
            f"formula is in [{name}.py](../fastopt/kernels/rules/{name}.py).",
            _list("Parameters", about),
            _code("python", about["Examples"]) if "Examples" in about else "",
            _list("Differences", about),
            f"Source: {one_line(about['References'])}" if "References" in about else "",
        ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _list(heading: str, about: dict[str, str]) -> str:
    items = [f"- **{name}**: {text}" for name, text in docstrings.entries(about.get(heading, ""))]
    return "\n".join([f"{heading}:", "", *items]) if items else ""


def _code(language: str, text: str) -> str:
    return f"```{language}\n{text}\n```"


def _title(family: ModuleType) -> str:
    return (inspect.getdoc(family) or family.__name__).splitlines()[0].rstrip(".")


def _file(family: ModuleType) -> str:
    return f"{family.__name__.rpartition('.')[2]}.md"


if __name__ == "__main__":
    for name, text in pages().items():
        (HERE / name).write_text(text, encoding="utf-8")
        print(HERE / name)
