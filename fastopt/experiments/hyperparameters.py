"""A random search for learning rate and weight decay, its trials in parallel processes."""

from __future__ import annotations

import signal
import threading
import warnings
from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import partial
from typing import NamedTuple

import numpy as np
from joblib import Parallel, cpu_count, delayed, parallel_config
from matplotlib.figure import Figure

from fastopt.experiments.experiment import Data, Experiment, Result, Settings
from fastopt.experiments.figures import BLUE, RED, finish, new_figure
from fastopt.nn import MultiLayerNet, Trainer
from fastopt.nn.layers import Array

SAMPLES, HELD_OUT = 500, 100
HIDDEN = [100, 100, 100, 100, 100, 100]
BEST = 20  # trials that are shown
ENOUGH = 20  # trials from which on narrower ranges are proposed


class Ranges(NamedTuple):
    """Between which numbers a search draws, evenly in the exponent."""

    lr: tuple[float, float] = (1e-6, 1e-2)
    weight_decay: tuple[float, float] = (1e-8, 1e-4)

    def __str__(self) -> str:
        (low, high), (least, most) = self
        return f"lr from {low:.1e} to {high:.1e} and weight decay from {least:.1e} to {most:.1e}"


class Trial(NamedTuple):
    """One training to be made."""

    search: int
    number: int
    lr: float
    weight_decay: float
    seed: int
    epochs: int


class Outcome(NamedTuple):
    """A training that was made, with accuracies by epoch."""

    trial: Trial
    train: Array
    validation: Array


@Experiment
def run(settings: Settings, refine: bool = False) -> Result:
    """A random search for learning rate and weight decay on 500 digits, of which 100 are held out.

    `refine` searches a second time, inside the ranges that the best trials of the first search span. Trials run in
    processes of their own, one per CPU. Ctrl-C ends the search and keeps the trials that are finished.
    """
    outcomes, stopped = _search(settings, Ranges(), 1)
    if refine and not stopped:
        ranges = _narrow(outcomes)
        settings.say(f"second search: {ranges}")
        more, stopped = _search(settings, ranges, 2)
        outcomes += more
    if not outcomes:
        raise KeyboardInterrupt
    outcomes.sort(key=lambda outcome: (-outcome.validation[-1], outcome.trial.search, outcome.trial.number))
    best = outcomes[0].trial
    rows: list[tuple[str, ...]] = []
    for rank, (trial, train, validation) in enumerate(outcomes[:BEST], start=1):
        settings_of_trial = f"{trial.lr:.2e}", f"{trial.weight_decay:.2e}"
        rows.append((str(rank), *settings_of_trial, f"{train[-1]:.3f}", f"{validation[-1]:.3f}"))
    finding = (
        f"{'Stopped by Ctrl-C. ' if stopped else ''}The best of {len(outcomes)} trials classifies "
        f"{outcomes[0].validation[-1]:.0%} of the held-out digits, with lr {best.lr:.1e} and weight decay "
        f"{best.weight_decay:.1e}."
    )
    if len(outcomes) >= ENOUGH:
        lr, weight_decay = _narrow(outcomes)
        rows.append(("search next", *(f"{low:.0e} to {high:.0e}" for low, high in (lr, weight_decay)), "", ""))
        finding += f" The best {_best_tenth(outcomes)} of them span {_narrow(outcomes)}, the ranges to search next."
    curves = {
        "search": np.array([outcome.trial.search for outcome in outcomes]),
        "trial": np.array([outcome.trial.number for outcome in outcomes]),
        "lr": np.array([outcome.trial.lr for outcome in outcomes]),
        "weight decay": np.array([outcome.trial.weight_decay for outcome in outcomes]),
    }
    for which in ("train", "validation"):
        accuracies = np.array([getattr(outcome, which) for outcome in outcomes])
        curves |= {f"{which} accuracy epoch {epoch}": column for epoch, column in enumerate(accuracies.T)}
    return Result(
        title="Search for hyperparameters",
        finding=finding,
        curves=curves,
        header=("rank", "lr", "weight decay", "train accuracy", "validation accuracy"),
        rows=rows,
        draw=partial(_draw, outcomes),
        stopped=stopped,
    )


def _search(settings: Settings, ranges: Ranges, search: int) -> tuple[list[Outcome], bool]:
    """The outcomes of the finished trials, the best first, and whether Ctrl-C came before the end."""
    seed = settings.seed + search - 1
    count, epochs = (20, 10) if settings.quick else (100, 50)
    low, high = np.log10(ranges).T
    exponents = np.random.default_rng(seed).uniform(low, high, size=(count, 2))
    trials = [
        Trial(search, number, float(lr), float(weight_decay), seed, epochs)
        for number, (lr, weight_decay) in enumerate(10**exponents, start=1)
    ]
    data = Data(*(values[:SAMPLES] for values in settings.data))
    outcomes: list[Outcome] = []
    stopped = False
    # One thread for each process's BLAS, as there is a process for each CPU.
    with parallel_config("loky", n_jobs=min(count, cpu_count()), inner_max_num_threads=1), warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=UserWarning, module="joblib")  # that trials are dropped after Ctrl-C
        with _interrupts_ignored():
            finished = Parallel(return_as="generator_unordered")(
                delayed(_train)(trial, data, settings.backend) for trial in trials
            )
        try:
            with closing(settings.track(finished, f"trials of search {search}", total=count)) as shown:
                outcomes.extend(shown)
        except KeyboardInterrupt:
            stopped = True
            finished.close()
    return sorted(outcomes, key=lambda outcome: (-outcome.validation[-1], outcome.trial.number)), stopped


@contextmanager
def _interrupts_ignored() -> Iterator[None]:
    """Processes that are started now go on ignoring Ctrl-C: it is for the one that started them, which stops them."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _train(trial: Trial, data: Data, backend: str) -> Outcome:
    network = MultiLayerNet(784, HIDDEN, 10, weight_decay_lambda=trial.weight_decay, seed=trial.seed)
    trainer = Trainer(
        network,
        data.x_train[HELD_OUT:],
        data.t_train[HELD_OUT:],
        data.x_train[:HELD_OUT],
        data.t_train[:HELD_OUT],
        epochs=trial.epochs,
        mini_batch_size=100,
        optimizer=Settings(backend=backend).optimizer("sgd", lr=trial.lr),
        verbose=False,
        seed=trial.seed,
    )
    trainer.train()
    return Outcome(trial, np.array(trainer.train_acc_list), np.array(trainer.test_acc_list))


def _best_tenth(outcomes: list[Outcome]) -> int:
    return max(len(outcomes) // 10, 3)


def _narrow(outcomes: list[Outcome]) -> Ranges:
    """The ranges that the best tenth of the trials spans."""
    best = [outcome.trial for outcome in outcomes[: _best_tenth(outcomes)]]
    rates, decays = [trial.lr for trial in best], [trial.weight_decay for trial in best]
    return Ranges((min(rates), max(rates)), (min(decays), max(decays)))


def _draw(outcomes: list[Outcome]) -> Figure:
    figure = new_figure(4.8, f"Random search, {len(outcomes)} trials: what decides is the learning rate")
    axes = figure.subplots()
    trials = [outcome.trial for outcome in outcomes]
    points = axes.scatter(
        [trial.lr for trial in trials],
        [outcome.validation[-1] for outcome in outcomes],
        c=[trial.weight_decay for trial in trials],
        norm="log",
        cmap="cividis",
        edgecolors="black",
        linewidths=0.5,
        s=40,
    )
    best = outcomes[0]
    axes.plot(best.trial.lr, best.validation[-1], "o", ms=13, mfc="none", mec=RED, mew=2, ls="none", label="best trial")
    if len(outcomes) >= ENOUGH:
        low, high = _narrow(outcomes).lr
        axes.axvspan(low, high, color=BLUE, alpha=0.12, label=f"search next: {low:.1e} to {high:.1e}")
    axes.set_xscale("log")
    finish(axes, xlabel="learning rate", ylabel="accuracy on held-out digits", ylim=(0, 1.02))
    axes.legend(loc="upper left")
    figure.colorbar(points, ax=axes, label="weight decay")
    return figure
