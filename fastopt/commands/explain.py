"""An optimizer explained in text: `fastopt explain`."""

from __future__ import annotations

import copy
import importlib
import math
import os
import sys
import textwrap
from typing import Any

import numpy as np

from fastopt import checks, constraints, names
from fastopt.commands import docstrings
from fastopt.engine import columns
from fastopt.engine.transform_scalars import PROXIMAL, SCALARS
from fastopt.kernels.codecs import FLOAT32
from fastopt.kernels.modulus import names_in
from fastopt.kernels.rule import Rule
from fastopt.kernels.transforms import TRANSFORMS
from fastopt.optimizer import Optimizer
from fastopt.optimizers import OPTIMIZERS

WIDTH = 100


def find(name: str) -> type[Optimizer]:
    """The optimizer of that name, in whatever case, or the class `module:Name`; ValueError if there is none."""
    module, colon, attribute = name.partition(":")
    if not colon:
        rule = names.find(name, OPTIMIZERS)
        if rule is None:
            raise ValueError(checks.unknown_optimizer(name, OPTIMIZERS))
        return OPTIMIZERS[rule]
    if os.getcwd() not in sys.path:  # as in `python -m`
        sys.path.insert(0, os.getcwd())
    there = vars(importlib.import_module(module))
    if attribute not in there:
        classes = [name for name, value in there.items() if isinstance(value, type) and issubclass(value, Optimizer)]
        raise ValueError(checks.not_in_module(module, attribute, classes))
    kind = there[attribute]
    if not (isinstance(kind, type) and issubclass(kind, Optimizer)):
        raise ValueError(checks.no_optimizer(name, kind))
    return kind


def explain(optimizer: Optimizer, step: int = 1) -> str:
    """The formula, its scalars at a step, state, memory, source, where other libraries differ, shared settings."""
    kind, rule = type(optimizer), optimizer._rule
    about, state = docstrings.sections(kind), ", ".join(rule.state)
    parts = [
        f"{kind.__name__}: {docstrings.summary(kind)}",
        docstrings.source(kind),
        f"Scalars at step {step} of {optimizer!r}:\n{_table(_scalars(optimizer, step))}",
        f"State: {docstrings.one_line(about.get('State', state)) or 'none.'}",
        f"{_pass_before(rule)}A step reads {', '.join(('p', 'g', *rule.state))} and writes "
        f"{', '.join(('p', *rule.state))}: {docstrings.bytes_per_element(kind)} bytes per element in float32.",
    ]
    if optimizer.state_storage != FLOAT32 and rule.state:
        parts.append(_compact(optimizer))
    if optimizer.modulus:
        names = ", ".join(names_in(rule.formula))
        parts.append(
            f"With modulus=True {names} of a complex parameter take real and imaginary part together, which have one "
            "second moment. Real parameters step as without."
        )
    parts += _after(optimizer) + _problems(optimizer)
    if "References" in about:
        parts.append(f"Source: {docstrings.one_line(about['References'])}")
    if "Differences" in about:
        parts.append(f"Elsewhere:\n{_table(docstrings.entries(about['Differences']))}")
    shared = [(name, text.partition(". ")[0].removesuffix(".")) for name, _, text in docstrings.shared_settings()]
    parts.append(f"Settings of every optimizer:\n{_table(shared)}")
    return "\n\n".join(part if "\n" in part else textwrap.fill(part, WIDTH) for part in parts)


def _compact(optimizer: Optimizer) -> str:
    rule, storage = optimizer._rule, optimizer.state_storage
    if rule.is_by_array:
        return f"Its state stays in float32 where state_storage is {storage!r}, as it takes norms of whole arrays."
    slots = len(rule.state)
    return (
        f"With state_storage={storage!r} that is {columns.moved_bytes(storage, 4, slots):.4g} bytes per element, of "
        f"which state takes {slots * columns.slot_bytes(storage, 4):.4g} (float32: {4 * slots}). Arrays of fewer than "
        f"{columns.SMALLEST:,} elements, and those with Rows or centralize, keep it in float32."
    )


def _after(optimizer: Optimizer) -> list[str]:
    """The cost that constraints with arrays, and those of rows, add to a step."""
    parts = []
    if optimizer.mask is not None:
        kept = {"params" if key is None else str(key): int((~mask).sum()) for key, mask in optimizer.mask.items()}
        elements = ", ".join(f"{count:,} elements of {key}" for key, count in kept.items())
        parts.append(f"The mask keeps value and state of {elements}; its array is read too, 4 bytes an element.")
    arrays = [bound for bound in optimizer.bounds or () if isinstance(bound, np.ndarray)]
    if arrays:
        parts.append(f"Bounds that are arrays are read too, {4 * len(arrays)} bytes an element.")
    kinds = [name for name in constraints.PROJECTIONS if constraints.wants(optimizer, name)]
    if kinds:
        axis = optimizer.constraint_axis
        groups = "whole arrays" if axis is None else f"the groups of elements along axis {axis}"
        names = [f"{name}={getattr(optimizer, name)!r}" for name in kinds]
        parts.append(f"A pass after the step reads and writes p, for {', '.join(names)} of {groups}.")
    return parts


def _problems(optimizer: Optimizer) -> list[str]:
    """The scalars that many problems have each."""
    if optimizer.batch_axis is None:
        return []
    rates = "an lr of its own, " if _first_problem(optimizer) is not optimizer else ""
    return [
        f"Arrays of shape (problems, ...) are that many problems: each has {rates}a step count, norms to clip by and "
        "skips of its own. The scalars above are those of the first."
    ]


def _first_problem(optimizer: Optimizer) -> Optimizer:
    """An optimizer of the first of many problems, where each has a learning rate."""
    rates = getattr(optimizer, "lr", None)
    if not isinstance(rates, np.ndarray):
        return optimizer
    first: Any = copy.copy(optimizer)
    first.lr = float(rates[0])
    return first  # type: ignore[no-any-return]


def _pass_before(rule: Rule) -> str:
    if not rule.is_by_array:
        return ""
    wrote = f"writes {rule.state[-1]}" if rule.prepare else "writes nothing"
    return f"A pass before the step reads {', '.join(rule.measured)} and {wrote}. "


def _scalars(optimizer: Optimizer, step: int) -> list[tuple[str, str]]:
    """Names and values: of the formula's scalars, then of what goes before the formula."""
    settings, rule = _first_problem(optimizer)._at(step), optimizer._rule
    values: list[Any] = [*settings.scalars(step), *(["what the norms of each array come to"] if rule.measure else [])]
    values += ["what the sums over all arrays come to"] * (len(rule.scalars) - len(values))
    lines = list(zip(rule.scalars, values, strict=True))
    needed = (*settings._needed_transforms(), *(["centralize"] if settings.centralize else []))
    for transform in (name for name in TRANSFORMS if name in needed):
        if transform == "centralize":
            value: Any = "the means of gradients, where an array has two dimensions or more"
        elif transform == "cautious":
            value = "one over the share of elements whose step goes against the gradient"
        elif transform in PROXIMAL:
            value = f"{getattr(settings, transform) * settings.effective_lr(step):.10g}"
            value += ", divided by what divides the step of each element" if rule.metric else ""
        elif transform != "scale":
            value = SCALARS[transform](settings)
        elif math.inf == settings.clip_norm == settings.clip_array_norm:
            value = -settings.gradient_scale if settings.maximize else settings.gradient_scale
        else:
            value = "what makes norms of gradients no larger than clip_norm and clip_array_norm"
        lines.append((transform, value))
    return [(name, value if isinstance(value, str) else f"{value:.10g}") for name, value in lines]


def _table(rows: list[tuple[str, str]]) -> str:
    indent = 4 + max((len(name) for name, _ in rows), default=0)
    return "\n".join(
        textwrap.fill(f"  {name:{indent - 2}}{text}", WIDTH, subsequent_indent=" " * indent, break_long_words=False)
        for name, text in rows
    )
