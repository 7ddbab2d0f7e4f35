"""Compiles the kernels of optimizers into numba's disk cache: `fastopt warmup`."""

from __future__ import annotations

import time
from collections.abc import Sequence
from itertools import chain, combinations, product

from fastopt import threads
from fastopt.checks import DTYPES
from fastopt.commands import info
from fastopt.commands.console import Console, track
from fastopt.engine.address_table import compiled_scan
from fastopt.engine.centralized_launch import centralized, compiled_find_means
from fastopt.engine.one_call import compiled_call
from fastopt.engine.sparse_launch import compiled_add_up, compiled_spread
from fastopt.kernels.averages import AVERAGES
from fastopt.kernels.codecs import FLOAT32
from fastopt.kernels.compile import STORED_LOOPS, compiled_codecs, form_address, kernel
from fastopt.kernels.passes import FACTORS
from fastopt.kernels.rule import GRADIENT_MEASURE, NO_RULE, Rule
from fastopt.kernels.stores import FORMS
from fastopt.optimizer import Optimizer
from fastopt.optimizers.sophia import HESSIAN, Sophia

Kernel = tuple[Rule, str, tuple[str, ...]]
"""A rule, which of its kernels, and the transforms before and after it."""


def kernels(optimizers: Sequence[Optimizer], averages: Sequence[str] = ()) -> list[Kernel]:
    """The kernels that steps need; `averages` are those of `AVERAGES` that some steps keep and others leave alone."""
    # For on_nonfinite and clipping by norm.
    found: list[Kernel] = [(NO_RULE, which, ()) for which in ("finite", "finite_squares", "norm", "quick_norm")]
    found += [(GRADIENT_MEASURE, which, ()) for which in FACTORS]
    wanted = [name for name in AVERAGES if name in averages]
    kept = list(chain.from_iterable(combinations(wanted, count) for count in range(len(wanted) + 1)))
    for optimizer in optimizers:
        rule, transforms = optimizer._rule, optimizer._needed_transforms()
        transforms = centralized(transforms) if optimizer.centralize else transforms
        loops = ["step"]
        if optimizer.state_storage != FLOAT32 and rule.state and not rule.is_by_array:
            loops += [optimizer.state_storage]
        found += [(rule, which, (*transforms, *after)) for which in loops for after in kept]
        found += [(rule.measuring, which, transforms) for which in ("measure", *FACTORS)] if rule.measuring else []
        found += [(rule.preparing, "prepare", transforms)] if rule.preparing else []
        found += [(rule.totalling, "totals", transforms)] if rule.totalling else []
        found += [(rule, "aligned", transforms)] if optimizer.cautious else []
        found += [(HESSIAN, which, ()) for which in loops] if isinstance(optimizer, Sophia) else []
    return list(dict.fromkeys(found))  # rules share some


def main(optimizers: Sequence[Optimizer], averages: Sequence[str] = ()) -> None:
    """Compiles with a progress bar and says where the kernels are."""
    console = Console()
    start = time.perf_counter()
    compiled_scan()
    compiled_call()
    compiled_spread()
    for known in DTYPES:
        compiled_add_up(known)
    for form in range(len(FORMS)):
        form_address(form, "float32")
    if any(optimizer.state_storage != FLOAT32 for optimizer in optimizers):
        compiled_codecs()
    loops = (False, True) if threads.layer() else (False,)
    if any(optimizer.centralize for optimizer in optimizers):
        for known in DTYPES:
            for in_parallel in loops:
                compiled_find_means(known, in_parallel)
    pairs = product(kernels(optimizers, averages), ("float32", "float64"))
    # Squares of float32 numbers, as float64, neither overflow nor vanish; a plain sum of float64 ones settles nothing.
    only = dict.fromkeys(FACTORS, "float64") | dict.fromkeys(("quick_norm", *STORED_LOOPS), "float32")
    wanted = [pair for pair in pairs if pair[1] == only.get(pair[0][1], pair[1])]
    for (rule, which, transforms), dtype in track(wanted, "compiling", console=console):
        for in_parallel in loops:  # the second one costs nothing
            kernel(rule, dtype, in_parallel, which, transforms)
    seconds = time.perf_counter() - start
    console.print(f"{len(wanted)} kernels in {seconds:.1f} s: {info.cache_folder()}", highlight=False, soft_wrap=True)
