"""The gallery: every experiment is run when the site is built, and has a page with code, picture and table.

So are pages of the site whose pictures it shows.

Those that train on MNIST are run quickly, on the subset; what all of MNIST gives is kept in `source/gallery/full`, and
written by `FASTOPT_MNIST_DIR=DIR python -m docs.gallery --full [NAME...]`, which takes some minutes for each.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
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
PAGES = {
    "tutorials/constrained_problems": (
        ("Non-negative factors", "Pure spectra from mixtures, with `nonnegative=True`."),
        ("Paths of the lasso", "Coefficients that are exactly zero until `l1` is small enough."),
        ("A portfolio on the simplex", "Shares that sum to one, with `simplex=True`."),
        ("A pruned network", "Zeros that stay zero while the rest trains, with `mask`."),
    ),
    "how_to/many_problems": (("Many problems at once", "2000 curves fitted in one pass, with `batch_axis=0`."),),
    "tutorials/without_a_learning_rate": (
        ("Without a learning rate", "Prodigy, D-Adapt Adam, DoG and DoWG beside a search for Adam's rate."),
        ("Caution", "Steps that do not go against the gradient, with `cautious=True`."),
    ),
    "tutorials/rules_of_matrices": (
        ("Rules of matrices", "Muon, Shampoo, SOAP and Adafactor beside AdamW."),
        ("Adam's kin", "ADOPT, MARS and LaProp at each learning rate."),
    ),
    "how_to/complex_parameters": (("Complex parameters", "The ground state of a chain of spins."),),
    "how_to/take_back_a_step": (("Steps taken back", "Spikes rejected, with `optimizer.trial(params)`."),),
    "how_to/micro_batches": (("Micro-batches", "Less noise at the same memory, with `optimizer.accumulate(grads)`."),),
}
"""Pages of the site whose pictures are shown: a title and a sentence for each."""


def run(names: Iterable[str]) -> None:
    """Runs experiments as their pages show."""
    from fastopt.experiments.experiment import experiment

    for name in names:
        if name in PAGES:
            draw(name)
        else:
            quick, summary = experiment(name)(quick=True), experiment(name).summary
            write_result(PICTURES, name, quick, summary=summary, source=_digest(name))


def draw(page: str) -> None:
    """Executes a page of the site and writes its pictures, in the style that they have there."""
    import matplotlib.pyplot as plt
    from traitlets.config import PyFileConfigLoader

    style = PyFileConfigLoader(str(SOURCE / "ipython" / "profile_default" / "ipython_kernel_config.py")).load_config()
    cells = re.findall(r"^```{code-cell} ipython3\n(.*?)^```", _text(page), re.S | re.M)
    with rc_context(dict(style.InlineBackend.rc) | {"svg.hashsalt": page}):
        names: dict[str, Any] = {}
        for cell in cells:
            exec(re.sub(r"^:.*\n", "", cell, flags=re.M), names)
        figures = [plt.figure(number) for number in plt.get_fignums()]
        if len(figures) != len(PAGES[page]):
            raise RuntimeError(f"{page} has {len(figures)} pictures, PAGES {len(PAGES[page])} titles")
        for number, figure in enumerate(figures):
            target = PICTURES / f"{page}-{number}.svg"
            target.parent.mkdir(parents=True, exist_ok=True)
            figure.savefig(target, metadata={"Date": None}, bbox_inches="tight")
    (PICTURES / f"{page}.json").write_text(json.dumps({"source": _digest(page)}) + "\n", encoding="utf-8")
    plt.close("all")


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
    stale = [name for name in (*NAMES, *PAGES) if _about(name).get("source") != _digest(name)]
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


def _text(page: str) -> str:
    return (SOURCE / f"{page}.md").read_text(encoding="utf-8")


def _digest(name: str) -> str:
    """Changes with the code of the experiments, or with a page."""
    if name in PAGES:
        return hashlib.sha256(_text(name).encode()).hexdigest()
    files = sorted((SOURCE.parent.parent / "fastopt" / "experiments").glob("*.py"))
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()


def _about(name: str, folder: Path = PICTURES) -> dict[str, Any]:
    path = folder / f"{name}.json"
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.exists() else {}


def _index() -> str:
    cards = [_card(_about(name)["title"], name, _picture(name), _about(name)["summary"]) for name in NAMES]
    others = [
        _card(title, f"../{page}", f"_generated/gallery/{page}-{number}.svg", text)
        for page, pictures in PAGES.items()
        for number, (title, text) in enumerate(pictures)
    ]
    toctree = "\n".join(["```{toctree}", ":hidden:", "", *NAMES, "```"])
    return "\n\n".join(
        [
            "# Gallery",
            "Ten experiments of a course on deep learning, on all of MNIST. Each is a function of "
            "`fastopt.experiments` and a command, `fastopt experiment NAME`; its page also shows the quick run of some "
            "seconds, made when this site was built. For the path of every optimizer down the ravine, see "
            "[its page](../reference/optimizers/index.md).",
            _grid(cards),
            "## Other kinds of problems",
            "Pictures of tutorials and guides, each with its program.",
            _grid(others),
            toctree,
            "",
        ]
    )


def _grid(cards: Iterable[str]) -> str:
    return "::::{grid} 1 2 2 2\n:gutter: 3\n\n" + "\n\n".join(cards) + "\n::::"


def _card(title: str, link: str, picture: str, text: str) -> str:
    return f":::{{grid-item-card}} {title}\n:link: {link}\n:link-type: doc\n:img-top: /{picture}\n\n{text}\n:::"


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
