"""Gradients that are added up until the next step, by leaf."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping
from typing import Any

import numpy as np

from fastopt import array_checks, checks, structure
from fastopt.engine import arguments, containers
from fastopt.engine.address_table import Table
from fastopt.engine.containers import BARE, Nested
from fastopt.engine.plan import Plan
from fastopt.engine.state import Layout, State, layout_of
from fastopt.foreign import shared
from fastopt.kernels.gradient_sums import GRADIENT_SUM
from fastopt.rows import Rows
from fastopt.structure import NOTHING, Node

SLOT = "gradient_sum"
"""The name of the buffer in checkpoints and among slots."""

KINDS = "fiubc"
"""The kinds of dtypes that gradients may have."""


class GradientSums:
    """The sums of the gradients since the last step, in one buffer per dtype, which later steps use again.

    begun : the leaves that have a sum
    nothing : the names of leaves and branches whose gradient was None
    """

    def __init__(self) -> None:
        self._state = State({SLOT: 0.0}, {})
        self._plan: Plan | None = None
        self.begun: frozenset[Hashable] = frozenset()
        self.nothing: frozenset[Hashable] = frozenset()

    def __getstate__(self) -> Any:
        return self._state, self.begun, self.nothing

    def __setstate__(self, saved: Any) -> None:
        self._state, self.begun, self.nothing = saved
        self._plan = None

    @property
    def arrays(self) -> dict[Hashable, Any]:
        """The sums by leaf."""
        return {key: self._state.views[SLOT][key] for key in self._state.layouts if key in self.begun}

    @property
    def blocks(self) -> list[Any]:
        """The buffers."""
        return self._state.blocks

    def add(self, owner: str, grads: Any, is_first: bool, commit: Callable[[GradientSums], None]) -> None:
        """Adds gradients, and has `commit` take up what there is then; both or neither, also under Ctrl-C."""
        container, given = _by_name(owner, grads)
        nothing = frozenset(_nothing(container.node) if container.node else ())
        nothing |= {key for key, value in given.items() if value is None}
        begun = frozenset() if is_first else self.begun
        before = frozenset() if is_first else self.nothing
        present = {key: value for key, value in given.items() if value is not None}
        if not is_first:
            _check_same(owner, container, begun, before, set(present), nothing)
        buffer = self._state if not is_first or self._fits(present) else State({SLOT: 0.0}, {})
        arrays: dict[Hashable, Any] = {}
        for key, value in present.items():
            name = container.name(key, "grads")
            if isinstance(value, Rows):
                raise TypeError(rows_given(owner, name))
            if key in buffer.layouts:
                arrays[key] = arguments.gradient(owner, name, value, f"the sum of {name}", buffer.views[SLOT][key])
            else:
                arrays[key] = _first(owner, name, value)
        new = {key: _layout(array) for key, array in arrays.items() if key not in buffer.layouts}
        state = buffer.with_leaves(buffer.slots, new, {}) if new else buffer
        after = object.__new__(GradientSums)
        after._state, after._plan = state, self._plan if state is self._state else None
        after.begun, after.nothing = begun | arrays.keys(), before | nothing
        after._run(owner, arrays, begun, lambda: commit(after))

    def _fits(self, present: Mapping[Hashable, Any]) -> bool:
        """Whether the buffer is that of gradients of these shapes and dtypes."""
        layouts = self._state.layouts
        return present.keys() == layouts.keys() and all(
            np.shape(value) == layouts[key].shape and _dtype(getattr(value, "dtype", None)) == layouts[key].dtype
            for key, value in present.items()
        )

    def _run(
        self, owner: str, arrays: dict[Hashable, Any], begun: frozenset[Hashable], commit: Callable[[], None]
    ) -> None:
        sums = {key: self._state.views[SLOT][key] for key in arrays}
        plan = self._plan
        if plan is None or not plan.accepts(sums, arrays, None, True):
            plan = Plan(Table(owner, GRADIENT_SUM, sums, arrays, {}, None, by_array=True))
        scalars = {leaf.scalar_row: (float(leaf.key in begun),) for leaf in plan.table.leaves if leaf.row >= 0}
        self._plan, plan.stepped = plan, False
        try:
            plan.run(sums, [scalars[part] for part in range(len(scalars))], False)
        finally:
            if plan.stepped:
                commit()

    def gradients(self, owner: str, params: Any) -> Any:
        """The sums in the form of parameters, None where no gradient came; an error where the leaves are others."""
        container = containers.container_of(owner, params)
        sums = self.arrays
        if (BARE in sums) != (container.keys == [BARE]) and sums:
            raise KeyError(other_leaves(owner, "params", container.keys, sums))
        for key in sums:
            if key not in container.keys:
                raise KeyError(gone(owner, key, container.keys))
        for key in container.keys:
            if key not in sums and not _is_covered(key, self.nothing):
                raise KeyError(never_given(owner, container.name(key)))
        return container.like(params, [sums.get(key) for key in container.keys])

    # -- checkpoints --------------------------------------------------------------------------------------------------

    def saved(self, count: int) -> dict[str, Any]:
        """Copies for a checkpoint."""
        sums = {key: array.copy(order="K") for key, array in self.arrays.items()}
        return {"count": count, "sums": sums, "nothing": sorted(self.nothing, key=repr)}

    @classmethod
    def loaded(cls, owner: str, saved: Any) -> tuple[GradientSums | None, int]:
        """That of which `saved` made this, and its count; ValueError or TypeError where it did not."""
        if saved is None:
            return None, 0
        if not isinstance(saved, Mapping) or set(saved) != {"count", "sums", "nothing"}:
            raise TypeError(f"{owner}: accumulated is {saved!r:.100}, expected a dict of count, sums and nothing")
        count, sums = saved["count"], saved["sums"]
        if isinstance(count, bool) or not isinstance(count, int) or not 1 <= count <= 2**53:
            raise ValueError(f"{owner}: accumulated has the count {count!r:.100}, expected a whole number, 1 or more")
        for key, array in sums.items():
            if not isinstance(array, np.ndarray) or array.dtype not in array_checks.PARAMETER_DTYPES:
                raise TypeError(
                    f"{owner}: the accumulated gradient of {key!r} is no array of floats or complex numbers"
                )
        loaded = cls()
        loaded._state = State({SLOT: 0.0}, {key: layout_of(array) for key, array in sums.items()})
        for key, array in sums.items():
            loaded._state.take(SLOT, key, array)
        loaded.begun, loaded.nothing = frozenset(sums), frozenset(saved["nothing"])
        return loaded, count


def _by_name(owner: str, grads: Any) -> tuple[containers.Container, dict[Hashable, Any]]:
    if isinstance(grads, Rows):
        raise TypeError(rows_given(owner, "grads"))
    container = containers.container_of(owner, grads, "grads")
    return container, dict(zip(container.keys, container.values(grads) or [], strict=True))


def _nothing(node: Node, prefix: str = "") -> Iterator[Hashable]:
    """The names of what is None in nested containers."""
    for (_, key, _), held in zip(structure.steps(node), node.children, strict=True):
        if held is NOTHING:
            yield f"{prefix}{key}" if prefix or not structure.is_mapping(node.kind) else key
        elif isinstance(held, Node):
            yield from _nothing(held, f"{prefix}{key}.")


def _is_covered(key: Hashable, nothing: frozenset[Hashable]) -> bool:
    """Whether a leaf, or a branch that it is in, is among names."""
    if key in nothing:
        return True
    parts = str(key).split(".")
    return any(".".join(parts[:length]) in nothing for length in range(1, len(parts)))


def _check_same(
    owner: str,
    container: containers.Container,
    begun: frozenset[Hashable],
    before: frozenset[Hashable],
    found: set[Hashable],
    nothing: frozenset[Hashable],
) -> None:
    """Raises KeyError where gradients have other leaves than those before them."""
    for key in found - begun:
        if not _is_covered(key, before):
            raise KeyError(other_leaves(owner, "grads", [key], begun))
    for key in begun - found:
        if not _is_covered(key, nothing):
            raise KeyError(missing(owner, key, container))


def _first(owner: str, name: str, value: Any) -> Any:
    """The first gradient of a leaf as an array."""
    value = shared(value)
    if not isinstance(value, np.ndarray) and not array_checks.is_number(value) and not isinstance(value, np.number):
        raise TypeError(
            f"{owner}: {name} is of type {type(value).__name__}, expected an array of numbers; "
            f"{array_checks.conversion(name, value) or f'convert it: np.asarray({name})'}"
        )
    if np.asarray(value).dtype.kind not in KINDS:
        raise TypeError(f"{owner}: {name} has dtype {np.asarray(value).dtype}, expected numbers; convert it")
    like = np.empty(np.shape(value), _dtype(np.asarray(value).dtype))
    return arguments.gradient(owner, name, value, "its sum", like)


def _dtype(dtype: Any) -> np.dtype[Any]:
    """The dtype of a sum: float32 of float32 and float16, else float64; complex64 and complex128 likewise."""
    if dtype is not None and np.dtype(dtype).kind == "c":
        return np.dtype(np.complex64 if dtype == np.complex64 else np.complex128)
    return np.dtype(np.float32 if dtype in (np.float32, np.float16) else np.float64)


def _layout(array: Any) -> Layout:
    return layout_of(array)._replace(dtype=_dtype(array.dtype))


# -- error texts ------------------------------------------------------------------------------------------------------


def rows_given(owner: str, name: str) -> str:
    return (
        f"{owner}: {name} is Rows, which are not accumulated; make one Rows of those of all micro-batches and hand it "
        "to update, their values times 1 / n for the mean"
    )


def other_leaves(owner: str, which: str, keys: Any, known: Any) -> str:
    return (
        f"{owner}: {which} has {checks.names_of(keys)}, but what was accumulated since the last step has "
        f"{checks.names_of(known)}; hand in the same leaves until the next update, None where there is no "
        "gradient, or call discard_accumulated()"
    )


def missing(owner: str, key: Hashable, container: containers.Container) -> str:
    place = f"grads[{key!r}]" if isinstance(container, Nested) or key is not BARE else "one array"
    return (
        f"{owner}: {place} is missing, of which gradients were accumulated since the last step; hand in None where "
        "there is no gradient this time, or call discard_accumulated()"
    )


def gone(owner: str, key: Hashable, keys: Any) -> str:
    return (
        f"{owner}: gradients of {key!r} were accumulated, but params has {checks.names_of(keys)}; hand in their "
        "parameters, or call discard_accumulated()"
    )


def never_given(owner: str, name: str) -> str:
    return f"{owner}: {name} has no accumulated gradient; accumulate one for it, or None to leave it as it is"


def with_gradients(owner: str, count: int) -> str:
    return (
        f"{owner}: update() got gradients, but {count} were accumulated since the last step; call accumulate(grads) "
        "with the last ones too and then update(params), or drop what there is: discard_accumulated()"
    )
