"""Pages of the optimizers, from their docstrings and rule files: `python -m docs.build` writes them."""

from __future__ import annotations

import argparse
import dataclasses
import functools
import inspect
import math
import re
import sys
from itertools import groupby
from pathlib import Path
from types import ModuleType

import fastopt
from docs import latex
from fastopt import cli
from fastopt.commands import docstrings
from fastopt.commands.docstrings import one_line
from fastopt.optimizer import Optimizer
from fastopt.optimizers import OPTIMIZERS

SOURCE = Path(__file__).parent / "source"
FOLDER = "reference/optimizers"
OTHERS = "Differences are to PyTorch 2.13, Keras 3.15 and optax 0.2.8; in optax lr has no default."
REPOSITORY = "https://github.com/fastopt/fastopt/blob/main"


def pages() -> dict[str, str]:
    """{path below `SOURCE`: Markdown}: a page for each optimizer, and the tables of all."""
    found = {f"{FOLDER}/{rule}.md": _page(optimizer) for rule, optimizer in OPTIMIZERS.items()}
    return {f"{FOLDER}/index.md": _index()} | found


def families() -> dict[ModuleType, list[type[Optimizer]]]:
    """The optimizers of each module of `fastopt.optimizers`, in the order of the registry."""
    order = list(dict.fromkeys(optimizer.__module__ for optimizer in OPTIMIZERS.values()))
    by_family = sorted(OPTIMIZERS.values(), key=lambda optimizer: order.index(optimizer.__module__))
    return {sys.modules[name]: list(found) for name, found in groupby(by_family, lambda made: made.__module__)}


def _index() -> str:
    parts = [
        "# Optimizers",
        f"{len(OPTIMIZERS)} update rules in {len(families())} families. Every optimizer also takes the "
        "[settings that all share](#settings-of-every-optimizer). **Bytes** is the memory traffic of a step for each "
        "float32 element: reads and writes of parameter, gradient and state. Not sure which one? "
        "[Choose an optimizer](../../how_to/choose_an_optimizer.md).",
    ]
    for family, optimizers in families().items():
        rows = [
            f"| [`{optimizer.__name__}`]({rule}.md) | {docstrings.summary(optimizer)} | "
            f"{', '.join(f'`{slot}`' for slot in optimizer._rule.state) or 'none'} | "
            f"{docstrings.bytes_per_element(optimizer)} |"
            for rule, optimizer in ((optimizer.rule, optimizer) for optimizer in optimizers)
        ]
        parts += [
            f"## {title(family)}",
            "\n".join(
                ["| optimizer | in one line | state | bytes |", "| --- | --- | --- | ---: |", *map(_cells, rows)]
            ),
        ]
    shared = [f"`{name}` : default {_default(value)}\n: {text}" for name, value, text in docstrings.shared_settings()]
    listed = "\n".join(["```{toctree}", ":hidden:", "", *OPTIMIZERS, "```"])
    return "\n\n".join([*parts, "(settings-of-every-optimizer)=\n## Settings of every optimizer", *shared, listed, ""])


def _cells(row: str) -> str:
    """A row whose only bars are those between cells."""
    return re.sub(r"(?<=\S)\|(?=\S)", r"\\|", row)


def _page(optimizer: type[Optimizer]) -> str:
    about, rule, name = docstrings.sections(optimizer), optimizer._rule, optimizer.__name__
    names = {*rule.scalars, *rule.state, *optimizer._hyperparameters()}
    formula, used = latex.equations(docstrings.equations(optimizer), names)
    settings = {setting for setting in used if setting in optimizer._hyperparameters()}
    symbols = [
        f"$ {latex.SYMBOLS[setting]} $ is `{setting}`" for setting in used if setting in settings & {*latex.SYMBOLS}
    ]
    scalars = [f"`{scalar}`" for scalar in used if scalar in {*rule.scalars} - settings]
    legend = "; ".join([*symbols, *([f"{', '.join(scalars)}: worked out once a step"] if scalars else [])])
    directory = f"{inspect.getfile(rule.formula)}".rpartition("kernels")[2]
    parts = [
        f"# {name}",
        docstrings.summary(optimizer),
        f"```{{py:class}} {name}({_signature(optimizer)})\n:module: fastopt\n```",
        *(f"```{{py:data}} {alias}\n:module: fastopt\n\nThe same class.\n```" for alias in _aliases(optimizer)),
        "## Update",
        f"$$\n{formula}\n$$",
        f"{legend}. `fastopt explain {name} --step 10` prints every number of a step." if legend else "",
        about[""].partition("\n\n")[2],
        "## Settings",
        "\n\n".join(f"`{setting}`\n: {text}" for setting, text in docstrings.entries(about.get("Parameters", "")))
        or "None of its own.",
        "It also takes the [settings that every optimizer has](#settings-of-every-optimizer).",
        "## State and memory",
        about.get("State", "No state.")[:1].upper() + about.get("State", "No state.")[1:],
        f"A step reads and writes **{docstrings.bytes_per_element(optimizer)} bytes per float32 element** "
        f"({docstrings.bytes_per_element(optimizer, 8)} in float64). Checkpoints call the rule `{optimizer.rule}`. The "
        f"formula: [fastopt/kernels{directory}]({REPOSITORY}/fastopt/kernels{directory}).",
        "## Path on the ravine",
        f"```{{figure}} /_generated/paths/{optimizer.rule}.svg\n:alt: Path of {name} down a ravine\n:width: 640px\n\n"
        f"{_caption(optimizer)}\n```",
        "## Example",
        f"```python\n{about['Examples']}\n```" if "Examples" in about else "",
        "## In other libraries",
        "\n\n".join(f"{other}\n: {text}" for other, text in docstrings.entries(about.get("Differences", ""))),
        "## Paper",
        f"{_linked(one_line(about.get('References', '')))} {_cited(about.get('References', ''))}",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _aliases(optimizer: type[Optimizer]) -> list[str]:
    return [name for name in fastopt.__all__ if getattr(fastopt, name) is optimizer and name != optimizer.__name__]


def _caption(optimizer: type[Optimizer]) -> str:
    from docs import paths

    settings = ", ".join(f"{name} {value:g}" for name, value in paths.settings(optimizer.rule).items())
    chosen = "" if optimizer.rule in paths.KNOWN else f" {paths.CHOICE}"
    return f"{paths.STEPS} steps from (-7, 2) on f(x, y) = x²/20 + y² with {settings}.{chosen}"


def _signature(optimizer: type[Optimizer]) -> str:
    own = [field for field in dataclasses.fields(optimizer) if field.name in optimizer._hyperparameters()]
    shared = {name for name, *_ in docstrings.shared_settings()}
    given = [f"{field.name}={field.default!r}" for field in own if field.name not in shared]
    return ", ".join([*given, "**settings"])


def _default(value: object) -> str:
    return "infinity" if value == math.inf else f"`{value!r}`"


def _linked(text: str) -> str:
    return re.sub(r"arXiv:(\d{4}\.\d{4,5})", r"[arXiv:\1](https://arxiv.org/abs/\1)", text)


def _cited(text: str) -> str:
    """Keys of the entries of the bibliography whose titles stand in the text."""
    entries = re.findall(r"^@\w+\{(\w+),.*? title=\{(.*?)\},", (SOURCE / "references.bib").read_text("utf-8"), re.M)
    keys = [key for key, title in entries if title.casefold() in one_line(text).casefold()]
    return f"{{cite}}`{','.join(keys)}`" if keys else ""


def title(family: ModuleType) -> str:
    """The first line of a family's docstring, up to its colon."""
    return (inspect.getdoc(family) or family.__name__).splitlines()[0].rstrip(".").partition(":")[0]


def command_line() -> str:
    """The help of every command."""
    parser = cli._parser()
    (commands,) = (action.choices for action in parser._actions if isinstance(action, argparse._SubParsersAction))
    parts = []
    for name, command in commands.items():
        command.formatter_class = functools.partial(command.formatter_class, width=88)
        parts.append(f"## fastopt {name}\n\n```text\n{command.format_help().strip()}\n```\n")
    return "\n".join(parts)


def write() -> None:
    """Writes the pages whose text has changed, so that Sphinx reads only those again."""
    for name, text in (pages() | {"_generated/cli.md": command_line()}).items():
        path = SOURCE / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")
