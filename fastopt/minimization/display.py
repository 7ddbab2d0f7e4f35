"""The progress bar of `options={"disp": True}`."""

from __future__ import annotations

from typing import Any

import numpy as np

from fastopt.commands.console import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from fastopt.minimization.descent import Descent


def shown(descent: Descent) -> Any:
    """Runs a minimization behind a progress bar, prints how it ended, as SciPy does, and returns its result."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    name = type(descent.optimizer).__name__
    with Progress(*columns) as progress:
        task = progress.add_task(name, total=descent.maxiter)
        result = descent.run(lambda value: progress.update(task, advance=1, description=f"{name}, value {value:.6g}"))
    print(result.message)
    print(f"         Current function value: {np.mean(result.fun):f}")
    print(f"         Iterations: {result.nit}")
    print(f"         Function evaluations: {result.nfev}")
    print(f"         Gradient evaluations: {result.njev}")
    return result
