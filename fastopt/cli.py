"""The command `fastopt`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import fastopt
from fastopt import machine, names, threads
from fastopt.experiments import NAMES as EXPERIMENTS
from fastopt.optimizers import OPTIMIZERS

FORMATS = ("png", "svg", "pdf")
MOST_STEPS = 1_000_000
"""Of a picture of a schedule, which takes half a second then."""


DATA = "folder with the four MNIST files (default: that of FASTOPT_MNIST_DIR, the cache, a download, or the subset)"


class UserError(Exception):
    """Something the user can mend; the text is one line."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one subcommand; returns the exit status: 0; 1 if results differ that must be equal;
    2 for bad arguments or data, with one line that says why.
    """
    parser = _parser()
    with suppress(ImportError):  # completion in the shell: eval "$(register-python-argcomplete fastopt)"
        import argcomplete

        argcomplete.autocomplete(parser)
    options = parser.parse_args(arguments)
    try:
        status: int = options.run(options)
        return status
    except UserError as error:
        print(f"fastopt: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("fastopt: stopped", file=sys.stderr)
        return 130


class _Help(argparse.ArgumentDefaultsHelpFormatter):
    def _get_help_string(self, action: argparse.Action) -> str | None:
        """Without a default where there is none."""
        return action.help if action.default in (None, False, []) else super()._get_help_string(action)


class _Parser(argparse.ArgumentParser):
    def _check_value(self, action: argparse.Action, value: Any) -> None:
        """A wrong choice with the right one."""
        if action.choices is not None and value not in action.choices:
            known = list(action.choices)
            raise argparse.ArgumentError(action, f"unknown {value!r}{names.one_of(value, known)}")

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        """A wrong option with the right one."""
        options, unknown = self.parse_known_args(args, namespace)
        if unknown:
            known = options.parser._option_string_actions
            suggestions = (f"{one}{names.did_you_mean(one.partition('=')[0], known)}" for one in unknown)
            options.parser.error(f"unrecognized arguments: {' '.join(suggestions)}")
        return options

    def error(self, message: str) -> None:  # type: ignore[override]
        """One line instead of the usage text and the line."""
        self.exit(2, f"{self.prog}: {message} (see {self.prog} --help)\n")


def _parser() -> argparse.ArgumentParser:
    formatter = _Help
    parser = _Parser(prog="fastopt", description="Fused, compiled optimizer steps for NumPy training loops.")
    parser.add_argument("--version", action="version", version=f"fastopt {fastopt.__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    train = commands.add_parser(
        "train",
        help="train a network on MNIST with plain NumPy and with fastopt, side by side",
        description="Trains two equal networks on MNIST, one with the textbook optimizer in plain NumPy and one with "
        "fastopt's, compares results and times, and draws both.",
        formatter_class=formatter,
    )
    train.add_argument(
        "--optimizer",
        type=lambda name: name if ":" in name else _optimizer(name),
        default="adam",
        metavar="NAME",
        help=f"{', '.join(OPTIMIZERS)}, or module:name of one of your own",
    )
    train.add_argument("--hidden", type=_sizes, default="100,100,100,100", metavar="N,N,...", help="hidden layers")
    train.add_argument("--batch", type=_count, default=128, metavar="N", help="digits per step")
    train.add_argument("--steps", type=_count, default=2000, metavar="N", help="number of steps")
    train.add_argument("--dtype", choices=("float32", "float64"), default="float32", help="parameter dtype")
    train.add_argument("--lr", type=_number, metavar="X", help="learning rate (default: the optimizer's)")
    train.add_argument(
        "--set", type=_setting, action="append", default=[], metavar="NAME=VALUE", help="a setting; may be repeated"
    )
    train.add_argument("--data", type=Path, metavar="DIR", help=DATA)
    train.add_argument("--out", type=Path, default=Path("results"), metavar="DIR", help="where the picture goes")
    train.add_argument("--seed", type=_seed, default=0, metavar="N", help="random seed")
    train.add_argument(
        "--mpi",
        action="store_true",
        help="train one network on all processes of `mpiexec -n 2 fastopt train --mpi`, without a comparison",
    )
    train.add_argument("--format", choices=FORMATS, default="png", help="file format of the picture")
    train.set_defaults(run=_train, parser=train)

    profile = commands.add_parser(
        "profile",
        help="run a script and show where the time of its training loop goes",
        description="Runs a training script and times the parts of its steps: gradient, optimizer and the rest. Shows "
        "what the optimizer's step could take at the memory limit, how much faster fastopt can make the loop at most, "
        "and on how many BLAS threads the loop is fastest. The script is stopped after --steps steps.",
        formatter_class=formatter,
    )
    profile.add_argument("--steps", type=_count, default=500, metavar="N", help="stop the script after this many steps")
    profile.add_argument(
        "--optimizer",
        type=_optimizer,
        metavar="NAME",
        help="step with this optimizer of fastopt in place of the script's own, which keeps its lr and other settings",
    )
    profile.add_argument("--no-blas", action="store_true", help="leave the number of BLAS threads alone")
    profile.add_argument("script", type=Path, metavar="SCRIPT", help="the Python script")
    profile.add_argument("arguments", nargs=argparse.REMAINDER, metavar="...", help="arguments of the script")
    profile.set_defaults(run=_profile, parser=profile)

    verify = commands.add_parser(
        "verify",
        help="check the compiled optimizers against plain NumPy, bit by bit",
        description="Runs every optimizer beside its plain-NumPy reference and shows the largest difference in units "
        "in the last place (ulps). 0 means identical bits.",
        formatter_class=formatter,
    )
    every = "1,2,3" if threads.layer() else "1"
    verify.add_argument("--threads", type=_sizes, default=every, metavar="N,N,...", help="numbers of threads")
    verify.add_argument("--steps", type=_count, default=20, metavar="N", help="steps per case")
    verify.set_defaults(run=_verify, parser=verify)
    info = commands.add_parser(
        "info",
        help="show threading layer, threads, cache folder and versions, and how a model would be stepped",
        description="Shows what fastopt found on this machine, and how it would step a model of a given size.",
        formatter_class=formatter,
    )
    info.add_argument("--parameters", type=_count, default=1_000_000, metavar="N", help="size of the model")
    info.add_argument("--optimizer", type=_optimizer, default="adam", metavar="NAME", help=", ".join(OPTIMIZERS))
    info.add_argument("--dtype", choices=("float32", "float64"), default="float32", help="parameter dtype")
    info.set_defaults(run=_info, parser=info)

    explain = commands.add_parser(
        "explain",
        help="show an optimizer's formula, its scalars at a step, and where PyTorch, Keras and optax differ",
        description="Shows the formula of an optimizer, the values of its scalars at a step, its state and source, and "
        "where PyTorch, Keras and optax differ.",
        epilog=f"optimizers: {', '.join(OPTIMIZERS)}; module:Name is one of your own, made with fastopt.rule",
        formatter_class=formatter,
    )
    explain.add_argument("name", metavar="NAME", help="the optimizer, such as Adam, or module:Name")
    explain.add_argument("--step", type=_count, default=1, metavar="T", help="the step, counted from 1")
    explain.add_argument(
        "--set", type=_setting, action="append", default=[], metavar="NAME=VALUE", help="a setting; may be repeated"
    )
    explain.set_defaults(run=_explain, parser=explain)

    warmup = commands.add_parser(
        "warmup",
        help="compile kernels into numba's disk cache",
        description="Compiles every kernel that the default settings use, or those of the optimizers and settings "
        "that are given, so that no training run waits for it. Reports have kernels of their own, compiled when the "
        "first is asked for.",
        epilog=f"optimizers: {', '.join(OPTIMIZERS)}",
        formatter_class=formatter,
    )
    warmup.add_argument(
        "names", nargs="*", metavar="NAME", help="optimizers, such as Adam, or module:Name (default: all)"
    )
    warmup.add_argument(
        "--set", type=_setting, action="append", default=[], metavar="NAME=VALUE", help="a setting; may be repeated"
    )
    warmup.add_argument("--averaging", action="store_true", help="also with an average of the weights")
    warmup.add_argument("--lookahead", action="store_true", help="also with Lookahead")
    warmup.set_defaults(run=_warmup, parser=warmup)

    experiment = commands.add_parser(
        "experiment",
        help="run an experiment of a course on deep learning, or all of them",
        description="Runs an experiment and writes its picture and its curves (CSV).",
        epilog=f"experiments: {', '.join(EXPERIMENTS)}; all runs them all and writes a page that shows the pictures",
        formatter_class=formatter,
    )
    experiment.add_argument("name", nargs="?", metavar="NAME", help="the experiment, or all")
    experiment.add_argument("--list", action="store_true", help="say what each experiment shows, and stop")
    experiment.add_argument("--quick", action="store_true", help="a few seconds, on the MNIST subset of the package")
    experiment.add_argument("--backend", choices=("compiled", "reference"), default="compiled", help="the optimizers")
    experiment.add_argument("--data", type=Path, metavar="DIR", help=DATA)
    experiment.add_argument("--out", type=Path, default=Path("results"), metavar="DIR", help="where the files go")
    experiment.add_argument("--seed", type=_seed, default=0, metavar="N", help="random seed")
    experiment.add_argument(
        "--as-printed", action="store_true", help="optimizers-sigmoid: AdaGrad with its printed bug"
    )
    experiment.add_argument("--refine", action="store_true", help="hyperparameters: search again in narrowed ranges")
    experiment.add_argument("--format", choices=FORMATS, default="png", help="file format of the picture")
    experiment.set_defaults(run=_experiment, parser=experiment)

    schedule = commands.add_parser(
        "schedule",
        help="draw how a hyperparameter changes from step to step",
        description="Draws one of the schedules in fastopt.schedules, with settings that show what it does or with "
        "yours, and prints its values at a few steps.",
        formatter_class=formatter,
    )
    schedule.add_argument("name", nargs="?", metavar="NAME", help="the schedule, such as one-cycle")
    schedule.add_argument("--list", action="store_true", help="say what each schedule does, and stop")
    schedule.add_argument("--steps", type=_count, default=1000, metavar="N", help="number of steps")
    schedule.add_argument(
        "--set", type=_setting, action="append", default=[], metavar="NAME=VALUE", help="a setting; may be repeated"
    )
    schedule.add_argument(
        "--out", type=Path, metavar="FILE", help="where the picture goes (default: results/schedule-NAME.FORMAT)"
    )
    schedule.add_argument("--format", choices=FORMATS, default="png", help="file format of the picture without --out")
    schedule.set_defaults(run=_schedule, parser=schedule)
    return parser


def _optimizer(name: str) -> str:
    known = names.find(name, OPTIMIZERS)
    if known is None:
        raise argparse.ArgumentTypeError(f"unknown optimizer {name!r}{names.one_of(name, OPTIMIZERS)}")
    return known


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 1, got {text!r}")
    if len(text) > 18:
        raise argparse.ArgumentTypeError("expected a whole number of at most 18 digits")
    return int(text)


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected a number, got {text!r}") from None


def _seed(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 0, got {text!r}")
    return int(text)


def _sizes(text: str) -> tuple[int, ...]:
    return tuple(_count(part.strip()) for part in text.split(","))


def _setting(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"expected NAME=VALUE, such as lr=0.1, got {text!r}")
    try:
        return name, {"True": True, "False": False}[value] if value in ("True", "False") else float(value)
    except ValueError:
        return name, value


def _train(options: argparse.Namespace) -> int:
    try:
        from fastopt.commands import train
        from fastopt.experiments.experiment import check_writable
    except ImportError as error:
        raise _missing("train", error) from None
    from fastopt.nn import checks
    from fastopt.nn.mnist import read_mnist

    settings = dict(options.set) | ({} if options.lr is None else {"lr": options.lr})
    made = _made(options.optimizer, list(settings.items()))
    settings = {name: getattr(made, name) for name in settings}
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


def _experiment(options: argparse.Namespace) -> int:
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
    wanted = names.find(options.name, (*EXPERIMENTS, "all"))
    if wanted is None:
        found = "no experiment was named" if options.name is None else f"unknown experiment {options.name!r}"
        raise UserError(f"{found}{names.one_of(options.name, EXPERIMENTS)}, and all")
    chosen = EXPERIMENTS if wanted == "all" else (wanted,)
    switches = {"as_printed": options.as_printed, "refine": options.refine}
    for switch, given in switches.items():
        if given and not any(switch in experiment(name).options for name in chosen):
            raise UserError(f"{wanted} has no --{switch.replace('_', '-')}")
    settings = {name: getattr(options, name) for name in ("seed", "quick", "backend", "data")}
    try:
        complete = report.main(chosen, options.out, wanted == "all", settings, switches, options.format)
    except (DataError, OSError, RuntimeError) as error:
        raise UserError(str(error)) from None
    return 0 if complete else 130


def _schedule(options: argparse.Namespace) -> int:
    try:
        from fastopt.commands import schedule
    except ImportError as error:
        raise _missing("schedule", error) from None
    known = schedule.names()
    if options.list:
        for each in known:
            print(f"{each:20}{schedule.summary(each)}")
        return 0
    name = names.find(options.name, known)
    if name is None:
        found = "no schedule was named" if options.name is None else f"unknown schedule {options.name!r}"
        raise UserError(f"{found}{names.one_of(options.name, known)}")
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


def _profile(options: argparse.Namespace) -> int:
    from fastopt.commands import profile
    from fastopt.profiling import Profile

    if not options.script.is_file():
        raise UserError(f"no such script: {str(options.script)!r}")
    found = Profile(try_blas=not options.no_blas, stop_after=options.steps, replace_by=options.optimizer)
    try:
        profile.run(options.script, options.arguments, found)
    except Exception as error:
        raise UserError(f"{options.script}: {type(error).__name__}: {error}") from error
    except SystemExit as end:
        if end.code not in (None, 0):
            raise UserError(f"{options.script}: the script ended itself with status {end.code}") from None
    if len(found.steps) < 2:
        raise UserError(
            f"{options.script}: saw {len(found.steps)} optimizer steps, need 2 or more: calls of a method "
            "`update(params, grads)` with dicts, lists or arrays"
        )
    print(f"\n{found}")
    return 0


def _verify(options: argparse.Namespace) -> int:
    try:
        from fastopt.commands import verify
    except ImportError as error:
        raise _missing("verify", error) from None
    try:
        return 0 if verify.main(options.threads, options.steps) else 1
    except RuntimeError as error:
        raise UserError(str(error)) from None


def _info(options: argparse.Namespace) -> int:
    from fastopt.commands import info

    rank, of_job = info.processes()
    if rank:
        return 0  # one process of a job says it all
    for name, value in (of_job | info.facts(options.parameters, options.optimizer, options.dtype)).items():
        print(f"{name + ':':28}{value}")
    return 0


def _explain(options: argparse.Namespace) -> int:
    from fastopt.commands import explain

    print(explain.explain(_made(options.name, options.set), options.step))
    return 0


def _made(name: str, given: list[tuple[str, Any]]) -> Any:
    """The optimizer of a name, or of `module:Name`, with settings."""
    from fastopt.commands import explain

    settings = dict(given)
    try:
        optimizer = explain.find(name)
        known = optimizer._hyperparameters()
        for setting in settings:
            if setting not in known:
                raise ValueError(names.unknown_setting(optimizer.__name__, setting, known))
        return optimizer(**settings)
    except (ImportError, TypeError, ValueError) as error:
        raise UserError(str(error)) from None


def _warmup(options: argparse.Namespace) -> int:
    try:
        from fastopt.commands import warmup
    except ImportError as error:
        raise _missing("warmup", error) from None
    averages = [name for name in ("averaging", "lookahead") if getattr(options, name)]
    warmup.main([_made(name, options.set) for name in options.names or OPTIMIZERS], averages)
    return 0


def _missing(command: str, error: ImportError) -> UserError:
    return UserError(f"`fastopt {command}` needs {str(error.name).split('.')[0]}: pip install 'fastopt[experiments]'")


if __name__ == "__main__":
    sys.exit(main())
