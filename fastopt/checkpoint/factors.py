"""Factors in a checkpoint: what rules of whole matrices keep of an array, in shapes of their own."""

from __future__ import annotations

import json
from collections.abc import Callable, Hashable, Mapping
from typing import Any

import numpy as np

from fastopt.checkpoint import with_params
from fastopt.checks import CheckpointError
from fastopt.engine.containers import BARE
from fastopt.engine.state import Layout
from fastopt.kernels.intrinsics import FLUSHED
from fastopt.kernels.rule import Factors

SLOT = "factors"
"""The name that a file has for them; no slot may have this one."""


def saved(factors: Mapping[Hashable, Factors]) -> dict[Hashable, Factors]:
    """Copies."""
    return {key: {name: array.copy() for name, array in of_key.items()} for key, of_key in factors.items()}


def loaded(
    optimizer: Any, source: str, found: Any, layouts: Mapping[Hashable, Layout], cast: Any
) -> dict[Hashable, Factors]:
    """Copies of those of some parameters; raises CheckpointError where one is not what the rule keeps.

    layouts : those of the parameters, by key
    """
    owner, shapes = type(optimizer).__name__, optimizer._rule.factors
    if not isinstance(found, Mapping) or not all(isinstance(of_key, Mapping) for of_key in found.values()):
        raise CheckpointError(f"{owner}: factors in {source} are {found!r:.100}, expected a dict of dicts of arrays")
    taken: dict[Hashable, Factors] = {}
    for key in found.keys() & layouts.keys():
        expected = shapes(layouts[key].shape) if shapes else {}
        arrays = {}
        if missing := [name for name in expected if name not in found[key]]:
            raise CheckpointError(f"{owner}: factors[{key!r:.100}] in {source} have no {' and '.join(missing)}")
        for name, array in found[key].items():
            is_array = isinstance(array, np.ndarray) and array.dtype.kind == "f"
            shape = array.shape if is_array else type(array).__name__
            if shape != expected.get(name):
                raise CheckpointError(
                    f"{owner}: factors[{key!r:.100}][{name!r:.100}] in {source} is {shape}, expected {expected}"
                )
            if cast is False and array.dtype != layouts[key].dtype:
                raise CheckpointError(
                    f"{owner}: factors[{key!r:.100}][{name!r:.100}] in {source} is {array.dtype}, the state "
                    f"{layouts[key].dtype}; both must be alike"
                )
            arrays[name] = with_params.converted(
                owner, source, f"factors[{key!r:.100}][{name!r}]", array, layouts[key].dtype, FLUSHED
            ).copy()
        taken[key] = arrays
    return taken


def pack(factors: Mapping[Hashable, Factors], tensors: dict[str, Any], encode: Callable[[Any], Any]) -> str:
    """Adds the factors to the arrays of a file; returns keys and names as JSON."""
    described = []
    for key, of_key in factors.items():
        encoded = None if key is BARE else [encode(key)]
        for name, array in of_key.items():
            tensors[_name(encoded, name)] = array
        described.append([encoded, *of_key])
    return json.dumps(described)


def unpack(text: str, tensors: dict[str, Any], decode: Callable[[Any], Any]) -> dict[Hashable, Factors]:
    """Undo `pack`; takes the factors out of the arrays."""
    return {
        BARE if key is None else decode(key[0]): {name: tensors.pop(_name(key, name)) for name in names}
        for key, *names in json.loads(text)
    }


def _name(key: Any, name: str) -> str:
    return f"{SLOT}.{name}" if key is None else f"{SLOT}.{name}/{json.dumps(key[0])}"
