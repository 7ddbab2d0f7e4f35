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
from contextlib import contextmanager, suppress
from functools import cache

import numba
from numba.core import config

from fastopt import checks

# Steps that read and write fewer bytes are serial. Fitted by `python -m bench.threshold`, in training loops, where
# BLAS's spinning threads hold the other cores. TBB: two threads lose up to 5 % of a whole step below; above they lose
# 1 % or gain 8 to 13 %, as the state of this shared machine is, and nearly halve a step without BLAS beside it.
# OpenMP: a launch costs 30 us, which is 2 % of a whole step at 8 MB and 1 % at 50 MB.
PARALLEL_BYTES = {"tbb": 6_000_000, "omp": 100_000_000}
SMALLEST_PARALLEL = min(PARALLEL_BYTES.values())

# Within this factor of the threshold it depends on the loop whether threads pay, which steps may find out.
NEAR = 6

# What numba's collective names for threading layers stand for.
CANDIDATES = {"safe": ["tbb"], "forksafe": ["tbb"], "threadsafe": ["tbb", "omp"]}

VARIABLE = "FASTOPT_NUM_THREADS"

_forked = False
_exactly: int | None = None
_most: int | None = None


def _after_fork_in_child() -> None:
    # The pool's threads did not come along. GNU OpenMP kills a child that enters a parallel region.
    global _forked
    _forked = True


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)


def threads_for(moved_bytes: int) -> int:
    """How many threads a step that reads and writes `moved_bytes` gets; 1 means the serial kernel."""
    if moved_bytes < SMALLEST_PARALLEL and _exactly is None:
        return 1
    return choice(moved_bytes)[0]


def choice(moved_bytes: int) -> tuple[int, str]:
    """`threads_for`, and why."""
    if _exactly is not None:
        return _exactly, "asked for exactly that"
    if _forked:
        return 1, "a forked child has no thread pool"
    if _most == 1:
        return 1, "limited to one thread"
    name = layer()
    if name is None:
        return 1, "there is no threading layer that fits training loops"
    threshold = PARALLEL_BYTES[name]
    if moved_bytes < threshold:
        return 1, f"it moves less than {threshold / 1e6:g} MB"
    return most(), f"it moves {threshold / 1e6:g} MB or more"


def is_open(moved_bytes: int) -> bool:
    """Whether measuring may tell better than the table how many threads a step gets, as it is near the threshold."""
    if _exactly is not None or _forked or _most == 1 or moved_bytes < SMALLEST_PARALLEL / NEAR:
        return False
    name = layer()
    if name is None or most() == 1:
        return False
    return PARALLEL_BYTES[name] / NEAR <= moved_bytes <= PARALLEL_BYTES[name] * NEAR


def most() -> int:
    """The largest number of threads that a step gets."""
    threads: int = numba.get_num_threads()
    return min(threads, _most or threads)


def set_num_threads(threads: int | None) -> None:
    """Sets the maximum number of threads of a step, for all optimizers of this process.

    Parameters
    ----------
    threads : int or None
        From 1 to the number that numba has; None for all of them, which is the default. The environment variable
        FASTOPT_NUM_THREADS sets it at the start. Small steps use one thread anyway, and results do not depend on it.
        numba's own setting is respected and not changed.

    Raises
    ------
    TypeError, ValueError
        if it is not a number in that range.

    Examples
    --------
    >>> set_num_threads(1)
    >>> set_num_threads(None)
    """
    global _most
    _most = None if threads is None else checks.thread_count("set_num_threads", threads, config.NUMBA_NUM_THREADS)
    layer.cache_clear()


def limit() -> int | None:
    """The number that `set_num_threads` or FASTOPT_NUM_THREADS set."""
    return _most


@contextmanager
def num_threads(threads: int | None) -> Iterator[None]:
    """`set_num_threads` for the length of a `with` block.

    Examples
    --------
    >>> with num_threads(1):
    ...     pass  # steps in here take one thread
    """
    before = _most
    set_num_threads(threads)
    try:
        yield
    finally:
        set_num_threads(before)


@contextmanager
def exactly(threads: int) -> Iterator[None]:
    """Steps are cut into this many shares whatever their size, to check that the bits do not depend on it; 1 is serial.

    Shares beyond the number of numba's threads are worked off by those that there are.
    """
    global _exactly
    before = _exactly
    if threads > 1 and layer() is None:
        raise RuntimeError("there is no threading layer for more than one thread: pip install tbb")
    _exactly = threads
    try:
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
        candidates = CANDIDATES.get(chosen, config.THREADING_LAYER_PRIORITY if chosen == "default" else [chosen])
        running = next((name for name in candidates if _loads(name)), None)
    if running == "omp" and _openmp_spins() and _most is None:
        warnings.warn(
            "fastopt: OpenMP's threads spin while they wait (it was loaded before fastopt, or the environment says "
            "so), which makes training loops many times slower, so steps stay on one thread. `pip install tbb`, or set "
            "OMP_WAIT_POLICY=passive before Python starts, or FASTOPT_NUM_THREADS to use it all the same.",
            RuntimeWarning,
            stacklevel=3,
        )
        return None
    return running if running in PARALLEL_BYTES else None


def _loads(name: str) -> bool:
    """Loads a layer's library, without starting its threads."""
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
            with suppress(OSError):  # a broken installation: there are other layers
                ctypes.CDLL(os.path.abspath(str(file.locate())), mode=ctypes.RTLD_GLOBAL)


def _from_environment() -> int | None:
    text = os.environ.get(VARIABLE, "")
    if not text:
        return None
    most = config.NUMBA_NUM_THREADS
    count = int(text) if text.strip().isdecimal() else None
    if count is not None and 1 <= count <= most:
        return count
    # The import goes on: the same setting may be for machines with more threads.
    taken = most if count is None or count == 0 else min(count, most)
    warnings.warn(checks.bad_thread_count(VARIABLE, text, most, taken), RuntimeWarning, stacklevel=2)
    return None if count is None or count == 0 else taken


_most = _from_environment()

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
