"""The safetensors format, strictly: a header in JSON, then the arrays; and the checksum over all of it."""

from __future__ import annotations

import hashlib
import json
import math
import re
from functools import cache
from typing import Any

import numpy as np

from fastopt import checks
from fastopt.flat import Array

CODES = tuple(map(np.dtype, (np.uint16, np.int8, np.uint8)))
"""The dtypes of compact state."""


def header(tensors: dict[str, Array], metadata: dict[str, str]) -> tuple[bytes, dict[str, int]]:
    """The header of a safetensors file with its length before it, and where each array begins behind it."""
    described: dict[str, Any] = {"__metadata__": metadata}
    places, place = {}, 0
    for name, array in sorted(tensors.items(), key=lambda item: (-item[1].dtype.itemsize, item[0])):
        places[name], stop = place, place + math.prod(array.shape) * array.dtype.itemsize
        described[name] = {"dtype": _kind(array.dtype), "shape": list(array.shape), "data_offsets": [place, stop]}
        place = stop
    text = json.dumps(described, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # so that arrays are aligned
    return len(text).to_bytes(8, "little") + text, places


@cache
def _kind(dtype: np.dtype[Any]) -> str:
    """The name that safetensors has for a dtype."""
    return f"{dtype.kind.upper()}{8 * dtype.itemsize}"


_KNOWN: tuple[np.dtype[Any], ...] = (*checks.DTYPES, np.dtype(np.int64), *CODES)
_DTYPES = {_kind(dtype).encode(): dtype for dtype in _KNOWN}

# What safetensors and `header` write, in the order of the offsets; any JSON could take many times as much memory.
_TEXT = rb'"(?:[^"\\]++|\\.)*+"'
_METADATA = re.compile(rb'"__metadata__":(\{(?:%s:%s,?+)*+\})[,}]' % (_TEXT, _TEXT), re.DOTALL)
_ARRAY = re.compile(
    rb'(%s):\{"dtype":"(\w++)","shape":\[([\d,]*+)\],"data_offsets":\[(\d++),(\d++)\]\}[,}]' % _TEXT, re.DOTALL
)


def parsed(content: bytes) -> tuple[dict[str, Array], Any]:
    """The arrays of a safetensors file, which are views of its content, and its metadata.

    Raises some error where that is not one: where an array is of an unknown dtype, is not of the size that its shape
    says, or does not begin where the one before it ends, so that all together have the bytes that are there.
    """
    start = begin = 8 + int.from_bytes(content[:8], "little")
    tensors: dict[str, Array] = {}
    metadata, place = {}, 9
    if match := _METADATA.match(content, place, begin):
        metadata, place = json.loads(match[1]), match.end()
    while match := _ARRAY.match(content, place, begin):
        name, dtype, first, last = json.loads(match[1].decode()), _DTYPES[match[2]], int(match[4]), int(match[5])
        shape = tuple(map(int, match[3].split(b","))) if match[3] else ()
        size = math.prod(shape)
        if begin + first != start or last - first != size * dtype.itemsize:
            raise ValueError(f"{name} does not lie between the bytes {first} and {last}")
        tensors[name] = np.frombuffer(content, dtype, size, start).reshape(shape) if size else np.empty(shape, dtype)
        start, place = begin + last, match.end()
    if start != len(content) or content[8:9] != b"{" or content[place - 1 : begin].strip(b" ") != b"}":
        raise ValueError("its header is not that of its content")
    return tensors, metadata


def checksum(tensors: dict[str, Array], metadata: dict[str, str]) -> str:
    """sha256 over all names, dtypes, shapes, bytes and texts, in an order that the file does not decide."""
    digest = digest_of(metadata)
    for name in sorted(tensors):
        add(digest, name, tensors[name])
    return str(digest.hexdigest())


def digest_of(metadata: dict[str, str]) -> Any:
    return hashlib.sha256(json.dumps(sorted(metadata.items())).encode())


def add(digest: Any, name: str, array: Array) -> None:
    digest.update(f"[{json.dumps(name)}, {_form(array.dtype, array.shape)}]".encode())
    if array.size:
        digest.update(np.ascontiguousarray(array).data)


@cache
def _form(dtype: np.dtype[Any], shape: tuple[int, ...]) -> str:
    """Dtype and shape in JSON; there are few of them."""
    return json.dumps([dtype.name, shape])[1:-1]
