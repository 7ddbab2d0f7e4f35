"""`fastopt profile`: runs a script and says where the time of its training loop goes."""

from __future__ import annotations

import os
import runpy
import sys
from pathlib import Path

from fastopt.profiling import Profile


def run(script: Path, arguments: list[str], profile: Profile) -> None:
    """Runs a script as `python script` does, inside of `profile`, which ends it after its number of steps."""
    os.environ.setdefault("MPLBACKEND", "agg")  # no window waits at the end
    old_arguments, old_path = sys.argv[:], sys.path[:]
    sys.argv[:] = [str(script), *arguments]
    sys.path.insert(0, str(script.resolve().parent))
    try:
        with profile:
            runpy.run_path(str(script), run_name="__main__")
    finally:
        sys.argv[:], sys.path[:] = old_arguments, old_path
