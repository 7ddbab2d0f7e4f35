"""Data-parallel training over MPI, with the optimizer's state sharded over the processes.

>>> import fastopt, fastopt.mpi
>>> optimizer = fastopt.mpi.Sharded(fastopt.Adam(lr=1e-3))  # and `mpiexec -n 4 python script.py`
"""

try:
    from mpi4py import MPI as _MPI  # noqa: F401
except ImportError as _error:
    raise ImportError(
        f"fastopt.mpi needs mpi4py 4.1 or later and an MPI library ({_error}): pip install 'fastopt[mpi]' mpich, or, "
        "with a cluster's own MPI loaded, pip install 'fastopt[mpi]'"
    ) from _error

from fastopt.mpi.abort import abort_on_exception
from fastopt.mpi.sharded import Sharded

__all__ = ["Sharded", "abort_on_exception"]

abort_on_exception()
