"""Parser of optimizer docstrings, for `fastopt explain` and the site."""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from collections.abc import Callable
from dataclasses import fields
from itertools import pairwise
from typing import Any

from fastopt.optimizer import Optimizer
from fastopt.shared_settings import SharedSettings


def sections(optimizer: type[Optimizer]) -> dict[str, str]:
    """{heading: text}, where "" is what stands before the first heading, and "State" the paragraph that begins so."""
    before, *rest = re.split(r"^(\w+)\n-{3,}\n", inspect.cleandoc(optimizer.__doc__ or ""), flags=re.M)
    by_heading = {"": before} | dict(zip(rest[::2], rest[1::2], strict=True))
    for heading, text in list(by_heading.items()):
        state = re.search(r"^State: (.*?)(?:\n\n|\Z)", text, re.S | re.M)
        if state is not None:
            by_heading |= {heading: text.replace(state[0], ""), "State": state[1]}
    return {heading: text.strip() for heading, text in by_heading.items()}


def summary(optimizer: type[Optimizer]) -> str:
    """The first paragraph, on one line."""
    return one_line(sections(optimizer)[""].partition("\n\n")[0])


def one_line(text: str) -> str:
    """A paragraph on one line."""
    return " ".join(text.split())


def entries(text: str) -> list[tuple[str, str]]:
    """The pairs of a section of `name: text` or `name : type`, whose further lines are indented."""
    items = []
    for entry in re.split(r"\n(?=\S)", text) if text else []:
        first, _, more = entry.partition("\n")
        name, typed, kind = first.partition(" : ")
        if not typed:
            name, _, kind = first.partition(": ")
        items.append((name, one_line(f"{kind}. {more}" if typed else f"{kind} {more}")))
    return items


def shared_settings() -> list[tuple[str, Any, str]]:
    """Name, default and description of each setting that every optimizer has, from the lines where they are defined."""
    (tree,) = ast.parse(textwrap.dedent(inspect.getsource(SharedSettings))).body
    assert isinstance(tree, ast.ClassDef)
    written = {}
    for pair in pairwise(tree.body):
        match pair:
            case ast.AnnAssign(target=name), ast.Expr(value=ast.Constant(value=str(text))):
                written[ast.unparse(name)] = one_line(text)
    return [(field.name, field.default, written[field.name]) for field in fields(SharedSettings)]


def source(optimizer: type[Optimizer]) -> str:
    """The formula as it is written, after the functions that it calls, and that of the pass before it."""
    rule = optimizer._rule
    functions: list[Callable[..., Any]] = []
    for formula in (rule.measure or rule.prepare, rule.formula):
        if formula is not None:
            called = inspect.getclosurevars(formula).globals.values()
            functions += [*(value for value in called if inspect.isfunction(value)), formula]
    texts = [textwrap.dedent(inspect.getsource(function)).strip() for function in dict.fromkeys(functions)]
    return re.sub(r"  # type: ignore\[.*?\]", "", "\n\n".join(texts))


def equations(optimizer: type[Optimizer]) -> list[str]:
    """The formula as the paper would write it: the indented lines at the top of its file, else its code."""
    module = inspect.getmodule(optimizer._rule.formula)
    block = re.search(r"(?:^ {4}.*\n)+", (module and module.__doc__) or "", re.M)
    return textwrap.dedent(block[0] if block else source(optimizer)).strip().splitlines()


def bytes_per_element(optimizer: type[Optimizer], itemsize: int = 4) -> int:
    """Bytes that a step reads and writes: parameter, gradient and state are read, parameter and state written.

    Where norms are needed, what they are of is read before; where a direction is prepared, that is written too.
    """
    rule = optimizer._rule
    return itemsize * (3 + 2 * len(rule.state) + len(rule.measured) + bool(rule.prepare))
