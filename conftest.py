"""Read before anything imports NumPy."""

import os
from importlib.util import find_spec

if "PYTEST_XDIST_WORKER" in os.environ:
    # A BLAS thread for each test process: more of them would spin on each other's cores.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

# Modules whose examples need what may not be installed.
collect_ignore = [
    path
    for library, path in (("sklearn", "fastopt/sklearn.py"), ("scipy", "fastopt/minimization/__init__.py"))
    if find_spec(library) is None
]
# MPI is begun by the import, once for the life of a process: tests/mpi runs the examples in processes of their own.
collect_ignore_glob = ["fastopt/mpi/*"]
collect_ignore.append("fastopt/__pyinstaller/hook-fastopt.py")  # which PyInstaller runs


def pytest_configure(config):
    """Gives each test process a stretch of neighbours, which share kernels, so that one of them compiles each."""
    if getattr(config.option, "dist", "no") == "load":
        config.option.dist = "worksteal"
