"""An optimizer's settings, step count and state in one file.

It is in the safetensors format, which holds no code: a header in JSON, then the arrays. Its metadata say what the
arrays are; a sha256 over all of it tells a damaged file.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Hashable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from fastopt import averages
from fastopt.checkpoint import atomic_file, by_problem, factors, setting_arrays, sums, tensor_file, with_params
from fastopt.checkpoint.state_dict import CheckpointError, Mismatch, load_state_dict, one_line, same_rule
from fastopt.checkpoint.tensor_file import CODES
from fastopt.constraints import PROJECTIONS, Bounds, Mask
from fastopt.engine import containers
from fastopt.engine.columns import Codes
from fastopt.engine.containers import BARE
from fastopt.engine.state import layout_of
from fastopt.flat import Array
from fastopt.groups import PREDICATES, Groups
from fastopt.kernels.averages import SLOTS
from fastopt.pairs import is_complex, joined, pairs
from fastopt.schedules import from_dict, to_dict
from fastopt.shared_settings import SharedSettings

FORMAT = 5
"""The version of what the file holds: 1 where there are no parameters, 3 where there is compact state or leaves have
step counts of their own, 4 where gradients are accumulated or parameters constrained, 5 where numbers are complex; one
with a higher number is refused."""

LATER = ("modulus", "bounds", "nonnegative", "l1", "l2_prox", "mask", "constraint_axis", *PROJECTIONS)
"""Settings of format 4."""

OMITTED = ("max_skips", "state_storage", "storage_seed", "cautious", "cautious_decay", *LATER)
"""Settings that a file names only where they are not the default, so that versions without them can read it."""

LONGEST_HEADER = 100_000_000
"""The most bytes that a header may have, for safetensors too."""

LONGEST = 100_000
"""The most characters that the settings in a file may have."""

LONGEST_ENTRY = 100
"""The most characters that metadata may have about an array beside its name."""


def save(saved: dict[str, Any], owner: str, path: str | os.PathLike[str]) -> None:
    """Writes what `state_dict` returned; an array of it may be anything with `shape`, `dtype` and `__array__`.

    One array is in memory at a time, where they are made of parts that lie elsewhere (`fastopt.mpi`).
    """
    tensors, metadata = _pack(owner, saved)
    header, places = tensor_file.header(tensors, {**metadata, "checksum": hashlib.sha256().hexdigest()})
    if len(header) - 8 > LONGEST_HEADER:
        raise CheckpointError(
            f"{owner}: the names of its arrays are too long for a file, whose header may have {LONGEST_HEADER:,} "
            "bytes; make the keys shorter"
        )

    def fill(descriptor: int) -> None:
        digest = tensor_file.digest_of(metadata)
        for name in sorted(tensors):
            array = np.ascontiguousarray(tensors[name])
            tensor_file.add(digest, name, array.reshape(tensors[name].shape))
            if array.size:
                atomic_file.write_all(descriptor, array.data, len(header) + places[name])
        complete, _ = tensor_file.header(tensors, {**metadata, "checksum": digest.hexdigest()})
        atomic_file.write_all(descriptor, complete, 0)

    atomic_file.write(owner, path, fill)


def load(optimizer: Any, path: str | os.PathLike[str], params: Any, strict: bool, cast: Any) -> Mismatch:
    """The work of `Optimizer.load`."""
    content = Path(path).read_bytes()  # not mapped into memory: a file that shrinks meanwhile would end the process
    name = os.fspath(path)
    try:
        tensors, metadata = tensor_file.parsed(content)
    except Exception as error:
        raise CheckpointError(f"{name} is damaged, or no checkpoint of fastopt ({one_line(error)})") from None
    try:
        saved = _unpack(optimizer, tensors, metadata, name)
    except (KeyError, TypeError, ValueError, RecursionError, OverflowError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(f"{name} is no checkpoint of fastopt ({one_line(error)})") from None
    if params is None:
        return load_state_dict(optimizer, saved, strict, name, cast)
    owner = type(optimizer).__name__
    loading = with_params.loading(owner, name, saved.get("params"), params, strict, cast)
    dtypes = {key: array.dtype for key, array in with_params.arrays_of(owner, params).items()}
    mismatch = load_state_dict(optimizer, saved, strict, name, cast, dtypes, loading.writes())
    node = containers.container_of(owner, params).node
    optimizer.__dict__["_node"] = containers.joined(optimizer._node, node)
    for keys, more in (
        (mismatch.missing, loading.missing),
        (mismatch.unexpected, loading.unexpected),
        (mismatch.reshaped, loading.reshaped),
    ):
        there = set(keys)
        keys.extend(key for key in (None if key is BARE else key for key in more) if key not in there)
    return mismatch


def _pack(owner: str, saved: dict[str, Any]) -> tuple[dict[str, Array], dict[str, str]]:
    """Arrays by name and metadata as text. The name of an array is its slot, a slash and its key as JSON."""
    from fastopt import __version__

    tensors: dict[str, Array] = {}
    keys: list[Any] | None = None
    fortran: list[int] = []
    for slot, value in saved["state"].items():
        if value is not None and not isinstance(value, Mapping):
            _put(tensors, slot, "", value)
            keys = None
            fortran = [0] if layout_of(value).order == "F" else []
        elif value is not None:
            keys = [_encoded(owner, key) for key in value]
            for encoded, array in zip(keys, value.values(), strict=True):
                _put(tensors, slot, f"/{json.dumps(encoded)}", array)
            fortran = [number for number, array in enumerate(value.values()) if layout_of(array).order == "F"]
    rows: list[Any] = []
    for key, skipped in saved.get("rows", {}).items():
        name = "rows" if key is BARE else f"rows/{json.dumps(_encoded(owner, key))}"
        tensors[name] = skipped["behind"]
        rows.append([name, *skipped["rates"]])
    settings = dict(saved["hyperparameters"])
    for name in OMITTED:
        if settings[name] == getattr(SharedSettings, name):
            del settings[name]
    tensors |= by_problem.pack(settings, saved.get("problems"))
    constraints: dict[str, Array] = {}
    groups = _plain_groups(owner, settings.pop("groups"), constraints)
    of_averages = {
        name: {key: _plain(owner, f"{key} of {name}", part) for key, part in averages.to_dict(value).items()}
        for name in SLOTS
        if (value := settings.pop(name)) is not None
    }
    hyperparameters = {name: _plain(owner, name, value, constraints) for name, value in settings.items()} | of_averages
    if groups:  # files without any, and without averages, stay readable for versions that know none
        hyperparameters["groups"] = groups
    metadata = {
        "format": "1",
        "fastopt": __version__,
        "rule": saved["rule"],
        "step": str(saved["step"]),
        "skipped": str(saved["skipped"]),
        "hyperparameters": json.dumps(hyperparameters),
        "keys": json.dumps(keys),
        "fortran": json.dumps(fortran),
    }
    if saved["averaged"]:
        metadata["averaged"] = str(saved["averaged"])
    if rows:  # as with groups
        metadata["rows"] = json.dumps(rows)
    if "params" in saved:
        arrays, metadata["params"] = with_params.pack(saved["params"], partial(_encoded, owner))
        tensors |= arrays
        metadata["format"] = "2"
    if any(array.dtype in CODES for name, array in tensors.items()):
        metadata["format"] = "3"
    if "counts" in saved:
        counts = [
            [None if key is BARE else _encoded(owner, key), *count.values()] for key, count in saved["counts"].items()
        ]
        metadata |= {"counts": json.dumps(counts), "format": "3"}
    if any(name in LATER for some in (settings, *(some for *_, some in groups)) for name in some):
        metadata["format"] = "4"
    tensors |= constraints
    if "factors" in saved:
        metadata |= {"factors": factors.pack(saved["factors"], tensors, partial(_encoded, owner)), "format": "4"}
    if "estimates" in saved:
        metadata["estimates"] = json.dumps(saved["estimates"])
    if "problems" in saved or "batch_axis" in settings:
        metadata["format"] = "4"
    if "accumulated" in saved:
        metadata |= {"accumulated": sums.pack(saved["accumulated"], tensors, partial(_encoded, owner)), "format": "4"}
    names = sorted(tensors)
    if numbers := [number for number, name in enumerate(names) if is_complex(tensors[name].dtype)]:
        # As pairs, since safetensors has no complex128.
        tensors |= {names[number]: pairs(tensors[names[number]]) for number in numbers}
        metadata |= {"complex": json.dumps(numbers), "format": "5"}
    if len(metadata["hyperparameters"]) > LONGEST:
        raise CheckpointError(
            f"{owner}: the groups or schedules of its hyperparameters are too long for a file; make them shorter"
        )
    return tensors, metadata


def _put(tensors: dict[str, Any], slot: str, name: str, array: Any) -> None:
    """Adds an array of a slot, codes and scales as two."""
    if isinstance(array, Codes):
        tensors[slot + name] = array.codes
        if array.scales.size:
            tensors[f"{slot}.group_scales{name}"] = array.scales
    else:
        tensors[slot + name] = array


def _unpack(optimizer: Any, tensors: dict[str, Array], metadata: Any, name: str) -> dict[str, Any]:
    """Undo `_pack`; raises some error where it was not `_pack` that made it."""
    if not isinstance(metadata, dict) or not str(metadata.get("format", "")).isdecimal():
        raise CheckpointError(f"{name} is a safetensors file but no checkpoint of fastopt: it names no format")
    if int(metadata["format"]) > FORMAT:
        raise CheckpointError(
            f"{name} is of format {metadata['format']}, written by fastopt {metadata.get('fastopt')}; this version "
            f"reads formats up to {FORMAT}: update fastopt"
        )
    checksum = metadata.pop("checksum", None)
    if checksum != tensor_file.checksum(tensors, metadata):
        raise CheckpointError(f"{name} is damaged: its checksum is not that of its content; take another copy")
    # Texts are parsed only where they can be what they should be, so that a small file takes little memory: what they
    # list is of arrays, whose names are twice as long at most when they are quoted again.
    most = LONGEST + sum(2 * len(tensor) + LONGEST_ENTRY for tensor in tensors)
    for field, text in metadata.items():
        if len(text) > most:
            raise CheckpointError(f"{name} is no checkpoint of fastopt: its {field:.20} are too long")
    in_order = sorted(tensors)
    for number in json.loads(metadata.get("complex", "[]")):
        tensors[in_order[number]] = joined(tensors[in_order[number]])
    params = with_params.unpack(tensors, metadata["params"], _decoded) if "params" in metadata else None
    keys = json.loads(metadata["keys"])
    fortran = set(json.loads(metadata["fortran"]))
    decoded = [BARE] if keys is None else [_decoded(key) for key in keys]
    rows = {
        BARE if row == "rows" else _decoded(json.loads(row[5:])): {"behind": tensors.pop(row), "rates": rates}
        for row, *rates in json.loads(metadata.get("rows", "[]"))
    }
    counts = {
        BARE if keys is None else _decoded(key): {"steps": steps, "averages": moved}
        for key, steps, moved in json.loads(metadata.get("counts", "[]"))
    }
    rates, problems = by_problem.unpack(tensors)
    accumulated = sums.unpack(metadata["accumulated"], tensors, _decoded) if "accumulated" in metadata else None
    kept = factors.unpack(metadata["factors"], tensors, _decoded) if "factors" in metadata else {}
    names = [""] if keys is None else [f"/{json.dumps(key)}" for key in keys]
    state: dict[str, Any] = {}
    same_rule(optimizer, metadata["rule"], name)
    there = {tensor.partition("/")[0] for tensor in tensors}
    if any(tensor.endswith(".scales") for tensor in there):
        raise CheckpointError(
            f"{name} holds int8 state in codes that no release had; load it with the fastopt that wrote it and save it "
            "with state_storage='float32'"
        )
    for slot in (*optimizer._rule.state, *(slot for slot in SLOTS.values() if slot in there)):
        if keys is None and all(tensor.startswith(setting_arrays.PREFIX) for tensor in tensors):
            state[slot] = None
            continue
        arrays = {key: tensors.pop(slot + name) for key, name in zip(decoded, names, strict=True)}
        scales = {
            key: tensors.pop(f"{slot}.group_scales{name}", None) for key, name in zip(decoded, names, strict=True)
        }
        arrays = {
            key: np.asfortranarray(array) if number in fortran else array
            for number, (key, array) in enumerate(arrays.items())
        }
        views: dict[Any, Any] = {
            key: Codes.of(array, scales[key]) if array.dtype in CODES else array for key, array in arrays.items()
        }
        state[slot] = views[BARE] if keys is None else views
    settings = _restored(json.loads(metadata["hyperparameters"]), tensors)
    if isinstance(settings, dict):  # anything else is refused later
        defaults = {setting: getattr(SharedSettings, setting) for setting in OMITTED}
        settings = defaults | {"groups": {}} | settings
    settings = settings | rates if rates else settings
    if tensors:
        raise CheckpointError(f"{name} is no checkpoint of fastopt: it holds {', '.join(sorted(tensors)[:8])} besides")
    return {
        "rule": metadata["rule"],
        "hyperparameters": settings,
        "step": int(metadata["step"]),
        "skipped": int(metadata["skipped"]),
        "averaged": int(metadata.get("averaged", "0")),
        "state": state,
        "rows": rows,
        "counts": counts,
        "accumulated": accumulated,
        "factors": kept,
        "estimates": json.loads(metadata.get("estimates", "{}")),
        "problems": problems,
        "params": params,
    }


def _plain(owner: str, name: str, value: Any, arrays: dict[str, Array] | None = None) -> Any:
    """A setting as JSON can write it; adds arrays that it holds to `arrays`."""
    if isinstance(value, Bounds | Mask) and arrays is not None:
        return setting_arrays.plain(value, arrays, partial(_encoded, owner))
    if not callable(value):
        return value
    try:
        return to_dict(value)
    except ValueError:
        raise CheckpointError(
            f"{owner}: {name} is a function ({value!r:.100}), and a file holds no code; make it of the schedules in "
            f"fastopt.schedules, or set {name} to a number before saving and to the function after loading"
        ) from None


def _plain_groups(owner: str, groups: Groups, arrays: dict[str, Array]) -> list[Any]:
    """Groups as JSON can write them: of each whether it is a predicate, its selector and its settings.

    Adds arrays that settings hold to `arrays`.
    """
    plain = []
    for selector, group in groups.items():
        names = [name for name, predicate in PREDICATES.items() if predicate is selector]
        if callable(selector) and not names:
            raise CheckpointError(
                f"{owner}: groups[{selector!r:.100}] is selected by a function, and a file holds no code; name its "
                f"keys, or use one of {', '.join(PREDICATES)} in fastopt.groups"
            )
        settings = {
            name: _plain(owner, f"groups[{selector!r}][{name!r}]", value, arrays) for name, value in group.items()
        }
        plain.append([bool(names), names[0] if names else _encoded(owner, selector), settings])
    return plain


def _restored(settings: Any, tensors: dict[str, Array]) -> Any:
    """Undo `_plain`; takes what settings are made of out of the tensors."""
    if not isinstance(settings, dict):
        return settings
    restored: dict[str, Any] = {
        name: averages.from_dict(name, _restored(value, tensors))
        if name in SLOTS
        else setting_arrays.restored(value, tensors, _decoded)
        if setting_arrays.is_plain(value)
        else from_dict(value)
        if isinstance(value, dict)
        else value
        for name, value in settings.items()
    }
    if "groups" in restored:
        restored["groups"] = {
            PREDICATES[selector] if predicate else _decoded(selector): _restored(group, tensors)
            for predicate, selector, group in restored["groups"]
        }
    return restored


def _encoded(owner: str, key: Hashable) -> Any:
    """A key as JSON can write it: tuples become lists."""
    if isinstance(key, tuple):
        return [_encoded(owner, part) for part in key]
    if key is None or isinstance(key, str) or (isinstance(key, int | float) and abs(key) < 2**63):
        return key
    raise CheckpointError(
        f"{owner}: a key of type {type(key).__name__} cannot be saved; name parameters by text, numbers or "
        "tuples of them"
    )


def _decoded(key: Any) -> Hashable:
    return tuple(_decoded(part) for part in key) if isinstance(key, list) else key
