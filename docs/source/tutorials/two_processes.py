"""A network trained by two processes: `mpiexec -n 2 python two_processes.py`."""

import numpy as np
from mpi4py import MPI

import fastopt
import fastopt.mpi
from fastopt.nn import MultiLayerNet, load_mnist

comm = MPI.COMM_WORLD
(x, t), (x_test, t_test) = load_mnist()
x = x.astype(np.float32)

network = MultiLayerNet(784, [50, 50], 10, dtype="float32", seed=comm.rank)  # other weights on each process
optimizer = fastopt.mpi.Sharded(fastopt.Adam(lr=1e-3))
optimizer.broadcast(network.params)  # now those of rank 0

draw = np.random.default_rng(0)
for _ in range(200):
    batch = draw.integers(0, len(x), 128)  # the same on all processes
    mine = batch[comm.rank :: comm.size]  # and of it a part
    grads = network.gradient(x[mine], t[mine])
    optimizer.update(network.params, grads)  # their mean, by which each process steps its share

optimizer.check_synced(network.params)
optimizer.save("two_processes.safetensors", network.params)
if comm.rank == 0:
    state = sum(view.nbytes for slot in (optimizer.m, optimizer.v) for view in slot.values())
    print(f"accuracy {network.accuracy(x_test.astype(np.float32), t_test):.3f}, {state:,} bytes of state on rank 0")
