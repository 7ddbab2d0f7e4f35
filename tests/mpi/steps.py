"""Steps of several processes have the bits of one."""

import math
import os
import tempfile

import numpy as np

import fastopt
import fastopt.mpi
from fastopt import Rows, schedules
from fastopt.kernels import RULES
from fastopt.mpi import Sharded
from fastopt.optimizers import OPTIMIZERS
from tests.conftest import ELEMENTWISE, ONE_OF_EACH_KIND, assert_same_bits
from tests.mpi.support import COMM, RANK, SIZE, added_up, arrays, assert_alike, compare, raises, same_on_all


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
    for kind in (fastopt.Muon, fastopt.Adafactor, fastopt.Shampoo, fastopt.SOAP):
        compare(kind)
    compare(lambda: fastopt.Muon(normalize_rows=True))
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


def check_clipping():
    def large(step, gradients):
        for gradient in gradients:
            gradient["V"][...] *= 1e200  # the squares of which overflow

    compare(lambda: fastopt.Adam(clip_norm=0.5, clip_value=0.1))
    compare(lambda: fastopt.Adam(clip_array_norm=0.5))
    compare(lambda: fastopt.Adam(cautious=True))
    compare(lambda: fastopt.SGD(clip_norm=0.5), change=large)
    # A process that has none of the group's arrays takes part in what they add up.
    for more in ({}, {"clip_norm": 0.5}):
        compare(lambda more=more: fastopt.Adam(groups={"b": {"cautious": True}}, **more))
        compare(lambda more=more: fastopt.SGD(groups={"b": {"clip_array_norm": 0.5}}, **more))
        compare(lambda more=more: fastopt.SGD(groups={"b": {"clip_array_norm": 0.5}}, **more), change=large)
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
