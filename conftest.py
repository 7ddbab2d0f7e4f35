"""Read before anything imports NumPy."""

import os

if "PYTEST_XDIST_WORKER" in os.environ:
    # A BLAS thread for each test process: more of them would spin on each other's cores.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

# MPI is begun by the import, once for the life of a process: tests/mpi runs the examples in processes of their own.
collect_ignore_glob = ["fastopt/mpi/*"]
