"""Accumulated gradients in a file."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np

from fastopt.engine.containers import BARE
from fastopt.engine.gradient_sums import SLOT
from fastopt.engine.state import layout_of


def pack(accumulated: dict[str, Any], tensors: dict[str, Any], encode: Callable[[Any], Any]) -> str:
    """Adds the sums to the arrays; returns count, keys, which lie in Fortran's order, and what is None, as JSON."""
    sums = accumulated["sums"]
    keys = [None if key is BARE else [encode(key)] for key in sums]
    for key, array in zip(keys, sums.values(), strict=True):
        tensors[_name(key)] = array
    fortran = [number for number, array in enumerate(sums.values()) if layout_of(array).order == "F"]
    return json.dumps([accumulated["count"], keys, fortran, [encode(key) for key in accumulated["nothing"]]])


def unpack(text: str, tensors: dict[str, Any], decode: Callable[[Any], Any]) -> dict[str, Any]:
    """Undo `pack`; takes the sums out of the arrays."""
    count, keys, fortran, nothing = json.loads(text)
    sums: dict[Any, Any] = {}
    for number, key in enumerate(keys):
        array = tensors.pop(_name(key))
        sums[BARE if key is None else decode(key[0])] = np.asfortranarray(array) if number in fortran else array
    return {"count": count, "sums": sums, "nothing": [decode(key) for key in nothing]}


def _name(key: Any) -> str:
    return SLOT if key is None else f"{SLOT}/{json.dumps(key[0])}"
