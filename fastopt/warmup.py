"""Compiles every kernel into numba's disk cache: `fastopt warmup`."""

from __future__ import annotations

import time
from itertools import product

from rich.console import Console
from rich.progress import track

from fastopt import info, plan, threads
from fastopt.optimizers import OPTIMIZERS


def main() -> None:
    """Compiles with a progress bar and says where the kernels are."""
    console = Console()
    start = time.perf_counter()
    plan.compiled_scan()
    loops = (False, True) if threads.layer() else (False,)
    kernels = list(product(OPTIMIZERS.values(), ("float32", "float64"), loops))
    for optimizer, dtype, in_parallel in track(kernels, "compiling", console=console):
        optimizer._rule.kernel(dtype, in_parallel, "step", optimizer()._options)
    seconds = time.perf_counter() - start
    console.print(f"{len(kernels)} kernels in {seconds:.1f} s: {info.cache_folder()}", highlight=False, soft_wrap=True)
