"""Shows that the compiled optimizers equal the plain-NumPy ones: the largest difference, in units in the last place."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from rich import box
from rich.console import Console
from rich.progress import track
from rich.table import Table

from fastopt import reference, threads
from fastopt.flat import Array
from fastopt.optimizers import OPTIMIZERS

DTYPES = ("float32", "float64")

# Variants that the defaults do not reach, besides every optimizer as it comes.
VARIANTS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("sgd_momentum", {"dampening": 0.5}),
    ("asgd", {"t0": 3.0, "lambd": 0.1}),
    ("rprop", {"min_step_size": 0.006, "max_step_size": 0.012}),
    ("adagrad", {"lr_decay": 0.1}),
    ("adagrad", {"initial_accumulator": 1e-4, "eps": 1e-4}),
    ("rmsprop", {"eps_root": 1e-7}),
    ("centred_rmsprop", {"eps_root": 1e-4, "eps": 0.0, "momentum": 0.9}),
    ("adam", {"form": "paper"}),
    ("adam", {"eps_root": 1e-8}),
    ("radam", {"beta2": 0.9}),
    ("ademamix", {"warmup": 10.0}),
    ("schedule_free_sgd", {"warmup": 10.0}),
)


class Row(NamedTuple):
    """The outcome for one optimizer, dtype and number of threads."""

    optimizer: str
    dtype: str
    threads: int
    values: int
    """How many parameters and state values were compared."""
    parameter_ulps: int
    state_ulps: int

    @property
    def identical(self) -> bool:
        """Whether all bits are equal."""
        return self.parameter_ulps == self.state_ulps == 0


def cases() -> list[tuple[str, dict[str, Any]]]:
    """The rules and settings that are verified."""
    return [*((rule, {}) for rule in OPTIMIZERS), *VARIANTS]


def verify(thread_counts: Sequence[int], steps: int = 20, seed: int = 0) -> Iterator[Row]:
    """Runs compiled and reference optimizers side by side and yields a row per case, dtype and number of threads.

    The model is a dict of arrays of many sizes; gradients range over 60 orders of magnitude and hold zeros.
    """
    for rule, settings in cases():
        for dtype in DTYPES:
            for count in thread_counts:
                with threads.exactly(count):
                    yield _verify(rule, settings, dtype, count, steps, seed)


def main(thread_counts: Sequence[int], steps: int) -> bool:
    """Prints the table of `verify` with a progress bar; returns whether everything was equal to the last bit."""
    console = Console()
    total = len(cases()) * len(DTYPES) * len(thread_counts)
    rows = list(track(verify(thread_counts, steps), "comparing", total=total, console=console, transient=True))
    table = Table(
        title=f"Compiled against plain NumPy after {steps} steps: largest difference in ulps", box=box.SIMPLE_HEAD
    )
    table.add_column("optimizer", max_width=34)
    table.add_column("dtype")
    for heading in ("threads", "values", "param.", "state"):
        table.add_column(heading, justify="right")
    table.add_column()
    before = None
    for row in rows:
        if before is not None and row.optimizer != before:
            table.add_section()
        table.add_row(
            row.optimizer if row.optimizer != before else "",
            row.dtype,
            str(row.threads),
            f"{row.values:,}",
            str(row.parameter_ulps),
            str(row.state_ulps),
            "identical" if row.identical else "[bold red]DIFFERENT[/]",
        )
        before = row.optimizer
    console.print(table)
    different = sum(not row.identical for row in rows)
    console.print(
        f"{different} of {len(rows)} cases differ" if different else f"all {len(rows)} cases are identical, bit for bit"
    )
    return different == 0


def _verify(rule: str, settings: dict[str, Any], dtype: str, count: int, steps: int, seed: int) -> Row:
    rng = np.random.default_rng(seed)
    shapes = {"W1": (311, 97), "b1": (97,), "W2": (97, 10), "b2": (10,), "scale": ()}
    compiled_class = OPTIMIZERS[rule]
    ours, theirs = compiled_class(**settings), getattr(reference, compiled_class.__name__)(**settings)
    mine = {key: np.asarray(rng.standard_normal(shape)).astype(dtype) for key, shape in shapes.items()}
    yours = {key: value.copy() for key, value in mine.items()}
    for _ in range(steps):
        grads = {key: _gradient(rng, shape, dtype) for key, shape in shapes.items()}
        ours.update(mine, grads)
        with np.errstate(all="ignore"):
            theirs.update(yours, grads)
    state = [(getattr(ours, slot)[key], getattr(theirs, slot)[key]) for slot in theirs.slots for key in shapes]
    parameters = [(mine[key], yours[key]) for key in shapes]
    arguments = ", ".join(f"{name}={value!r}" for name, value in settings.items())
    return Row(
        optimizer=f"{compiled_class.__name__}({arguments})",
        dtype=dtype,
        threads=count,
        values=sum(a.size for a, _ in parameters + state),
        parameter_ulps=max((ulps(a, b) for a, b in parameters), default=0),
        state_ulps=max((ulps(a, b) for a, b in state), default=0),
    )


def _gradient(rng: np.random.Generator, shape: tuple[int, ...], dtype: str) -> Array:
    magnitude = 10.0 ** rng.uniform(-15, 15, size=shape)
    zeros = rng.random(shape) < 0.1
    return np.asarray(np.where(zeros, 0.0, rng.standard_normal(shape) * magnitude)).astype(dtype)


def ulps(a: Array, b: Array) -> int:
    """The largest distance between two float arrays, counted in representable numbers; 0 means equal bits.

    All NaNs are equal; +0 and -0 are one apart.
    """
    if a.size == 0:
        return 0
    first, second = _rank(a), _rank(b)
    return int((np.maximum(first, second) - np.minimum(first, second)).max())


def _rank(x: Array) -> Array:
    """Unsigned integers in the order of the floats, neighbours one apart."""
    kind = np.dtype(np.uint32 if x.dtype == np.float32 else np.uint64)
    bits = np.where(np.isnan(x), np.array(np.nan, dtype=x.dtype), x).view(kind)
    sign = kind.type(1 << (8 * kind.itemsize - 1))
    return np.asarray(np.where(bits & sign, ~bits, bits | sign))
