"""The probe of the machine's state; no time is asserted."""

import os
import time

import pytest

from fastopt import machine
from tests.conftest import python


def test_lines():
    before = machine.available()
    found = machine.lines(0.005)
    assert machine.available() == before
    if len(before) == 1:
        assert found is None
    else:
        assert found.shared > 0 and found.unshared > 0


def test_one_cpu(monkeypatch):
    monkeypatch.setattr(machine, "available", lambda: {0})
    assert machine.lines() is None
    assert "one CPU, so that no cache line is shared" in machine.describe([None])


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="Linux only")
def test_a_process_on_one_cpu_says_so():
    code = "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}); from fastopt.cli import main; main(['info'])"
    assert "one CPU, so that no cache line is shared" in python(code).stdout


def test_describe():
    one, two = machine.Lines(4.04, 1.5), machine.Lines(16.1, 1.5)
    assert machine.describe([one]).endswith("another core has read: 4.0 ns (own line: 1.5 ns)")
    assert "4.0 to 16.1 ns (own line: 1.5 ns)" in machine.describe([one, two, None])


def test_others_are_not_this_process():
    load, end = machine.OthersLoad(), time.perf_counter() + 0.05
    while time.perf_counter() < end:
        pass
    value = load.value()
    assert value != value or 0 <= value <= os.cpu_count()
