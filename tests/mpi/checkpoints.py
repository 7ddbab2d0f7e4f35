"""Checkpoints of several processes are those of one, and what state takes is shared out."""

import copy
import itertools
import os
import tempfile

import numpy as np

import fastopt
import fastopt.mpi
from fastopt import CheckpointError, Rows, schedules
from fastopt.mpi import Sharded
from tests.conftest import assert_same_bits
from tests.mpi.support import COMM, RANK, SIZE, added_up, arrays, assert_alike, raises


def check_checkpoints_of_compact_state():
    path = os.path.join(COMM.bcast(tempfile.mkdtemp() if RANK == 0 else None), "compact.safetensors")

    def draw(seed):
        rng = np.random.default_rng(seed)
        found = {name: rng.standard_normal((70, 70)).astype(np.float32) for name in "ab"}
        found["transposed"] = np.asfortranarray(rng.standard_normal((65, 66)).astype(np.float32))
        return found | {"small": np.ones(3, np.float32), "float32": rng.standard_normal(5000).astype(np.float32)}

    for storage in ("bfloat16", "int8"):

        def make(storage=storage):
            groups = {"float32": {"state_storage": "float32"}}
            return fastopt.Adam(state_storage=storage, groups=groups, averaging=fastopt.EMA(decay=0.5))

        params, reference = draw(0), draw(0)
        sharded, plain = Sharded(make()), make()
        for step in range(2):
            sharded.update(params, draw(step + 1))
            plain.update(reference, added_up([draw(step + 1)] * SIZE))
        sharded.save(path, params)
        alone, loaded = make(), draw(7)
        alone.load(path, loaded)
        again, taken = Sharded(make()), draw(8)
        again.load(path, taken)
        from_dict, there = Sharded(make()), {key: array.copy(order="K") for key, array in params.items()}
        from_dict.broadcast(there)
        from_dict.load_state_dict(sharded.state_dict())
        for optimizer, found in ((sharded, params), (again, taken), (from_dict, there)):
            optimizer.update(found, draw(9))
        for optimizer, found in ((alone, loaded), (plain, reference)):
            optimizer.update(found, added_up([draw(9)] * SIZE))
        for found, key in itertools.product((params, taken, there, loaded), reference):
            assert_same_bits(found[key], reference[key])
        for optimizer in (sharded, again, from_dict):
            assert_alike(optimizer, plain, params, reference)
        COMM.Barrier()
        before = {key: array.copy() for key, array in taken.items()}
        with raises(CheckpointError, "need whole arrays", "with the settings of the checkpoint"):
            Sharded(fastopt.Adam()).load(path, taken)
        for key, array in before.items():
            assert_same_bits(taken[key], array)
        from_float32, expected, values = Sharded(make()), make(), draw(0)
        alone.state_storage = "float32"
        if RANK == 0:
            alone.save(path)
        COMM.Barrier()
        expected.load(path, cast=storage)
        from_float32.broadcast(values)
        from_float32.load(path, cast=storage)
        for leaf_slice, decoded in from_float32.v.items():
            assert_same_bits(decoded, expected.v[leaf_slice.path].reshape(decoded.shape))
        COMM.Barrier()


def check_checkpoints():
    folder = COMM.bcast(tempfile.mkdtemp() if RANK == 0 else None)
    path = os.path.join(folder, "adam.safetensors")
    makes = [
        lambda: fastopt.Adam(groups={"b*": {"lr": 0.1}}, averaging=fastopt.EMA(decay=0.5)),
        lambda: fastopt.Muon(normalize_rows=True),
        lambda: fastopt.SOAP(precondition_every=2),
        lambda: fastopt.SGD(lr=schedules.Cosine(0.1, 50)),
    ]
    for make in makes:
        params, reference = arrays(0), arrays(0)
        sharded, plain = Sharded(make()), make()
        for step in range(3):
            sharded.update(params, arrays(step + 1))
            plain.update(reference, added_up([arrays(step + 1)] * SIZE))
        sharded.save(path, params)
        alone, loaded = make(), arrays(7)
        alone.load(path, loaded)  # a plain optimizer
        again, taken = Sharded(make()), arrays(8)
        again.load(path, taken)
        from_dict, there = Sharded(make()), arrays(9)
        from_dict.broadcast(there)
        from_dict.load_state_dict(sharded.state_dict() if SIZE > 1 else plain.state_dict())
        for key in there:
            there[key][...] = params[key]
        sharded.update(params, arrays(50))
        again.update(taken, arrays(50))
        from_dict.update(there, arrays(50))
        total = added_up([arrays(50)] * SIZE)
        alone.update(loaded, total)
        plain.update(reference, total)
        for found, key in itertools.product((params, taken, there, loaded), reference):
            assert_same_bits(found[key], reference[key])
        assert_alike(again, alone, taken, loaded)
        assert again.iter == from_dict.iter == 4
        COMM.Barrier()
    before = {key: array.copy() for key, array in params.items()}
    with raises(CheckpointError, "rule"):
        Sharded(fastopt.Adam()).load(path, params)
    with raises(OSError):
        Sharded(fastopt.SGD()).load(path + ".none", params)
    with raises(OSError, "not saved"):
        sharded.save(os.path.join(folder, "none", "x"), params)
    with raises(RuntimeError, "broadcast(params)"):
        Sharded(fastopt.SGD()).load(path)
    for key in params:
        assert_same_bits(params[key], before[key])
    unstepped = Sharded(fastopt.Adam(lr=0.125))
    unstepped.save(path)
    other = fastopt.Adam()
    other.load(path)
    assert (other.lr, other.iter, dict(other.m)) == (0.125, 0, {})
    COMM.Barrier()
    adam = Sharded(fastopt.Adam())
    adam.broadcast({"W": np.ones(3)})
    adam.accumulate({"W": np.ones(3)})
    with raises(RuntimeError, "accumulated"):
        adam.save(path)
    with raises(TypeError, "save"):
        copy.deepcopy(adam)


def check_checkpoints_of_rows_that_wait():
    folder = COMM.bcast(tempfile.mkdtemp() if RANK == 0 else None)
    path, table = os.path.join(folder, "rows.safetensors"), np.random.default_rng(0).standard_normal((23, 5))

    def make():
        return fastopt.Momentum(lr=0.1)

    params, reference = {"e": table.copy()}, {"e": table.copy()}
    sharded, plain = Sharded(make()), make()
    for step in range(3):
        rows = Rows(np.array([step, 7 * step]), np.ones((2, 5)), exact=True)
        sharded.update(params, {"e": rows})
        plain.update(reference, {"e": Rows(np.tile(rows.indices, SIZE), np.ones((2 * SIZE, 5)) / SIZE, exact=True)})
    sharded.save(path, params)
    alone, loaded = make(), {"e": table.copy()}
    alone.load(path, loaded)
    again, taken = Sharded(make()), {"e": table.copy()}
    again.load(path, taken)
    for optimizer, found in ((sharded, params), (alone, loaded), (again, taken)):
        optimizer.catch_up(found)
    for found in (loaded, taken):
        assert_same_bits(found["e"], params["e"])
    COMM.Barrier()


def check_memory_of_state():
    params = {"W": np.zeros((300, 100), np.float32), "b": np.zeros(77, np.float32)}
    sharded = Sharded(fastopt.Adam())
    sharded.update(params, params)
    total = sum(array.size for array in params.values())
    mine = sum(view.size for view in sharded.m.values())
    assert COMM.allreduce(mine) == total and mine <= total / SIZE + 16, mine
    assert sum(block.nbytes for block in sharded.optimizer._state.blocks) == 2 * 4 * mine
