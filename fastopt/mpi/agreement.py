"""All processes do the same, or all raise the same error, before anything is written."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from hashlib import blake2b
from typing import Any, NoReturn

import numpy as np
from mpi4py import MPI


class Agreement:
    """Comparison of the processes of a communicator, before they exchange anything else.

    Every method that communicates begins with one `Allgather` of 16 bytes from each process: a digest of what it is
    about to do, and whether it found an error. Only where these are not all alike do texts follow.
    """

    def __init__(self, owner: str, comm: MPI.Comm) -> None:
        self.owner, self.comm = owner, comm
        self._local = np.zeros(2, np.int64)
        self._all = np.zeros((comm.size, 2), np.int64)

    def reach(self, digest: bytes, describe: Callable[[], dict[str, str]], error: Exception | None = None) -> None:
        """Returns where all processes have the same digest and no error; raises the same error on all otherwise.

        describe : what the digest is of, in words by what they are about
        """
        self._local[:] = int.from_bytes(digest[:8], "little", signed=True), error is not None
        self.comm.Allgather(self._local, self._all)
        if self._all[:, 1].any():
            self.raise_first(error)
        if (self._all[:, 0] != self._all[0, 0]).any():
            raise ValueError(self._difference(self.comm.allgather(describe())))

    def raise_first(self, error: Exception | None) -> NoReturn:
        """Raises the error of the first process that has one, with its rank, on all."""
        errors = self.comm.allgather(None if error is None else _portable(error))
        rank, first = next((rank, found) for rank, found in enumerate(errors) if found is not None)
        kind, text = first
        raise kind(text if self.comm.size == 1 else f"rank {rank} of {self.comm.size}: {text}") from error

    def settle(self, error: Exception | None) -> None:
        """Raises on all what one process found; what all found, each raises as it is."""
        count = np.array([error is not None], np.int64)
        self.comm.Allreduce(MPI.IN_PLACE, count)
        if error is not None and count[0] == self.comm.size:
            raise error
        if count[0]:
            self.raise_first(error)

    def _difference(self, descriptions: list[dict[str, str]]) -> str:
        first = descriptions[0]
        for rank, other in enumerate(descriptions):
            for name in {**first, **other}:
                if first.get(name) != other.get(name):
                    return (
                        f"{self.owner}: rank {rank} has {name} = {other.get(name, 'nothing')}, rank 0 has "
                        f"{first.get(name, 'nothing')}; all processes must do the same with the same names, shapes, "
                        "dtypes and settings; nothing was written"
                    )
        raise AssertionError("digests differ, and what they are of does not")


def digest_of(*parts: Any) -> bytes:
    """The same 8 bytes on every process for parts with the same `repr`."""
    return blake2b(repr(parts).encode(), digest_size=8).digest()


def _portable(error: Exception) -> tuple[type[Exception], str]:
    """Kind and text of an error, which other processes can raise."""
    text = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error) or type(error).__name__
    kind = type(error)
    try:
        pickle.dumps(kind)
        kind("")
    except Exception:
        kind = RuntimeError
    return kind, text
