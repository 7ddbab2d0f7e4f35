"""The gallery: every experiment is run when the site is built, and has a page with code, picture and table."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from fastopt.experiments import NAMES

SOURCE = Path(__file__).parent / "source"
PICTURES = SOURCE / "_generated" / "gallery"
FULL = SOURCE / "gallery" / "full"
"""Pictures of runs on all of MNIST, by `fastopt experiment NAME --format svg --out docs/source/gallery/full`."""


def run(names: Iterable[str]) -> None:
    """Runs experiments as their pages show, and writes picture, and title, finding and table as JSON."""
    from fastopt.experiments.experiment import experiment

    PICTURES.mkdir(parents=True, exist_ok=True)
    for name in names:
        result = experiment(name)(quick=True)
        result.draw().savefig(PICTURES / f"{name}.svg", metadata={"Date": None})
        about = {"title": result.title, "finding": result.finding, "header": result.header, "rows": list(result.rows)}
        about |= {"summary": experiment(name).summary, "source": _digest()}
        (PICTURES / f"{name}.json").write_text(json.dumps(about), encoding="utf-8")


def write() -> None:
    """Runs what has changed since the last build, in two processes, and writes the pages."""
    stale = [name for name in NAMES if _about(name).get("source") != _digest()]
    environment = os.environ | {"OPENBLAS_NUM_THREADS": "1"}
    processes = [
        subprocess.Popen([sys.executable, "-W", "ignore", "-m", "docs.gallery", *names], env=environment)
        for names in (stale[::2], stale[1::2])
        if names
    ]
    if any([process.wait() for process in processes]):
        raise RuntimeError("an experiment of the gallery failed; its error stands above")
    for path, text in {"gallery/index.md": _index(), **{f"gallery/{name}.md": _page(name) for name in NAMES}}.items():
        target = SOURCE / path
        target.parent.mkdir(parents=True, exist_ok=True)  # a new checkout has no such folder
        if not target.exists() or target.read_text(encoding="utf-8") != text:
            target.write_text(text, encoding="utf-8")


def _digest() -> str:
    """Changes with the code of the experiments."""
    files = sorted((SOURCE.parent.parent / "fastopt" / "experiments").glob("*.py"))
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()


def _about(name: str) -> dict[str, Any]:
    path = PICTURES / f"{name}.json"
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.exists() else {}


def _index() -> str:
    cards = [
        f":::{{grid-item-card}} {_about(name)['title']}\n:link: {name}\n:link-type: doc\n"
        f":img-top: /_generated/gallery/{name}.svg\n\n{_about(name)['summary']}\n:::"
        for name in NAMES
    ]
    toctree = "\n".join(["```{toctree}", ":hidden:", "", *NAMES, "```"])
    return "\n\n".join(
        [
            "# Gallery",
            "Ten experiments of a course on deep learning. Each is a function of `fastopt.experiments` and a command, "
            "and was run when this site was built. The path of every optimizer down the ravine is on "
            "[its page](../reference/optimizers/index.md).",
            "::::{grid} 1 2 2 2\n:gutter: 3\n\n" + "\n\n".join(cards) + "\n::::",
            toctree,
            "",
        ]
    )


def _page(name: str) -> str:
    about, module = _about(name), name.replace("-", "_")
    table = [about["header"], ["---"] + ["---:"] * (len(about["header"]) - 1), *about["rows"]]
    rows = "\n".join(f"| {' | '.join(cell or ' ' for cell in row)} |" for row in table)
    code = f"from fastopt.experiments import {module}\n\nresult = {module}.run(quick=True)\nprint(result.finding)"
    code += "\nresult.draw()"
    full = (
        f"The full run, on all of MNIST (`fastopt experiment {name}`):\n\n```{{figure}} full/{name}.svg\n"
        f":alt: {about['title']}, full run\n```\n\n## The quick run\n"
        if (FULL / f"{name}.svg").exists()
        else ""
    )
    return "\n\n".join(
        [
            f"# {about['title']}",
            about["summary"],
            *([full] if full else []),
            f"```{{figure}} /_generated/gallery/{name}.svg\n:alt: {about['title']}\n```",
            about["finding"],
            "## Code",
            f"```python\n{code}\n```",
            f"or `fastopt experiment {name} --quick`, which writes the picture and its curves; without `--quick` it "
            "takes all of MNIST and the full number of steps. "
            f"[Source](https://github.com/fastopt/fastopt/blob/main/fastopt/experiments/{module}.py).",
            "## Figures",
            rows,
            "",
        ]
    )


if __name__ == "__main__":
    run(sys.argv[1:])
