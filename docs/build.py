"""Builds the site: `python -m docs.build`. Warnings are errors, and every public name must be in the reference."""

from __future__ import annotations

import argparse
import importlib
import shutil
import sys
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from docs import gallery, paths, render

HERE = Path(__file__).parent
MODULES = (
    "fastopt",
    "fastopt.schedules",
    "fastopt.nn",
    "fastopt.experiments",
    "fastopt.reference",
    "fastopt.functional.cs231n",
    "fastopt.functional.autograd",
    "fastopt.functional.optax",
    "fastopt.sklearn",
    *(["fastopt.mpi"] if find_spec("mpi4py") else []),
)
"""Those whose public names the reference holds."""


def public_names() -> set[str]:
    """Names that users import: each name of `__all__` of each module."""
    found = set()
    for module in MODULES:
        names: Iterable[str] = getattr(importlib.import_module(module), "__all__", ())
        found |= {f"{module}.{name}" for name in names}
    return found - {"fastopt.np", "fastopt.schedules"}  # NumPy, and a module that has its own page


def missing(documented: Iterable[str]) -> list[str]:
    """Public names that the reference does not describe."""
    return sorted(public_names() - {*documented})


def generate() -> None:
    """Writes the pages and pictures that come from docstrings and results."""
    render.write()
    paths.write(render.SOURCE / "_generated" / "paths")
    gallery.write()


def documented(output: Path) -> set[str]:
    """Names in the site's inventory of Python objects."""
    from sphinx.util.inventory import InventoryFile

    with (output / "objects.inv").open("rb") as file:
        inventory: Any = InventoryFile.load(file, "", lambda base, target: target)
    return {name for kind, names in inventory.items() if kind.startswith("py:") for name in names}


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m docs.build", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=HERE / "_build" / "html", metavar="DIR", help="where the site goes")
    parser.add_argument("--clean", action="store_true", help="throw earlier builds and executed pages away first")
    parser.add_argument("--jobs", default="2", metavar="N", help="processes that read pages (default: 2)")
    options = parser.parse_args(arguments)
    from sphinx.cmd.build import build_main

    if options.clean:
        shutil.rmtree(HERE / "_build", ignore_errors=True)
        shutil.rmtree(render.SOURCE / "_generated", ignore_errors=True)
    generate()
    options.out.mkdir(parents=True, exist_ok=True)
    status = build_main(
        ["-b", "html", "-W", "--keep-going", "-q", "-j", options.jobs, str(render.SOURCE), str(options.out)]
    )
    if status:
        return status
    names = missing(documented(options.out))
    if names:
        print(f"not in the reference: {', '.join(names)}", file=sys.stderr)
        return 1
    print(f"written: {options.out / 'index.html'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
