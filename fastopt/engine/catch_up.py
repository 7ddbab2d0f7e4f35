"""Catch-up of sparse rows: the steps that a row skipped, taken all at once when it is next updated.

With `Rows(..., exact=True)` a step leaves all other rows as they are, but counts for them too.
`fastopt.kernels.skipped_steps` has the closed form of several steps in which a row has no gradient.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping
from dataclasses import dataclass
from operator import setitem
from typing import Any

import numpy as np

from fastopt import array_checks, combinations, rows
from fastopt.engine import containers, mappings
from fastopt.engine.address_table import Table
from fastopt.engine.containers import BARE, Container
from fastopt.engine.launch import Launch
from fastopt.engine.sparse_launch import compiled_spread
from fastopt.engine.transform_scalars import SCALARS
from fastopt.flat import Array
from fastopt.foreign import shared
from fastopt.kernels.rule import Rule

Rates = tuple[float, float]
"""Fractions of parameter and state that a step without a gradient keeps: f and r in `fastopt.kernels.skipped_steps`."""


@dataclass(eq=False)
class SkippedSteps:
    """The steps that each row of a parameter has skipped, and the rates by which it will be brought up to date.

    `clock` counts the steps with exact rows, and `last` says at which of them each row was up to date.
    """

    last: Array  # int64[rows]
    rates: Rates
    clock: int = 0

    @property
    def steps(self) -> Array:
        """int64[rows], the number of steps that each row has to catch up with."""
        return np.asarray(self.clock - self.last)


def reindexed(skipped: SkippedSteps, index: Array) -> SkippedSteps:
    """Return the skipped steps of other rows; new ones, of -1, are up to date."""
    return SkippedSteps(
        np.where(index < 0, skipped.clock, np.append(skipped.last, 0)[index]), skipped.rates, skipped.clock
    )


def rates_of(owner: str, settings: Any) -> Rates:
    """The rates at some settings, or an error where steps without a gradient have no closed form."""
    if settings.weight_decay and not settings.decoupled:
        raise ValueError(rows.coupled_decay(owner))
    return SCALARS["decoupled_weight_decay"](settings), settings.kept_share()


def scalars_of(rates: Rates, steps: Array) -> Array:
    """kept, share and moved of the formulas `*_skipped`, a row for each number of steps, which are 1 or more."""
    decay, share = rates
    steps = steps.astype(np.float64)
    large, small = max(decay, share), min(decay, share)
    with np.errstate(all="ignore"):
        if small > 0:  # a geometric series, exact also where the two are nearly the same
            excess = (small - large) / large
            terms = np.expm1(steps * np.log1p(excess)) / excess if excess else steps
            moved = share * large ** (steps - 1) * terms
        elif large != small:
            moved = share * (large**steps - small**steps) / (large - small)
        else:
            moved = np.zeros_like(steps)
        return np.stack([np.float64(decay) ** steps, np.float64(share) ** steps, moved], axis=1)


class CatchUp:
    """Brings rows of one parameter up to date: the `chosen_rows` ones, or all. To make one writes nothing."""

    def __init__(
        self,
        owner: str,
        rule: Rule,
        name: str,
        array: Any,
        state: list[Array],
        skipped: SkippedSteps,
        chosen_rows: Array | None = None,
    ) -> None:
        direct = isinstance(array, np.ndarray) and all(each.flags.c_contiguous for each in (array, *state))
        rows.table(owner, name, array, direct)
        if len(array) != len(skipped.last):
            raise ValueError(rows.other_table(owner, name, len(array), len(skipped.last)))
        assert rule.skipped is not None
        several_steps = Rule(rule.skipped, rule.state)
        every = np.arange(len(array)) if chosen_rows is None else chosen_rows
        missing = skipped.clock - skipped.last[every]
        chosen, steps = every[missing > 0], missing[missing > 0]
        self._skipped, self._chosen, self._call = skipped, chosen, None
        if not len(chosen) or (skipped.rates[0] == 1 and len(several_steps.scalars) == 1):
            return
        scalars = np.ascontiguousarray(scalars_of(skipped.rates, steps)[:, : len(several_steps.scalars)])
        table, starts = np.zeros((len(chosen) + 2, 3 + len(state)), np.int64), np.zeros(len(chosen) + 2, np.int64)
        # The formulas take no gradient: what is read in its place is the parameter.
        whole = np.array([each.ctypes.data for each in (array, array, *state, scalars)], np.int64)
        width = array[:1].size
        compiled_spread()(whole, chosen, len(chosen), width, width * array.itemsize, 0, table, starts)
        table[:, 1] = table[:, 0]
        table[:-2, -1] += np.arange(len(chosen)) * scalars.strides[0]
        moved_bytes = len(chosen) * width * array.itemsize * (2 + 2 * len(state))
        self._alive = array, state, scalars
        self._call = Launch(table, starts, array.dtype.name, moved_bytes, [], []).call(several_steps, "step")

    def run(self) -> None:
        """Writes."""
        done = False
        try:
            done = True  # no KeyboardInterrupt comes between this and the kernel, see `Plan.run`
            if self._call is not None:
                kernel, *arguments = self._call
                kernel(*arguments)
        finally:
            if done:
                self._skipped.last[self._chosen] = self._skipped.clock


def catch_up_all(optimizer: Any, params: Any) -> None:
    """The work of `Optimizer.catch_up`."""
    container = containers.container_of(type(optimizer).__name__, params)
    skipped_steps = optimizer._skipped_rows
    for row_steps in [
        _catch_up(optimizer, optimizer._state, container, params, key, skipped)
        for key, skipped in skipped_steps.items()
    ]:
        row_steps.run()


def _catch_up(
    optimizer: Any,
    state: Any,
    container: Container,
    params: Any,
    key: Hashable,
    skipped: SkippedSteps,
    chosen_rows: Array | None = None,
) -> CatchUp:
    owner, name, leaves = type(optimizer).__name__, container.name(key), container.leaves(params)
    if key not in leaves:
        raise KeyError(rows.skipped_is_missing(owner, "one bare array" if key is BARE else name))
    array = shared(leaves[key])
    slots = [] if state is None else [views[key] for views in state.views.values()]
    checked = array_checks.parameter(owner, name, array)
    if key in container.copied_keys(params, container.values(params) or []):
        raise TypeError(mappings.hands_out_copies(owner, params, key))
    if slots:
        array_checks.replaced(owner, name, checked, slots[0].shape, slots[0].dtype)
    return CatchUp(owner, optimizer._rule, name, array, slots, skipped, chosen_rows)


class SparseStep:
    """The catch-up of sparse rows within a step. Making one checks everything and writes nothing."""

    def __init__(self, optimizer: Any, table: Table, params: Any, settings_by_row: list[Any]) -> None:
        skipped_steps: dict[Hashable, SkippedSteps] = optimizer._skipped_rows
        self.skipped_steps = dict(skipped_steps)
        """Those after the step."""
        self._updated: list[tuple[SkippedSteps, Array]] = []
        self._catch_ups: list[CatchUp] = []
        left_out = {leaf.key for leaf in table.leaves if leaf.row < 0}
        for leaf in table.leaves:
            if leaf.sparse is None:
                continue
            key, chosen_rows, skipped = leaf.key, leaf.sparse.distinct, skipped_steps.get(leaf.key)
            if leaf.sparse.exact:
                settings = settings_by_row[leaf.scalar_row]
                bounded = settings.bounds is not None or settings.nonnegative
                proximal = settings.l1 != 0 or settings.l2_prox != 0
                decays = settings.cautious_decay and settings.weight_decay != 0
                there = {"Rows(..., exact=True)": True, "bounds": bounded, "l1 or l2_prox": proximal}
                there |= {"cautious": settings.cautious, "cautious_decay": decays}
                combinations.check_step(table.owner, there)
                if any(other is not leaf and other.identity == leaf.identity for other in table.leaves):
                    raise ValueError(rows.tied(table.owner, table.name(key)))
                rates = rates_of(table.owner, settings_by_row[leaf.scalar_row])
                skipped = skipped or SkippedSteps(np.zeros(len(leaf.array), np.int64), rates)
                self._updated.append((skipped, chosen_rows))
                self.skipped_steps[key] = SkippedSteps(skipped.last, rates, skipped.clock + 1)
                if rates != skipped.rates:
                    chosen_rows = None  # all rows, at the rates of the steps they skipped
            if skipped is not None:
                self._catch_ups.append(
                    _catch_up(optimizer, table.state, table.container, params, key, skipped, chosen_rows)
                )
            left_out.add(key)
        # A step of a whole array is one of all its rows.
        self._catch_ups += [
            _catch_up(optimizer, table.state, table.container, params, key, skipped)
            for key, skipped in skipped_steps.items()
            if key not in left_out
        ]

    def before(self) -> None:
        """Brings up to date what the step updates, which does no harm if the step is not made."""
        for row_steps in self._catch_ups:
            row_steps.run()

    def marks(self) -> Iterator[None]:
        """Calls of C that note that the updated rows are up to date after the step."""
        assign: Callable[..., None] = setitem
        clocks = [skipped.clock + 1 for skipped, _ in self._updated]
        return map(
            assign, [skipped.last for skipped, _ in self._updated], [distinct for _, distinct in self._updated], clocks
        )


# -- checkpoints ------------------------------------------------------------------------------------------------------


def as_saved(skipped_steps: dict[Hashable, SkippedSteps]) -> dict[Hashable, dict[str, Any]]:
    """Skipped steps as a checkpoint has them, without leaves all of whose rows are up to date."""
    return {
        key: {"behind": skipped.steps, "rates": skipped.rates}
        for key, skipped in skipped_steps.items()
        if skipped.steps.any()
    }


def loaded(owner: str, saved: Any, state: Any) -> dict[Hashable, SkippedSteps]:
    """The skipped steps that a checkpoint has; ValueError, TypeError or KeyError where `as_saved` did not make them."""
    skipped_steps = {}
    if not isinstance(saved, Mapping):
        raise TypeError(f"{owner}: rows are {type(saved).__name__}, expected a dict")
    for key, value in saved.items():
        steps, rates = value["behind"], tuple(float(rate) for rate in value["rates"])
        if not isinstance(steps, np.ndarray) or steps.dtype != np.int64 or steps.ndim != 1 or (steps < 0).any():
            raise ValueError(f"{owner}: rows[{key!r}] has no array of the number of steps that each row skipped")
        if len(rates) != 2 or not np.isfinite(rates).all():
            raise ValueError(f"{owner}: rows[{key!r}] has rates {rates}, expected two numbers")
        for views in state.views.values() if state is not None else ():
            if key not in views or len(views[key]) != len(steps):
                raise ValueError(f"{owner}: rows[{key!r}] is of {len(steps)} rows, which its state does not have")
        skipped_steps[key] = SkippedSteps(-steps, (rates[0], rates[1]))
    return skipped_steps
