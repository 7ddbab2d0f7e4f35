"""A process that fails ends the whole job, in place of leaving the others waiting for it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import TracebackType

from mpi4py import MPI
from mpi4py.run import set_abort_status


def abort_on_exception(on: bool = True) -> None:
    """Sets whether an uncaught exception ends all processes of the job, with its traceback.

    Importing `fastopt.mpi` does so. Otherwise the process that failed waits in `MPI_Finalize` for the others, and they
    wait in their next step for it. The traceback is shown as before; then, when Python ends, mpi4py calls `MPI_Abort`
    in place of `MPI_Finalize` (`mpi4py.run.set_abort_status`), and the job's exit status is 1. `sys.exit` with a status
    is no exception of this kind: a single process that leaves that way should call `MPI.COMM_WORLD.Abort`.

    Parameters
    ----------
    on : bool
        False puts back the hook that was there.

    Examples
    --------
    >>> import fastopt.mpi
    >>> fastopt.mpi.abort_on_exception(False)
    >>> fastopt.mpi.abort_on_exception()
    """
    global _before
    if on and _before is None:
        _before, sys.excepthook = sys.excepthook, _hook
    elif not on and _before is not None:
        if sys.excepthook is _hook:  # otherwise somebody's hook lies over this one, and calls it
            sys.excepthook = _before
        _before = None


_before: Callable[[type[BaseException], BaseException, TracebackType | None], object] | None = None


def _hook(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
    (_before or sys.__excepthook__)(kind, error, traceback)
    if _before is not None and MPI.Is_initialized() and not MPI.Is_finalized():
        sys.stderr.flush()
        set_abort_status(1)
