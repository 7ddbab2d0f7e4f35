"""The state of the machine that times depend on: its load, and what it costs to share a cache line."""

from __future__ import annotations

import math
import os
import statistics
import threading
import time
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np

LINE = 64  # bytes
LINES = 4096  # in all 256 kB, which stays in a core's own cache
BUSY = 0.5  # CPUs that others keep busy, from which on times are not to be trusted


class Lines(NamedTuple):
    """Nanoseconds of a store to a cache line: `shared`, another core has read it since; `unshared`, no other has."""

    shared: float
    unshared: float


def lines(seconds: float = 0.02) -> Lines | None:
    """Measures what a store costs to a line that another core has read; None where there is one CPU only.

    NumPy's BLAS has read the parameters on all its cores when a step begins, and each store to them must first take
    the line back. On virtual machines that takes several times as long at one time as at another. Medians over as many
    rounds as fit into `seconds`.
    """
    cpus = sorted(available())
    if len(cpus) < 2:
        return None
    values = np.zeros(LINES * LINE // 8)
    to_read, was_read = threading.Semaphore(0), threading.Semaphore(0)
    done = False

    def read() -> None:
        _pin({cpus[1]})
        while True:
            to_read.acquire()
            if done:
                return
            values.sum()
            was_read.release()

    def store() -> float:
        start = time.perf_counter()
        values.fill(1)
        return (time.perf_counter() - start) * 1e9 / LINES

    reader, before = threading.Thread(target=read, daemon=True), available()
    shared: list[float] = []
    unshared: list[float] = []
    try:
        _pin({cpus[0]})  # else the reader may be woken on the core of the one that waits for it
        reader.start()
        end = time.perf_counter() + seconds
        while len(unshared) < 3 or time.perf_counter() < end:
            to_read.release()
            was_read.acquire()
            shared.append(store())
            unshared.append(store())
    finally:
        _pin(before)
        done = True
        to_read.release()
    reader.join()
    return Lines(statistics.median(shared), statistics.median(unshared))


MPI_VARIABLES = ("PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE", "PMIX_RANK")
"""Variables that launchers of MPI jobs (Hydra, Open MPI, MVAPICH, PMIx) set for each process."""


def is_under_mpi() -> bool:
    """Whether `mpiexec` or the like has started this process."""
    return any(name in os.environ for name in MPI_VARIABLES)


def memory() -> float:
    """Bytes of memory; infinite where the system does not say."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return math.inf


LARGEST_CACHE = 24_000_000
"""Bytes of what a step touches that a cache keeps until the next one at most: the gradient uses it too.

Of 300 MB on a virtual machine 80 were a step's where it ran alone. In training loops steps that ask for memory ahead
take 0.98 to 1.00 of the time of others at 16 MB, 0.94 at 30 MB and 0.87 at 55 MB; in an LSTM's loop, whose 34 MB were
still in the last cache, 1.1 to 1.2. So from here on they are tried.
"""


@cache
def cache_bytes() -> int:
    """The bytes that the caches keep from one step to the next: of the last one, or 32 MB where that is not known."""
    units, sizes = {"K": 1 << 10, "M": 1 << 20}, [0]
    for file in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size"):
        text = file.read_text().strip()
        if text[:-1].isdecimal() and text[-1] in units:
            sizes.append(int(text[:-1]) * units[text[-1]])
    return min(max(sizes), LARGEST_CACHE) or 1 << 25


def available() -> set[int]:
    """The CPUs that the calling thread may use."""
    try:
        return os.sched_getaffinity(0)
    except AttributeError:  # not on Linux
        return set(range(os.cpu_count() or 1))


def _pin(cpus: set[int]) -> None:
    """Keeps the calling thread on some CPUs, where the system can."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, cpus)


def describe(samples: list[Lines | None]) -> str:
    """One line on load and shared lines, of one measurement or of several."""
    measured = [one for one in samples if one is not None]
    if not measured:
        return f"{load()}; one CPU, so that no cache line is shared"
    low, high = min(one.shared for one in measured), max(one.shared for one in measured)
    shared = f"{low:.1f}" if f"{low:.1f}" == f"{high:.1f}" else f"{low:.1f} to {high:.1f}"
    unshared = statistics.median(one.unshared for one in measured)
    return f"{load()}; a store to a cache line that another core has read: {shared} ns (own line: {unshared:.1f} ns)"


def load() -> str:
    """The load average of the last minute."""
    try:
        return f"load average {os.getloadavg()[0]:.2f} on {os.cpu_count()} CPUs"
    except (AttributeError, OSError):  # Windows
        return f"{os.cpu_count()} CPUs"


class OthersLoad:
    """How many CPUs other processes (and, on a virtual machine, other machines) kept busy meanwhile."""

    def __init__(self) -> None:
        self.start = self._now()

    def _now(self) -> tuple[float, float, float]:
        times = os.times()
        try:
            with open("/proc/stat", encoding="ascii") as file:
                fields = [int(x) / os.sysconf("SC_CLK_TCK") for x in file.readline().split()[1:9]]
            busy = sum(fields) - fields[3] - fields[4]  # all but idle and waiting for input and output
        except (OSError, ValueError):
            busy = float("nan")
        return time.perf_counter(), busy, times.user + times.system + times.children_user + times.children_system

    def value(self) -> float:
        """CPUs, on average since it was made; NaN where the system does not say."""
        (t0, busy0, own0), (t1, busy1, own1) = self.start, self._now()
        others = busy1 - busy0 - (own1 - own0)
        return others if others != others else round(max(0.0, others / max(t1 - t0, 1e-9)), 2)
