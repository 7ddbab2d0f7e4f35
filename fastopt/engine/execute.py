"""The writes of a step with no Python between them: Ctrl-C comes before the first or after the last, however often.

CPython raises KeyboardInterrupt between instructions of Python and never within a call of C. So all that a step writes
is put into one iterator of calls of C, and another call of C goes through it. Python runs in between only where
`params` is a mapping with methods of its own, or kernels are in pure Python.
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Callable, Iterator
from functools import cache
from itertools import chain, repeat
from operator import call, itemgetter, methodcaller, setitem
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from fastopt.engine.launch import Launch

NOTHING: Iterator[None] = iter(())

consume = deque[None](maxlen=0).extend
"""Goes through an iterator in one call of C."""


def writing(targets: list[Any], values: list[Any]) -> Iterator[None]:
    """Copies arrays into others when it is consumed."""
    assign: Callable[..., None] = setitem
    return map(assign, targets, repeat(...), values)


def kernels(
    launches: list[Launch], calls: list[tuple[Any, ...]], projections: list[list[tuple[Any, ...]]]
) -> Iterator[None]:
    """Calls a kernel for each launch and those of `projections`, with arrays staged before and put back behind them.

    Of what is no array `fetch_values` has staged the value, and `assignments` puts it back.
    """
    work: list[Iterator[None]] = []
    for number, (launch, arguments) in enumerate(zip(launches, calls, strict=True)):
        arrays = [leaf for leaf in launch.staged if not leaf.is_assigned]
        staged, targets = [leaf.staged for leaf in arrays], [leaf.array for leaf in arrays]
        work += writing(targets=staged, values=targets), map(call, *[[argument] for argument in arguments])
        work += [
            map(call, *[[argument] for argument in after]) for after in (projections[number] if projections else ())
        ]
        work += (writing(targets, staged),)
    return chain.from_iterable(work)


def fetch_values(launches: list[Launch], params: Any) -> None:
    """Stages numbers, and arrays that `params` hands out copies of."""
    for leaf in _assigned(launches):
        leaf.staged[...] = params[leaf.key]


def assignments(launches: list[Launch], params: Any) -> Iterator[None]:
    """Assigns what `fetch_values` staged to `params`; doing it twice does no harm."""
    leaves = _assigned(launches)
    copied = [leaf for leaf in leaves if leaf.copied]
    numbers = [leaf for leaf in leaves if not leaf.copied]
    # Of the type that they had; an int becomes a float.
    kinds = [type(leaf.value) if isinstance(leaf.value, np.floating) else float for leaf in numbers]
    values = chain(
        map(call, kinds, map(itemgetter(()), [leaf.staged for leaf in numbers])),
        map(methodcaller("copy", order="K"), [leaf.staged for leaf in copied]),
    )
    return map(setitem, repeat(params), [leaf.key for leaf in numbers + copied], values)


def _assigned(launches: list[Launch]) -> list[Any]:
    return [leaf for launch in launches for leaf in launch.staged if leaf.is_assigned]


@cache
def packing(count: int) -> Callable[..., None]:
    """Writes so many float64 numbers to a buffer, from an offset on."""
    return struct.Struct(f"{count}d").pack_into
