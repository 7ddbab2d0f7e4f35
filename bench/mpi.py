"""Data-parallel steps over MPI: `mpiexec -n 2 python -m bench.mpi`, and a model of their time up to 1,024 processes.

Measured are whole steps of Adam, exchange included, of `fastopt.mpi.Sharded` and of what MPI code in NumPy does today,
as `MpiAdam` of OpenAI's baselines: `Allreduce` of all gradients, then the same step of everything on every process.
Both in turns, in one job. `python -m bench.mpi --model FILE.svg` draws the model alone, without MPI.
"""

from __future__ import annotations

import argparse
import math
import time
from pathlib import Path
from typing import Any

import numpy as np

SIZES = (1_000_000, 30_000_000)
TURNS = {1_000_000: 40, 30_000_000: 6}

# The model. Latency of a message and bytes per second of a link, both ways at once; one process per machine.
ALPHA = 2e-6
LINKS = {"10 Gbit/s": 1.25e9, "100 Gbit/s": 12.5e9}
# Of a process: bytes per second of a fused step and of adding up, and seconds per element of Adam in NumPy (MEASURED of
# one core with 30 million float32 parameters: 28 bytes of traffic each, and 120 or more in NumPy).
MEMORY, NUMPY = 34e9, 5.3e-9


def sharded_seconds(elements: int, ranks: int, link: float) -> float:
    """Alltoallv of shares, a sum of `ranks` parts, a step of a share, Allgatherv: pairwise and ring algorithms."""
    moved = 4 * elements * (ranks - 1) / ranks
    small = 2 * math.ceil(math.log2(ranks)) * ALPHA if ranks > 1 else 0.0  # two agreements of a few bytes
    adding = (4 * elements + 4 * elements / ranks) / MEMORY
    return 2 * ((ranks - 1) * ALPHA + moved / link) + small + adding + 28 * elements / ranks / MEMORY


def allreduce_seconds(elements: int, ranks: int, link: float, per_element: float) -> float:
    """A ring Allreduce, then a step of everything."""
    moved = 4 * elements * (ranks - 1) / ranks
    return 2 * ((ranks - 1) * ALPHA + moved / link) + 8 * elements / MEMORY + per_element * elements


class MpiAdam:
    """Adam in NumPy on all parameters, after an Allreduce of the gradients; m and v of everything on every process."""

    def __init__(self, comm: Any, size: int) -> None:
        self.comm, self.steps = comm, 0
        self.m, self.v, self.total = (np.zeros(size, np.float32) for _ in range(3))

    def update(self, params: Any, gradient: Any) -> tuple[float, float]:
        """Makes a step; returns the seconds of the exchange and of the step."""
        start = time.perf_counter()
        self.comm.Allreduce(gradient, self.total)
        self.total /= self.comm.size
        between = time.perf_counter()
        self.steps += 1
        rate = np.float32(0.001 * math.sqrt(1 - 0.999**self.steps) / (1 - 0.9**self.steps))
        self.m = np.float32(0.9) * self.m + np.float32(0.1) * self.total
        self.v = np.float32(0.999) * self.v + np.float32(0.001) * (self.total * self.total)
        params += -rate * self.m / (np.sqrt(self.v) + np.float32(1e-8))
        return between - start, time.perf_counter() - between


class Timed:
    """`Sharded`, with the seconds of its parts."""

    def __init__(self, sharded: Any) -> None:
        self.sharded = sharded
        self.seconds: dict[str, float] = {}

    def update(self, params: Any, gradient: Any) -> tuple[float, float]:
        """Makes a step; returns the seconds of everything but the step, and of the step."""
        start = time.perf_counter()
        self.sharded.update(params, gradient)
        total = time.perf_counter() - start
        return total - self.seconds["step"], self.seconds["step"]

    def watch(self) -> None:
        """Times the step itself from now on."""
        optimizer = self.sharded.optimizer
        step = optimizer.update

        def timed(*arguments: Any, **named: Any) -> Any:
            start = time.perf_counter()
            result = step(*arguments, **named)
            self.seconds["step"] = time.perf_counter() - start
            return result

        optimizer.__dict__["update"] = timed


def measure(size: int, turns: int) -> list[str]:
    """Rows of a table: name, whole step, exchange, step (ms, medians), bytes sent by a process."""
    from mpi4py import MPI

    import fastopt
    from fastopt.mpi import Sharded

    comm = MPI.COMM_WORLD
    gradient = np.random.default_rng(comm.rank).standard_normal(size, np.float32)
    contenders: dict[str, Any] = {"MpiAdam in NumPy": MpiAdam(comm, size)}
    for name, transport in (("Sharded", None), ("Sharded, bfloat16", "bfloat16")):
        contenders[name] = Timed(Sharded(fastopt.Adam(), transport=transport))  # type: ignore[arg-type]
    params = {name: np.zeros(size, np.float32) for name in contenders}
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in contenders}
    for turn in range(turns + 2):
        for name, contender in contenders.items():
            if turn == 1 and isinstance(contender, Timed):
                contender.watch()
            comm.Barrier()
            if turn == 0 and isinstance(contender, Timed):
                contender.sharded.update(params[name], gradient)
            else:
                found = contender.update(params[name], gradient)
                if turn > 1:
                    seconds[name].append(found)
    rows = []
    for name, contender in contenders.items():
        exchange, step = np.median(np.array(seconds[name]), axis=0) * 1e3
        whole, least = (reduction(np.array(seconds[name]).sum(axis=1)) * 1e3 for reduction in (np.median, np.min))
        sent = 2 * 4 * size * (comm.size - 1) // comm.size
        if isinstance(contender, Timed):
            sent = sum(buffers.bytes_sent for buffers in contender.sharded._exchange.lines)
        rows.append(f"{name:18}{whole:9.2f}{least:9.2f}{exchange:10.2f}{step:8.2f}{sent / 1e6:12.2f}")
    return rows


def draw(path: Path) -> None:
    """Writes a plot of the model."""
    from matplotlib.figure import Figure

    ranks = 2 ** np.arange(11)
    figure = Figure(figsize=(9.5, 3.8), layout="constrained")
    for axes, (name, link) in zip(figure.subplots(1, len(LINKS), sharey=True), LINKS.items(), strict=True):
        for label, color, seconds in (
            ("Allreduce, NumPy steps all", "#E69F00", lambda p, b: allreduce_seconds(SIZES[1], p, b, NUMPY)),
            ("Allreduce, fused step of all", "#999999", lambda p, b: allreduce_seconds(SIZES[1], p, b, 28 / MEMORY)),
            ("Sharded", "#0072B2", lambda p, b: sharded_seconds(SIZES[1], p, b)),
        ):
            axes.plot(ranks, [1e3 * seconds(int(p), link) for p in ranks], "o-", color=color, label=label, ms=3)
        axes.set(xscale="log", yscale="log", xlabel="processes", title=f"{name}, {ALPHA * 1e6:g} µs", xticks=ranks)
        axes.set_xticks(ranks, map(str, ranks.tolist()))
        axes.minorticks_off()
        axes.grid(alpha=0.3)
    figure.axes[0].set_ylabel("exchange and step, ms")
    figure.axes[0].legend()
    figure.suptitle("30 million float32 parameters, Adam, one process per machine: a model")
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.mpi", description=__doc__)
    parser.add_argument("--model", type=Path, metavar="FILE", help="only draw the model")
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES, metavar="N", help="numbers of parameters")
    options = parser.parse_args()
    if options.model:
        draw(options.model)
        return
    from mpi4py import MPI

    for size in options.sizes:
        rows = measure(size, TURNS.get(size, 10))
        if MPI.COMM_WORLD.rank == 0:
            print(f"{size:,} float32 parameters, {MPI.COMM_WORLD.size} processes, Adam; ms, and MB sent by each")
            print(f"{'':18}{'median':>9}{'least':>9}{'exchange':>10}{'step':>8}{'sent':>12}")
            print("\n".join(rows), flush=True)


if __name__ == "__main__":
    main()
