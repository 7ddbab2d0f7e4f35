"""The cost of a start, each in fresh processes: `python -m bench.start`.

Import of fastopt over that of numba; the first Adam step with kernels in the disk cache, and with an empty cache.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile

IMPORT = """
import time, numba
start = time.perf_counter()
import fastopt
print(time.perf_counter() - start)
"""

STEP = """
import time, numpy as np, fastopt
params = {{"W": np.ones({size}, np.float32)}}
optimizer, start = fastopt.Adam(), time.perf_counter()
optimizer.update(params, {{"W": np.ones({size}, np.float32)}})
first = time.perf_counter()
optimizer.update(params, {{"W": np.ones({size}, np.float32)}})
print(first - start)
"""


def seconds(code: str, cache: str) -> float:
    environment = {**os.environ, "NUMBA_CACHE_DIR": cache}
    process = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    return float(process.stdout)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        times = [seconds(IMPORT, folder) for _ in range(7)]
        print(f"import fastopt, over numba: {statistics.median(times):.3f} s (smallest {min(times):.3f})")
        for kind, size in (("serial", 10_000), ("parallel", 2_000_000)):
            cold = [seconds(STEP.format(size=size), f"{folder}/{kind}{number}") for number in range(3)]
            warm = [seconds(STEP.format(size=size), f"{folder}/{kind}0") for _ in range(7)]
            print(
                f"first Adam step, {kind} kernel: {statistics.median(cold):.2f} s with an empty cache, "
                f"{statistics.median(warm):.3f} s from the cache (smallest {min(warm):.3f})"
            )


if __name__ == "__main__":
    main()
