"""The gallery: every experiment is run when the site is built, and has a page with code, picture and table.

Those that train on MNIST are run quickly, on the subset; what all of MNIST gives is kept in `source/gallery/full`, and
written by `FASTOPT_MNIST_DIR=DIR python -m docs.gallery --full [NAME...]`, which takes some minutes for each.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from matplotlib import rc_context

from fastopt.experiments import NAMES

SOURCE = Path(__file__).parent / "source"
PICTURES = SOURCE / "_generated" / "gallery"
FULL = SOURCE / "gallery" / "full"
"""Pictures and tables of full runs."""
WITHOUT_DATA = ("ravine", "activations")
"""Experiments that take no data: their quick run is the full one."""


def run(names: Iterable[str]) -> None:
    """Runs experiments as their pages show."""
    from fastopt.experiments.experiment import experiment

    for name in names:
        write_result(PICTURES, name, experiment(name)(quick=True), summary=experiment(name).summary, source=_digest())


def run_in_full(names: Iterable[str]) -> None:
    """Runs experiments on all of MNIST."""
    from fastopt.experiments.experiment import experiment
    from fastopt.nn.mnist import DIRECTORY_VARIABLE

    if not os.environ.get(DIRECTORY_VARIABLE):
        raise SystemExit(f"set {DIRECTORY_VARIABLE} to the folder with the four files of MNIST")
    for name in names:
        write_result(FULL, name, experiment(name)())
        print(f"written: {FULL / name}.svg")


def write_result(folder: Path, name: str, result: Any, **more: str) -> None:
    """Writes the picture of a result, and its title, finding and table as JSON."""
    folder.mkdir(parents=True, exist_ok=True)
    with rc_context({"svg.hashsalt": name, "path.simplify_threshold": 0.5}):  # the same bytes each time
        result.draw().savefig(folder / f"{name}.svg", metadata={"Date": None})
    about = {"title": result.title, "finding": result.finding, "header": result.header, "rows": list(result.rows)}
    (folder / f"{name}.json").write_text(json.dumps(about | more, indent=1) + "\n", encoding="utf-8")


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


def _about(name: str, folder: Path = PICTURES) -> dict[str, Any]:
    path = folder / f"{name}.json"
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.exists() else {}


def _index() -> str:
    cards = [
        f":::{{grid-item-card}} {_about(name)['title']}\n:link: {name}\n:link-type: doc\n"
        f":img-top: /{_picture(name)}\n\n{_about(name)['summary']}\n:::"
        for name in NAMES
    ]
    toctree = "\n".join(["```{toctree}", ":hidden:", "", *NAMES, "```"])
    return "\n\n".join(
        [
            "# Gallery",
            "Ten experiments of a course on deep learning, on all of MNIST. Each is a function of "
            "`fastopt.experiments` and a command, `fastopt experiment NAME`; its page also shows the quick run of some "
            "seconds, made when this site was built. For the path of every optimizer down the ravine, see "
            "[its page](../reference/optimizers/index.md); for non-negative factors, paths of the lasso, a "
            "portfolio and a pruned network, [four problems with constraints](../tutorials/constrained_problems.md); "
            "for optimizers that find their rate, and steps with caution, [without a learning rate]"
            "(../tutorials/without_a_learning_rate.md); for steps taken back, [a guide]"
            "(../how_to/take_back_a_step.md); for the ground state of a spin chain, [complex parameters]"
            "(../how_to/complex_parameters.md).",
            "::::{grid} 1 2 2 2\n:gutter: 3\n\n" + "\n\n".join(cards) + "\n::::",
            toctree,
            "",
        ]
    )


def _picture(name: str) -> str:
    """The full run's where there is one."""
    return f"gallery/full/{name}.svg" if _about(name, FULL) else f"_generated/gallery/{name}.svg"


def _page(name: str) -> str:
    quick, full, module = _about(name), _about(name, FULL), name.replace("-", "_")
    code = f"from fastopt.experiments import {module}\n\nresult = {module}.run()\nprint(result.finding)\nresult.draw()"
    parts = [f"# {quick['title']}", quick["summary"], *_shown(name, full or quick, _picture(name))]
    parts += ["## Code", f"```python\n{code}\n```"]
    source = f"[Source](https://github.com/fastopt/fastopt/blob/main/fastopt/experiments/{module}.py)."
    if full:
        parts += [
            f"or `fastopt experiment {name}`, which writes the picture and its curves. Both take all of MNIST, and the "
            f"subset that comes with fastopt where that is not at hand. {source}",
            "## The quick run",
            f"`run(quick=True)`, or `fastopt experiment {name} --quick`: some seconds, on the subset.",
            *_shown(name, quick, f"_generated/gallery/{name}.svg"),
        ]
    else:
        parts += [f"or `fastopt experiment {name}`, which writes the picture and its curves. {source}"]
    return "\n\n".join([*parts, ""])


def _shown(name: str, about: dict[str, Any], picture: str) -> list[str]:
    """The picture with its finding, and the table."""
    table = [about["header"], ["---"] + ["---:"] * (len(about["header"]) - 1), *about["rows"]]
    rows = "\n".join(f"| {' | '.join(cell or ' ' for cell in row)} |" for row in table)
    return [f"```{{figure}} /{picture}\n:alt: {about['title']}\n\n{about['finding']}\n```", rows]


if __name__ == "__main__":
    if sys.argv[1:2] == ["--full"]:
        run_in_full(sys.argv[2:] or [name for name in NAMES if name not in WITHOUT_DATA])
    else:
        run(sys.argv[1:])
