"""Which threading layer numba uses, and how many threads a step gets.

A training loop alternates BLAS's threads and ours on the same cores, and both spin while they wait. With GNU OpenMP's
default a step of 0.27 ms takes 8 ms that way, so the layer matters more than the kernel: TBB, else OpenMP with passive
waiting, else serial kernels. Never `workqueue`, which costs 60 us a launch and aborts the process when two Python
threads meet in it.
"""

from __future__ import annotations

import ctypes
import importlib
import importlib.metadata
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import numba
from numba.core import config

# Below this many bytes read and written per step the serial kernel is faster in a training loop.
PARALLEL_BYTES = {"tbb": 4_000_000, "omp": 4_000_000}

_forked = False
_exactly: int | None = None


def _after_fork_in_child() -> None:
    # The pool's threads did not come along. GNU OpenMP kills a child that enters a parallel region.
    global _forked
    _forked = True


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)


def threads_for(moved_bytes: int) -> int:
    """How many threads a step that reads and writes `moved_bytes` gets; 1 means the serial kernel."""
    if _exactly is not None:
        return _exactly
    if _forked or moved_bytes < min(PARALLEL_BYTES.values()):
        return 1
    name = layer()
    if name is None or moved_bytes < PARALLEL_BYTES[name]:
        return 1
    return numba.get_num_threads()  # type: ignore[no-any-return]


@contextmanager
def exactly(threads: int) -> Iterator[None]:
    """Steps get this many shares whatever their size, to check that the bits do not depend on it; 1 is serial.

    Shares beyond the number of numba's threads are worked off by those that there are.
    """
    global _exactly
    before, _exactly = _exactly, threads
    try:
        if threads > 1 and layer() is None:
            raise RuntimeError("there is no threading layer for more than one thread: pip install tbb")
        yield
    finally:
        _exactly = before


@cache
def layer() -> str | None:
    """The threading layer that parallel kernels run on, "tbb" or "omp"; None if they are not to be used."""
    try:
        running = numba.threading_layer()  # somebody's parallel function ran before: it cannot be changed any more
    except ValueError:
        chosen = str(config.THREADING_LAYER).lower()
        candidates = config.THREADING_LAYER_PRIORITY if chosen == "default" else [chosen]
        running = next((name for name in candidates if _loads(name)), None)
    if running == "omp" and _openmp_spins():
        warnings.warn(
            "fastopt: OpenMP was loaded before fastopt and its threads spin while they wait, which makes training "
            "loops many times slower; steps stay on one thread. `pip install tbb`, or set OMP_WAIT_POLICY=passive "
            "before Python starts.",
            RuntimeWarning,
            stacklevel=3,
        )
        return None
    return running if running in PARALLEL_BYTES else None


def _loads(name: str) -> bool:
    """Loads a layer's library, without starting its threads."""
    if name in ("safe", "threadsafe", "forksafe"):
        name = "tbb"
    if name == "omp":
        _load_openmp_passive()
    elif name != "tbb":
        return False
    try:
        from numba.np.ufunc.parallel import _check_tbb_version_compatible

        if name == "tbb":
            _check_tbb_version_compatible()
        importlib.import_module(f"numba.np.ufunc.{name}pool")
    except ImportError:
        return False
    return True


def _load_tbb_wheel() -> None:
    """The wheel puts its library into the environment's lib folder, where the loader does not look (numba #6108)."""
    name = {"linux": "libtbb.so.12", "win32": "tbb12.dll"}.get(sys.platform)
    try:
        files = importlib.metadata.files("tbb") or []
    except importlib.metadata.PackageNotFoundError:
        return
    for file in files:
        if file.name == name:
            ctypes.CDLL(os.path.abspath(str(file.locate())), mode=ctypes.RTLD_GLOBAL)


# At import, before any parallel function of anybody's makes numba choose its layer for the life of the process.
_load_tbb_wheel()


def _load_openmp_passive() -> None:
    """Libgomp reads its waiting policy once, when it is loaded; the environment is left as it was."""
    if _libgomp_is_loaded() or "OMP_WAIT_POLICY" in os.environ or "GOMP_SPINCOUNT" in os.environ:
        return
    global _openmp_is_passive
    os.environ["OMP_WAIT_POLICY"] = "passive"
    try:
        importlib.import_module("numba.np.ufunc.omppool")
        _openmp_is_passive = True
    except ImportError:
        pass
    finally:
        del os.environ["OMP_WAIT_POLICY"]


_openmp_is_passive = False


def _openmp_spins() -> bool:
    if _openmp_is_passive or not sys.platform.startswith("linux"):
        return False
    passive = os.environ.get("OMP_WAIT_POLICY", "").lower() == "passive"
    return not passive and os.environ.get("GOMP_SPINCOUNT") != "0"


def _libgomp_is_loaded() -> bool:
    try:
        with open("/proc/self/maps", encoding="utf-8", errors="replace") as maps:
            return any("libgomp" in line for line in maps)
    except OSError:
        return False
