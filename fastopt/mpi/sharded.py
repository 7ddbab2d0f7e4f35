"""An optimizer whose state is shared out among the processes of an MPI communicator."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from hashlib import blake2b
from operator import call
from typing import Any, Literal

import numpy as np
from mpi4py import MPI

from fastopt import checks, combinations
from fastopt.engine import step
from fastopt.engine.objects import OWN
from fastopt.flat import Array
from fastopt.mpi.agreement import Agreement
from fastopt.mpi.averaging import SharedAverages
from fastopt.mpi.binding import Binding
from fastopt.mpi.consensus import Consensus
from fastopt.mpi.cores import share_cores
from fastopt.mpi.leaf_groups import LeafGroups
from fastopt.mpi.reports import over_all
from fastopt.mpi.saving import SharedSaving
from fastopt.optimizer import Optimizer

REDUCTIONS = ("mean", "sum")
TRANSPORTS = (None, "bfloat16")


class Sharded(Consensus, SharedAverages, SharedSaving):
    """Data-parallel training over MPI with sharded state: each process updates its shard of the parameters.

    All arrays of a dtype form one sequence of elements, cut into equal shards. `update` sends each process the
    gradients of its shard (`Alltoallv`), adds them up in the order of the ranks, steps the shard with its shard of the
    state, and gives the new parameters to all (`Allgatherv`): the ZeRO-1 scheme. All processes have the same bits after
    each step, and they are those of one process that adds the gradients in that order, multiplies the sum by 1 / size
    and steps.

    Every method is called by all processes, in the same order. Settings, groups, schedules, `iter` and `skipped` are
    those of the optimizer, and are read and set here; they must be the same on all processes.

    Processes on one machine share its cores: steps take cores / processes threads from then on, unless
    `fastopt.set_num_threads` or FASTOPT_NUM_THREADS says how many.

    Parameters
    ----------
    optimizer : Optimizer
        One that has not stepped yet, the same on all processes. It steps this process's shard from now on.
    comm : mpi4py.MPI.Comm, default MPI.COMM_WORLD
        The processes that train together.
    reduce : "mean" or "sum", default "mean"
        How the gradients of all processes are combined.
    transport : None or "bfloat16", default None
        How float32 gradients are sent: unchanged, or rounded to bfloat16, half the bytes. The rounding error is added
        to the next step's gradient (error feedback).

    Raises
    ------
    TypeError, ValueError
        if `optimizer` is no optimizer or has stepped, or another parameter is none of the above.

    Examples
    --------
    One process is a communicator too; `mpiexec -n 4 python script.py` makes it four.

    >>> import numpy as np, fastopt, fastopt.mpi
    >>> params, optimizer = {"W": np.ones(3)}, fastopt.mpi.Sharded(fastopt.SGD(lr=0.5))
    >>> optimizer.broadcast(params)
    >>> optimizer.update(params, {"W": np.ones(3)})
    >>> params["W"]
    array([0.5, 0.5, 0.5])

    References
    ----------
    Rajbhandari, Rasley, Ruwase and He, ZeRO: memory optimizations toward training trillion parameter models, SC 2020,
    arXiv:1910.02054; error feedback: Seide et al., 1-bit stochastic gradient descent, Interspeech 2014.
    """

    _kind_of_step: Any

    def __init__(
        self,
        optimizer: Optimizer,
        comm: MPI.Comm | None = None,
        *,
        reduce: Literal["mean", "sum"] = "mean",
        transport: Literal["bfloat16"] | None = None,
    ) -> None:
        if not isinstance(optimizer, Optimizer):
            raise TypeError(checks.no_optimizer("Sharded", optimizer))
        for name, value, choices in (("reduce", reduce, REDUCTIONS), ("transport", transport, TRANSPORTS)):
            if value not in choices:
                raise ValueError(f"Sharded: {name} must be {' or '.join(map(repr, choices))}, got {value!r:.100}")
        if optimizer.iter or optimizer._state is not None:
            raise ValueError(
                f"Sharded: this {type(optimizer).__name__} has stepped already; hand in a new one, and load what it "
                "was by `load`"
            )
        combinations.check_step(
            type(optimizer).__name__,
            {
                "batch_axis": optimizer.batch_axis is not None,
                "Sharded": True,
            },
        )
        comm = MPI.COMM_WORLD if comm is None else comm
        owner = type(optimizer).__name__
        self.__dict__.update(
            optimizer=optimizer,
            comm=comm,
            reduce=reduce,
            transport=transport,
            _owner=owner,
            _agreement=Agreement(owner, comm),
            _binding=None,
            _exchange=None,
            _last_settings=((), b""),
            _busy=False,
            _settings_names=tuple(optimizer._hyperparameters()),
            _kind_of_step=None,
        )
        self.groups = optimizer.groups
        self._agree("Sharded", None)
        share_cores(comm)

    # -- settings and state are those of the optimizer -----------------------------------------------------------------

    def __getattr__(self, name: str) -> Any:
        if name in ("trial", "undo"):
            raise AttributeError(
                f"Sharded {self._owner} takes no steps back; `save` before a step that may fail, and `load` that on "
                "all processes"
            )
        if name.startswith("_") or name not in self._readable():
            raise AttributeError(
                f"Sharded {self._owner} has no attribute {name!r}; it has {', '.join(self._readable())}"
            )
        return getattr(self.optimizer, name)

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "groups":
            self.optimizer.__dict__["groups"] = LeafGroups(type(self.optimizer), value)
            self.optimizer.__dict__.update(_kept_settings=None, _calls=())
        elif name in self.__dict__ or name.startswith("_"):
            object.__setattr__(self, name, value)
        elif name in type(self).__dict__:
            raise AttributeError(f"Sharded {self._owner}: {name} is a method")
        else:
            setattr(self.optimizer, name, value)

    def _readable(self) -> list[str]:
        settings, _ = self.optimizer._public_names()
        return [*settings, "skipped", "rule", "tuning"]

    def __dir__(self) -> list[str]:
        return sorted({*object.__dir__(self), *self._readable()})

    def __getstate__(self) -> Any:
        raise TypeError(
            f"Sharded {self._owner} cannot be copied or pickled, as its state lies on several processes; use save and "
            "load, or state_dict"
        )

    def __repr__(self) -> str:
        more = "" if self.transport is None else f", transport={self.transport!r}"
        reduce = "" if self.reduce == "mean" else f", reduce={self.reduce!r}"
        return f"Sharded({self.optimizer!r}{reduce}{more})  # rank {self.comm.rank} of {self.comm.size}"

    # -- a step -------------------------------------------------------------------------------------------------------

    def update(self, params: Any, grads: Any = OWN, *, report: bool = False) -> Any:
        """Makes one step with the gradients of all processes: writes `params` and this process's shard of the state.

        Parameters
        ----------
        params, grads, report
            As in `Optimizer.update`; after `accumulate` without `grads`. Names, shapes, dtypes and the order of names
            are the same on all processes, and so is which gradients are None or `Rows`.

        Raises
        ------
        TypeError, ValueError, KeyError, FloatingPointError
            as `Optimizer.update`, on all processes, with the rank where it was found; ValueError if processes differ in
            names, shapes, dtypes, settings or in what they do. Nothing was written then.
        """
        with self._alone():
            binding, exchange, checked = self._checked("update", params, grads, report)
            kinds, summed = exchange.kinds_with(checked), exchange.calls
            gradients = exchange.reduce(None if grads is OWN else exchange.add(checked, grads))
            binding.fetch()
            # What a step may refuse alone shows when it is first made like this; what values call for, all find alike.
            kind = binding.digest, kinds, report, bool(summed), self._last_settings[1]
            first, self._kind_of_step = kind != self._kind_of_step, None
            result = (self._on_all if first else call)(lambda: self._stepped(binding.slices, gradients, report, summed))
            self._kind_of_step = kind
            exchange.gather(binding)
            return over_all(result, exchange.shards, self.comm) if report else None

    def _stepped(self, slices: Any, gradients: Any, report: bool, summed: int) -> Any:
        if not summed:
            return self.optimizer.update(slices, gradients, report=report)
        with self.optimizer._not_stepping():
            return step.make(self.optimizer, slices, gradients, report, summed)

    def update_hessian(self, params: Any, estimates: Any) -> None:
        """Takes the mean (or sum) of all processes' estimates of the Hessian's diagonal into `h`, for `Sophia`.

        Raises
        ------
        TypeError, ValueError, KeyError, RuntimeError, FloatingPointError
            as `Sophia.update_hessian`, on all processes, before anything is written; AttributeError of other rules;
            RuntimeError between `accumulate` and `update`.
        """
        take: Any = getattr(self.optimizer, "update_hessian")  # noqa: B009  # in the optimizer's words where there is none
        with self._alone():
            binding, exchange, checked = self._checked("update_hessian", params, estimates)
            reduced = exchange.reduce(exchange.add(checked, estimates))
            binding.fetch()
            self._on_all(lambda: take(binding.slices, reduced))

    def accumulate(self, grads: Any) -> None:
        """Adds gradients up until the next `update(params)`, which steps with their mean, without communication.

        For batches that do not fit at once; as `Optimizer.accumulate`, but in the dtype of the parameters, and of
        `Rows` too. All processes make as many calls between two steps.

        Parameters
        ----------
        grads
            As in `update`; the same kind of gradient (array, `Rows`, None) for each parameter until the next step.

        Raises
        ------
        TypeError, ValueError, KeyError
            as `update`, on this process alone.
        RuntimeError
            before the parameters are known, by `broadcast` or `update`.

        Examples
        --------
        >>> import numpy as np, fastopt, fastopt.mpi
        >>> params, optimizer = {"W": np.ones(3)}, fastopt.mpi.Sharded(fastopt.SGD(lr=0.5))
        >>> optimizer.broadcast(params)
        >>> optimizer.accumulate({"W": np.ones(3)})
        >>> optimizer.accumulate({"W": 3 * np.ones(3)})
        >>> optimizer.update(params)
        >>> params["W"]
        array([0., 0., 0.])
        """
        with self._alone():
            if self._binding is None:
                raise RuntimeError(
                    f"Sharded {self._owner}: accumulate(grads) does not know the parameters yet; call "
                    "broadcast(params) before"
                )
            checked = self._exchange.checked(grads, self._binding)
            self._check_kinds(self._exchange.kinds_with(checked))
            self._exchange.add(checked)
            self._exchange.calls += 1

    @property
    def accumulated(self) -> int:
        """The number of gradients that `accumulate` was given since the last step."""
        return self._calls()

    def discard_accumulated(self) -> None:
        """Drops what `accumulate` was given since the last step; called by all processes, without communication."""
        with self._alone():
            if self._exchange is not None:
                self._exchange.forget()

    def broadcast(self, params: Any) -> None:
        """Writes the parameters of rank 0 to `params` of all processes, in place.

        Raises
        ------
        TypeError, ValueError
            as `update`, on all processes, before anything is written.
        """
        with self._alone():
            binding = self._bind("broadcast", params)
            binding.fetch()
            self._send_from_root(binding)

    def _send_from_root(self, binding: Binding) -> None:
        for vector in binding.flats.values():
            self.comm.Bcast(vector, root=0)
        binding.put_back()

    def check_synced(self, params: Any) -> None:
        """Raises RuntimeError on all processes if the parameters of one differ in any bit from those of rank 0.

        Compares digests, 8 bytes for each array. Parameters differ where they were not broadcast at the start, or where
        one process has written to them beside the steps.
        """
        with self._alone():
            binding = self._bind("check_synced", params)
            binding.fetch()
            digests = np.array([_digest_of(vector) for vector in binding.flats.values()], np.uint64)
            of_all = np.empty((self.comm.size, len(digests)), np.uint64)
            self.comm.Allgather(digests, of_all)
            paths = list(binding.flats)
            for rank, column in np.argwhere(of_all != of_all[0]).tolist():
                raise RuntimeError(
                    f"{self._owner}: {binding.name(paths[column])} of rank {rank} has other bits than that of rank 0; "
                    "call broadcast(params) once before the first step, and write to parameters on all processes alike"
                )

    def _on_all(self, call: Callable[[], Any]) -> Any:
        """Return the result of a call on each process; raises on all where it raises on one."""
        error, result = None, None
        try:
            result = call()
        except Exception as caught:
            error = caught
        self._agreement.settle(error)
        return result

    @contextmanager
    def _alone(self, doing: Any = True) -> Iterator[None]:
        """No other thread is in the middle of a call; `doing` chooses the text of the error."""
        if self._busy:
            raise RuntimeError(checks.in_use(f"Sharded {self._owner}", self._busy))
        self.__dict__["_busy"] = doing
        try:
            yield
        finally:
            self.__dict__["_busy"] = False


def _digest_of(vector: Array) -> int:
    return int.from_bytes(blake2b(vector.data if vector.size else b"", digest_size=8).digest(), "little")
