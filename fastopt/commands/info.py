"""Facts about the machine and the choices that follow: `fastopt info`."""

from __future__ import annotations

import os
import platform
from pathlib import Path

import llvmlite
import llvmlite.binding
import numba
import numpy as np
from numba.core import config
from numba.core.caching import FunctionCache

import fastopt
from fastopt import machine, threads, tuning
from fastopt.commands import docstrings
from fastopt.engine.columns import SMALLEST
from fastopt.kernels import passes
from fastopt.kernels.stores import AHEAD, FORMS
from fastopt.optimizers import OPTIMIZERS


def processes() -> tuple[int, dict[str, str]]:
    """The rank of this process in a job of `mpiexec`, and what is to be said of the job; nothing without one."""
    if not machine.is_under_mpi():
        return 0, {}
    try:
        from fastopt.mpi import cores
    except ImportError as error:
        return 0, {"MPI": str(error)}
    rank, text = cores.described()
    return rank, {"MPI": text}


def facts(parameters: int, optimizer: str, dtype: str) -> dict[str, str]:
    """Names and values, in the order in which they are shown."""
    layer = threads.layer()
    bytes_each = docstrings.bytes_per_element(OPTIMIZERS[optimizer], np.dtype(dtype).itemsize)
    moved = parameters * bytes_each
    count, reason = threads.choice(moved)
    kind = "the serial kernel" if count == 1 else f"the parallel kernel on {count} threads"
    return {
        "versions": f"fastopt {fastopt.__version__}, numba {numba.__version__}, llvmlite {llvmlite.__version__}, "
        f"NumPy {np.__version__}, Python {platform.python_version()}",
        "processor": f"{llvmlite.binding.get_host_cpu_name()}, {os.cpu_count()} CPUs, {platform.system()}",
        "machine": machine.describe([machine.lines()]),
        "threading layer": layer or "none: all steps are serial",
        "threads": f"{numba.get_num_threads() if layer else 1} of numba's {config.NUMBA_NUM_THREADS}"
        + (f", limited to {threads.limit()}" if threads.limit() else ""),
        "parallel from": ", ".join(f"{size / 1e6:g} MB ({name})" for name, size in threads.PARALLEL_BYTES.items()),
        "new parameters": f"stored in the form {tuning.mode()} (of {', '.join(FORMS)})"
        if tuning.mode() != tuning.AUTO
        else f"{', '.join(FORMS[:AHEAD])} are tried in turns from {tuning.SMALLEST // 1024} KB on, {FORMS[AHEAD]} too "
        "where a model outgrows the caches: see `optimizer.tuning`",
        "compact state": f"never of arrays of fewer than {SMALLEST:,} elements, with Rows, centralize or a mask, "
        f"nor of {', '.join(one.__name__ for one in OPTIMIZERS.values() if one._rule.is_by_array)}: theirs is float32",
        "kernels are kept in": cache_folder(),
        "NumPy's BLAS": blas(),
        "settings": ", ".join(sorted(_settings())) or "none of FASTOPT_*, NUMBA_*, OMP_*, OPENBLAS_* is set",
        f"{OPTIMIZERS[optimizer].__name__} of {parameters:,} {dtype}": f"{bytes_each} bytes per element, "
        f"{moved / 1e6:,.1f} MB a step: {kind}, as {reason}",
    }


def cache_folder() -> str:
    """Where numba keeps compiled kernels, or why it does not."""
    try:
        folder = Path(FunctionCache(passes.step_loop).cache_path)
    except Exception as error:
        return f"memory only ({error})"
    files = list(folder.glob(f"{Path(passes.__file__).stem}.*.nbc"))
    return f"{folder} ({len(files)} kernels, {sum(file.stat().st_size for file in files) / 1e6:.1f} MB)"


def blas() -> str:
    """Name and version, and what its threads do between products."""
    library = np.show_config(mode="dicts")["Build Dependencies"]["blas"]
    name = f"{library.get('name', 'unknown')} {library.get('version', '')}".strip()
    if "openblas" not in name:
        return name
    if os.environ.get("OPENBLAS_NUM_THREADS") == "1":
        return f"{name}, one thread"
    if os.environ.get("OPENBLAS_THREAD_TIMEOUT"):
        return f"{name}, its threads wait OPENBLAS_THREAD_TIMEOUT={os.environ['OPENBLAS_THREAD_TIMEOUT']}"
    return (
        f"{name}; its threads spin on the other cores for some 25 ms after each product, while steps run. Models of "
        "many million parameters may train faster with OPENBLAS_THREAD_TIMEOUT=4, set before Python starts, which "
        "lets them sleep at once: try it (`python -m bench.blas` measures it)"
    )


def _settings() -> list[str]:
    prefixes = ("FASTOPT_", "NUMBA_", "OMP_", "GOMP_", "OPENBLAS_", "MKL_", "KMP_")
    return [f"{name}={value}" for name, value in os.environ.items() if name.startswith(prefixes)]
