"""A launch of arrays whose state is stored in 16 or 8 bits."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from fastopt.engine.columns import key_of
from fastopt.engine.launch import Launch, Leaf
from fastopt.flat import Array
from fastopt.kernels import codecs, pure_python, storage
from fastopt.kernels.compile import stored_form
from fastopt.kernels.flags import compiles
from fastopt.kernels.rule import Rule
from fastopt.tuning import AS_THEY_COME, Choice


class StoredLaunch(Launch):
    """A launch whose kernels decode blocks of the state before the rule and encode them after it."""

    is_stored = True

    def begin(self, leaves: list[Leaf], rule: Rule) -> None:
        """Takes up the parameters, in the order of the table that the launch was made with."""
        self._storage, slots = leaves[0].layout.storage, rule.state
        self._nonnegative = [slot in rule.nonnegative for slot in slots]
        self._kinds = np.array([storage.kind(self._storage, each) for each in self._nonnegative], np.int64)
        hashes = [[codecs.name_hash(key_of(leaf.key), slot) for slot in range(len(slots))] for leaf in leaves]
        self._names, self._step = np.array(hashes, np.uint64), np.zeros(1, np.uint64)
        self._forms: dict[tuple[int, str], Array] = {}

    def begin_step(self, seed: int, step: int) -> None:
        """Has the noise be that of a step."""
        self._step[0] = codecs.step_key(seed, step)

    def loop_of(self, which: str) -> str:
        """A step has a loop of its own for each storage."""
        return self._storage if which == "step" else which

    def call(
        self, rule: Rule, which: str, transforms: tuple[str, ...] = (), choice: Choice = AS_THEY_COME
    ) -> tuple[Any, Array, Array, int]:
        """As in `Launch`."""
        kernel, *arguments = super().call(rule, which, transforms, choice)
        if which not in ("step", "report", "aligned"):  # which read gradients only
            return kernel, *arguments
        encodes = which != "aligned"
        if not compiles():
            stored = pure_python.Stored(kernel, self._storage, self._nonnegative, self._names, self._step, encodes)
            return stored, *arguments  # type: ignore[return-value]
        chosen = self.form_of(choice)
        form = self._forms.get((chosen, which))
        if form is None:
            where = self._kinds, self._names, self._step
            form = stored_form(chosen, which != "step", *where, encodes)
            self._forms[chosen, which] = form
        return partial(kernel.func, kernel.args[0], form.ctypes.data), *arguments  # type: ignore[return-value]
