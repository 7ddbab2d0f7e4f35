"""Checkpoints of state that is shared out: files and dicts that know nothing of how many processes there were."""

from __future__ import annotations

import copy
import os
import pickle
from collections.abc import Callable, Hashable
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np

from fastopt.checkpoint import file, with_params
from fastopt.checkpoint.state_dict import CheckpointError, Mismatch, load_state_dict
from fastopt.checkpoint.state_dict import state_dict as state_dict_of
from fastopt.engine.columns import Codes
from fastopt.engine.containers import BARE
from fastopt.engine.state import Layout, layout_of
from fastopt.flat import Array
from fastopt.mpi.binding import Binding, name_of
from fastopt.mpi.consensus import needs_whole_arrays
from fastopt.mpi.layout import LeafSlice, Shards, flat

BY_KEY = ("rows", "counts", "factors")
"""The entries of a checkpoint that are by key, besides the state."""


VALUES, CODES, SCALES = "values", "codes", "scales"
"""Parts of an array of the state that are gathered: itself, or the two arrays of a compact one."""


class Storage(NamedTuple):
    """How a compact array is stored, which all processes must know of one that lies elsewhere."""

    storage: str
    codes: Layout
    scales: Layout

    @staticmethod
    def of(array: Codes) -> Storage:
        return Storage(array.storage, layout_of(array.codes), layout_of(array.scales))


class SharedLeaf:
    """An array of the state whose parts lie on all processes; it is gathered where it is read."""

    def __init__(self, leaf: Layout, read: Callable[[], Array]) -> None:
        self.shape, self.dtype, self.size, self._read = leaf.shape, leaf.dtype, leaf.size, read
        self.flags = SimpleNamespace(f_contiguous=leaf.order == "F", c_contiguous=leaf.order == "C")

    def __array__(self, dtype: Any = None, copy: Any = None) -> Array:
        return self._read()


class SharedSaving:
    """How `Sharded` is saved and goes on, on any number of processes or without MPI."""

    def save(self: Any, path: str | os.PathLike[str], params: Any = None) -> None:
        """Writes settings, step count and state, and `params` where they are given, to one file, as `Optimizer.save`.

        Rank 0 writes it, array by array as it gets the parts from the others, and has one array in memory at a time.
        The file is that of one process: any number of processes can load it, and so can a plain optimizer.

        Raises
        ------
        CheckpointError, OSError, TypeError, ValueError, RuntimeError
            as `Optimizer.save`, on all processes; RuntimeError between `accumulate` and `update`.
        """
        with self._alone():
            if params is None:
                self._agree("save", None)
            else:
                self._bind("save", params)
            local = state_dict_of(self.optimizer)
            by_key, storages = self._by_leaf(local), self._storages(local)

            def write(read: Callable[..., Array]) -> None:
                def array_of(slot: str, path: Hashable, kind: str, layout: Layout) -> Any:
                    return SharedLeaf(layout, lambda: read(slot, path, kind, layout))

                saved = self._merged(local, by_key, storages, array_of)
                if params is not None:
                    saved["params"] = with_params.copies(self._owner, params)
                file.save(saved, self._owner, path)

            self._on_root(local, write)

    def load(
        self: Any, path: str | os.PathLike[str], params: Any = None, *, strict: bool = True, cast: Any = False
    ) -> Mismatch:
        """Takes settings, step count and state from a file that `save` of any optimizer of the rule wrote.

        Rank 0 reads and checks the file and gives each process its shard; `params` of all processes get the file's
        parameters, where they are given. Otherwise `broadcast(params)` must have been called, as how the state is
        shared out depends on the parameters.

        Raises
        ------
        CheckpointError, TypeError, ValueError, OSError, RuntimeError
            as `Optimizer.load`, on all processes; optimizer and parameters are then as they were.
        """
        with self._alone():
            mismatch: Mismatch = self._take(
                "load", params, lambda plain, values: plain.load(path, values, strict=strict, cast=cast)
            )
            return mismatch

    def state_dict(self: Any) -> dict[str, Any]:
        """As `Optimizer.state_dict`: the whole state as copies, on every process."""
        with self._alone():
            self._agree("state_dict", None)
            local = state_dict_of(self.optimizer)
            by_leaf, storages = self._by_leaf(local), self._storages(local)
            whole: dict[str, Any] = self._merged(
                local, by_leaf, storages, lambda *array: self._gathered(local, *array, to_all=True)
            )
            return whole

    def load_state_dict(self: Any, state_dict: Any, strict: bool = True, cast: Any = False) -> Mismatch:
        """Takes settings, step count and each process's shard of the state of what rank 0 hands in.

        Raises
        ------
        CheckpointError, RuntimeError
            as `Optimizer.load_state_dict`, on all processes; RuntimeError before `broadcast(params)`.
        """
        with self._alone():
            mismatch: Mismatch = self._take(
                "load_state_dict", None, lambda plain, _: plain.load_state_dict(state_dict, strict, cast)
            )
            return mismatch

    # -- out ----------------------------------------------------------------------------------------------------------

    def _merged(
        self: Any,
        local: dict[str, Any],
        by_key: dict[str, Any],
        storages: dict[tuple[str, Hashable], Storage],
        array_of: Callable[[str, Hashable, str, Layout], Any],
    ) -> dict[str, Any]:
        """As `state_dict` of one process, with what `array_of` makes of each array of the state."""

        def leaf_of(slot: str, path: Hashable, leaf: Layout) -> Any:
            if (slot, path) not in storages:
                return array_of(slot, path, VALUES, leaf)
            storage, codes, scales = storages[slot, path]
            return Codes(storage, array_of(slot, path, CODES, codes), array_of(slot, path, SCALES, scales))

        state: dict[str, Any] = {}
        for slot, parts in local["state"].items():
            leaves = {} if parts is None else self._exchange.shards.leaves
            arrays = {path: leaf_of(slot, path, leaf) for path, leaf in leaves.items()}
            state[slot] = None if parts is None else arrays.get(BARE, arrays)
        return {**{name: value for name, value in local.items() if name not in BY_KEY}, "state": state, **by_key}

    def _storages(self: Any, local: dict[str, Any]) -> dict[tuple[str, Hashable], Storage]:
        """How the compact arrays of all processes are stored; each lies whole on one of them."""
        storages = {
            (slot, leaf_slice.path): Storage.of(array)
            for slot, parts in local["state"].items()
            for leaf_slice, array in (parts or {}).items()
            if isinstance(array, Codes)
        }
        return {name: storage for of_rank in self.comm.allgather(storages) for name, storage in of_rank.items()}

    def _by_leaf(self: Any, local: dict[str, Any]) -> dict[str, Any]:
        """Steps that rows wait for, counts and factors of leaves, of all processes' slices, by leaf."""
        merged: dict[str, Any] = {}
        for of_rank in self.comm.allgather({name: local[name] for name in BY_KEY if name in local}):
            for name, by_slice in of_rank.items():
                for leaf_slice, value in by_slice.items():
                    leaf = merged.setdefault(name, {}).setdefault(leaf_slice.path, dict(value))
                    if "behind" in value:
                        first, last = self._exchange.shards.rows(leaf_slice)
                        if len(leaf["behind"]) != self._exchange.shards.leaves[leaf_slice.path].shape[0]:
                            leaf["behind"] = np.zeros(self._exchange.shards.leaves[leaf_slice.path].shape[0], np.int64)
                        leaf["behind"][first:last] = value["behind"]
        return merged

    def _gathered(
        self: Any, local: dict[str, Any], slot: str, path: Hashable, kind: str, layout: Layout, to_all: bool = False
    ) -> Array:
        """An array of the state, whole, on rank 0 or on all processes; elsewhere nothing that counts."""
        arrays = [array for leaf_slice, array in local["state"][slot].items() if leaf_slice.path == path]
        arrays = [array if kind == VALUES else getattr(array, kind) for array in arrays]
        part = np.concatenate([np.empty(0, layout.dtype), *(flat(array, layout_of(array).order) for array in arrays)])
        whole = layout.empty() if to_all or self.comm.rank == 0 else np.empty(0, layout.dtype)
        starts, counts = self._exchange.shards.ranges(path)
        if kind != VALUES:
            starts, counts = np.zeros_like(starts), np.where(counts > 0, layout.size, 0)
        if to_all:
            self.comm.Allgatherv(part, [flat(whole, layout.order), (counts, starts)])
        else:
            self.comm.Gatherv(part, [flat(whole, layout.order), (counts, starts)] if self.comm.rank == 0 else None)
        return whole

    def _on_root(self: Any, local: dict[str, Any], call: Callable[[Callable[..., Array]], None]) -> None:
        """A call on rank 0, which asks for arrays of the state; the other processes send their parts as it does."""
        error: Exception | None = None
        if self.comm.rank == 0:

            def read(*array: Any) -> Array:
                self.comm.bcast(array)
                whole: Array = self._gathered(local, *array)
                return whole

            try:
                call(read)
            except Exception as caught:
                error = caught
            self.comm.bcast(None)
        else:
            while (request := self.comm.bcast(None)) is not None:
                self._gathered(local, *request)
        self._agreement.settle(error)

    # -- in -----------------------------------------------------------------------------------------------------------

    def _take(self: Any, operation: str, params: Any, load: Callable[[Any, Any], Mismatch]) -> Mismatch:
        """Takes what `load` loads into a plain optimizer and a copy of the parameters, on rank 0."""
        if params is not None:
            binding = self._bind(operation, params)
        else:
            self._agree(operation, self._binding)
            binding = self._binding
            if binding is None:
                raise RuntimeError(
                    f"Sharded {self._owner}: {operation} does not know the parameters yet, by which state is shared "
                    "out; call broadcast(params) before, or hand in params"
                )
        shards, rank = self._exchange.shards, self.comm.rank

        def load_on_root() -> tuple[Any, Any, Any]:
            if rank != 0:
                return None, None, None
            plain, values = self._plain(), None if params is None else copy.deepcopy(params)
            mismatch = load(plain, values)
            _check_loaded(self._owner, plain, shards)
            return state_dict_of(plain), values, mismatch

        whole, values, mismatch = self._on_all(load_on_root)
        sent = None if whole is None else ({**whole, **_without_arrays(whole)}, mismatch)
        saved, mismatch = self.comm.bcast(sent)
        for slot, storages in saved["state"].items():
            if storages is not None:
                arrays = {} if whole is None else _by_path(whole["state"][slot])
                saved["state"][slot] = self._scattered(arrays, storages)
        for name in BY_KEY:
            if name in saved:
                saved[name] = self._by_slice(saved[name])
        self._on_all(lambda: load_state_dict(self.optimizer, saved, strict=False))
        self.groups = self.optimizer.groups
        if params is not None:
            if values is not None:
                loaded = Binding(self._owner, values)
                loaded.cut(shards, rank)
                loaded.fetch()
                for path, vector in loaded.flats.items():
                    binding.flats[path][...] = vector
            self._send_from_root(binding)
        found: Mismatch = mismatch
        return found

    def _scattered(
        self: Any, arrays: dict[Hashable, Any], storages: dict[Hashable, Storage]
    ) -> dict[LeafSlice, Array | Codes]:
        """Return this process's slices of the arrays of a slot, which rank 0 has."""
        shards, rank = self._exchange.shards, self.comm.rank
        slices: dict[LeafSlice, Array | Codes] = {}
        for path, leaf in shards.leaves.items():
            starts, counts = shards.ranges(path)
            of_leaf = [leaf_slice for leaf_slice in shards.slices(rank) if leaf_slice.path == path]
            if path in storages:  # whole, on one process
                storage, codes, scales = storages[path]
                owner = int(np.argmax(counts))
                sent = (arrays[path].codes, arrays[path].scales) if rank == 0 else (None, None)
                compact = Codes(storage, self._sent(sent[0], codes, owner), self._sent(sent[1], scales, owner))
                slices |= dict.fromkeys(of_leaf, compact)
                continue
            part = np.empty(counts[rank], leaf.dtype)
            whole = flat(np.asarray(arrays[path], order=leaf.order), leaf.order) if rank == 0 else None
            self.comm.Scatterv(None if whole is None else [whole, (counts, starts)], part)
            for leaf_slice in of_leaf:
                slices[leaf_slice] = shards.shaped(
                    leaf_slice, part[leaf_slice.start - starts[rank] : leaf_slice.stop - starts[rank]]
                )
        return slices

    def _sent(self: Any, array: Array | None, layout: Layout, owner: int) -> Array:
        """An array of rank 0 on the process that owns it; elsewhere nothing that counts."""
        counts = np.where(np.arange(self.comm.size) == owner, layout.size, 0)
        part = layout.empty() if self.comm.rank == owner else np.empty(0, layout.dtype)
        whole = None if array is None else [flat(array, layout.order), (counts, np.zeros_like(counts))]
        self.comm.Scatterv(whole, flat(part, layout.order))
        return part

    def _by_slice(self: Any, by_leaf: dict[Hashable, Any]) -> dict[LeafSlice, Any]:
        """Values by leaf, for this process's slices."""
        shards, by_slice = self._exchange.shards, {}
        for leaf_slice in shards.slices(self.comm.rank):
            if leaf_slice.path in by_leaf:
                by_slice[leaf_slice] = dict(by_leaf[leaf_slice.path])
                if "behind" in by_slice[leaf_slice]:
                    by_slice[leaf_slice]["behind"] = by_slice[leaf_slice]["behind"][slice(*shards.rows(leaf_slice))]
        return by_slice

    def _plain(self: Any) -> Any:
        """An optimizer with these settings, on one process and before its first step."""
        attributes, plain = self.optimizer.__dict__, object.__new__(type(self.optimizer))
        names = [name for name in self.optimizer._hyperparameters() if name != "groups"]
        plain.__dict__.update(
            {name: copy.deepcopy(attributes[name]) for name in names}, _scheduled=self.optimizer._scheduled
        )
        plain.groups = {selector: dict(group) for selector, group in self.optimizer.groups.items()}
        return plain


def _without_arrays(whole: dict[str, Any]) -> dict[str, Any]:
    """The part of a `state_dict` that is sent to all: slots, how they are stored, and settings that can be sent."""
    settings = dict(whole["hyperparameters"])
    settings["groups"] = {selector: dict(group) for selector, group in settings["groups"].items()}
    return {
        "state": {slot: None if arrays is None else _storages(arrays) for slot, arrays in whole["state"].items()},
        # A function that cannot be sent does not come from a file; each process has its own.
        "hyperparameters": {name: value for name, value in settings.items() if _can_be_sent(value)},
    }


def _can_be_sent(value: Any) -> bool:
    try:
        pickle.dumps(value)
    except Exception:
        return False
    return True


def _by_path(arrays: Any) -> dict[Hashable, Any]:
    """The arrays of a slot of a `state_dict`."""
    return {BARE: arrays} if isinstance(arrays, np.ndarray | Codes) else arrays


def _storages(arrays: Any) -> dict[Hashable, Storage]:
    """How the compact ones of them are stored."""
    return {path: Storage.of(array) for path, array in _by_path(arrays).items() if isinstance(array, Codes)}


def _check_loaded(owner: str, plain: Any, shards: Shards) -> None:
    """Raises where a checkpoint has state of other arrays than the parameters, or of whole ones where they are cut."""
    if needs_whole_arrays(plain) and not shards.whole:
        raise CheckpointError(
            f"{owner}: the checkpoint has centralize or compact state (state_storage={plain.state_storage!r}), which "
            "need whole arrays, and the arrays here were cut when the parameters became known; make the optimizer with "
            "the settings of the checkpoint"
        )
    leaves = shards.leaves
    saved = None if plain._state is None else plain._state.layouts
    if saved is None or {path: leaf[:2] for path, leaf in saved.items()} == {
        path: leaf[:2] for path, leaf in leaves.items()
    }:
        return
    for path in {**leaves, **saved}:
        there, expected = (
            f"{of[path].dtype} of shape {of[path].shape}" if path in of else None for of in (saved, leaves)
        )
        if there != expected:
            raise CheckpointError(
                f"{owner}: the state of {name_of(path)} in the checkpoint is {there or 'missing'}, that is "
                f"{expected or 'not there'} here; load it with the parameters that it was saved with"
            )
