"""Averages of the weights in a step: how far they move, and the moves that the kernels of the step do not make."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from operator import call
from typing import Any

import numpy as np

from fastopt import array_checks, rows
from fastopt.engine.address_table import Table
from fastopt.engine.execute import writing
from fastopt.engine.launch import Launch
from fastopt.engine.step_counts import Counts
from fastopt.kernels.averages import AVERAGES, SLOTS, unchanged
from fastopt.kernels.intrinsics import smallest_state
from fastopt.kernels.rule import Rule
from fastopt.pairs import pairs


def amounts(settings: Any, step: int, averaged: Counts) -> dict[str, list[float]]:
    """By transform, in the order of `AVERAGES`, how far those of each cohort go at a step; without averages that stay.

    averaged : how often the averages of each cohort moved before
    """
    weights_by_name = {}
    for name in AVERAGES:
        average = getattr(settings, name)
        if average is not None:
            of_count = {count: average.amount(step, count) for count in dict.fromkeys(averaged)}
            weights_by_name[name] = [of_count[count] for count in averaged]
    return {name: weights for name, weights in weights_by_name.items() if any(weights)}


_MOVED = Rule(unchanged)


def of_left_out(table: Table, params: Any, amounts: list[float]) -> Iterator[None]:
    """Calls of C that write the averages of parameters that a step leaves alone, whose weights count too.

    amounts : how far the averages of each cohort go
    """
    averages, values, leaves = [], [], table.container.leaves(params)
    for leaf in table.leaves:
        if leaf.row < 0:
            name, value = table.name(leaf.key), leaves[leaf.key]
            array = array_checks.parameter(table.owner, name, value)
            array_checks.replaced(table.owner, name, array, *leaf.layout[:2])
            average = table.state.views[SLOTS["averaging"]][leaf.key]
            with np.errstate(all="ignore"):
                new = average.copy(order="K")
                numbers = pairs(new)  # as a factor of a complex infinity would make NaN of its other part
                numbers += amounts[leaf.cohort] * (pairs(array) - numbers)
                numbers[np.abs(numbers) < smallest_state(numbers.dtype)] *= 0  # as the kernels do
            averages.append(average)
            values.append(new)
    return chain(writing(averages, values), _of_sparse(table, amounts))


def _of_sparse(table: Table, amounts: list[float]) -> Iterator[None]:
    """Calls of C that move the averages of whole arrays after a step of some of their rows."""
    table.averaging_weights = np.array(amounts)  # lives as long as its address is in use
    calls = []
    for leaf in table.leaves:
        if leaf.sparse is not None and leaf.array.size:
            average = table.state.views[SLOTS["averaging"]][leaf.key]
            # In the order of a table's columns: parameter, what is read as its gradient, averages, scalars.
            places = {"averaging": average.ctypes.data}
            row = [leaf.array.ctypes.data] * 2 + [places.get(name, 0) for name in AVERAGES]
            row.append(table.averaging_weights[leaf.cohort :].ctypes.data)
            addresses, starts = np.array([row, [0] * len(row)], np.int64), np.array([0, average.size], np.int64)
            launch = Launch(addresses, starts, average.dtype.name, 5 * average.nbytes, [], [])
            calls.append(launch.call(_MOVED, "step", ("averaging",)))
    return map(call, *zip(*calls, strict=True)) if calls else iter(())


def check_rows(optimizer: Any, table: Table) -> None:
    """Raises where gradients of some rows leave weights out of date that averages are of."""
    if table.rows_launches and optimizer.lookahead is not None:
        raise ValueError(rows.with_lookahead(table.owner))
    has_skipped = any(skipped.steps.any() for skipped in optimizer._skipped_rows.values())
    if has_skipped or any(leaf.sparse is not None and leaf.sparse.exact for leaf in table.leaves):
        raise ValueError(rows.skipped_with_average(table.owner))
