"""The command `fastopt`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import fastopt
from fastopt import names, threads
from fastopt.commands import run
from fastopt.commands.run import FORMATS, UserError
from fastopt.experiments import NAMES as EXPERIMENTS
from fastopt.optimizers import OPTIMIZERS

SETTING = "a setting of the optimizer, such as weight_decay=0.1; may be repeated"
DATA = "folder with the four MNIST files (default: FASTOPT_MNIST_DIR, else the cache, a download or the subset)"


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one subcommand; returns the exit status: 0; 1 if results differ that must be equal;
    2 for bad arguments or data, with one line that says why.
    """
    parser = _parser()
    with suppress(ImportError):  # completion in the shell: eval "$(register-python-argcomplete fastopt)"
        import argcomplete

        argcomplete.autocomplete(parser)
    options = parser.parse_args(arguments)
    if options.command is None:
        parser.print_help(sys.stderr)
        return 2
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
            of_known = f"{value!r}{names.one_of(value, list(action.choices))}"
            if isinstance(action, argparse._SubParsersAction):
                raise argparse.ArgumentError(None, f"unknown command {of_known}")
            raise argparse.ArgumentError(action, f"unknown {of_known}")

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        """A wrong option with the right one."""
        options, unknown = self.parse_known_args(args, namespace)
        if unknown:
            switches = options.parser._option_string_actions
            suggestions = (f"{one}{names.did_you_mean(one.partition('=')[0], switches)}" for one in unknown)
            options.parser.error(f"unrecognized arguments: {' '.join(suggestions)}")
        return options

    def error(self, message: str) -> None:  # type: ignore[override]
        """One line instead of the usage text and the line."""
        self.exit(2, f"{self.prog}: {message} (see {self.prog} --help)\n")


def _parser() -> argparse.ArgumentParser:
    formatter = _Help
    parser = _Parser(
        prog="fastopt",
        description="Fused, compiled optimizer steps for NumPy training loops.",
        epilog="Documentation: https://fastopt.github.io/fastopt/",
    )
    parser.add_argument("--version", action="version", version=f"fastopt {fastopt.__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")

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
        help=f"{', '.join(OPTIMIZERS)}, or module:Name of one of your own",
    )
    train.add_argument(
        "--hidden", type=_sizes, default="100,100,100,100", metavar="N,N,...", help="widths of the hidden layers"
    )
    train.add_argument("--batch", type=_count, default=128, metavar="N", help="digits per step")
    train.add_argument("--steps", type=_count, default=2000, metavar="N", help="number of steps")
    train.add_argument("--dtype", choices=("float32", "float64"), default="float32", help="parameter dtype")
    train.add_argument("--lr", type=_number, metavar="X", help="learning rate (default: the optimizer's)")
    train.add_argument("--set", type=_setting, action="append", default=[], metavar="NAME=VALUE", help=SETTING)
    train.add_argument("--data", type=Path, metavar="DIR", help=DATA)
    train.add_argument("--out", type=Path, default=Path("results"), metavar="DIR", help="where the picture goes")
    train.add_argument("--seed", type=_seed, default=0, metavar="N", help="random seed")
    train.add_argument(
        "--mpi",
        action="store_true",
        help="train one network on all processes of `mpiexec -n 2 fastopt train --mpi`, without a comparison",
    )
    train.add_argument("--format", choices=FORMATS, default="png", help="file format of the picture")
    train.set_defaults(run=run.run_train, parser=train)

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
    profile.set_defaults(run=run.run_profile, parser=profile)

    verify = commands.add_parser(
        "verify",
        help="check the compiled optimizers against plain NumPy, bit by bit",
        description="Runs every optimizer beside its plain-NumPy reference and shows the largest difference in units "
        "in the last place (ulps). 0 means identical bits.",
        formatter_class=formatter,
    )
    every = "1,2,3" if threads.layer() else "1"
    verify.add_argument("--threads", type=_sizes, default=every, metavar="N,N,...", help="thread counts to compare")
    verify.add_argument("--steps", type=_count, default=20, metavar="N", help="steps per case")
    verify.set_defaults(run=run.run_verify, parser=verify)
    info = commands.add_parser(
        "info",
        help="show threads, cache and versions on this machine, and how a model would be stepped",
        description="Shows what fastopt found on this machine, and how it would step a model of a given size.",
        formatter_class=formatter,
    )
    info.add_argument("--parameters", type=_count, default=1_000_000, metavar="N", help="size of the model")
    info.add_argument("--optimizer", type=_optimizer, default="adam", metavar="NAME", help=", ".join(OPTIMIZERS))
    info.add_argument("--dtype", choices=("float32", "float64"), default="float32", help="parameter dtype")
    info.set_defaults(run=run.run_info, parser=info)

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
    explain.add_argument("--set", type=_setting, action="append", default=[], metavar="NAME=VALUE", help=SETTING)
    explain.set_defaults(run=run.run_explain, parser=explain)

    warmup = commands.add_parser(
        "warmup",
        help="compile kernels into numba's disk cache",
        description="Compiles every kernel that the default settings use, or those of the optimizers and settings "
        "that are given, so that no training run waits for them. Reports have kernels of their own, compiled at the "
        "first report.",
        epilog=f"optimizers: {', '.join(OPTIMIZERS)}",
        formatter_class=formatter,
    )
    warmup.add_argument(
        "names", nargs="*", metavar="NAME", help="optimizers, such as Adam, or module:Name (default: all)"
    )
    warmup.add_argument("--set", type=_setting, action="append", default=[], metavar="NAME=VALUE", help=SETTING)
    warmup.add_argument("--averaging", action="store_true", help="compile for an average of the weights too")
    warmup.add_argument("--lookahead", action="store_true", help="compile for Lookahead too")
    warmup.add_argument("--mask", action="store_true", help="compile for a mask too")
    warmup.add_argument("--bound-arrays", action="store_true", help="compile for bounds that are arrays too")
    warmup.set_defaults(run=run.run_warmup, parser=warmup)

    experiment = commands.add_parser(
        "experiment",
        help="run an experiment of a course on deep learning, or all of them",
        description="Runs an experiment and writes its picture and its curves (CSV).",
        epilog=f"experiments: {', '.join(EXPERIMENTS)}; all runs them all and writes a page that shows the pictures",
        formatter_class=formatter,
    )
    experiment.add_argument("name", nargs="?", metavar="NAME", help="the experiment, or all")
    experiment.add_argument("--list", action="store_true", help="list the experiments and exit")
    experiment.add_argument("--quick", action="store_true", help="take a few seconds, on the MNIST subset of fastopt")
    experiment.add_argument(
        "--backend", choices=("compiled", "reference"), default="compiled", help="kind of optimizers"
    )
    experiment.add_argument("--data", type=Path, metavar="DIR", help=DATA)
    experiment.add_argument("--out", type=Path, default=Path("results"), metavar="DIR", help="where the files go")
    experiment.add_argument("--seed", type=_seed, default=0, metavar="N", help="random seed")
    experiment.add_argument(
        "--as-printed", action="store_true", help="optimizers-sigmoid: AdaGrad with the bug of the printed exercise"
    )
    experiment.add_argument("--refine", action="store_true", help="hyperparameters: search again in narrowed ranges")
    experiment.add_argument("--format", choices=FORMATS, default="png", help="file format of the picture")
    experiment.set_defaults(run=run.run_experiment, parser=experiment)

    schedule = commands.add_parser(
        "schedule",
        help="draw how a hyperparameter changes from step to step",
        description="Draws one of the schedules in fastopt.schedules, with settings that show what it does or with "
        "yours, and prints its values at a few steps.",
        formatter_class=formatter,
    )
    schedule.add_argument("name", nargs="?", metavar="NAME", help="the schedule, such as one-cycle")
    schedule.add_argument("--list", action="store_true", help="list the schedules and exit")
    schedule.add_argument("--steps", type=_count, default=1000, metavar="N", help="number of steps")
    schedule.add_argument(
        "--set",
        type=_setting,
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="a setting of the schedule, such as warmup=100; may be repeated",
    )
    schedule.add_argument(
        "--out", type=Path, metavar="FILE", help="where the picture goes (default: results/schedule-NAME.FORMAT)"
    )
    schedule.add_argument("--format", choices=FORMATS, default="png", help="file format of the picture without --out")
    schedule.set_defaults(run=run.run_schedule, parser=schedule)
    return parser


def _optimizer(name: str) -> str:
    rule = names.find(name, OPTIMIZERS)
    if rule is None:
        raise argparse.ArgumentTypeError(f"unknown optimizer {name!r}{names.one_of(name, OPTIMIZERS)}")
    return rule


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


if __name__ == "__main__":
    sys.exit(main())
