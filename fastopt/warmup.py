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


def kernels() -> list[tuple[str, str]]:
    """What steps with the default settings need: rule and dtype."""
    return list(product(OPTIMIZERS, ("float32", "float64")))


def main() -> None:
    """Compiles with a progress bar and says where the kernels are."""
    console = Console()
    start = time.perf_counter()
    compiled_scan()
    compiled_spread()
    for known in DTYPES:
        compiled_add_up(known)
    wanted = kernels()
    for rule, dtype in track(wanted, "compiling", console=console):
        optimizer = OPTIMIZERS[rule]()
        for in_parallel in (False, True) if threads.layer() else (False,):  # the second one costs nothing
            optimizer._rule.kernel(dtype, in_parallel, "step", optimizer._wanted_options())
    seconds = time.perf_counter() - start
    console.print(f"{len(wanted)} kernels in {seconds:.1f} s: {info.cache_folder()}", highlight=False, soft_wrap=True)
