"""What is checked on several processes: `mpiexec -n 3 python -m tests.mpi.programs` runs every `check_` function here.

Each compares `Sharded` with the same optimizer on one process, which adds up the gradients of all ranks in their order.
"""

import copy
import itertools
import math
import os
import sys
import tempfile
import time

import numpy as np
from mpi4py import MPI

import fastopt
import fastopt.mpi
from fastopt import CheckpointError, Rows, schedules
from fastopt.kernels import RULES
from fastopt.mpi import Sharded
from fastopt.optimizers import OPTIMIZERS
from tests.conftest import ELEMENTWISE, ONE_OF_EACH_KIND, assert_same_bits

COMM = MPI.COMM_WORLD
RANK, SIZE = COMM.rank, COMM.size


def arrays(seed, kinds=("float32", "float64")):
    """Parameters or gradients, the same on all ranks: matrices, vectors, a number, nothing, and not contiguous ones."""
    rng = np.random.default_rng(seed)
    draw = rng.standard_normal
    found = {
        "W": draw((37, 13)).astype(np.float32),
        "b": draw(13).astype(np.float32),
        "V": np.asfortranarray(draw((5, 7))),
        "empty": np.zeros((0, 3), np.float32),
        "s": draw(()),
        "strided": draw((9, 9)).astype(np.float32)[::2, ::2],
    }
    return {key: array for key, array in found.items() if array.dtype.name in kinds}


def added_up(of_ranks, reduce="mean"):
    """What one process makes of the gradients of all ranks."""
    total = {}
    for key, first in of_ranks[0].items():
        sum_ = first
        for other in of_ranks[1:]:
            sum_ = sum_ + other[key]
        total[key] = sum_ * first.dtype.type(1 / SIZE) if reduce == "mean" else sum_
    return total


def assert_alike(sharded, plain, params, reference):
    for key in reference:
        assert_same_bits(params[key], reference[key])
    assert (sharded.iter, sharded.skipped) == (plain.iter, plain.skipped)
    for slot in plain._rule.state:
        for leaf_slice, values in getattr(sharded, slot).items():
            whole = getattr(plain, slot)[leaf_slice.path].ravel(order="K")
            assert_same_bits(values.ravel(order="K"), whole[leaf_slice.start : leaf_slice.stop])
    sharded.check_synced(params)


def compare(make, steps=3, reduce="mean", kinds=("float32", "float64"), change=None):
    """Steps of `make()` shared out, and on one process, side by side."""
    params, reference = arrays(0, kinds), arrays(0, kinds)
    for array in params.values():
        array[...] *= RANK == 0
    sharded, plain = Sharded(make(), reduce=reduce), make()
    sharded.broadcast(params)
    for step in range(steps):
        gradients = [arrays(100 * step + rank + 1, kinds) for rank in range(SIZE)]
        if change is not None:
            change(step, gradients)
        sharded.update(params, gradients[RANK])
        with np.errstate(all="ignore"):
            plain.update(reference, added_up(gradients, reduce))
    assert_alike(sharded, plain, params, reference)
    return sharded, params


def raises(kind, *parts):
    """A context in which an error of this kind, with these parts in its text, is raised."""

    class Context:
        def __enter__(self):
            return self

        def __exit__(self, found, error, traceback):
            assert found is not None and issubclass(found, kind), f"{found} {error}"
            self.text = str(error)
            for part in parts:
                assert part in self.text, self.text
            return True

    return Context()


def same_on_all(value):
    assert len(set(COMM.allgather(value))) == 1, COMM.allgather(value)


# -- the same bits as on one process ------------------------------------------------------------------------------------


def check_every_elementwise_rule():
    for name in ELEMENTWISE if SIZE == 4 else ONE_OF_EACH_KIND:
        compare(OPTIMIZERS[name])


def check_sum():
    compare(fastopt.Adam, reduce="sum")


def check_layerwise_rules():
    for name in RULES:
        if RULES[name].is_by_array and not RULES[name].prepare:
            compare(OPTIMIZERS[name])


def check_whole_matrices():
    compare(fastopt.Muon)
    compare(lambda: fastopt.SGD(lr=0.1, centralize=True))


def check_compact_state():
    for storage in ("bfloat16", "int8"):
        params, reference = ({name: np.ones((70, 70), np.float32) for name in "abc"} for _ in range(2))
        sharded, plain = (fastopt.Adam(state_storage=storage) for _ in range(2))
        sharded = Sharded(sharded)
        for step in range(3):
            draws = [np.random.default_rng(10 * step + rank).standard_normal((70, 70)) for rank in range(SIZE)]
            gradients = [{name: draw.astype(np.float32) for name in "abc"} for draw in draws]
            sharded.update(params, gradients[RANK])
            plain.update(reference, added_up(gradients))
        for name in "abc":
            assert_same_bits(params[name], reference[name])
        assert sum(leaf_slice.stop for leaf_slice in sharded.m) <= -(-3 // SIZE) * 4900
    with raises(ValueError, "compact state"):
        cut = Sharded(fastopt.Adam())
        cut.update(params, params)
        cut.state_storage = "int8"
        cut.update(params, params)


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


def check_clipping():
    def large(step, gradients):
        for gradient in gradients:
            gradient["V"][...] *= 1e200  # the squares of which overflow

    compare(lambda: fastopt.Adam(clip_norm=0.5, clip_value=0.1))
    compare(lambda: fastopt.Adam(clip_array_norm=0.5))
    compare(lambda: fastopt.Adam(cautious=True))
    compare(lambda: fastopt.SGD(clip_norm=0.5), change=large)
    compare(lambda: fastopt.SGD(clip_array_norm=0.5), change=large)


def check_groups_and_schedules():
    def make():
        groups = {"b*": {"lr_scale": 0.1}, fastopt.is_vector: {"weight_decay": 0.0}, "V": {"frozen": True}}
        return fastopt.AdamW(lr=schedules.Cosine(0.1, 5), weight_decay=0.1, groups=groups)

    sharded, params = compare(make)
    sharded.groups["b*"]["lr_scale"] = 0.5
    sharded.lr = 0.25
    sharded.update(params, arrays(1))
    assert sharded.lr == 0.25 and sharded.optimizer.lr == 0.25
    sharded.groups["nothing*"] = {"lr": 0.1}
    with raises(ValueError, "nothing*", "selects none"):
        sharded.update(params, arrays(1))


def check_averages():
    def make():
        return fastopt.Momentum(averaging=fastopt.EMA(decay=0.5), lookahead=fastopt.Lookahead(every=2))

    sharded, params = compare(make, steps=4)
    plain, reference = make(), arrays(0)
    for step in range(4):
        plain.update(reference, added_up([arrays(100 * step + rank + 1) for rank in range(SIZE)]))
    expected = plain.averaged(reference)
    before = {key: array.copy() for key, array in params.items()}
    with sharded.averaged_weights(params):
        for key in params:
            assert_same_bits(params[key], expected[key])
    for key in params:
        assert_same_bits(params[key], before[key])
    with raises(RuntimeError, "averag"):
        Sharded(fastopt.SGD()).averaged(params)
    free = Sharded(fastopt.ScheduleFreeSGD())
    free.update(params, arrays(1))
    same_on_all(free.averaged(params)["W"].tobytes())


def check_nonfinite():
    def bad(step, gradients):
        if step == 1:
            gradients[-1]["W"][30, 2] = np.nan
        if step == 2:
            gradients[0]["V"][1, 1] = 1e300

    sharded, params = compare(lambda: fastopt.Adam(on_nonfinite="skip"), steps=4, change=bad)
    assert sharded.skipped == 2
    refusing = Sharded(fastopt.Adam(on_nonfinite="raise"))
    gradients = arrays(1)
    gradients["V"][4, 6] = math.inf if RANK == SIZE - 1 else 0.0
    before = {key: array.copy() for key, array in params.items()}
    with raises(FloatingPointError, "grads['V', elements", "inf", "nothing was written") as error:
        refusing.update(params, gradients)
    same_on_all(error.text)
    for key in params:
        assert_same_bits(params[key], before[key])
    assert refusing.iter == 0


def check_rows():
    table = np.random.default_rng(0).standard_normal((23, 5)).astype(np.float32)
    for make in (fastopt.Adam, lambda: fastopt.SGD(clip_norm=0.5), lambda: fastopt.Momentum(lr=0.1)):
        params, reference = (
            {"e": table.copy(), "b": np.ones(3, np.float32)},
            {"e": table.copy(), "b": np.ones(3, np.float32)},
        )
        sharded, plain = Sharded(make(), reduce="sum"), make()
        for step in range(3):
            rng = np.random.default_rng(step)
            parts = [(rng.integers(0, 23, 7), rng.standard_normal((7, 5)).astype(np.float32)) for _ in range(SIZE)]
            b = np.full(3, step, np.float32)
            sharded.update(params, {"e": Rows(*parts[RANK]), "b": b if RANK == 0 else 0 * b})
            indices, values = (np.concatenate(part) for part in zip(*parts, strict=True))
            plain.update(reference, {"e": Rows(indices, values), "b": b})
        assert_alike(sharded, plain, params, reference)
    exact, params = Sharded(fastopt.SGD(lr=0.1, weight_decay=0.1, decoupled=True), reduce="sum"), {"e": table.copy()}
    plain, reference = fastopt.SGD(lr=0.1, weight_decay=0.1, decoupled=True), {"e": table.copy()}
    for row in (3, 17):
        values = np.full((1, 5), 2.0, np.float32)
        exact.update(params, {"e": Rows(np.array([row]), values * (RANK == 0), exact=True)})
        plain.update(reference, {"e": Rows(np.array([row]), values, exact=True)})
    exact.catch_up(params)
    plain.catch_up(reference)
    assert_same_bits(params["e"], reference["e"])
    with raises(TypeError, "Rows", "no form"):
        Sharded(fastopt.Lion()).update(params, {"e": Rows(np.array([1]), np.ones((1, 5), np.float32))})
    with raises(ValueError, f"rank {SIZE - 1} of" if SIZE > 1 else "23 rows", "23 rows"):
        exact.update(params, {"e": Rows(np.array([23 if RANK == SIZE - 1 else 0]), np.ones((1, 5), np.float32))})


def check_gradients_that_are_none():
    params, reference = arrays(0), arrays(0)
    sharded, plain = Sharded(fastopt.Adam()), fastopt.Adam()
    for step in range(3):
        gradients = [arrays(100 * step + rank + 1) for rank in range(SIZE)]
        total = added_up(gradients)
        if step == 1:
            gradients[RANK]["W"] = total["W"] = None
        sharded.update(params, gradients[RANK])
        plain.update(reference, total)
    assert_alike(sharded, plain, params, reference)
    # Counts of leaves go through a file.
    path = os.path.join(COMM.bcast(tempfile.mkdtemp() if RANK == 0 else None), "counts")
    sharded.save(path, params)
    again, taken = Sharded(fastopt.Adam()), arrays(5)
    again.load(path, taken)
    again.update(taken, arrays(9))
    plain.update(reference, added_up([arrays(9)] * SIZE))
    assert_alike(again, plain, taken, reference)


def check_flat_and_bare():
    flat, reference = fastopt.flatten(arrays(0, ("float32",))), arrays(0, ("float32",))
    sharded, plain = Sharded(fastopt.Adam()), fastopt.Adam()
    vector, expected = np.arange(100.0), np.arange(100.0)
    bare, plain_bare = Sharded(fastopt.Adam()), fastopt.Adam()
    for step in range(3):
        gradients = [arrays(100 * step + rank + 1, ("float32",)) for rank in range(SIZE)]
        sharded.update(flat, fastopt.flatten(gradients[RANK]))
        plain.update(reference, added_up(gradients))
        vectors = [np.random.default_rng(rank + step).standard_normal(100) for rank in range(SIZE)]
        bare.update(vector, vectors[RANK])
        plain_bare.update(expected, added_up([{"v": each} for each in vectors])["v"])
    assert_alike(sharded, plain, flat, reference)
    assert_same_bits(vector, expected)


def check_nested():
    def nested(seed):
        found = arrays(seed)
        return {"layers": [{"W": found["W"], "b": found["b"]}, (found["V"], found["s"])], "rest": found["strided"]}

    params, reference = nested(0), nested(0)
    sharded, plain = Sharded(fastopt.LAMB(averaging=fastopt.EMA())), fastopt.LAMB(averaging=fastopt.EMA())
    folder = COMM.bcast(tempfile.mkdtemp() if RANK == 0 else None)
    for step in range(2):
        sharded.update(params, nested(step + 1))
        leaves = arrays(step + 1)
        total = added_up([leaves] * SIZE)
        for key in leaves:
            leaves[key][...] = total[key]
        gradients = {"layers": [{"W": leaves["W"], "b": leaves["b"]}, (leaves["V"], leaves["s"])]}
        plain.update(reference, gradients | {"rest": leaves["strided"]})
    assert_same_bits(params["layers"][0]["W"], reference["layers"][0]["W"])
    assert_same_bits(params["layers"][1][0], reference["layers"][1][0])
    assert_same_bits(params["rest"], reference["rest"])
    average, expected = sharded.averaged(params), plain.averaged(reference)
    assert_same_bits(average["layers"][1][0], expected["layers"][1][0])
    sharded.save(os.path.join(folder, "nested"), params)
    again, taken = Sharded(fastopt.LAMB(averaging=fastopt.EMA())), nested(5)
    again.load(os.path.join(folder, "nested"), taken)
    assert_same_bits(taken["layers"][0]["W"], params["layers"][0]["W"])
    COMM.Barrier()


def check_numbers():
    params = {"x": -7.0, "y": np.float32(2.0)}
    sharded = Sharded(fastopt.SGD(lr=0.5))
    sharded.update(params, {"x": float(RANK), "y": 1.0})
    assert params == {"x": -7.0 - 0.5 * (SIZE - 1) / 2, "y": 1.5} and type(params["y"]) is np.float32


def check_accumulation():
    params, reference = arrays(0), arrays(0)
    sharded, plain = Sharded(fastopt.Adam()), fastopt.Adam(gradient_scale=0.5)
    with raises(RuntimeError, "broadcast(params)"):
        sharded.accumulate(arrays(1))
    sharded.broadcast(params)
    for step in range(3):
        first, second = ([arrays(200 * step + 2 * rank + part + 1) for rank in range(SIZE)] for part in range(2))
        sharded.accumulate(first[RANK])
        with raises(RuntimeError, "update() got gradients, but 1 were accumulated"):
            sharded.update(params, second[RANK])
        sharded.accumulate(second[RANK])
        sharded.update(params)
        both = [{key: one[key] + other[key] for key in one} for one, other in zip(first, second, strict=True)]
        plain.update(reference, added_up(both))
    with raises(TypeError, "got no gradients"):
        sharded.update(params)
    for _ in range(RANK + 1):
        sharded.accumulate(first[RANK])
    if SIZE > 1:
        with raises(ValueError, "accumulated gradients"):
            sharded.update(params)
    sharded.discard_accumulated()
    assert sharded.accumulated == 0
    with raises(AttributeError, "takes no steps back"):
        sharded.trial(params)
    assert_alike(sharded, plain, params, reference)


def check_hessian():
    params, reference = arrays(0), arrays(0)
    sharded, plain = Sharded(fastopt.Sophia()), fastopt.Sophia()
    for step in range(2):
        gradients = [arrays(100 * step + rank + 1) for rank in range(SIZE)]
        sharded.update_hessian(params, gradients[RANK])
        plain.update_hessian(reference, added_up(gradients))
        sharded.update(params, gradients[RANK])
        plain.update(reference, added_up(gradients))
    assert_alike(sharded, plain, params, reference)
    with raises(AttributeError, "update_hessian"):
        Sharded(fastopt.SGD()).update_hessian(params, params)


def check_reports():
    params, reference = arrays(0), arrays(0)
    sharded, plain = Sharded(fastopt.Adam()), fastopt.Adam()
    gradients = [arrays(rank + 1) for rank in range(SIZE)]
    found = sharded.update(params, gradients[RANK], report=True)
    expected = plain.update(reference, added_up(gradients), report=True)
    same_on_all(repr(found))
    for one, other in ((found, expected), (found.by_key["W"], expected.by_key["W"])):
        for name in ("gradient_norm", "parameter_norm", "update_norm", "zero_share", "nonfinite_share", "size"):
            assert math.isclose(getattr(one, name), getattr(other, name), rel_tol=1e-12), name
    assert_alike(sharded, plain, params, reference)


def check_checkpoints():
    folder = COMM.bcast(tempfile.mkdtemp() if RANK == 0 else None)
    path = os.path.join(folder, "adam.safetensors")
    makes = [
        lambda: fastopt.Adam(groups={"b*": {"lr": 0.1}}, averaging=fastopt.EMA(decay=0.5)),
        lambda: fastopt.Muon(),
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
    assert (other.lr, other.iter, other.m) == (0.125, 0, None)
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


def check_bfloat16_transport():
    params, exact = ({"W": np.zeros((33, 7), np.float32)} for _ in range(2))
    sharded, plain = (
        Sharded(fastopt.SGD(lr=1.0), reduce="sum", transport="bfloat16"),
        Sharded(fastopt.SGD(lr=1.0), reduce="sum"),
    )
    for step in range(50):
        gradient = {"W": np.random.default_rng(SIZE * step + RANK).standard_normal((33, 7)).astype(np.float32)}
        sharded.update(params, gradient)
        plain.update(exact, gradient)
    # Error feedback: what is missing is what waits, not what fifty roundings took.
    assert np.abs(params["W"] - exact["W"]).max() <= SIZE * 2.0**-8 * 5
    assert sharded._exchange.lines[0].bytes_sent < plain._exchange.lines[0].bytes_sent or SIZE == 1
    sharded.check_synced(params)
    other = Sharded(fastopt.SGD(), transport="bfloat16")
    special = np.array([np.nan, np.inf, -np.inf, 1e38, 1.0, -0.0, 1e-40], np.float32)
    target = {"x": np.zeros(7, np.float32)}
    other.update(target, {"x": special if RANK == 0 else np.zeros(7, np.float32)})
    assert [math.isnan(target["x"][0]), target["x"][1], target["x"][2]] == [True, -math.inf, math.inf]


# -- all ranks raise the same, before anything is written -----------------------------------------------------------------


def check_differences():
    if SIZE == 1:
        return
    last = RANK == SIZE - 1
    who = f"rank {SIZE - 1}"

    def refused(kind, params, grads, *parts, optimizer=None):
        sharded = Sharded(fastopt.Adam()) if optimizer is None else optimizer
        before = {key: np.array(value) for key, value in params.items()}
        with raises(kind, *parts) as error:
            sharded.update(params, grads)
        same_on_all(error.text)
        for key in params:
            assert_same_bits(np.array(params[key]), before[key])
        assert sharded.iter == 0

    name = "c" if last else "b"
    refused(ValueError, {"W": np.ones(3), name: np.ones(2)}, {"W": np.ones(3), name: np.ones(2)}, who, "params['b']")
    shape = (3, 4) if last else (4, 3)
    refused(ValueError, {"W": np.ones(shape)}, {"W": np.ones(shape)}, who, "params['W']", "(3, 4)", "(4, 3)")
    dtype = np.float32 if last else np.float64
    refused(ValueError, {"W": np.ones(3, dtype)}, {"W": np.ones(3)}, who, "params['W']", "float32", "float64")
    order = ("b", "a") if last else ("a", "b")
    ordered = dict.fromkeys(order, 1.0)
    refused(ValueError, dict(ordered), dict(ordered), who, "order")
    refused(ValueError, {"W": np.ones(3)}, {"W": np.ones(2) if last else np.ones(3)}, who, "grads['W']", "(2,)")
    refused(ValueError, {"W": np.ones(3)}, {"W": None if last else np.ones(3)}, who, "grads['W']", "None")
    refused(KeyError, {"W": np.ones(3)}, {} if last else {"W": np.ones(3)}, who, "W")
    sharded = Sharded(fastopt.Adam())
    sharded.lr = 0.5 if last else 0.25
    refused(ValueError, {"W": np.ones(3)}, {"W": np.ones(3)}, who, "lr = 0.5", "0.25", optimizer=sharded)
    sharded = Sharded(fastopt.Adam(groups={"W": {"lr": 0.5}}))
    sharded.groups["W"]["lr"] = 0.75 if last else 0.5
    refused(ValueError, {"W": np.ones(3)}, {"W": np.ones(3)}, who, "groups['W']['lr']", "0.75", optimizer=sharded)
    with raises(ValueError, who, "SGD"):
        Sharded(fastopt.SGD() if last else fastopt.Adam())
    sharded = Sharded(fastopt.Adam())
    params = {"W": np.ones(3)}
    with raises(ValueError, who, "check_synced", "update"):
        sharded.check_synced(params) if last else sharded.update(params, params)
    params["W"][1] = RANK
    with raises(RuntimeError, "rank 1", "params['W']", "broadcast"):
        sharded.check_synced(params)


def check_what_cannot_work():
    with raises(TypeError, "Sharded"):
        Sharded(fastopt.Adam)
    with raises(ValueError, "reduce", "'max'"):
        Sharded(fastopt.Adam(), reduce="max")
    with raises(ValueError, "transport"):
        Sharded(fastopt.Adam(), transport="float16")
    stepped = fastopt.Adam()
    stepped.update({"W": np.ones(3)}, {"W": np.ones(3)})
    with raises(ValueError, "stepped already"):
        Sharded(stepped)
    shared = np.ones(40)
    with raises(ValueError, "share memory"):
        Sharded(fastopt.Adam()).update({"a": shared, "b": shared}, {"a": shared, "b": shared})
    sharded = Sharded(fastopt.Adam())
    sharded.update({"W": np.ones(3)}, {"W": np.ones(3)})
    with raises(KeyError, "'V'"):
        sharded.update({"V": np.ones(3)}, {"V": np.ones(3)})
    with raises(ValueError, "centralize"):
        sharded.centralize = True
        sharded.update({"W": np.ones(3)}, {"W": np.ones(3)})
    with raises(AttributeError, "learning_rate"):
        sharded.learning_rate  # noqa: B018
    with raises(AttributeError, "learning_rate"):
        sharded.learning_rate = 1.0
    with raises(ValueError, "lr"):
        sharded.lr = -1.0


def main(names):
    checks = {name: check for name, check in globals().items() if name.startswith("check_")}
    for name in names or checks:
        start = time.perf_counter()
        try:
            checks[name]()
        except BaseException:
            print(f"{name} failed on rank {RANK} of {SIZE}", file=sys.stderr, flush=True)
            raise
        if RANK == 0 and os.environ.get("FASTOPT_TEST_TIMES"):
            print(f"{time.perf_counter() - start:6.2f} s {name}", flush=True)
    COMM.Barrier()
    if RANK == 0:
        print(f"all {len(names or checks)} passed on {SIZE}")


if __name__ == "__main__":
    main(sys.argv[1:])
