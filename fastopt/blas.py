"""Threads of NumPy's BLAS, changed while a loop runs; needs threadpoolctl."""

from __future__ import annotations

import os
from typing import Any

VARIABLES = {"openblas": "OPENBLAS_NUM_THREADS", "mkl": "MKL_NUM_THREADS", "blis": "BLIS_NUM_THREADS"}


class Threads:
    """The number of threads of BLAS: as it came, and others to try."""

    def __init__(self) -> None:
        self._libraries: list[Any] = []
        try:
            from threadpoolctl import ThreadpoolController
        except ImportError:
            pass
        else:
            self._libraries = ThreadpoolController().select(user_api="blas").lib_controllers
        self.default = self.now = max((int(one.num_threads) for one in self._libraries), default=1)
        most = max(self.default, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else self.default)
        counts = dict.fromkeys((self.default, 1, 2, most))
        self.choices = [count for count in counts if count <= most] if self._libraries and most > 1 else []
        """The numbers of threads to try in turns; empty where there is no choice or no threadpoolctl."""

    @property
    def variable(self) -> str:
        """The environment variable that sets the number before NumPy is imported."""
        kinds = [VARIABLES[one.internal_api] for one in self._libraries if one.internal_api in VARIABLES]
        return kinds[0] if kinds else "OMP_NUM_THREADS"

    @property
    def is_known(self) -> bool:
        """Whether there is a BLAS whose threads can be counted and changed."""
        return bool(self._libraries)

    def change(self) -> None:
        """Goes on to the next choice."""
        self._set(self.choices[(self.choices.index(self.now) + 1) % len(self.choices)])

    def restore(self) -> None:
        """Goes back to the number as it came."""
        if self.now != self.default:
            self._set(self.default)

    def _set(self, count: int) -> None:
        for library in self._libraries:
            library.set_num_threads(count)
        self.now = count
