"""Parameters in a checkpoint, beside the state that belongs to them; and the precision of both."""

from __future__ import annotations

import json
from collections.abc import Callable, Hashable, Iterator, Mapping
from itertools import chain, repeat
from operator import setitem
from typing import Any, NamedTuple

import numpy as np

from fastopt import array_checks, checks
from fastopt.checks import CheckpointError
from fastopt.engine import containers
from fastopt.engine.columns import Codes
from fastopt.engine.containers import BARE, Container
from fastopt.engine.execute import writing
from fastopt.engine.launch import as_number
from fastopt.flat import Array
from fastopt.foreign import shared
from fastopt.kernels.codecs import BFLOAT16, INT8
from fastopt.kernels.intrinsics import FLUSHED, SIGN_KEPT, smallest_state
from fastopt.kernels.rule import Rule
from fastopt.pairs import is_complex, joined, like_kind, pairs, part_dtype

NAME = "p"
"""Their name in a file, where state has the name of its slot; no slot may have this one."""


class Loading(NamedTuple):
    """Parameters that are to be written, and what did not fit."""

    leaves: Any
    values: dict[Hashable, Array]
    missing: list[Hashable]
    unexpected: list[Hashable]
    reshaped: list[Hashable]

    def writes(self) -> Iterator[None]:
        """Calls of C that write to the arrays in place, and put new numbers in the place of numbers."""
        places = {key: shared(self.leaves[key]) for key in self.values}
        arrays = [key for key, place in places.items() if isinstance(place, np.ndarray)]
        numbers = [key for key in places if not isinstance(places[key], np.ndarray)]
        new = [as_number(self.values[key], places[key]) for key in numbers]
        in_place = writing([places[key] for key in arrays], [self.values[key] for key in arrays])
        return chain(in_place, map(setitem, repeat(self.leaves), numbers, new))


def arrays_of(owner: str, params: Any) -> dict[Hashable, Array]:
    """Parameters as arrays by key; raises as a step would where they are none."""
    container = containers.container_of(owner, params)
    leaves = dict(zip(container.keys, container.values(params) or [], strict=True))
    arrays = {key: array_checks.parameter(owner, container.name(key), value) for key, value in leaves.items()}
    container.check_rebindable(
        owner, params, [key for key, value in leaves.items() if not isinstance(value, np.ndarray)]
    )
    return arrays


def copies(owner: str, params: Any) -> dict[Hashable, Array]:
    """Copies of parameters, which a file is then made of."""
    return {key: array.copy() for key, array in arrays_of(owner, params).items()}


def pack(arrays: dict[Hashable, Array], encoded: Callable[[Hashable], Any]) -> tuple[dict[str, Array], str]:
    """Parameters by the name that a file has for them, and their keys as text."""
    if list(arrays) == [BARE]:
        return {NAME: arrays[BARE]}, "null"
    keys = [encoded(key) for key in arrays]
    names = [f"{NAME}/{json.dumps(key)}" for key in keys]
    return dict(zip(names, arrays.values(), strict=True)), json.dumps(keys)


def unpack(tensors: dict[str, Array], text: str, decoded: Callable[[Any], Hashable]) -> dict[Hashable, Array]:
    """Return the parameters that `pack` was given, taken out of `tensors`."""
    keys = json.loads(text)
    if keys is None:
        return {BARE: tensors.pop(NAME)}
    return {decoded(key): tensors.pop(f"{NAME}/{json.dumps(key)}") for key in keys}


def loading(owner: str, source: str, saved: Any, params: Any, strict: bool, cast: Any) -> Loading:
    """Return the values of a file that are to be written to `params`; raises before anything is."""
    arrays = arrays_of(owner, params)
    if saved is None:
        raise CheckpointError(
            f"{owner}: {source} holds no parameters; save(path, params) puts them into the file, and load(path) takes "
            "the state alone"
        )
    container = containers.container_of(owner, params)
    naming = _naming(container)
    fitting = Loading(
        container.leaves(params),
        {},
        [key for key in arrays if key not in saved],
        [key for key in saved if key not in arrays],
        [key for key in arrays if key in saved and not _fits(saved[key], arrays[key], cast)],
    )
    if strict and any(fitting[2:]):
        raise CheckpointError(_text(owner, source, fitting, saved, arrays, naming))
    left_out = {*fitting.missing, *fitting.reshaped}
    for key, array in arrays.items():
        if key not in left_out:
            fitting.values[key] = converted(owner, source, naming(key), saved[key], array.dtype)
    return fitting


def _fits(saved: Array, array: Array, cast: Any) -> bool:
    if saved.dtype not in array_checks.PARAMETER_DTYPES or is_complex(saved.dtype) != is_complex(array.dtype):
        return False
    return saved.shape == array.shape and bool(cast or saved.dtype == array.dtype)


def cast_state(
    rule: Rule,
    owner: str,
    source: str,
    state: dict[str, dict[Hashable, Array]],
    dtypes: Mapping[Hashable, np.dtype[Any]],
    cast: Any,
) -> dict[str, dict[Hashable, Array]]:
    """State in another precision, that of `dtypes` by key or, where `cast` names one, in that.

    What a step would flush to zero is flushed.
    """
    named = None if isinstance(cast, bool) else precision(owner, cast)
    if named is None and state and not dtypes:
        raise ValueError(
            f"{owner}: cast=True takes the precision from params or from an optimizer that has stepped, and there is "
            "neither; hand in params, or name it: cast='float32'"
        )
    kinds = dict(zip(rule.state, rule.small(), strict=True))
    return {
        slot: {
            key: converted(
                owner,
                source,
                f"{slot}{_name(key)[len('params') :]}",
                array.decoded() if isinstance(array, Codes) and named == np.float64 else array,
                dtypes.get(key, array.dtype) if named is None else like_kind(named, array.dtype),
                kinds.get(slot, FLUSHED),
            )
            for key, array in arrays.items()
        }
        for slot, arrays in state.items()
    }


def precision(owner: str, cast: Any) -> np.dtype[Any]:
    if cast in (BFLOAT16, INT8):
        return np.dtype(np.float32)
    try:
        dtype: np.dtype[Any] | None = None if cast is None else np.dtype(cast)
    except TypeError:
        dtype = None
    if dtype is None or dtype not in checks.DTYPES:
        raise ValueError(
            f"{owner}: cast must be True, False, 'float32', 'float64', 'bfloat16' or 'int8', got {cast!r:.100}"
        )
    return dtype


def converted(
    owner: str, source: str, name: str, array: Array, dtype: np.dtype[Any], small: int | None = None
) -> Array:
    """An array in another precision; raises where a value would become infinite."""
    if array.dtype == dtype or is_complex(array.dtype) != is_complex(dtype):  # which then does not fit
        return array
    if is_complex(dtype):
        return joined(converted(owner, source, name, pairs(array), part_dtype(dtype), small))
    if small in (FLUSHED, SIGN_KEPT):
        least = smallest_state(dtype)
        kept = np.copysign(least, array) if small == SIGN_KEPT else np.copysign(0.0, array)
        array = np.where((np.abs(array) < least) & (array != 0), kept, array)
    with np.errstate(over="ignore", under="ignore"):
        result = array.astype(dtype)
    if not np.array_equal(np.isfinite(array), np.isfinite(result)):
        most = np.abs(array[np.isfinite(array)]).max()
        raise CheckpointError(
            f"{owner}: {name} in {source} holds {most:.3g}, beyond {dtype}; load it in {array.dtype}, without cast"
        )
    return result


def _name(key: Hashable) -> str:
    return "params" if key is BARE else f"params[{key!r}]"


def _naming(container: Container) -> Callable[[Hashable], str]:
    """How error texts call leaves, also those that only the file has."""
    keys = set(container.keys)
    return lambda key: container.name(key) if key in keys else _name(key)


def _text(owner: str, source: str, loading: Loading, saved: Any, arrays: Any, naming: Callable[[Hashable], str]) -> str:
    parts = []
    if loading.missing:
        parts.append(f"it has no {', '.join(map(naming, loading.missing[:8]))}")
    if loading.unexpected:
        parts.append(f"it has {', '.join(map(naming, loading.unexpected[:8]))} besides")
    parts += [
        f"{naming(key)} is {saved[key].dtype} of shape {saved[key].shape} in it and {arrays[key].dtype} of shape "
        f"{arrays[key].shape} here"
        for key in loading.reshaped[:8]
    ]
    only = not loading.missing and all(saved[key].shape == arrays[key].shape for key in loading.reshaped)
    advice = "cast=True converts the precision" if only and loading.reshaped else "strict=False loads what fits"
    return f"{owner}: the parameters in {source} do not fit: {'; '.join(parts)}. {advice}"
