"""The ratios that the site states, measured so that noise falls on both sides alike: `python -m bench.ratios [PART]`.

Both sides take turns in one process, some calls each; a ratio is taken per turn, and the ratio of the two smallest
times and the median ratio are printed, with the median times. Nothing else should run on the machine. PART is kernel,
dict, loop, dead, extras, constraints, retaken or rows; without it all are run. `--save` keeps a part for the page on
benchmarks, which `python -m bench.report --kept --readme` then writes. PyTorch is compared where it is installed.

"textbook" is the class as the book has it (`fastopt.experiments.textbook`), "in place" the best fair NumPy. With
`--beside CHECKOUT` another checkout of fastopt takes turns too, in kernel, dict, loop and dead.
"""

from __future__ import annotations

import argparse
import copy
import json
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import date
from functools import partial
from importlib.util import find_spec
from itertools import cycle, pairwise
from pathlib import Path
from typing import Any

import numpy as np

from bench import beside, retaken
from bench.cases import Step, array, checked_step, embedding, gradients, make, mlp, size_of
from bench.conftest import environment
from bench.limit import bytes_per_element
from bench.selection import by_words, selected
from bench.test_loop import training_step
from bench.turns import MEASURED, interleaved, report, rounded
from fastopt import EMA, SWA, Lookahead, Rows, reference, set_tuning, threads
from fastopt.groups import NO_DECAY_ON_VECTORS
from fastopt.kernels import RULES
from fastopt.optimizers import OPTIMIZERS
from fastopt.schedules import Cosine

FILE = Path(__file__).with_name("ratios.json")
HAS_TORCH = find_spec("torch") is not None


def versions(rule: str) -> list[str]:
    """This checkout's fastopt and, where it has the rule, the one beside it."""
    return ["fastopt", *(["beside"] if rule in beside.rules() else [])]


def kernel() -> None:
    """One array: beside the same traffic without arithmetic, NumPy and PyTorch."""
    for rule in (name for name, rule in RULES.items() if not rule.is_by_array):  # which read some arrays twice
        large = array(30_000_000, "float32")
        names = [*versions(rule), "limit", *(["torch fused"] if HAS_TORCH and rule == "adam" else [])]
        seconds = interleaved([checked_step(rule, name, large) for name in names], 25, 2)
        moved = 30e6 * bytes_per_element(len(RULES[rule].state), 4)
        print(f"{moved / seconds[0].min() / 1e9:.1f} GB/s, ", end="")
        report(f"{rule}, 30 M", names, seconds)
    if HAS_TORCH:
        largest = array(100_000_000, "float32")
        names = [*versions("adam"), "torch fused"]
        report("adam, 100 M", names, interleaved([checked_step("adam", name, largest) for name in names], 11, 1))
    names = ["fastopt", "textbook", "in place"]
    report("adam, 30 M, NumPy", names, interleaved([checked_step("adam", name, large) for name in names], 7, 1))
    for size, turns, calls in ((1_000_000, 40, 20), (90_000, 60, 100), (1_000, 60, 500)):
        names = [*versions("adam"), "limit", "textbook", "in place", *(["torch fused"] if HAS_TORCH else [])]
        steps = [checked_step("adam", name, array(size, "float32")) for name in names]
        report(f"adam, {size:,}", names, interleaved(steps, turns, calls))


def dicts() -> None:
    """Dicts of arrays, BLAS idle."""
    models = {"-".join(map(str, sizes)): mlp(*sizes) for sizes in ((784, 40, 20, 10), (784, 100, 100, 100, 100, 10))}
    for model, params in (models | {"an embedding of 50,000 x 64": embedding()}).items():
        names = [*versions("adam"), "flat", "textbook", "in place", *(["torch fused"] if HAS_TORCH else [])]
        steps = [checked_step("adam", name, params) for name in names]
        turns, calls = (60, 5) if size_of(params) > 1_000_000 else (150, 20)
        report(f"adam, dict of {model}", names, interleaved(steps, turns, calls))


LOOPS = (
    ((784, 40, 20, 10), 100, 30),
    ((784, 100, 100, 100, 100, 10), 128, 15),
    ((784, 1024, 1024, 10), 128, 3),
    ((1024, 4096, 4096, 10), 32, 1),
    ((784, 10), 100, 30),
    ((784, 200, 200, 10), 128, 10),
    ((784, 512, 512, 10), 64, 5),
    ((20, 16, 16, 2), 32, 50),
)


def loop() -> None:
    """Whole training steps, BLAS at its defaults."""
    for sizes, batch, calls in LOOPS:
        parameters = sum((a + 1) * b for a, b in pairwise(sizes))
        names = [*versions("adam"), "textbook", "in place"]
        seconds = interleaved(
            [training_step(name, sizes, batch)[0] for name in names], 15 if parameters > 1e7 else 40, calls
        )
        report(f"adam, training step {'-'.join(map(str, sizes))}, batch {batch}", names, seconds)


# Rule, size of the gradients of the first step, and number of steps: Adam's m becomes subnormal after 800 steps, its v,
# where gradients were small, at once, and the state of Adan after 3,500.
DYING = (("adam", 1.0, 1_500), ("adam", 3e-16, 8_000), ("adan", 1.0, 5_000))
BLOCK = 25  # steps, of which the median is taken


def dead() -> None:
    """100,000 numbers whose gradients are zero after the first step, as in dead units.

    Operations on subnormal numbers may be many times slower. State that decays gets among them, and products of it do
    earlier; without a flush it stays there, as 0.9 * 5.6e-45 rounds to 5.6e-45.
    """
    for rule, size, steps in DYING:
        what = f"{rule}, 100,000, gradients of {size:g} in the first step, then {steps:,} steps of zeros"
        print(what)
        MEASURED[what] = {}
        sides = {"fastopt": partial(make, rule, "fastopt"), "without a flush": partial(_unflushed, rule)}
        if rule in beside.rules():
            sides["beside"] = partial(make, rule, "beside")
        for name, new in sides.items():
            usual = np.median(_dying(new(), 1.0, 200, living=True)[100:])
            blocks = np.median(_dying(new(), size, steps)[1:].reshape(-1, BLOCK), axis=1) / usual
            slow = BLOCK * int(np.sum(blocks > 1.5))
            MEASURED[what][name] = {"seconds": rounded(usual), "worst": rounded(blocks.max()), "slow steps": slow}
            print(
                f"    {name:16} {usual * 1e6:6.1f} us before, at worst {blocks.max():5.1f} times as long; "
                f"{slow:5,} steps above 1.5 times",
                flush=True,
            )


def _unflushed(rule: str) -> Any:
    """fastopt's optimizer with all state kept, however small."""
    exact = replace(RULES[rule], exact=RULES[rule].state)
    return type("Unflushed", (OPTIMIZERS[rule],), {"_rule": exact})()


def _dying(optimizer: Any, size: float, steps: int, living: bool = False) -> np.ndarray:
    """Seconds of a step with gradients of a size, and of those behind it: with zeros, or, living, with the same."""
    params = array(100_000, "float32")
    alive = {"p": params["p"] * np.float32(size)}
    rest = alive if living else {"p": np.zeros(100_000, np.float32)}
    seconds = np.zeros(1 + steps)
    for step in range(1 + steps):
        start = time.perf_counter()
        optimizer.update(params, rest if step else alive)
        seconds[step] = time.perf_counter() - start
    return seconds


def extras() -> None:
    """Costs of `on_nonfinite`, reports, decay, clipping, averages; "together" is decay, clipping, schedule and groups.

    At the end `centralize`, of matrices.

    "clip_norm" is the plain step and one read of the gradients; "together" should be at most 1.25 times that.
    """
    decay = {"weight_decay": 0.01, "decoupled": True}
    sides: dict[str, dict[str, Any]] = {"plain": {}, "on_nonfinite": {"on_nonfinite": "skip"}, "report": {}}
    sides |= {"decay": decay, "clip_norm": {"clip_norm": 1.0}}
    sides["together"] = decay | {"clip_norm": 1.0, "lr": Cosine(0.01, steps=100_000), "groups": NO_DECAY_ON_VECTORS}
    sides |= {
        "EMA": {"averaging": EMA(0.999)},
        "SWA": {"averaging": SWA(1, 10)},
        "Lookahead": {"lookahead": Lookahead()},
    }
    for rule in ("sgd", "adam"):
        models = (array(30_000_000, "float32"), 15, 2), (mlp(784, 100, 100, 100, 100, 10), 60, 20)
        for params, turns, calls in (*models, (array(1_000_000, "float32"), 40, 20)):
            grads = {key: np.full_like(value, 1e-3) for key, value in params.items()}
            steps = []
            for name, settings in sides.items():
                updated = {key: value.copy() for key, value in params.items()}
                wanted = {"report": True} if name == "report" else {}
                steps.append(partial(make(rule, "fastopt", **settings).update, updated, grads, **wanted))
            report(f"{rule}, {size_of(params):,}", list(sides), interleaved(steps, turns, calls))
    matrix = {"W": array(30_000_000, "float32")["p"].reshape(5000, 6000)}
    for params, turns, calls in ((matrix, 15, 2), (mlp(784, 100, 100, 100, 100, 10), 60, 20)):
        sides = {"plain": {}, "clip_norm": {"clip_norm": 1e9}, "centralize": {"centralize": True}}
        steps = [_adam(params, **settings) for settings in sides.values()]
        report(f"adam, {size_of(params):,} in matrices", list(sides), interleaved(steps, turns, calls))


def _adam(params: dict[str, np.ndarray], **settings: Any) -> Step:
    """Steps on a copy; found equal to the reference first where they centralize."""
    ours, theirs, grads = copy.deepcopy(params), copy.deepcopy(params), gradients(params)
    optimizer = make("adam", "fastopt", **settings)
    optimizer.update(ours, grads)
    if optimizer.centralize:
        reference.Adam(**settings).update(theirs, grads)
        for key, value in ours.items():
            np.testing.assert_array_equal(value, theirs[key])
    return partial(optimizer.update, ours, grads)


def constraints() -> None:
    """Costs of constraints: those of elements, in the step's pass, and those of rows, in one more.

    "clip" is the plain step and `np.clip` of each array, as one would write it.
    """
    rng = np.random.default_rng(0)
    for rule in ("momentum", "adam"):
        matrix = {"W": array(1_000_000, "float32")["p"].reshape(1000, 1000)}
        for params, turns, calls in ((matrix, 20, 10), (mlp(784, 100, 100, 100, 100, 10), 30, 20)):
            masks = {key: rng.random(value.shape) < 0.5 for key, value in params.items()}
            low = {"groups": {key: {"bounds": (np.full_like(value, -1e9), None)} for key, value in params.items()}}
            sides: dict[str, dict[str, Any]] = {"plain": {}, "clip": {}, "bounds": {"bounds": (-1e9, 1e9)}}
            sides |= {"arrays": low, "mask": {"mask": masks}, "l1": {"l1": 1e-6}, "l2_prox": {"l2_prox": 1e-6}}
            sides |= {"cautious": {"cautious": True}, "unit_norm": {"unit_norm": True}}
            sides |= {"max_norm": {"max_norm": 1e-3}, "columns": {"max_norm": 1e-3, "constraint_axis": 0}}
            if rule == "momentum":
                sides |= {"group_lasso": {"group_lasso": 1e-6}, "simplex": {"simplex": True}}
            steps = []
            for name, settings in sides.items():
                updated, grads = {key: value.copy() for key, value in params.items()}, gradients(params)
                step = partial(make(rule, "fastopt", **settings).update, updated, grads)
                steps.append(partial(_clipped, step, updated) if name == "clip" else step)
            report(f"{rule}, {size_of(params):,}", list(sides), interleaved(steps, turns, calls))


def _clipped(step: Step, params: dict[str, np.ndarray]) -> None:
    step()
    for value in params.values():
        np.clip(value, -1e9, 1e9, out=value)


def rows() -> None:
    """Word2vec: of a table of 100,000 words by 100 a step touches 2,000 rows, drawn as words are, some many times.

    "dense" has its gradient ready; "dense, made" puts the rows into a whole one first, as NumPy code must.
    """
    words, width, count = 100_000, 100, 2_000
    rng = np.random.default_rng(0)
    share = 1 / np.arange(1, words + 1)
    batches = [rng.choice(words, count, p=share / share.sum()) for _ in range(200)]
    values = rng.standard_normal((count, width), dtype=np.float32) * np.float32(1e-3)
    table = rng.standard_normal((words, width), dtype=np.float32)
    distinct = np.mean([len(np.unique(batch)) for batch in batches])
    for rule in (name for name, known in RULES.items() if known.rows):
        sides = {"rows": _by_rows(rule, table, batches, values)}
        if RULES[rule].skipped:
            sides["rows, exact"] = _by_rows(rule, table, batches, values, exact=True)
        sides["dense"] = partial(make(rule, "fastopt").update, {"p": table.copy()}, {"p": np.zeros_like(table)})
        sides["dense, made"] = _dense(rule, table, batches, values)
        if HAS_TORCH and rule == "adam":
            sides["SparseAdam"] = _sparse_adam(table, batches, values)
        report(f"{rule}, {distinct:.0f} of {words:,} rows", list(sides), interleaved(list(sides.values()), 15, 5))


def _by_rows(rule: str, table: np.ndarray, batches: list[np.ndarray], values: np.ndarray, exact: bool = False) -> Step:
    """Steps by rows; found equal to the reference first."""
    ours, theirs, turn = {"p": table.copy()}, {"p": table.copy()}, cycle(batches)
    optimizer, plain = make(rule, "fastopt"), make(rule, "reference")

    def step() -> None:
        optimizer.update(ours, {"p": Rows(next(turn), values, exact=exact)})

    for batch in batches[:3]:
        step()
        plain.update(theirs, {"p": Rows(batch, values, exact=exact)})
    optimizer.catch_up(ours)
    np.testing.assert_allclose(ours["p"], theirs["p"], rtol=1e-5 if exact else 0)
    return step


def _dense(rule: str, table: np.ndarray, batches: list[np.ndarray], values: np.ndarray) -> Step:
    params, optimizer, turn = {"p": table.copy()}, make(rule, "fastopt"), cycle(batches)

    def step() -> None:
        gradient = np.zeros_like(table)
        np.add.at(gradient, next(turn), values)
        optimizer.update(params, {"p": gradient})

    return step


def _sparse_adam(table: np.ndarray, batches: list[np.ndarray], values: np.ndarray) -> Step:
    import torch

    parameter, turn = torch.nn.Parameter(torch.tensor(table)), cycle(batches)
    optimizer, gradients = torch.optim.SparseAdam([parameter]), torch.tensor(values)

    def step() -> None:
        indices = torch.from_numpy(next(turn))[None]
        parameter.grad = torch.sparse_coo_tensor(indices, gradients, parameter.shape, check_invariants=False)
        optimizer.step()

    return step


PARTS: dict[str, Callable[[], None]] = {
    "kernel": kernel,
    "dict": dicts,
    "loop": loop,
    "dead": dead,
    "extras": extras,
    "constraints": constraints,
    "retaken": retaken.measure,
    "rows": rows,
}


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.ratios", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("parts", nargs="*", metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--beside", metavar="CHECKOUT", help="the folder of another checkout of fastopt")
    parser.add_argument(
        "--save", type=Path, nargs="?", const=FILE, metavar="FILE", help=f"keep the parts in JSON; default {FILE}"
    )
    options = parser.parse_args(arguments)
    chosen = selected(parser, options.parts, PARTS, by_words)
    if options.beside:
        beside.load(options.beside)
    print(f"threading layer {threads.layer()}, float32")
    kept: dict[str, Any] = {"parts": {}}
    if options.save and options.save.exists():
        kept = json.loads(options.save.read_text())
    for part in chosen:
        MEASURED.clear()
        # Without a training loop there is nothing to try forms for, and trials would look like slow steps.
        set_tuning("auto" if part == "loop" else "off")
        PARTS[part]()
        kept["parts"][part] = {"machine": environment(), "date": str(date.today()), "cases": dict(MEASURED)}
        if options.save:  # each part as soon as it is there
            options.save.write_text(json.dumps(kept, indent=1) + "\n")
    set_tuning("auto")


if __name__ == "__main__":
    main()
