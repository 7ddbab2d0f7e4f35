"""Shows that the compiled optimizers equal the plain-NumPy ones: the largest difference, in units in the last place."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from fastopt import reference, threads
from fastopt.commands.console import Console, Table, box, track
from fastopt.compare import Row, row, trained
from fastopt.optimizers import OPTIMIZERS

DTYPES = ("float32", "float64")
SHAPES = {"W1": (311, 97), "b1": (97,), "W2": (97, 10), "b2": (10,), "scale": ()}

# Variants that the defaults do not reach, besides every optimizer as it comes.
VARIANTS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("sgd_momentum", {"dampening": 0.5}),
    ("sgd_momentum", {"dampening": 0.9, "damp_first": True}),
    ("asgd", {"t0": 3.0, "lambd": 0.1}),
    ("rprop", {"min_step_size": 0.006, "max_step_size": 0.012}),
    ("adagrad", {"lr_decay": 0.1}),
    ("adagrad", {"initial_accumulator": 1e-4, "eps": 1e-4}),
    ("adagrad", {"eps_root": 1e-7}),
    ("rmsprop", {"eps_root": 1e-7}),
    ("rmsprop", {"initial_accumulator": 1.0}),
    ("rmsprop_momentum", {"eps_root": 1e-7, "lr_in_velocity": True, "initial_accumulator": 1.0}),
    ("centred_rmsprop", {"eps_root": 1e-4, "eps": 0.0, "momentum": 0.9}),
    ("adam", {"form": "paper"}),
    ("adam", {"eps_root": 1e-8}),
    ("radam", {"beta2": 0.9}),
    ("ademamix", {"warmup": 10.0}),
    ("schedule_free_sgd", {"warmup": 10.0}),
    ("muon", {"coefficients": "polar_express", "adjust": "match_rms_adamw"}),
    ("muon", {"normalize_rows": True}),
    ("prodigy", {"bias_correction": True, "safeguard_warmup": True, "growth_rate": 1.02, "d0": 0.01}),
    ("dadapt_adam", {"bias_correction": True, "growth_rate": 1.02, "d0": 0.01}),
)


def cases() -> list[tuple[str, dict[str, Any]]]:
    """The rules and settings that are verified."""
    return [*((rule, {}) for rule in OPTIMIZERS), *VARIANTS]


def verify(thread_counts: Sequence[int], steps: int = 20, seed: int = 0) -> Iterator[tuple[int, Row]]:
    """Runs compiled and reference optimizers side by side and yields number of threads and differences for each case.

    The model is a dict of arrays of many sizes; gradients range over 60 orders of magnitude and hold zeros.
    """
    for rule, settings in cases():
        compiled = OPTIMIZERS[rule]
        plain = getattr(reference, compiled.__name__)
        arguments = ", ".join(f"{name}={value!r}" for name, value in settings.items())
        for dtype in DTYPES:
            expected = trained(plain(**settings), SHAPES, dtype, steps, seed)
            for count in thread_counts:
                with threads.exactly(count):
                    result = trained(compiled(**settings), SHAPES, dtype, steps, seed)
                yield count, row(f"{compiled.__name__}({arguments})", dtype, result, expected)


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
    for count, line in rows:
        if before is not None and line.compared != before:
            table.add_section()
        table.add_row(
            line.compared if line.compared != before else "",
            line.dtype,
            str(count),
            f"{line.values:,}",
            str(line.parameter_ulps),
            str(line.state_ulps),
            "identical" if line.identical else "[bold red]DIFFERENT[/]",
        )
        before = line.compared
    console.print(table)
    different = sum(not line.identical for _, line in rows)
    console.print(
        f"{different} of {len(rows)} cases differ" if different else f"all {len(rows)} cases are identical, bit for bit"
    )
    return different == 0
