"""The report of a `fastopt.Profile`, as text."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastopt.machine import BUSY
from fastopt.optimizer import Optimizer
from fastopt.optimizers import OPTIMIZERS

if TYPE_CHECKING:
    from fastopt.profiling import Profile

HELPS = 1.05  # a gain below this is noise


def report(profile: Profile) -> str:
    """The report, in a few lines: parts of a step, the memory limit, what can be gained, BLAS's threads."""
    model = profile._model
    if model is None or len(profile.steps) < 2:
        return "no steps were seen"
    default = profile._blas.default
    counted = sum(step.blas_threads == default for step in profile._counted())
    total, optimizer, gradient = profile.step, profile.optimizer, profile.gradient
    rule = OPTIMIZERS[profile.replace_by or model.rule].__name__
    stepping = model.optimizer if profile.replacement is None else profile.replacement
    is_ours = isinstance(stepping, Optimizer)
    parts = [("whole step", total, f"median of {counted} steps after warm-up, BLAS on {_threads(default)}")]
    if gradient is not None:
        parts += [("  gradient", gradient, profile._gradient_name)]
    elements = f"{sum(model.sizes.values()):,} {' and '.join(model.sizes)} in {_counted(model.arrays, 'array')}"
    owner = "fastopt's" if is_ours else "its own"
    parts += [
        ("  optimizer", optimizer, f"{owner} {type(stepping).__name__}, {elements}"),
        ("  the rest" if gradient is not None else "  gradient and the rest", profile.rest, ""),
    ]
    lines = [f"{name:24}{_time(seconds)}  {_share(seconds, total)}  {text}".rstrip() for name, seconds, text in parts]
    lines += [
        "",
        f"{'optimizer at the limit':24}{_time(profile.memory_limit)}        "
        "the same reads and writes without arithmetic",
        f"{f'fastopt.{rule}':24}{_time(profile.fastopt_step)}        on arrays of this size, alone",
        "",
        verdict(profile, is_ours),
    ]
    lines += _blas(profile)
    if profile.others > BUSY:
        lines += [
            "",
            f"Other processes kept {profile.others:.1f} CPUs busy: these times are longer than on an idle machine.",
        ]
    return "\n".join(lines)


def verdict(profile: Profile, is_fastopt: bool) -> str:
    """One sentence on what fastopt can do for the loop."""
    share, factor = _percent(profile.optimizer / profile.step), f"{profile.gain:.2f} times as fast"
    if is_fastopt:
        return f"fastopt's optimizer takes {share} of a step; at the memory limit the loop would be {factor}."
    if profile.gain < HELPS:
        return f"The optimizer takes {share} of a step: fastopt cannot help this loop (at most {factor})."
    saved = f"{_time(profile.step).strip()} a step could become {_time(profile.step / profile.gain).strip()}"
    return f"fastopt can make this loop at most {factor}: {saved}."


def _blas(profile: Profile) -> list[str]:
    times = profile.blas_threads
    if len(times) < 2:
        if not profile.try_blas:
            return []
        return ["", "BLAS threads: not compared" + ("" if profile._blas.is_known else " (pip install threadpoolctl)")]
    default, best = profile._blas.default, min(times, key=lambda count: times[count])
    listed = ", ".join(f"{count}: {_time(seconds).strip()}" for count, seconds in times.items())
    lines = ["", f"Whole step by BLAS threads, in turns: {listed}."]
    faster = times[default] / times[best]
    if faster < HELPS:
        return [*lines, f"{_threads(default).capitalize()}, as now, is about as fast as any here."]
    return [
        *lines,
        f"{_threads(best).capitalize()} is {faster:.2f} times as fast as {_threads(default)} here; "
        f"then fastopt can make the loop {profile.gain_on(best):.2f} times as fast",
        f"at most. Set {profile._blas.variable}={best} before Python starts, or in the program",
        f"    from threadpoolctl import threadpool_limits; threadpool_limits({best}, user_api='blas')",
    ]


def _threads(count: int) -> str:
    return "one thread" if count == 1 else f"{count} threads"


def _counted(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"


def _time(seconds: float) -> str:
    factor, unit = (1, "s ") if seconds >= 1 else (1e3, "ms") if seconds >= 1e-3 else (1e6, "us")
    return f"{seconds * factor:8.3g} {unit}"


def _share(seconds: float, total: float) -> str:
    return f"{_percent(seconds / total):>4}"


def _percent(share: float) -> str:
    return "<1%" if 0 < share < 0.005 else f"{share:.0%}"
