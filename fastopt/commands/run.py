"""The work of each command, from its parsed arguments; mistakes become one line.

Modules that need an extra are imported where they are used.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from fastopt import machine, names
from fastopt.experiments import NAMES as EXPERIMENTS
from fastopt.optimizers import OPTIMIZERS

FORMATS = ("png", "svg", "pdf")
MOST_STEPS = 1_000_000
"""Of a picture of a schedule, which takes half a second then."""


class UserError(Exception):
    """Something the user can mend; the text is one line."""


def run_train(options: argparse.Namespace) -> int:
    try:
        from fastopt.commands import train
        from fastopt.experiments.experiment import check_writable
    except ImportError as error:
        raise _missing("train", error) from None
    from fastopt.nn import checks
    from fastopt.nn.mnist import read_mnist

    settings = dict(options.set) | ({} if options.lr is None else {"lr": options.lr})
    optimizer = _optimizer(options.optimizer, list(settings.items()))
    settings = {name: getattr(optimizer, name) for name in settings}
    if options.mpi:
        return _train_mpi(options, settings)
    needed = train.bytes_needed(options.optimizer, options.hidden, options.batch, options.steps, options.dtype)
    there = machine.memory()
    if needed > there:
        raise UserError(
            f"this training needs {needed / 1e9:,.0f} GB of memory, and the machine has {there / 1e9:,.0f}; choose "
            "smaller --hidden, --batch or --steps"
        )
    try:
        data = read_mnist(options.data)
        check_writable(train.picture(options.out, options.optimizer, options.format))
        checks.batch_size(options.batch, len(data.train[0]))
    except (ValueError, OSError) as error:
        raise UserError(str(error)) from None
    sizes = options.hidden, options.batch, options.steps, options.dtype, options.seed
    try:
        result = train.main(data, options.optimizer, *sizes, options.out, settings, options.format)
    except ValueError as error:
        if ":" not in options.optimizer:
            raise
        raise UserError(
            f"{options.optimizer}: the formula has no form on whole arrays, to compare with: {error}"
        ) from None
    except MemoryError as error:
        raise UserError(f"{error}; choose smaller --hidden, --batch or --steps") from None
    return 0 if result.identical else 1


def _train_mpi(options: argparse.Namespace, settings: dict[str, Any]) -> int:
    try:
        from fastopt.commands import train_mpi
    except ImportError as error:
        raise UserError(str(error)) from None
    sizes = options.hidden, options.batch, options.steps, options.dtype, options.seed
    try:
        train_mpi.main(train_mpi.read(options.data), options.optimizer, *sizes, settings)
    except (ValueError, OSError) as error:
        raise UserError(str(error)) from None
    return 0


def run_experiment(options: argparse.Namespace) -> int:
    try:
        from fastopt.experiments import report
        from fastopt.experiments.experiment import experiment
    except ImportError as error:
        raise _missing("experiment", error) from None
    from fastopt.nn.mnist import DataError

    if options.list:
        for name in EXPERIMENTS:
            print(f"{name:20}{experiment(name).summary}")
        return 0
    chosen_name = names.find(options.name, (*EXPERIMENTS, "all"))
    if chosen_name is None:
        found = "no experiment was named" if options.name is None else f"unknown experiment {options.name!r}"
        raise UserError(f"{found}{names.one_of(options.name, EXPERIMENTS)}, and all")
    chosen = EXPERIMENTS if chosen_name == "all" else (chosen_name,)
    switches = {"as_printed": options.as_printed, "refine": options.refine}
    for switch, given in switches.items():
        if given and not any(switch in experiment(name).options for name in chosen):
            raise UserError(f"{chosen_name} has no --{switch.replace('_', '-')}")
    settings = {name: getattr(options, name) for name in ("seed", "quick", "backend", "data")}
    try:
        complete = report.main(chosen, options.out, chosen_name == "all", settings, switches, options.format)
    except (DataError, OSError, RuntimeError) as error:
        raise UserError(str(error)) from None
    return 0 if complete else 130


def run_schedule(options: argparse.Namespace) -> int:
    try:
        from fastopt.commands import schedule
    except ImportError as error:
        raise _missing("schedule", error) from None
    schedules = schedule.names()
    if options.list:
        for each in schedules:
            print(f"{each:20}{schedule.summary(each)}")
        return 0
    name = names.find(options.name, schedules)
    if name is None:
        found = "no schedule was named" if options.name is None else f"unknown schedule {options.name!r}"
        raise UserError(f"{found}{names.one_of(options.name, schedules)}")
    if options.steps > MOST_STEPS:
        raise UserError(f"--steps: a picture has at most {MOST_STEPS:,} steps, got {options.steps:,}")
    out = Path("results", f"schedule-{name}.{options.format}") if options.out is None else options.out
    if out.suffix.lower().removeprefix(".") not in FORMATS:
        raise UserError(f"--out: expected a name that ends in .png, .svg or .pdf, such as {name}.png, got {str(out)!r}")
    try:
        schedule.main(name, options.steps, out, dict(options.set))
    except (TypeError, ValueError, OSError) as error:
        raise UserError(str(error)) from None
    return 0


def run_profile(options: argparse.Namespace) -> int:
    from fastopt.commands import profile
    from fastopt.profiling import Profile

    if not options.script.is_file():
        raise UserError(f"no such script: {str(options.script)!r}")
    measured = Profile(try_blas=not options.no_blas, stop_after=options.steps, replace_by=options.optimizer)
    try:
        profile.run(options.script, options.arguments, measured)
    except Exception as error:
        raise UserError(f"{options.script}: {type(error).__name__}: {error}") from error
    except SystemExit as end:
        if end.code not in (None, 0):
            raise UserError(f"{options.script}: the script ended itself with status {end.code}") from None
    if len(measured.steps) < 2:
        raise UserError(
            f"{options.script}: saw {len(measured.steps)} optimizer steps, need 2 or more: calls of a method "
            "`update(params, grads)` with dicts, lists or arrays"
        )
    print(f"\n{measured}")
    return 0


def run_verify(options: argparse.Namespace) -> int:
    try:
        from fastopt.commands import verify
    except ImportError as error:
        raise _missing("verify", error) from None
    try:
        return 0 if verify.main(options.threads, options.steps) else 1
    except RuntimeError as error:
        raise UserError(str(error)) from None


def run_info(options: argparse.Namespace) -> int:
    from fastopt.commands import info

    rank, of_job = info.processes()
    if rank:
        return 0  # one process of a job says it all
    for name, value in (of_job | info.facts(options.parameters, options.optimizer, options.dtype)).items():
        print(f"{name + ':':28}{value}")
    return 0


def run_explain(options: argparse.Namespace) -> int:
    from fastopt.commands import explain

    print(explain.explain(_optimizer(options.name, options.set), options.step))
    return 0


def _optimizer(name: str, given: list[tuple[str, Any]]) -> Any:
    """The optimizer of a name, or of `module:Name`, with settings."""
    from fastopt.commands import explain

    settings = dict(given)
    try:
        optimizer = explain.find(name)
        settable = optimizer._hyperparameters()
        for setting in settings:
            if setting not in settable:
                raise ValueError(names.unknown_setting(optimizer.__name__, setting, settable))
        return optimizer(**settings)
    except (ImportError, TypeError, ValueError) as error:
        raise UserError(str(error)) from None


def run_warmup(options: argparse.Namespace) -> int:
    try:
        from fastopt.commands import warmup
    except ImportError as error:
        raise _missing("warmup", error) from None
    averages = [name for name in ("averaging", "lookahead") if getattr(options, name)]
    columns = ["mask"] * options.mask + ["lower_array", "upper_array"] * options.bound_arrays
    warmup.main([_optimizer(name, options.set) for name in options.names or OPTIMIZERS], averages, columns)
    return 0


def _missing(command: str, error: ImportError) -> UserError:
    return UserError(f"`fastopt {command}` needs {str(error.name).split('.')[0]}: pip install 'fastopt[experiments]'")
