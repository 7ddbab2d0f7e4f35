"""Compiles the kernels of optimizers into numba's disk cache: `fastopt warmup`."""

from __future__ import annotations

import copy
import time
from collections.abc import Sequence
from contextlib import suppress
from itertools import chain, combinations, product
from typing import Any

import numpy as np

from fastopt import constraints, threads
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
from fastopt.kernels.constraints import BOUND_COLUMNS, COLUMNS
from fastopt.kernels.passes import FACTORS
from fastopt.kernels.projections import PROJECTIONS, projection
from fastopt.kernels.rule import GRADIENT_MEASURE, NO_RULE, Rule
from fastopt.kernels.stores import FORMS
from fastopt.optimizer import Optimizer
from fastopt.optimizers.sophia import HESSIAN, Sophia

Kernel = tuple[Rule, str, tuple[str, ...]]
"""A rule, which of its kernels, and the transforms before and after it."""


def kernels(optimizers: Sequence[Optimizer], averages: Sequence[str] = (), columns: Sequence[str] = ()) -> list[Kernel]:
    """The kernels that steps need.

    averages : those of `AVERAGES` that some steps keep and others leave alone
    columns : those of `COLUMNS` that some parameters have and others have not, besides those of the settings
    """
    # For on_nonfinite and clipping by norm.
    all_kernels: list[Kernel] = [(NO_RULE, which, ()) for which in ("finite", "finite_squares", "norm", "quick_norm")]
    all_kernels += [(GRADIENT_MEASURE, which, ()) for which in FACTORS]
    slots = [name for name in AVERAGES if name in averages]
    kept = list(chain.from_iterable(combinations(slots, count) for count in range(len(slots) + 1)))
    for optimizer in optimizers:
        rule, transforms = optimizer._rule, optimizer._needed_transforms()
        transforms = centralized(transforms) if optimizer.centralize else transforms
        loops = ["step"]
        if optimizer.state_storage != FLOAT32 and rule.state and not rule.is_by_array:
            loops += [optimizer.state_storage]
        all_kernels += [
            (rule, loop, (*transforms, *after, *behind))
            for loop in loops
            for after in kept
            for behind in _columns(optimizer, columns)
        ]
        all_kernels += (
            [(rule.measuring, which, transforms) for which in ("measure", *FACTORS)] if rule.measuring else []
        )
        all_kernels += [(rule.preparing, "prepare", transforms)] if rule.preparing else []
        all_kernels += [(rule.totalling, "totals", transforms)] if rule.totalling else []
        all_kernels += [(rule, "aligned", transforms)] if optimizer.cautious else []
        all_kernels += [(HESSIAN, loop, ()) for loop in loops] if isinstance(optimizer, Sophia) else []
    return list(dict.fromkeys(all_kernels))  # rules share some


def _columns(optimizer: Optimizer, more: Sequence[str]) -> list[tuple[str, ...]]:
    """The columns of bounds and masks that parameters may have."""
    there = {*more, *(["mask"] if optimizer.mask is not None else [])}
    for own in (optimizer.bounds, *(group.data.get("bounds") for group in optimizer.groups.data.values())):
        there |= {name for name, bound in zip(BOUND_COLUMNS, own or (), strict=False) if isinstance(bound, np.ndarray)}
    names = [name for name in COLUMNS if name in there]
    return [chosen for count in range(len(names) + 1) for chosen in combinations(names, count)]


def rehearse(optimizer: Any, dtype: str, in_parallel: bool) -> None:
    """Steps of copies of an optimizer of many problems: alike, restarted, some stopped, with an lr for each.

    Which numbers differ between problems decides which kernels are needed, and only a step knows.
    """
    size = len(optimizer.lr) if isinstance(optimizer.lr, np.ndarray) else 4
    stopped = np.arange(size) % 2 == 0
    for has_rates, restarts in product((False, True), repeat=2):
        rehearsed = copy.deepcopy(optimizer)
        if has_rates and not isinstance(optimizer.lr, np.ndarray):
            if callable(optimizer.lr):
                continue
            with suppress(ValueError):  # of rules that take no lr for each problem
                rehearsed.lr = np.full(size, optimizer.lr)
        params, grads = {"p": np.ones((size, 2), dtype)}, {"p": np.ones((size, 2), dtype)}
        with threads.exactly(2 if in_parallel else 1):
            for step in range(6):
                if step == 1 and restarts:
                    rehearsed.restart(stopped)
                if step == 4:
                    rehearsed.active = stopped
                rehearsed.update(params, grads)


def main(optimizers: Sequence[Optimizer], averages: Sequence[str] = (), columns: Sequence[str] = ()) -> None:
    """Compiles with a progress bar and says where the kernels are."""
    console = Console()
    start = time.perf_counter()
    compiled_scan()
    compiled_call()
    compiled_spread()
    for kind in DTYPES:
        compiled_add_up(kind)
    for form in range(len(FORMS)):
        form_address(form, "float32")
    if any(optimizer.state_storage != FLOAT32 for optimizer in optimizers):
        compiled_codecs()
    loops = (False, True) if threads.layer() else (False,)
    if any(optimizer.centralize for optimizer in optimizers):
        for kind in DTYPES:
            for in_parallel in loops:
                compiled_find_means(kind, in_parallel)
    for name in (name for name in PROJECTIONS if any(constraints.wants(optimizer, name) for optimizer in optimizers)):
        for dtype, in_parallel in product(("float32", "float64"), loops):
            projection(name, dtype, in_parallel)
    pairs = product(kernels(optimizers, averages, columns), ("float32", "float64"))
    # Squares of float32 numbers, as float64, neither overflow nor vanish; a plain sum of float64 ones settles nothing.
    only = dict.fromkeys(FACTORS, "float64") | dict.fromkeys(("quick_norm", *STORED_LOOPS), "float32")
    needed = [pair for pair in pairs if pair[1] == only.get(pair[0][1], pair[1])]
    for (rule, which, transforms), dtype in track(needed, "compiling", console=console):
        for in_parallel in loops:  # the second one costs nothing
            kernel(rule, dtype, in_parallel, which, transforms)
    of_problems = [optimizer for optimizer in optimizers if optimizer.batch_axis is not None]
    for optimizer, dtype, in_parallel in product(of_problems, ("float32", "float64"), loops):
        rehearse(optimizer, dtype, in_parallel)
    seconds, more = time.perf_counter() - start, " and those of many problems" if of_problems else ""
    console.print(
        f"{len(needed)} kernels{more} in {seconds:.1f} s: {info.cache_folder()}", highlight=False, soft_wrap=True
    )
