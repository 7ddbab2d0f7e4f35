"""How a slot of the state is stored: the only place that knows, and that counts bytes of an element."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, MutableMapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

import numpy as np

from fastopt import checks, combinations
from fastopt.constraints import Columns
from fastopt.flat import Array
from fastopt.groups import Groups
from fastopt.kernels import codecs
from fastopt.kernels.codecs import BFLOAT16, FLOAT32, INT8
from fastopt.kernels.rule import Rule
from fastopt.pairs import is_complex
from fastopt.rows import Rows
from fastopt.views import assignable, copy_to

SMALLEST = 4096
"""Arrays of fewer elements keep their state in float32: there is nothing to win, and biases are among them."""

ALIGNED = 64


def storage_of(
    owner: str,
    rule: Rule,
    name: str,
    array: Array,
    setting: str,
    *,
    is_sparse: bool,
    is_centralized: bool,
    is_masked: bool,
) -> str:
    """How the state of an array is stored where `setting` is the setting; raises for float64."""
    if setting == FLOAT32 or not rule.state:
        return FLOAT32
    combinations.check_step(owner, {"complex parameters": is_complex(array.dtype), "compact state": True})
    if array.dtype != np.float32:
        raise TypeError(
            f"{owner}: {name} has dtype {array.dtype}, but state_storage={setting!r} is for float32 parameters; make "
            "it float32, or give it a group with state_storage='float32'"
        )
    if rule.is_by_array or is_sparse or is_centralized or is_masked or array.size < SMALLEST:
        return FLOAT32
    return setting


def storages(
    owner: str,
    rule: Rule,
    arrays: dict[Hashable, Array],
    container: Any,
    grads: Any,
    groups: Groups | None,
    centralize: bool | None,
    storage: str,
    constraints: Columns | None,
) -> dict[Hashable, str]:
    """How the state of each array is to be stored; `container` is that of the parameters, the rest as of a `Table`."""
    if storage == FLOAT32 and not any("state_storage" in group.data for group in (groups or {}).values()):
        return dict.fromkeys(arrays, FLOAT32)
    settings = {}
    for key, array in arrays.items():
        numbers = groups.matching(None if isinstance(key, Enum) else key, array) if groups else ()
        settings[key] = groups.settings_of(numbers) if groups else {}
    frozen = {key for key, values in settings.items() if values.get("frozen")}
    gradients = container.gradients_by_key(grads, frozen)
    return {
        key: storage_of(
            owner,
            rule,
            container.name(key),
            array,
            settings[key].get("state_storage", storage),
            is_sparse=isinstance(gradients.get(key), Rows),
            is_centralized=centralize is not None and array.ndim > 1 and settings[key].get("centralize", centralize),
            is_masked=constraints is not None and (None if isinstance(key, Enum) else key) in constraints.mask,
        )
        for key, array in arrays.items()
    }


def slot_bytes(storage: str, itemsize: int) -> float:
    """The bytes of an element of a slot."""
    return {FLOAT32: float(itemsize), BFLOAT16: 2.0, INT8: 1 + 4 / codecs.GROUP}[storage]


def moved_bytes(storage: str, itemsize: int, slots: int, averages: int = 0) -> float:
    """The bytes that a step reads and writes of an element: gradient, parameter, slots and averages."""
    return (3 + 2 * averages) * itemsize + 2 * slots * slot_bytes(storage, itemsize)


def key_of(key: Hashable) -> int:
    """The hash of the name of an array; where parameters are one array its key is an enum member, as it has none.

    Where processes share arrays out, a key is a slice of a leaf (`mpi.layout.LeafSlice`), and the leaf has the name.
    """
    key = getattr(key, "path", key)
    return codecs.name_key(None if isinstance(key, Enum) else key)


@dataclass(frozen=True)
class Codes:
    """A compact array as a checkpoint has it.

    storage : "bfloat16" or "int8"
    codes : uint16, int8, or uint8 of a slot that is never negative, in the shape of the parameter
    scales : float32, one for each 64 elements in the order of memory; none of bfloat16
    """

    storage: str
    codes: Array
    scales: Array

    @staticmethod
    def of(codes: Array, scales: Array | None) -> Codes:
        """The same from the arrays of a file."""
        storage = BFLOAT16 if codes.dtype == np.uint16 else INT8
        return Codes(storage, codes, np.empty(0, np.float32) if scales is None else scales)

    dtype = np.dtype(np.float32)
    """Of the values."""

    @property
    def shape(self) -> tuple[int, ...]:
        return self.codes.shape

    @property
    def flags(self) -> Any:
        return self.codes.flags

    def error(self, nonnegative: bool) -> str:
        """Return what is wrong with it as an array of a slot, empty if nothing is."""
        kind = np.uint16 if self.storage == BFLOAT16 else np.uint8 if nonnegative else np.int8
        if self.codes.dtype != kind:
            return f"codes of dtype {self.codes.dtype}, expected {np.dtype(kind)}"
        count = 0 if self.storage == BFLOAT16 else codecs.padded(self.codes.size) // codecs.GROUP
        if self.scales.dtype != np.float32 or self.scales.shape != (count,):
            return f"scales of dtype {self.scales.dtype} and shape {self.scales.shape}, expected float32 of {(count,)}"
        return ""

    def decoded(self) -> Array:
        """The values, in float32."""
        order: Any = "F" if self.codes.flags.f_contiguous and not self.codes.flags.c_contiguous else "C"
        run = np.zeros(codecs.run_bytes(self.storage, self.codes.size), np.uint8)
        nonnegative = self.codes.dtype == np.uint8
        codes, scales = codecs.parts(self.storage, nonnegative, run, self.codes.size)
        codes[...], scales[...] = self.codes.ravel(order=order), self.scales
        values = codecs.decode(self.storage, nonnegative, run, self.codes.size)
        return np.array(values).reshape(self.shape, order=order)


class Column:
    """A slot of one array in 16 or 8 bits: its codes, then its scales, in one run of bytes."""

    def __init__(
        self, storage: str, nonnegative: bool, slot: int, name: Hashable, shape: tuple[int, ...], order: Any, run: Array
    ) -> None:
        self.storage, self.nonnegative, self.shape, self.order, self.run = storage, nonnegative, shape, order, run
        self.size = int(np.prod(shape, dtype=np.int64))
        # No step has this number: what is assigned is rounded as at none of them.
        self.key = codecs.slot_key(codecs.step_key(0, 0), key_of(name), slot)

    @staticmethod
    def bytes_for(storage: str, size: int) -> int:
        """The bytes of a run, up to where the next one may begin."""
        return -(-codecs.run_bytes(storage, size) // ALIGNED) * ALIGNED

    @property
    def nbytes(self) -> int:
        return int(codecs.run_bytes(self.storage, self.size))

    @property
    def address(self) -> int:
        return int(self.run.ctypes.data)

    def decoded(self) -> Array:
        """A copy in float32, which cannot be written to: only what is assigned to the key is encoded."""
        values = codecs.decode(self.storage, self.nonnegative, self.run[: self.nbytes], self.size)
        array: Array = np.asarray(values).reshape(self.shape, order=self.order)
        array.flags.writeable = False
        return array

    def assign(self, values: Any) -> None:
        """Encodes values of the shape of the array."""
        flat = np.broadcast_to(np.asarray(values, np.float32), self.shape).ravel(order=self.order)
        codecs.encode(self.storage, self.nonnegative, flat, self.key, self.run[: self.nbytes])

    def parts(self) -> tuple[Array, Array]:
        """Codes in the shape of the array, and scales, as views."""
        codes, scales = codecs.parts(self.storage, self.nonnegative, self.run[: self.nbytes], self.size)
        return codes.reshape(self.shape, order=self.order), scales

    def codes(self) -> Codes:
        """A copy of codes and scales."""
        codes, scales = self.parts()
        return Codes(self.storage, codes.copy(order="K"), scales.copy())

    def take(self, codes: Codes) -> None:
        """Copies codes and scales of its own storage."""
        target, scales = self.parts()
        target[...], scales[...] = codes.codes, codes.scales


class StoredSlot(MutableMapping[Hashable, Array]):
    """A slot by key, of which some arrays are stored in fewer bits: read, they are float32 copies.

    Assigning to a key encodes. The copies are read-only, as what is written to one would be lost.
    """

    def __init__(self, arrays: Mapping[Hashable, Array | Column], slot: str) -> None:
        self._arrays, self._slot = dict(arrays), slot

    def __getitem__(self, key: Hashable) -> Array:
        array = self._arrays[key]
        return array.decoded() if isinstance(array, Column) else array

    def __setitem__(self, key: Hashable, value: Any) -> None:
        if key not in self._arrays:
            raise KeyError(checks.unknown_key(self._slot, key, self._arrays))
        array, name = self._arrays[key], f"{self._slot}[{key!r}]"
        if not isinstance(array, Column):
            copy_to(name, array, value)
            return
        values = assignable(name, value, np.empty(array.shape, np.float32))
        if array.nonnegative and np.any(np.asarray(values) < 0):
            raise ValueError(f"{name} is never negative, got {np.min(values):g}; assign what is not")
        array.assign(values)

    def __delitem__(self, key: Hashable) -> None:
        raise TypeError(checks.fixed_keys(self._slot))

    def __iter__(self) -> Iterator[Hashable]:
        return iter(self._arrays)

    def __len__(self) -> int:
        return len(self._arrays)

    def __repr__(self) -> str:
        """How each array is stored, which says what stayed float32; values are read by key."""
        stored = (
            f"{key!r}: {array.storage if isinstance(array, Column) else array.dtype} of shape {array.shape}"
            for key, array in self._arrays.items()
        )
        return f"{{{', '.join(stored)}}}"

    def column(self, key: Hashable) -> Array | Column:
        """Return the array of a key, or its column."""
        return self._arrays[key]
