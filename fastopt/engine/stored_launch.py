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
        names = [key_of(leaf.key) for leaf in leaves]
        keys = [[codecs.mixed(name + slot * codecs.GOLDEN) for slot in range(len(slots))] for name in names]
        self._names = np.array(keys, np.uint64)
        self._keys = self._names.copy()
        self._forms: dict[tuple[int, str], Array] = {}

    def begin_step(self, seed: int, step: int) -> None:
        """Has the noise be that of a step."""
        self._keys[...] = codecs.mixed(self._names ^ np.uint64(codecs.step_key(seed, step)))

    def call(
        self, rule: Rule, which: str, transforms: tuple[str, ...] = (), choice: Choice = AS_THEY_COME
    ) -> tuple[Any, Array, Array, int]:
        """As in `Launch`."""
        kernel, *arguments = super().call(rule, which, transforms, choice)
        if which not in ("step", "report", "aligned"):  # which read gradients only
            return kernel, *arguments
        encodes = which != "aligned"
        if not compiles():
            stored = pure_python.Stored(kernel, self._storage, self._nonnegative, self._keys, encodes)
            return stored, *arguments  # type: ignore[return-value]
        form = self._forms.get((choice.form, which))
        if form is None:
            form = stored_form(choice.form, which != "step", self.outgrows_caches, self._kinds, self._keys, encodes)
            self._forms[choice.form, which] = form
        return partial(kernel.func, kernel.args[0], form.ctypes.data), *arguments  # type: ignore[return-value]
