"""Another checkout of fastopt in the same process, to be timed in turns with this one."""

from __future__ import annotations

import hashlib
import importlib
import re
import shutil
import sys
import tempfile
from pathlib import Path
from types import ModuleType
from typing import Any

NAME = "fastopt_beside"


def load(checkout: Path | str) -> ModuleType:
    """Imports the package of a checkout as `fastopt_beside`.

    It is copied into a temporary folder with that name written into its source, as two packages of one name would
    share `sys.modules`, names of machine code and the cache. The folder's name is a digest of what is in it, so a
    second run compiles nothing.
    """
    root = Path(checkout)
    files = sorted([*(root / "fastopt").rglob("*.py"), *(root / "kernels").rglob("*.py")])
    if not files:
        raise SystemExit(f"{root} is no checkout of fastopt: it has no folder fastopt")
    digest = hashlib.sha256(Path(__file__).read_bytes())
    for file in files:
        digest.update(str(file.relative_to(root)).encode() + b"\0" + file.read_bytes())
    folder = Path(tempfile.gettempdir()) / f"fastopt-beside-{digest.hexdigest()[:16]}"
    if not (folder / "complete").exists():
        shutil.rmtree(folder, ignore_errors=True)
        for file in files:
            relative = file.relative_to(root)
            inside = relative.relative_to("fastopt") if relative.parts[0] == "fastopt" else relative
            copy = folder / NAME / inside
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_text(_renamed(file.read_text(encoding="utf-8")), encoding="utf-8")
        (folder / "complete").touch()
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
    return importlib.import_module(NAME)


def _renamed(source: str) -> str:
    """The package's own name changed, but for that under which its version is installed."""
    return re.sub(rf'version\("{NAME}"\)', 'version("fastopt")', re.sub(r"\bfastopt\b", NAME, source))


def rules() -> frozenset[str]:
    """The rules of the checkout that was loaded; none before."""
    return frozenset(importlib.import_module(f"{NAME}.optimizers").OPTIMIZERS) if NAME in sys.modules else frozenset()


def optimizer(package: ModuleType, rule: str, **settings: Any) -> Any:
    """A package's optimizer of a rule."""
    return importlib.import_module(f"{package.__name__}.optimizers").OPTIMIZERS[rule](**settings)
