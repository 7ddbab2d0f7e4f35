"""`start`: what a fresh process waits for."""

import pytest

from bench.start import IMPORT, STEP, seconds


def timed(benchmark, code, folder, rounds, fresh):
    inner = []
    caches = (str(folder / f"cache {number}" if fresh else folder / "cache") for number in range(99))
    benchmark.group = "start"
    benchmark.pedantic(lambda: inner.append(seconds(code, next(caches))), rounds=rounds)
    # The timer sees the whole process; this is what the line in question took.
    benchmark.extra_info["seconds inside"] = sorted(inner)[len(inner) // 2]


def test_import(benchmark, tmp_path):
    timed(benchmark, IMPORT, tmp_path, 5, fresh=False)


@pytest.mark.parametrize("kernel", ["serial", "parallel"])
@pytest.mark.parametrize("cache", ["cold", "warm"])
def test_first_step(benchmark, tmp_path, cache, kernel):
    code = STEP.format(size=10_000 if kernel == "serial" else 2_000_000)
    if cache == "warm":
        seconds(code, str(tmp_path / "cache"))
    timed(benchmark, code, tmp_path, 3, fresh=cache == "cold")
