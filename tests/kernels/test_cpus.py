"""Threads that leave the CPU of the thread that called the step: where they may run stays, and so do the bits."""

import ctypes
import os
import sys
import threading

import numpy as np
import pytest

from fastopt import machine, threads
from fastopt.kernels import RULES, arena, cpus, loops, stores
from fastopt.kernels.compile import _form, compiled_for_c, kernel

on_linux = pytest.mark.skipif(sys.platform != "linux", reason="no such functions")
in_parallel = pytest.mark.skipif(not threads.layer() or threads.most() < 2, reason="one thread")

INT64, ADDRESS = ctypes.c_int64, ctypes.c_void_p
SIZE = 3 * (loops.ALONE + 1) * loops.PIECE


def leave(cpu):
    """The compiled function."""
    function = ctypes.CFUNCTYPE(INT64, INT64, INT64)(compiled_for_c(cpus.leave, 2))
    return function(cpus.scheduler(), cpu)


def in_a_thread(function):
    """Runs a function in a thread of its own; returns its result."""
    results = []
    thread = threading.Thread(target=lambda: results.append(function()))
    thread.start()
    thread.join()
    return results[0]


@on_linux
@pytest.mark.skipif(len(machine.available()) < 2, reason="there is no other CPU")
def test_a_thread_leaves_a_cpu_and_may_come_back():
    before = os.sched_getaffinity(0)
    for cpu in sorted(before):
        now, allowed = in_a_thread(lambda cpu=cpu: (leave(cpu), os.sched_getaffinity(0)))
        assert now in before - {cpu} and allowed == before
    assert os.sched_getaffinity(0) == before


@on_linux
def test_a_thread_that_may_run_on_one_cpu_stays():
    def pinned():
        cpu = max(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {cpu})
        return leave(cpu) == cpu and os.sched_getaffinity(0) == {cpu}

    assert in_a_thread(pinned)


@on_linux
def test_cpus_beyond_the_mask_are_left_alone():
    before = os.sched_getaffinity(0)
    for cpu in (8 * cpus.MASK_BYTES, cpus.RESULT):
        assert leave(cpu) == cpu
    assert os.sched_getaffinity(0) == before


class Scheduler:
    """A table of functions that says of all threads what a test says, and notes what is asked for."""

    def __init__(self, own_thread, allowed=0b11):
        self.masks, self.yields, self.allowed = [], 0, allowed
        one, mask = ctypes.CFUNCTYPE(INT64), ctypes.CFUNCTYPE(INT64, INT64, INT64, ADDRESS)
        functions = [one(own_thread), one(lambda: 0), one(self.give_way), mask(self.get), mask(self.set)]
        self.alive = functions
        self.table = np.array([ctypes.cast(function, ADDRESS).value for function in functions], np.int64)

    def give_way(self):
        self.yields += 1
        return 0

    def get(self, thread, size, mask):
        ctypes.memset(mask, 0, size)
        INT64.from_address(mask).value = self.allowed
        return 0

    def set(self, thread, size, mask):
        self.masks.append(INT64.from_address(mask).value)
        return 0


def stepped(scheduler):
    """The arrays after a step of Adam on two threads, with the scheduler whose table is at an address."""
    rng = np.random.default_rng(0)
    p, g = rng.standard_normal((2, SIZE)).astype(np.float32)
    state = arena.blocks(SIZE, p.dtype, 2)
    scalars = np.array([0.01, 0.1, 0.001, 1e-8, 0.0])
    table = np.array([[x.ctypes.data for x in (p, g, *state, scalars)], [0] * 5], np.int64)
    compiled = kernel(RULES["adam"], "float32", True)
    numbers = _form(stores.PLAIN, "float32", False).copy()
    numbers[stores.SCHEDULER] = scheduler
    compiled.func(compiled.args[0], numbers.ctypes.data, table, np.array([0, SIZE]), 2)
    return p, *state


@in_parallel
def test_threads_on_the_callers_cpu_leave_it_and_bits_stay():
    expected = stepped(0)
    for allowed, masks in ((0b11, [0b10, 0b11] * 2), (0b01, []), (0b1000, [])):
        numbers = iter(range(1000))
        scheduler = Scheduler(lambda numbers=numbers: next(numbers), allowed)  # no thread is the caller
        for array, plain in zip(stepped(scheduler.table.ctypes.data), expected, strict=True):
            np.testing.assert_array_equal(array, plain)
        if allowed == 0b1000:  # others are allowed only
            assert set(scheduler.masks) == {0b1000}
        else:
            assert sorted(scheduler.masks) == sorted(masks)
        assert scheduler.yields == 0


@in_parallel
def test_a_caller_that_is_alone_gives_way_once():
    scheduler = Scheduler(lambda: 7)  # all threads are the caller
    stepped(scheduler.table.ctypes.data)
    assert 1 <= scheduler.yields <= 2 and scheduler.masks == []


def test_without_the_functions_there_is_no_scheduler(monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    assert cpus._functions.__wrapped__() is None
