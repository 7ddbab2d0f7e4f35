"""How many threads a process steps with, where several of a job share a machine."""

from __future__ import annotations

import os

import numba
from mpi4py import MPI

from fastopt import threads


def affinity() -> set[int]:
    """The cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return set(os.sched_getaffinity(0))
    return set(range(os.cpu_count() or 1))


def share_cores(comm: MPI.Comm) -> tuple[int, int, int]:
    """Sets the number of threads of a step to this process's share of the machine's cores, unless one is set.

    To be called by all processes of `comm`.

    Returns
    -------
    (int, int, int)
        The number of processes on this machine, of cores that this process may use, and of processes that use some of
        them.
    """
    machine = comm.Split_type(MPI.COMM_TYPE_SHARED)
    cores = affinity()
    of_all = machine.allgather(cores)
    machine.Free()
    sharing = sum(not cores.isdisjoint(other) for other in of_all)
    if threads.limit() is None:
        threads.set_num_threads(max(1, min(len(cores) // sharing, numba.config.NUMBA_NUM_THREADS)))
    return len(of_all), len(cores), sharing


def described() -> tuple[int, str]:
    """The rank of this process, and its job in words; sets the number of threads as a step does."""
    was_set = threads.limit() is not None
    comm = MPI.COMM_WORLD
    processes, cores, sharing = share_cores(comm)
    library = MPI.Get_library_version().splitlines()[0].strip().replace("\t", " ")
    why = "which were set" if was_set else f"as {sharing} of them share {cores} cores"
    return comm.rank, (
        f"{comm.size} processes, {processes} on this machine, each stepping with up to {threads.limit()} "
        f"thread{'' if threads.limit() == 1 else 's'}, {why}; {' '.join(library.split())}"
    )
