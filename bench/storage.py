"""Compact state: its speed, and training with it; `python -m bench.storage PART [CASE...] [options]`.

`speed` : steps with state in 16 and 8 bits, in turns with those in float32 and with the float32 traffic kernel, and a
    model for more cores. CASE is words of a case, such as "adam 30". Nothing else should run on the machine.
`sizes` : Adam from ten thousand elements to a hundred million, for the picture of sizes.
`training` : the network of `optimizers-mnist` and an LSTM on characters, with each storage. CASE is a rule, or
    "characters".
`maps` : other codes of 8 bits, groups of 32, and bfloat16 with means rounded to nearest, in plain NumPy.
`decay` : the root of v after gradients fall by 100 times, beside float32's.
`picture` : draws the loss curves and that root.

`--save` keeps the results of `speed`, `sizes` and `training` in `bench/storage.json`, each as it comes (so a training
that was stopped goes on with the next run); `python -m bench.report --kept --readme` then writes them to the README and
the page on compact state.
"""

from __future__ import annotations

import argparse
import json
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np

from bench import storage_maps, storage_training
from bench.cases import Step, array, gradients, limit_step, size_of
from bench.conftest import environment
from bench.limit import bytes_per_element
from bench.selection import by_words, selected
from bench.turns import interleaved, rounded
from fastopt import threads, tuning
from fastopt.engine.columns import moved_bytes
from fastopt.kernels import RULES
from fastopt.kernels.codecs import STORAGES
from fastopt.optimizers import OPTIMIZERS

FILE = Path(__file__).with_name("storage.json")
PARTS = "speed", "sizes", "training", "maps", "decay", "picture"
PICTURE = Path("docs/source/explanation/compact_state.svg")
MODEL = "model"
TIMED = {
    **{
        f"{rule}, 30 M": (30_000_000, 11, 1)
        for rule in ("adam", "adamw", "amsgrad", "adan", "momentum", "rmsprop", "lion")
    },
    "adam, 100 M": (100_000_000, 5, 1),
}
"""Elements, turns, and the calls of a turn."""
SIZES = {10_000: (41, 100), 100_000: (41, 30), 1_000_000: (41, 10), 10_000_000: (15, 2), 100_000_000: (5, 1)}
"""By elements, turns and the calls of a turn."""

Results = dict[str, Any]
"""Machine and date; by part of the bench, by case, the median seconds and the ratios of each side; and runs."""


def step_of(rule: str, storage: str, size: int) -> Step:
    """A step of an array of `size` elements."""
    params = array(size)
    grads, optimizer = gradients(params), OPTIMIZERS[rule](state_storage=storage)
    for _ in range(2):
        optimizer.update(params, grads)
    return lambda: optimizer.update(params, grads)


def limit_of(slots: int, size: int) -> Step:
    """The reads and writes of a float32 step with so many slots, without its arithmetic."""
    params = array(size)
    count = threads.threads_for(size_of(params) * bytes_per_element(slots, 4))
    return limit_step(slots, params, gradients(params), count)


def ratios(rule: str, size: int, turns: int, calls: int, *, halves: bool = False) -> dict[str, dict[str, float]]:
    """Steps with each storage beside the float32 traffic kernel, in turns; prints and returns what was found.

    halves : the traffic kernel of half as many slots too, whose bytes are those of state in bfloat16
    """
    slots = len(RULES[rule].state)
    sides = {"traffic": limit_of(slots, size), **{storage: step_of(rule, storage, size) for storage in STORAGES}}
    if halves:
        sides["bfloat16 traffic"] = limit_of(slots // 2, size)
    seconds = dict(zip(sides, interleaved(list(sides.values()), turns, calls), strict=True))
    traffic, own = seconds["traffic"], seconds["float32"]
    print(f"{rule}, {size:,}: traffic of float32 {np.median(traffic) * 1e3:.3f} ms", flush=True)
    found = {}
    for side, taken in seconds.items():
        found[side] = {
            "seconds": rounded(np.median(taken)),
            "ratio": rounded(np.median(taken / traffic)),
            "smallest": rounded(taken.min() / traffic.min()),
            "own": rounded(np.median(taken / own)),
        }
        if side in STORAGES:
            share = moved_bytes(side, 4, slots) / moved_bytes("float32", 4, slots)
            print(
                f"    {side:9} {np.median(taken) * 1e3:9.3f} ms, {found[side]['ratio']:.3f} of it (smallest times "
                f"{found[side]['smallest']:.3f}, bytes say {share:.2f}); {found[side]['own']:.2f} of float32's step",
                flush=True,
            )
    return found


def speed(names: list[str], cases: Results) -> None:
    """Fills in ratios in memory and in cache, and the model."""
    for name in names:
        cases[name] = model() if name == MODEL else ratios(name.partition(",")[0], *TIMED[name])


def sizes(cases: Results) -> None:
    """Fills in ratios of Adam at each size."""
    for size, (turns, calls) in SIZES.items():
        cases[str(size)] = ratios("adam", size, turns, calls, halves=True)


def model() -> dict[str, dict[str, float]]:
    """The time to expect with more cores to the same memory: the longer of that of the bytes and that of the work.

    By the number of cores and storage, over the time of float32's traffic.
    """
    few, many = 20_032, 80_000  # in the second cache; the difference has no Python in it
    with threads.num_threads(1):
        steps = [step_of("adam", storage, size) for size in (few, many) for storage in STORAGES]
        smallest = interleaved(steps, 11, 50).min(axis=1)
    seconds = (smallest[len(STORAGES) :] - smallest[: len(STORAGES)]) / (many - few)
    size = 30_000_000
    traffic = interleaved([limit_of(2, size)], 7, 1).min() / size
    bandwidth = bytes_per_element(2, 4) / traffic
    print(f"model, Adam: {bandwidth / 1e9:.0f} GB/s, in cache {', '.join(f'{s * 1e9:.2f}' for s in seconds)} ns")
    print("    cores  " + "  ".join(f"{storage:>9}" for storage in STORAGES))
    found = {}
    for cores in (1, 2, 4, 8, 16):
        times = {
            storage: rounded(max(moved_bytes(storage, 4, 2) / bandwidth, work / cores) / traffic)
            for storage, work in zip(STORAGES, seconds, strict=True)
        }
        print(f"    {cores:5}  " + "  ".join(f"{time:9.2f}" for time in times.values()))
        found[str(cores)] = times
    return found


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.storage", description=(__doc__ or "").partition(";")[0])
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("cases", nargs="*", metavar="CASE", help="of speed and training; default: those of the page")
    parser.add_argument("--seeds", type=int, default=5, metavar="N", help="of training and maps; default: 5")
    parser.add_argument("--save", action="store_true", help=f"keep the results in {FILE}")
    options = parser.parse_args(arguments)
    names = {"speed": (*TIMED, MODEL), "training": (*storage_training.RULES_TRAINED, storage_training.CHARACTERS)}
    chosen = selected(parser, options.cases, names.get(options.part, ()), by_words)
    results: Results = json.loads(FILE.read_text()) if options.save and FILE.exists() else {}

    def keep() -> None:
        if options.save:
            FILE.write_text(json.dumps(results, indent=1) + "\n")

    if options.part in ("speed", "sizes"):
        mode = tuning.mode()
        tuning.set_tuning("off")  # without a training loop; trials would look like slow steps
        part = results.setdefault(options.part, {})
        part |= {"machine": environment(), "date": str(date.today())}
        cases = part.setdefault("cases", {})
        if options.part == "speed":
            speed(chosen, cases)
        else:
            sizes(cases)
        tuning.set_tuning(mode)
        keep()
    elif options.part == "training":
        storage_training.training(chosen, options.seeds, results.setdefault("training", {}), keep)
    elif options.part == "maps":
        storage_maps.maps(options.seeds)
    elif options.part == "decay":
        storage_training.decay()
    else:
        storage_training.picture(PICTURE)


if __name__ == "__main__":
    main()
