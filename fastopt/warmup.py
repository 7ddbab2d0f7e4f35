"""Compiles the kernels of every optimizer into numba's disk cache: `fastopt warmup`."""

from __future__ import annotations

import time
from itertools import product

from rich.console import Console
from rich.progress import track

from fastopt import info, threads
from fastopt.checks import DTYPES
from fastopt.optimizers import OPTIMIZERS
from fastopt.table import compiled_scan
from fastopt.touched import compiled_add_up, compiled_spread


def kernels() -> list[tuple[str, str, bool]]:
    """What steps with the default settings need: rule, dtype, and whether in parallel."""
    return list(product(OPTIMIZERS, ("float32", "float64"), (False, True) if threads.layer() else (False,)))


def main() -> None:
    """Compiles with a progress bar and says where the kernels are."""
    console = Console()
    start = time.perf_counter()
    compiled_scan()
    compiled_spread()
    for known in DTYPES:
        compiled_add_up(known)
    wanted = kernels()
    for rule, dtype, in_parallel in track(wanted, "compiling", console=console):
        optimizer = OPTIMIZERS[rule]()
        optimizer._rule.kernel(dtype, in_parallel, "step", optimizer._wanted_options())
    seconds = time.perf_counter() - start
    console.print(f"{len(wanted)} kernels in {seconds:.1f} s: {info.cache_folder()}", highlight=False, soft_wrap=True)
