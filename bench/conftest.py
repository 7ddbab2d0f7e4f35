"""Benches run once, untimed, with the tests; any --benchmark option but --benchmark-disable turns the timer on."""

import pytest

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
