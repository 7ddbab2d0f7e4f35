"""Tables and progress bars: rich's, or plain text where rich is not installed."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

HAS_RICH = True
try:
    from rich import box as box
    from rich.console import Console as Console
    from rich.progress import BarColumn as BarColumn
    from rich.progress import MofNCompleteColumn as MofNCompleteColumn
    from rich.progress import Progress as Progress
    from rich.progress import TextColumn as TextColumn
    from rich.progress import TimeElapsedColumn as TimeElapsedColumn
    from rich.progress import track as track
    from rich.table import Table as Table
except ImportError:
    HAS_RICH = False

if not TYPE_CHECKING and not HAS_RICH:

    class Console:
        """Prints text without rich's markup."""

        def print(self, thing: Any = "", **_: Any) -> None:
            print(_plain(thing) if isinstance(thing, str) and _.get("markup", True) else thing)

    class Table:
        """Columns as wide as what stands in them."""

        def __init__(self, title: str = "", **_: Any) -> None:
            self.title, self.right, self.rows = title, [], [[]]

        def add_column(self, heading: str = "", justify: str = "left", **_: Any) -> None:
            self.right.append(justify == "right")
            self.rows[0].append(heading)

        def add_row(self, *cells: str, **_: Any) -> None:
            self.rows.append([_plain(cell) for cell in cells])

        def add_section(self) -> None:
            pass

        def __str__(self) -> str:
            widths = [max(map(len, column)) for column in zip(*self.rows, strict=True)]
            lines = [
                "  ".join(
                    cell.rjust(width) if right else cell.ljust(width)
                    for cell, width, right in zip(row, widths, self.right, strict=True)
                ).rstrip()
                for row in self.rows
            ]
            return "\n".join([self.title, *lines])

    class Progress:
        """No bars."""

        def __init__(self, *_: Any, **__: Any) -> None:
            pass

        def __enter__(self) -> Progress:
            return self

        def __exit__(self, *_: Any) -> None:
            pass

        def add_task(self, *_: Any, **__: Any) -> int:
            return 0

        def update(self, *_: Any, **__: Any) -> None:
            pass

        def track(self, things: Iterable[Any], **_: Any) -> Iterator[Any]:
            return iter(things)

    def track(things: Iterable[Any], *_: Any, **__: Any) -> Iterator[Any]:
        return iter(things)

    def TextColumn(*_: Any) -> None:
        """Nothing, as there are no bars."""

    BarColumn = MofNCompleteColumn = TimeElapsedColumn = TextColumn

    class box:
        """The styles of tables, of which there is one."""

        SIMPLE_HEAD = None


def _plain(text: str) -> str:
    return re.sub(r"\[/?[a-z ]*\]", "", text)
