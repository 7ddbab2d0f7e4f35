"""`start`: what a fresh process waits for."""

import os

import pytest

from bench.start import IMPORT, STEP, seconds


def timed(benchmark, code, folder, rounds, fresh=False):
    inner = []
    caches = (str(folder / f"cache {number if fresh else 0}") for number in range(99))
    if benchmark.disabled:  # the kernels of the tests show as well that the bench works
        caches = iter([os.environ.get("NUMBA_CACHE_DIR", "")])
    elif not fresh:
        seconds(code, str(folder / "cache 0"))
    benchmark.group = "start"
    benchmark.pedantic(lambda: inner.append(seconds(code, next(caches))), rounds=rounds)
    # The timer sees the whole process; this is what the line in question took.
    benchmark.extra_info["seconds inside"] = sorted(inner)[len(inner) // 2]


def test_import(benchmark, tmp_path):
    timed(benchmark, IMPORT, tmp_path, 5)


@pytest.mark.parametrize("kernel", ["serial", "parallel"])
@pytest.mark.parametrize("cache", ["cold", "warm"])
def test_first_step(benchmark, tmp_path, cache, kernel):
    if benchmark.disabled and cache == "cold":
        pytest.skip("a warm start shows that the bench works")
    code = STEP.format(size=10_000 if kernel == "serial" else 2_000_000)
    timed(benchmark, code, tmp_path, 3, fresh=cache == "cold")
