"""Sphinx's configuration; `python -m docs.build` runs it."""

from __future__ import annotations

import os
import re
import shutil
import sys
from importlib.metadata import distribution
from importlib.util import find_spec
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent.parent))  # where Sphinx is started by itself

import fastopt  # noqa: E402
from fastopt.optimizers import OPTIMIZERS  # noqa: E402

project, author = "fastopt", "The fastopt authors"
copyright = "2026, the fastopt authors"
version = release = fastopt.__version__

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.mathjax",
    "numpydoc",
    "sphinx_design",
    "sphinx_copybutton",
    "sphinxcontrib.bibtex",
]
exclude_patterns = ["_generated/**"]
default_role = "py:obj"  # a link where the name is known, code where it is not
templates_path: list[str] = []

# -- pages that run ---------------------------------------------------------------------------------------------------
os.environ["IPYTHONDIR"] = str(HERE / "ipython")  # pictures as SVG
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # pages are executed side by side, and their networks are small
os.environ.setdefault("PYDEVD_DISABLE_FILE_VALIDATION", "1")
nb_execution_mode = os.environ.get("FASTOPT_DOCS_EXECUTE", "cache")
nb_execution_cache_path = str(HERE.parent / "_build" / "executed")
nb_execution_timeout = 120
nb_execution_raise_on_error = True
nb_execution_show_tb = True
nb_merge_streams = True
nb_render_markdown_format = "myst"  # tables too
nb_mime_priority_overrides = [("html", "image/svg+xml", 0)]
myst_enable_extensions = [
    "amsmath",
    "attrs_inline",
    "colon_fence",
    "deflist",
    "dollarmath",
    "fieldlist",
    "smartquotes",
    "substitution",
]
myst_substitutions = {"rules": len(OPTIMIZERS)}
myst_heading_anchors = 3
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True
copybutton_exclude = ".linenos, .gp, .go"

# -- reference --------------------------------------------------------------------------------------------------------
autodoc_member_order = "bysource"
autodoc_mock_imports = [] if find_spec("mpi4py") else ["mpi4py"]
autodoc_typehints = "none"  # numpydoc's sections have them
numpydoc_show_class_members = False
bibtex_bibfiles = ["references.bib"]
bibtex_default_style = "unsrt"
bibtex_reference_style = "author_year"

# -- looks ------------------------------------------------------------------------------------------------------------
html_theme = "furo"
html_title = f"fastopt {release}"
html_static_path = ["_static"]
html_css_files = ["custom.css"]
html_theme_options = {
    "top_of_page_buttons": [],
    "light_css_variables": {"color-brand-primary": "#0072B2", "color-brand-content": "#0072B2"},
    "dark_css_variables": {"color-brand-primary": "#56B4E9", "color-brand-content": "#56B4E9"},
}
html_show_sourcelink = False
html_copy_source = False
mathjax_path = "mathjax/tex-mml-chtml.js"  # with the site, which so reads without a network
mathjax3_config: dict[str, Any] = {"chtml": {"displayAlign": "left", "displayIndent": "1em"}}


def _plain_sections(app: Any, kind: str, name: str, thing: Any, options: Any, lines: list[str]) -> None:
    """Turns headings that numpydoc does not know into bold lines."""
    known = {"Parameters", "Returns", "Raises", "Examples", "Notes", "References", "See Also", "Attributes", "Yields"}
    for number in range(len(lines) - 1):
        heading = lines[number].strip()
        if re.fullmatch(r"-{3,}", lines[number + 1].strip()) and heading and heading not in known:
            lines[number : number + 2] = [f"**{heading}**", ""]


def _copy_mathjax(app: Any, exception: Exception | None) -> None:
    """MathJax and its fonts, from the wheel of sphinx-mathjax-offline, whose other 20 MB stay behind."""
    wheel = distribution("sphinx-mathjax-offline")
    for file in wheel.files or ():
        path = str(file).partition("static/")[2]
        if exception is None and (path == mathjax_path or path.startswith("mathjax/output/chtml/fonts/")):
            target = Path(app.outdir) / "_static" / path
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(str(wheel.locate_file(file)), target)


def setup(app: Any) -> None:
    app.connect("autodoc-process-docstring", _plain_sections, priority=100)
    app.connect("build-finished", _copy_mathjax)
