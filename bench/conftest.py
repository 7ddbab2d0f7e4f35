"""Benches run once, untimed, with the tests; any --benchmark option but --benchmark-disable turns the timer on."""

import os
import platform
from functools import cache

import llvmlite.binding
import numba
import numpy as np
import pytest

import fastopt
from fastopt import threads, tuning
from fastopt.commands import info
from fastopt.machine import OthersLoad

TIMED = (
    "benchmark_only",
    "benchmark_enable",
    "benchmark_json",
    "benchmark_save",
    "benchmark_autosave",
    "benchmark_compare",
)


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    if not any(config.getoption(option, None) for option in TIMED):
        config.option.benchmark_disable = True
    # A quarter of a second for each of hundreds of cases; the defaults are for a few. What users ask for wins.
    for option, ours, default in (("benchmark_max_time", 0.25, 1.0), ("benchmark_min_rounds", 3, 5)):
        if float(config.getoption(option, default)) == default:
            setattr(config.option, option, ours)


@pytest.fixture(autouse=True)
def others(request):
    """Notes in each result how busy other processes kept the machine."""
    benchmark = request.getfixturevalue("benchmark") if "benchmark" in request.fixturenames else None
    load = OthersLoad()
    yield
    if benchmark is not None:
        versions = {name: version for name, version in environment().items() if name not in ("cpu", "cpus", "layer")}
        benchmark.extra_info.update(
            {"CPUs busy with others": load.value(), "CPU": environment()["cpu"], "versions": versions}
        )


@pytest.fixture(autouse=True)
def as_they_come(request):
    """Steps without a training loop, of which a bench times few where they are large, are not to be in a trial."""
    before = tuning.mode()
    tuning.set_tuning(before if request.node.path.stem == "test_loop" else "off")
    yield
    tuning.set_tuning(before)


@pytest.fixture
def small(benchmark):
    """Caps a number of elements where a bench only shows that it works: gigabytes would show nothing more."""
    return (lambda size: min(size, 20_000)) if benchmark.disabled else (lambda size: size)


def pytest_benchmark_update_machine_info(config, machine_info):
    """Goes into every JSON, once."""
    machine_info["fastopt"] = environment()


@cache
def environment():
    """The circumstances that figures depend on."""
    return {
        "fastopt": fastopt.__version__,
        "numba": numba.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
        "cpu": llvmlite.binding.get_host_cpu_name(),
        "cpus": os.cpu_count(),
        "layer": threads.layer(),
        "blas": info.blas().split(";")[0],
    }
