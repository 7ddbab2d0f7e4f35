"""Threads of a step that wait on the CPU of the thread that called it, and how they get off it; on Linux.

For some 30 ms after each product BLAS's threads spin, so in a training loop no CPU looks idle when a step begins, and
Linux often wakes the step's second thread on the CPU of the first, where it waits until all is done. A step of Adam on
two CPUs took as long as a serial one in every third to every second step that way. So a thread that calls a step, and
works on without help, yields its CPU once; and one that finds itself on that CPU leaves it. Where it is allowed to run
stays as it was.
"""

from __future__ import annotations

import ctypes
import sys
from functools import cache
from typing import Any

import numpy as np

from fastopt.kernels.intrinsics import call_c, peek, put
from fastopt.kernels.stores import stack_bytes

FUNCTIONS = ("pthread_self", "sched_getcpu", "sched_yield", "sched_getaffinity", "sched_setaffinity")
SELF, GET_CPU, YIELD, GET_AFFINITY, SET_AFFINITY = range(len(FUNCTIONS))
RESULT = 0xFFFFFFFF  # of those that return a C int

MASK_BYTES, WORDS = 128, 16  # of a set of CPUs: 1,024, as in the C library
"""On a machine with more `sched_getaffinity` fails, and threads stay where they are."""


@cache
def scheduler() -> int:
    """Return the address of those of `FUNCTIONS`, 0 where there are none."""
    functions = _functions()
    return 0 if functions is None else int(functions.ctypes.data)


@cache
def _functions() -> Any:
    if sys.platform != "linux":
        return None
    library = ctypes.CDLL(None)
    if not all(hasattr(library, name) for name in FUNCTIONS):
        return None
    found = [ctypes.cast(getattr(library, name), ctypes.c_void_p).value or 0 for name in FUNCTIONS]
    return np.array(found, np.int64)


def own_thread(scheduler):
    """A number that tells this thread from others; 0 for all without a scheduler."""
    return call_c(peek(scheduler + 8 * SELF), 0, 0, 0) if scheduler else 0


def own_cpu(scheduler):
    """The number of the CPU that this thread is on."""
    return call_c(peek(scheduler + 8 * GET_CPU), 0, 0, 0) & RESULT if scheduler else 0


def give_way(scheduler):
    """Lets another thread have this CPU, if one waits for it."""
    if scheduler:
        call_c(peek(scheduler + 8 * YIELD), 0, 0, 0)


def leave(scheduler, cpu):
    """Moves this thread from a CPU to another one that it may run on; returns where it then is.

    It may run on both afterwards, as before.
    """
    mask = stack_bytes(MASK_BYTES)
    if cpu < 8 * MASK_BYTES and call_c(peek(scheduler + 8 * GET_AFFINITY), 0, MASK_BYTES, mask) & RESULT == 0:
        word, bit, others = cpu // 64, np.int64(1) << (cpu % 64), 0
        before = peek(mask + 8 * word)
        put(mask, word, before & ~bit)
        for each in range(WORDS):
            others |= peek(mask + 8 * each)
        if others != 0:
            call_c(peek(scheduler + 8 * SET_AFFINITY), 0, MASK_BYTES, mask)
            cpu = own_cpu(scheduler)
            put(mask, word, before)
            call_c(peek(scheduler + 8 * SET_AFFINITY), 0, MASK_BYTES, mask)
    return cpu
