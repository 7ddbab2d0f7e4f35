"""A step that finds out how to run in the loop that it is in.

How new parameters are stored (`fastopt.kernels.stores`), and whether a step near the threshold takes one thread or
several, changes no bit of a result, but what is fastest depends on processor, BLAS, network and the state that the
machine is in. So it is measured: candidates take turns, a step each, and are judged by the time from one update to the
next, the gradient included. The best one stays; others are looked at again where its time changes for long, and every
few thousand steps.
"""

from __future__ import annotations

import os
import warnings
from dataclasses import dataclass
from statistics import median
from time import perf_counter_ns
from typing import NamedTuple

from fastopt import checks, machine, threads
from fastopt.kernels.stores import AHEAD, FORMS, PLAIN

VARIABLE = "FASTOPT_TUNE"
AUTO, OFF = "auto", "off"

# Of smaller models the parameters fit into the store buffers' shadow: all forms take the same time, within 2 us.
SMALLEST = 64 * 1024  # bytes of parameters

WARM_UP = 5  # steps that compile, touch pages for the first time, or wake threads
FEW_ROUNDS = 3  # turns of each candidate, before a hopeless one may be dropped
ROUNDS = 10  # before one that is clearly worse may be
MOST_ROUNDS = 30
CLEARLY = 3.0  # standard errors
# What a candidate must gain to be taken instead of a simpler one, as a share of the update, and of the whole step.
GAIN, WHOLE_GAIN = 0.02, 0.002
# Hopeless is what never took less than this, by the best one's whole step.
HOPELESS = 1.25

# A settled step is timed every so often.
EVERY = 16
# Its time has changed when so many looks in a row found it longer or shorter by half.
CHANGED, LOOKS = 1.5, 20
# At least so many steps lie between two trials, by the steps of a trial; fewer where the time has changed.
PAUSE, CHANGED_PAUSE = 100, 20


class Choice(NamedTuple):
    """How a step runs."""

    form: int | None = None
    """The number of a form of `fastopt.kernels.stores`; None: AHEAD where the model outgrows the caches, else PLAIN."""
    in_parallel: bool | None = None
    """Whether on several threads; None: as `threads.threads_for` has it."""

    def threads_for(self, moved_bytes: int) -> int:
        """How many threads a launch gets that reads and writes so many bytes."""
        if self.in_parallel is None or not threads.is_open(moved_bytes):
            return threads.threads_for(moved_bytes)
        return threads.most() if self.in_parallel else 1


AS_THEY_COME = Choice()


@dataclass(frozen=True)
class Trial:
    """The measurements of one way to run a step."""

    form: str
    """How new parameters are stored: a name in `fastopt.kernels.stores.FORMS`."""
    threads: int
    steps: int
    """How many were timed."""
    update: float
    """The median seconds of an update."""
    whole: float
    """The median seconds from one update to the next."""


@dataclass(frozen=True)
class Tuning:
    """The way in which an optimizer's steps run: `optimizer.tuning`.

    Examples
    --------
    >>> import numpy as np
    >>> from fastopt import Adam
    >>> optimizer, params = Adam(), {"W": np.ones(10)}
    >>> optimizer.update(params, {"W": np.ones(10)})
    >>> optimizer.tuning
    Tuning: plain, not tuned: parameters of less than 64 KB are stored as they come
    """

    form: str
    """The form that is in use; "plain" as long as candidates take turns."""
    reason: str
    """How it came to that."""
    trials: tuple[Trial, ...] = ()
    """The trials, the one in use first."""

    def __repr__(self) -> str:
        lines = [f"Tuning: {self.form}, {self.reason}"]
        if self.trials:
            lines.append(f"  {'form':12} threads  update  whole step  steps")
        for trial in self.trials:
            times = f"{trial.update * 1e6:7,.0f} {trial.whole * 1e6:8,.0f} us"
            lines.append(f"  {trial.form:12} {trial.threads:7} {times} {trial.steps:9}")
        return "\n".join(lines)


class Candidate:
    """One way to run a step, and how long it took: nanoseconds of updates, and of what came after each of them."""

    def __init__(self, choice: Choice) -> None:
        self.choice = choice
        self.name = FORMS[choice.form or PLAIN]
        self.begin()

    def begin(self) -> None:
        """Forgets what was measured."""
        self.updates: list[int] = []
        self.gaps: list[int] = []


class Tuner:
    """Chooses how the steps of a set of arrays run.

    moved_bytes : what each launch reads and writes
    outgrows_caches : whether asking for memory ahead may pay
    """

    def __init__(self, moved_bytes: list[int], outgrows_caches: bool = False) -> None:
        self.moved_bytes = moved_bytes
        forms = [form for form in range(len(FORMS)) if form != AHEAD or outgrows_caches]
        ways = (None,) if not any(map(threads.is_open, moved_bytes)) else self._ways()
        self._all = [Candidate(Choice(form, way)) for way in ways for form in forms]
        self.choice = self._all[0].choice
        self.settled: Candidate | None = None
        self._steps, self._trial_steps = 0, 0
        self.entered = 0
        """When a step was entered that takes Python some time before `begin`, 0 otherwise."""
        self._begin_trial(self._all, warm_up=WARM_UP)

    def _ways(self) -> tuple[bool, bool]:
        """One thread and several, that of the table first."""
        first = threads.threads_for(max(self.moved_bytes)) > 1
        return first, not first

    def _begin_trial(self, candidates: list[Candidate], warm_up: int) -> None:
        self._running = list(candidates)
        for candidate in self._running:
            candidate.begin()
        self._turn, self._warm_up = 0, warm_up
        self._last: Candidate | None = None
        self._last_end = 0
        self._trial_steps = 0
        self._next()

    def _next(self) -> None:
        # Each round begins one further, so that what a loop does every so many steps does not always meet the same one.
        count = len(self._running)
        round_, place = divmod(self._turn, count)
        self._current = self._running[(round_ + place) % count]
        self.choice = self._current.choice

    def begin(self) -> int:
        """Before a step: when it begins, or 0 if it is not to be timed."""
        self._steps += 1
        entered, self.entered = self.entered, 0
        if self.settled is not None:
            self._countdown -= 1
            return 0 if self._countdown > 0 else entered or perf_counter_ns()
        now = entered or perf_counter_ns()
        if self._last is not None:
            self._last.gaps.append(now - self._last_end)
            self._last = None
            if self._turn % len(self._running) == 0:
                self._judge()
        return now

    def end(self, begin: int) -> None:
        """After a step for which `begin` returned a time."""
        now = perf_counter_ns()
        if self.settled is not None:
            self._watch(self.settled, now - begin)
            return
        if self._warm_up:
            self._warm_up -= 1
            return
        self._trial_steps += 1
        self._current.updates.append(now - begin)
        self._last, self._last_end = self._current, now
        self._turn += 1
        self._next()

    # -- a trial ------------------------------------------------------------------------------------------------------

    def _judge(self) -> None:
        """After a round: drops those that are clearly worse than the best, and ends the trial when that is clear."""
        rounds = min(len(candidate.gaps) for candidate in self._running)
        if rounds < FEW_ROUNDS:
            return
        best = min(self._running, key=_whole)
        worse = _clearly_longer if rounds >= ROUNDS else _hopeless
        kept = [candidate for candidate in self._running if candidate is best or not worse(candidate, best)]
        if len(kept) == 1 or rounds >= MOST_ROUNDS:
            self._settle(_chosen(kept))
        elif len(kept) < len(self._running):
            self._running, self._turn = kept, 0
            self._next()

    def _settle(self, candidate: Candidate) -> None:
        self.settled, self.choice = candidate, candidate.choice
        self._usual = median(candidate.updates)
        self._countdown, self._unusual = EVERY, 0
        self._settled_at = self._steps

    def _watch(self, best: Candidate, nanoseconds: int) -> None:
        """Begins a trial where the time of a settled step has changed for long, or it is time for one."""
        self._countdown = EVERY
        unusual = not self._usual / CHANGED < nanoseconds < self._usual * CHANGED
        self._unusual = self._unusual + 1 if unusual else 0
        pause = (CHANGED_PAUSE if self._unusual >= LOOKS else PAUSE) * self._trial_steps
        if self._steps - self._settled_at >= pause:
            self.settled = None
            hopeful = [candidate for candidate in self._all if candidate is best or not _hopeless(candidate, best)]
            self._begin_trial(hopeful, warm_up=0)

    # -- what is to be read of it -------------------------------------------------------------------------------------

    def report(self) -> Tuning:
        """Return the tuning as users see it."""
        settled = self.settled
        measured = sorted(
            (each for each in self._all if each.gaps), key=lambda each: (each is not settled, _whole(each))
        )
        trials = tuple(
            Trial(
                each.name,
                max(map(each.choice.threads_for, self.moved_bytes)),
                len(each.gaps),
                median(each.updates) / 1e9,
                _whole(each) / 1e9,
            )
            for each in measured
        )
        if settled is None:
            steps = sum(len(each.updates) for each in self._all)
            return Tuning(FORMS[PLAIN], f"candidates take turns: {steps} steps so far", trials)
        return Tuning(settled.name, f"chosen after {self._settled_at} steps", trials)


def _whole(candidate: Candidate) -> float:
    """The nanoseconds from one update to the next."""
    return median(candidate.updates[: len(candidate.gaps)]) + median(candidate.gaps)


def _longer(ours: list[int], theirs: list[int]) -> tuple[float, float]:
    """By how much ours take longer, as the median of differences of neighbours in time, and its standard error."""
    differences = [a - b for a, b in zip(reversed(ours), reversed(theirs), strict=False)]
    middle = median(differences)
    spread = 1.4826 * median(abs(difference - middle) for difference in differences)  # of a normal distribution
    return middle, 1.2533 * spread / len(differences) ** 0.5


def _hopeless(candidate: Candidate, best: Candidate) -> bool:
    return not candidate.gaps or min(_wholes(candidate)) > HOPELESS * _whole(best)


def _clearly_longer(candidate: Candidate, best: Candidate) -> bool:
    more, error = _longer(_wholes(candidate), _wholes(best))
    return more > CLEARLY * error


def _wholes(candidate: Candidate) -> list[int]:
    return [update + gap for update, gap in zip(candidate.updates, candidate.gaps, strict=False)]


def _chosen(candidates: list[Candidate]) -> Candidate:
    """The best of those that are left.

    Updates are told apart by far fewer steps than gradients are, so those count by their medians, and what comes after
    them where it clearly differs from what comes after the first one's. A simpler form, or the number of threads of the
    table, is kept where another gains next to nothing.
    """
    first = candidates[0]
    costs = []
    for candidate in candidates:
        more, error = _longer(candidate.gaps, first.gaps)
        costs.append(median(candidate.updates) + (more if abs(more) > CLEARLY * error else 0.0))
    least = min(costs)
    enough = least + max(GAIN * least, WHOLE_GAIN * _whole(first))
    return next(candidate for candidate, cost in zip(candidates, costs, strict=True) if cost <= enough)


# -- the setting ------------------------------------------------------------------------------------------------------

_MODES = (AUTO, OFF, *FORMS)


def set_tuning(mode: str) -> None:
    """Sets how all optimizers of this process choose the way a step runs, on which no bit of a result depends.

    Parameters
    ----------
    mode : "auto", "off" or the name of a form
        "auto", the default: what is fastest is measured in the loop itself, for models whose parameters take 64 KB or
        more, where there is more than one CPU. "off": new parameters are stored as they come, and by the model's size a
        step gets one thread or several, and asks for memory ahead. A form fixes how they are stored: "plain" (as they
        come), "prefetch", "burst", "nontemporal" or "ahead", which `fastopt.kernels.stores` explains. The environment
        variable FASTOPT_TUNE sets it at the start; 0 means "off" and 1 "auto".

    Raises
    ------
    ValueError
        if it is none of these.

    Examples
    --------
    >>> set_tuning("burst")
    >>> set_tuning("auto")
    """
    global _mode, _fixed, is_forced
    if mode not in _MODES:
        raise ValueError(checks.unknown_tuning("set_tuning", mode, _MODES))
    _mode, _fixed = mode, _choice_of(mode)
    is_forced = mode in FORMS


def mode() -> str:
    """The tuning that `set_tuning` or FASTOPT_TUNE set."""
    return _mode


def fixed() -> Choice | None:
    """The choice for every step, None to measure."""
    return _fixed


def _choice_of(mode: str) -> Choice | None:
    if mode == AUTO:
        return None
    return AS_THEY_COME if mode == OFF else Choice(FORMS.index(mode))


def why_not(parameter_bytes: int) -> str | None:
    """Why the steps of parameters of so many bytes are not tuned; None if they are."""
    if _mode != AUTO:
        return f"fixed by set_tuning or {VARIABLE}"
    if len(machine.available()) == 1:
        return "not tuned: there is one CPU, so no other can hold what a step writes"
    if parameter_bytes < SMALLEST:
        return f"not tuned: parameters of less than {SMALLEST // 1024} KB are stored as they come"
    return None


def _from_environment() -> str:
    text = os.environ.get(VARIABLE, "").strip().lower()
    chosen = {"": AUTO, "1": AUTO, "0": OFF}.get(text, text)
    if chosen not in _MODES:
        warnings.warn(checks.unknown_tuning(VARIABLE, text, ("0", "1", *_MODES)), RuntimeWarning, stacklevel=2)
        return AUTO
    return chosen


_mode = _from_environment()
_fixed = _choice_of(_mode)
is_forced = _mode in FORMS
"""Whether all steps have one form, small ones too."""
