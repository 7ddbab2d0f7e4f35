"""Results of `python -m bench.storage ... --save` as Markdown, for the README and the page on compact state."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from bench.storage_training import CHARACTERS, summary
from fastopt.engine.columns import moved_bytes, slot_bytes
from fastopt.kernels.codecs import STORAGES
from fastopt.optimizers import OPTIMIZERS

Parts = dict[str, Any]
"""`speed` and `sizes`: machine, date and cases; `training`: see `storage_training.Runs`."""

PAGE_LINK = "https://fastopt.github.io/fastopt/explanation/low_precision_state.html"


def in_readme(parts: Parts, machine: Callable[[Parts], str], duration: Callable[[float], str]) -> Iterator[str]:
    """One step of 30 million parameters with each storage."""
    yield "A step that waits for memory, Adam of 30 million float32 parameters, with its state in fewer bits, in turns"
    yield "with a kernel that moves the bytes of float32's and computes nothing (`python -m bench.storage speed`;"
    yield f"{machine(parts['speed'])}):"
    yield ""
    yield f"| state in | bytes of it an element | step | relative to that kernel | [final loss]({PAGE_LINK}) on MNIST |"
    yield "| --- | ---: | ---: | ---: | ---: |"
    for storage in STORAGES:
        side, results = parts["speed"]["cases"]["adam, 30 M"][storage], parts["training"]["adam"][storage]
        (loss, _), (spread, _) = summary(results)
        yield (
            f"| {storage} | {2 * slot_bytes(storage, 4):.4g} | {duration(side['seconds'])} | {side['ratio']:.2f} | "
            f"{loss:.4f} ± {spread:.4f} |"
        )


def speed(parts: Parts, machine: Callable[[Parts], str]) -> Iterator[str]:
    """Ratios to the float32 traffic kernel, and those to expect with more cores."""
    cases = dict(parts["speed"]["cases"])
    cores = cases.pop("model")
    yield f"| | {' | '.join(STORAGES)} |"
    yield "| --- | ---: | ---: | ---: |"
    for case, sides in cases.items():
        rule, size = case.split(", ")
        cells = [f"{sides[storage]['ratio']:.2f} ({sides[storage]['smallest']:.2f})" for storage in STORAGES]
        yield f"| {_named(rule)}, {size.replace('M', 'million')} | {' | '.join(cells)} |"
    shares = [moved_bytes(storage, 4, 2) / moved_bytes("float32", 4, 2) for storage in STORAGES]
    yield f"| Adam, by its bytes | {' | '.join(f'{share:.2f}' for share in shares)} |"
    for count in ("4", "8"):
        expected = [f"{cores[count][storage]:.2f}" for storage in STORAGES]
        yield f"| Adam, expected of {count} cores to the same memory | {' | '.join(expected)} |"
    yield ""
    yield f"`python -m bench.storage speed`, {machine(parts['speed'])}."


def sizes(parts: Parts, machine: Callable[[Parts], str]) -> Iterator[str]:
    """Steps of Adam over those with float32 state, by size."""
    cases = parts["sizes"]["cases"]
    yield f"| elements | {' | '.join(f'{int(size):,}' for size in cases)} |"
    yield f"| --- |{' ---: |' * len(cases)}"
    for storage in STORAGES[1:]:
        cells = [f"{sides[storage]['own']:.2f}" for sides in cases.values()]
        yield f"| {storage} | {' | '.join(cells)} |"
    yield ""
    yield f"`python -m bench.storage sizes`, {machine(parts['sizes'])}."


def training(parts: Parts) -> Iterator[str]:
    """Last losses and what was not trained on, means and standard deviations over seeds."""
    yield f"| | seeds | {' | '.join(STORAGES)} |"
    yield "| --- | ---: | ---: | ---: | ---: |"
    for rule, of_rule in parts["training"].items():
        found = [summary(of_rule[storage]) for storage in STORAGES]
        name, other = ("LSTM, Adam", "held-out loss") if rule == CHARACTERS else (_named(rule), "test accuracy")
        for number, what in enumerate(("loss", other)):
            cells = [f"{mean[number]:.4f} ± {spread[number]:.4f}" for mean, spread in found]
            yield f"| {name}: {what} | {len(of_rule['float32'])} | {' | '.join(cells)} |"


def _named(rule: str) -> str:
    return OPTIMIZERS[rule].__name__
