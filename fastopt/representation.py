"""The `repr` of settings: what is not the default, in a form that `eval` takes where there is one."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import MISSING, fields
from html import escape
from typing import Any

import numpy as np

from fastopt.constraints import Bounds, Mask


def of(thing: Any) -> str:
    """`Name(setting=value, ...)` of a dataclass: settings declared with `repr=False` only where not the default."""
    shown = [
        f"{field.name}={of_value(getattr(thing, field.name))}"
        for field in sorted(fields(thing), key=lambda field: bool(field.kw_only))  # those of the rule first
        if field.repr or not _is_default(getattr(thing, field.name), field.default)
    ]
    return f"{type(thing).__name__}({', '.join(shown)})"


def of_value(value: Any) -> str:
    """The value of a setting; a named predicate of `fastopt.groups` by its name, other functions as Python has them."""
    from fastopt.groups import PREDICATES  # which takes its checks from modules that need this one

    if isinstance(value, float) and not math.isfinite(value):
        return f"float({str(value)!r})"
    if isinstance(value, np.ndarray) and value.dtype == np.bool_ and value.size > 8:
        return f"<{value.size} booleans, {np.count_nonzero(value)} True>"
    if isinstance(value, np.ndarray) and value.size > 8:
        return f"<{value.size} numbers from {value.min():g} to {value.max():g}>"
    if isinstance(value, Mask) and None in value:  # of one array
        return of_value(value[None])
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{of_value(key)}: {of_value(item)}' for key, item in value.items())}}}"
    if isinstance(value, Bounds):
        return f"({', '.join(map(of_value, value))})"
    for name, predicate in PREDICATES.items():
        if value is predicate:
            return name
    return repr(value)


def html_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table for notebooks."""
    lines = [("th", header), *(("td", row) for row in rows)]
    cells = ["".join(f"<{tag}>{escape(str(cell))}</{tag}>" for cell in row) for tag, row in lines]
    return f"<table>{''.join(f'<tr>{row}</tr>' for row in cells)}</table>"


def _is_default(value: Any, default: Any) -> bool:
    if isinstance(value, Mapping):  # groups, of which there are none at first
        return not value
    return default is not MISSING and (value is default or (type(value) is type(default) and value == default))
