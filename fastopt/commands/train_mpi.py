"""A training that several processes share: `mpiexec -n 2 fastopt train --mpi`."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from mpi4py import MPI

from fastopt import threads
from fastopt.commands.console import (
    BarColumn,
    Console,
    MofNCompleteColumn,
    Progress,
    Table,
    TextColumn,
    TimeElapsedColumn,
    box,
)
from fastopt.commands.explain import find
from fastopt.mpi import Sharded
from fastopt.nn import MultiLayerNet
from fastopt.nn.mnist import Mnist, as_arrays, read_mnist

TURN = 20  # steps between two looks at the loss of all processes


def read(folder: Path | None) -> Mnist:
    """MNIST on every process; rank 0 reads, and perhaps downloads, it first."""
    comm = MPI.COMM_WORLD
    if comm.rank == 0:
        data = read_mnist(folder)
    comm.Barrier()
    return data if comm.rank == 0 else read_mnist(folder)


def main(
    data: Mnist,
    optimizer: str,
    hidden: Sequence[int],
    batch: int,
    steps: int,
    dtype: str,
    seed: int,
    settings: Mapping[str, Any] = MappingProxyType({}),
) -> MultiLayerNet:
    """Trains one network on all processes, each with its part of every batch; rank 0 shows a bar and the outcome.

    Raises
    ------
    ValueError
        if the batch cannot be cut into equal parts.
    RuntimeError
        if the parameters of two processes differ in the end.
    """
    comm = MPI.COMM_WORLD
    if batch % comm.size:
        raise ValueError(
            f"a batch of {batch} cannot be cut into {comm.size} equal parts; choose --batch {batch // comm.size + 1} "
            f"times {comm.size}, {(batch // comm.size + 1) * comm.size}"
        )
    part = batch // comm.size
    (x_train, t_train), (x_test, t_test) = as_arrays(data)
    x_train, x_test = x_train.astype(dtype), x_test.astype(dtype)
    network = MultiLayerNet(784, hidden, 10, dtype=dtype, seed=seed)
    sharded = Sharded(find(optimizer)(**settings))
    sharded.broadcast(network.params)
    with suppress(ImportError):  # otherwise OPENBLAS_NUM_THREADS has to say so, before Python starts
        from threadpoolctl import threadpool_limits

        threadpool_limits(threads.limit(), "blas")  # BLAS's threads would spin on the other processes' cores
    console = Console()
    sizes = "-".join(map(str, (784, *hidden, 10)))
    if comm.rank == 0:
        console.print(data.source, highlight=False, markup=False)
        console.print(
            f"{find(optimizer).__name__}, {sizes}, ReLU, batch {batch} as {comm.size} times {part}, {dtype}",
            highlight=False,
        )
    draw = np.random.default_rng(seed)
    seconds: list[tuple[float, float]] = []
    loss = 0.0
    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("loss {task.fields[loss]:.4f}"), TimeElapsedColumn())
    with Progress(*columns, console=console, disable=comm.rank != 0) as progress:
        task = progress.add_task("", total=steps, loss=0.0)
        for step in range(1, steps + 1):
            rows = draw.integers(0, len(x_train), size=batch)[comm.rank * part : (comm.rank + 1) * part]
            start = time.perf_counter()
            grads = network.gradient(x_train[rows], t_train[rows])
            between = time.perf_counter()
            sharded.update(network.params, grads)
            seconds.append((between - start, time.perf_counter() - between))
            if step % TURN == 0 or step == steps:
                loss = comm.allreduce(network.last_loss) / comm.size
                progress.update(task, completed=step, loss=loss)
    sharded.check_synced(network.params)
    state = [view.nbytes for slot in sharded.optimizer._rule.state for view in (getattr(sharded, slot) or {}).values()]
    if comm.rank == 0:
        console.print(_table(network, loss, seconds, sum(state), network.accuracy(x_test, t_test), comm.size))
    return network


def _table(
    network: MultiLayerNet, loss: float, seconds: list[tuple[float, float]], state: int, accuracy: float, ranks: int
) -> Table:
    gradient, update = np.median(np.array(seconds), axis=0) * 1e6
    size = sum(value.size for value in network.params.values())
    table = Table(title=f"{size:,} parameters on {ranks} processes", box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column()
    table.add_column("", justify="right")
    table.add_row("gradient of a part, median", f"{gradient:,.1f} µs")
    table.add_row("exchange and step, median", f"{update:,.1f} µs")
    table.add_row("state on a process", f"{state / 1e6:,.2f} MB")
    table.add_row("last loss", f"{loss:.4f}")
    table.add_row("test accuracy", f"{accuracy:.4f}")
    table.add_row("parameters on all processes", "identical bits")
    return table
