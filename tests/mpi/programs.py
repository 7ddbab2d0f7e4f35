"""Checks on several processes: `mpiexec -n 3 python -m tests.mpi.programs` runs every `check_` function of `steps`, `checkpoints` and
`mistakes`.

Each compares `Sharded` with the same optimizer on one process, which adds up the gradients of all ranks in their order.
"""

import os
import sys
import time

from tests.mpi import checkpoints, mistakes, steps
from tests.mpi.support import COMM, RANK, SIZE


def main(names):
    checks = {
        name: check
        for module in (steps, checkpoints, mistakes)
        for name, check in vars(module).items()
        if name.startswith("check_")
    }
    for name in names or checks:
        start = time.perf_counter()
        try:
            checks[name]()
        except BaseException:
            print(f"{name} failed on rank {RANK} of {SIZE}", file=sys.stderr, flush=True)
            raise
        if RANK == 0 and os.environ.get("FASTOPT_TEST_TIMES"):
            print(f"{time.perf_counter() - start:6.2f} s {name}", flush=True)
    COMM.Barrier()
    if RANK == 0:
        print(f"all {len(names or checks)} passed on {SIZE}")


if __name__ == "__main__":
    main(sys.argv[1:])
