"""EMA, SWA and Lookahead: in the pass of the step, with the reference's bits."""

import copy
import re

import numpy as np
import pytest

import fastopt
from fastopt import EMA, SWA, Lookahead, Rows, reference, schedules, threads
from tests.conftest import ONE_OF_EACH_KIND, THREAD_COUNTS, Pair, assert_same_bits, python
from tests.kernels.test_compile import FLOAT64_ARITHMETIC, WIDTHS, machine_code

SHAPES = {"W": (130, 70), "b": (70,), "sometimes": (3, 2), "frozen": (2,), "none": (0,), "one": ()}
BOTH = {"averaging": EMA(0.9), "lookahead": Lookahead(every=2, alpha=0.7)}


def model(dtype="float32", seed=0):
    rng = np.random.default_rng(seed)
    return {key: np.asarray(rng.standard_normal(shape)).astype(dtype) for key, shape in SHAPES.items()}


def assert_same_averages(pair):
    for slot in ("weight_average", "slow_weights"):
        fast, plain = getattr(pair.fast, slot), getattr(pair.plain, slot)
        assert (fast is None) == (plain is None)
        for key in plain or ():
            assert_same_bits(fast[key], plain[key])


def assert_equals_reference(rule, dtype="float32", count=1, steps=7, fast=None, report=False, **settings):
    fast, pair = model(dtype) if fast is None else fast, Pair(rule, **settings)
    plain = {key: np.array(value, order="K") for key, value in fast.items()}
    with threads.exactly(count):
        for step in range(steps):
            grads = {key: value.astype(plain[key].dtype) for key, value in model("float64", step + 1).items()}
            if step in (0, 3) and not isinstance(fast, fastopt.FlatDict):
                grads["sometimes"] = None
            pair.update(fast, plain, fastopt.flatten(grads) if isinstance(fast, fastopt.FlatDict) else grads)
    for key in fast:
        assert_same_bits(fast[key], plain[key])
    pair.assert_same_state()
    assert_same_averages(pair)
    return pair.fast, fast


@pytest.mark.parametrize("rule", [*ONE_OF_EACH_KIND, "lamb", "asgd", "ademamix"])  # the last have slots of like names
def test_each_kind_of_rule_equals_its_reference(rule):
    assert_equals_reference(rule, **BOTH)


@pytest.mark.parametrize("count", THREAD_COUNTS)
@pytest.mark.parametrize("settings", [BOTH, {"averaging": SWA(2, 3)}, {"lookahead": Lookahead(3)}])
def test_any_number_of_threads(settings, count):
    assert_equals_reference("momentum", count=count, **settings)


def test_with_all_other_settings():
    groups = {"b": {"lr": 0.3, "clip_array_norm": 0.1}, "frozen": {"frozen": True}}
    others = {"weight_decay": 0.1, "decoupled": True, "clip_norm": 3.0, "clip_value": 0.5, "maximize": True}
    assert_equals_reference("momentum", "float64", groups=groups, **others, **BOTH)
    optimizer, _ = assert_equals_reference("momentum", "float32", groups=groups, averaging=SWA(3, 2), **others)
    assert_same_bits(optimizer.weight_average["frozen"], model()["frozen"])


def test_mixed_dtypes_orders_numbers_and_one_buffer():
    mixed = model()
    mixed |= {"b": mixed["b"].astype("float64"), "W": np.asfortranarray(mixed["W"])}
    mixed["sometimes"] = np.zeros((6, 4), "float32")[::2, ::2]  # not contiguous
    assert_equals_reference("momentum", fast=mixed, **BOTH)
    assert_equals_reference("momentum", fast=fastopt.flatten(model()), **BOTH)
    bare, other = np.ones(3), np.ones(3)
    fast, plain = fastopt.SGD(lr=0.5, **BOTH), reference.SGD(lr=0.5, **BOTH)
    numbers, plain_numbers = {"a": 1.0, "b": np.float32(2)}, {"a": 1.0, "b": np.float32(2)}
    fast_numbers, slow_numbers = fastopt.SGD(lr=0.5, **BOTH), reference.SGD(lr=0.5, **BOTH)
    for step in range(5):
        g, gradients = np.full(3, step / 7), {"a": 0.3, "b": None if step == 2 else 0.4}
        fast.update(bare, g)
        plain.update(other, g)
        fast_numbers.update(numbers, gradients)
        slow_numbers.update(plain_numbers, gradients)
    assert_same_bits(bare, other)
    assert_same_bits(fast.weight_average, plain.weight_average[None])
    assert numbers == plain_numbers and fast_numbers.weight_average == slow_numbers.weight_average
    with fast_numbers.averaged_weights(numbers):
        assert numbers == {key: value[()] for key, value in slow_numbers.weight_average.items()}
        assert type(numbers["a"]) is float and type(numbers["b"]) is np.float32
    assert numbers == plain_numbers


@pytest.mark.parametrize("count", THREAD_COUNTS[:2])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("averaging", [EMA(0.9), SWA(2, 2)])
def test_averages_are_of_all_rows_where_gradients_are_of_some(averaging, dtype, count):
    """Those of a table under two keys, of one that rests and of one whose gradient is an array now and then too."""
    rng = np.random.default_rng(0)
    groups = {"wide": {"lr": 0.3, "clip_array_norm": 0.1}}
    pair = Pair("momentum", averaging=averaging, groups=groups, weight_decay=0.1)
    fast = {"e": rng.standard_normal((50, 3)).astype(dtype), "wide": rng.standard_normal((3, 9000)).astype(dtype)}
    fast |= {"W": np.ones((5, 2)), "rests": np.ones((4, 2), np.float32), "none": np.ones((0, 2))}
    fast["same"] = fast["e"]
    plain = copy.deepcopy(fast)
    with threads.exactly(count):
        for step in range(6):
            grads = {
                key: Rows(rng.integers(0, len(p), 4 if len(p) else 0), np.zeros((0, 2))) for key, p in fast.items()
            }
            for key, rows in grads.items():
                rows.values = rng.standard_normal((len(rows.indices), *fast[key].shape[1:]))
            grads |= {"W": np.ones((5, 2)), "rests": None if step % 2 else grads["rests"]}
            if step > 2:
                grads["wide"] = rng.standard_normal((3, 9000)) if step == 3 else None
            pair.update(fast, plain, grads)
            for key in fast:
                assert_same_bits(fast[key], plain[key])
            assert_same_averages(pair)
    pair.assert_same_state()


def test_rows_that_skip_steps_and_lookahead_are_refused_with_averages():
    for settings, exact, words in (
        (
            {"lookahead": Lookahead(), "averaging": EMA()},
            False,
            r"Rows leave most of an array",
        ),
        ({"averaging": EMA()}, True, "Rows with exact=True let rows skip steps, and averages are of weights"),
    ):
        params, optimizer = {"W": np.ones((5, 3))}, fastopt.SGD(**settings)
        with pytest.raises(ValueError, match=f"SGD: gradients that are {words}"):
            optimizer.update(params, {"W": Rows(np.array([0]), np.ones((1, 3)), exact)})
        assert (params["W"] == 1).all() and optimizer.iter == 0
    optimizer = fastopt.Momentum()
    for row in (0, 1):
        optimizer.update(params, {"W": Rows(np.array([row]), np.ones((1, 3)), exact=True)})
    optimizer.averaging = EMA()
    for gradient in (None, Rows(np.array([1]), np.ones((1, 3)))):  # row 0 is behind
        with pytest.raises(ValueError, match=r"after catch_up\(params\), or set averaging to None"):
            optimizer.update(params, {"W": gradient})
    optimizer.catch_up(params)
    optimizer.update(params, {"W": gradient})
    assert_same_bits(optimizer.weight_average["W"], params["W"])


def growing(step):
    return (1 + step) / (10 + step)


SCHEDULED = {
    "averaging": EMA(decay=growing),
    "lookahead": Lookahead(every=2, alpha=schedules.Milestones(1.0, at=(3,), gamma=0.25)),
}


@pytest.mark.parametrize("rule", ["sgd", "adam"])
def test_decay_and_alpha_may_change_from_step_to_step(rule):
    assert_equals_reference(rule, **SCHEDULED)
    expected, p = None, np.ones(3)
    optimizer = fastopt.SGD(lr=0.5, averaging=EMA(decay=growing))
    for step in range(1, 6):
        optimizer.update(p, p / step)
        expected = p.copy() if expected is None else expected + (1 - growing(step)) * (p - expected)
        assert_same_bits(optimizer.weight_average, expected)
    zero = Lookahead(every=1, alpha=lambda step: 0.0 if step == 1 else 1.0)  # an amount of zero moves nothing
    optimizer, p = fastopt.SGD(lr=1.0, lookahead=zero), np.zeros(1)
    for expected in (0.0, -2.0):
        optimizer.update(p, np.ones(1))
        assert optimizer.slow_weights.tolist() == [expected]


def test_what_is_out_of_range_at_a_step_is_refused_before_anything_is_written():
    for settings, error, words in (
        (
            {"averaging": EMA(lambda step: 0.5 * (step % 3))},
            ValueError,
            r"EMA: decay at step 2 must be in \[0, 1\), got 1",
        ),
        (
            {"averaging": EMA(lambda step: 0.5 if step < 2 else "")},
            TypeError,
            r"EMA: decay at step 2 must be a number in",
        ),
        (
            {"lookahead": Lookahead(3, lambda step: step - 0.5)},
            ValueError,
            r"Lookahead: alpha at step 2 must be in \[0, 1",
        ),
    ):
        params, optimizer = model(), fastopt.Momentum(**settings)
        optimizer.update(params, model(seed=1))
        before = copy.deepcopy((params, optimizer.state_dict()["state"]))
        with pytest.raises(error, match=words):
            optimizer.update(params, model(seed=2))
        after = params, optimizer.state_dict()["state"]
        for mine, yours in zip((after[0], *after[1].values()), (before[0], *before[1].values()), strict=True):
            for key in mine:
                assert_same_bits(mine[key], yours[key])
        assert optimizer.iter == 1 and optimizer._averaged <= 1


def test_steps_that_leave_averages_alone_run_the_plain_kernel():
    params, optimizer = model(), fastopt.SGD(averaging=SWA(3, 2), lookahead=Lookahead(4))
    kernels = []
    for step in range(1, 6):
        optimizer.update(params, model(seed=step))
        (launch,) = optimizer._plan.table.launches
        kernels.append([transforms for _, _, transforms, _ in launch.kernels])
    assert kernels[1] == [()] and kernels[2] == [(), ("averaging",)]
    assert kernels[4] == kernels[3] == [(), ("averaging",), ("lookahead",)]
    assert optimizer._averaged == 2


def test_kernels_with_averages_are_vectorised():
    code = machine_code("momentum", "float32", ("lookahead", "averaging"))
    assert re.search(rf"= fadd <{WIDTHS['float32']} x float>", code)
    assert not [line for line in code.splitlines() if FLOAT64_ARITHMETIC.search(line)]


def test_torch_keeps_the_same_averages():
    torch = pytest.importorskip("torch")
    from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

    for averaging, function in ((EMA(0.9), get_ema_multi_avg_fn(0.9)), (SWA(3, 2), None)):
        layer = torch.nn.Linear(5, 4, dtype=torch.float64)
        other, theirs = torch.optim.SGD(layer.parameters(), lr=0.1), AveragedModel(layer, multi_avg_fn=function)
        params = {name: value.detach().numpy().copy() for name, value in layer.named_parameters()}
        ours, rng = fastopt.SGD(lr=0.1, averaging=averaging), np.random.default_rng(0)
        for step in range(1, 11):
            grads = {name: rng.standard_normal(value.shape) for name, value in params.items()}
            ours.update(params, grads)
            for name, value in layer.named_parameters():
                value.grad = torch.tensor(grads[name])
            other.step()
            if function or (step >= 3 and step % 2):
                theirs.update_parameters(layer)
        for name, value in theirs.module.named_parameters():
            np.testing.assert_allclose(ours.weight_average[name], value.detach().numpy(), rtol=1e-14, atol=1e-15)


def test_lookahead_is_algorithm_1():
    fast = np.array([3.0, -2.0])
    params, slow, p = fast.copy(), fast.copy(), fast.copy()
    optimizer = fastopt.SGD(lr=0.1, lookahead=Lookahead(every=3, alpha=0.25))
    for step in range(1, 11):
        optimizer.update(params, 2 * params)
        p -= 0.1 * 2 * p
        if step % 3 == 0:
            slow += 0.25 * (p - slow)
            p = slow.copy()
        np.testing.assert_allclose(params, p, rtol=1e-14)
        np.testing.assert_allclose(optimizer.slow_weights, slow, rtol=1e-14)


def test_a_report_is_of_what_changed():
    params, before = model("float64"), model("float64")
    optimizer = fastopt.SGD(lr=0.1, averaging=EMA(0.5), lookahead=Lookahead(every=1, alpha=0.5))
    report = optimizer.update(params, model("float64", 1), report=True)
    change = np.concatenate([(params[key] - before[key]).ravel() for key in params])
    assert report.update_norm == pytest.approx(np.linalg.norm(change), rel=1e-12)
    assert report.gradient_norm == pytest.approx(20 * report.update_norm, rel=1e-12)
    assert_same_bits(optimizer.weight_average["W"], params["W"])


def test_what_is_not_finite_and_skipped_does_not_count():
    params, optimizer = {"W": np.ones(3)}, fastopt.SGD(on_nonfinite="skip", averaging=EMA(0.5), lookahead=Lookahead(2))
    optimizer.update(params, {"W": np.full(3, np.nan)})
    assert not optimizer.weight_average and not optimizer.slow_weights and optimizer._averaged == 0
    optimizer.update(params, {"W": np.ones(3)})
    assert_same_bits(optimizer.weight_average["W"], params["W"])


IN_PYTHON = """
import numpy as np, fastopt
from fastopt import reference, EMA, Lookahead, Rows
found = []
for package in (fastopt, reference):
    params = {"W": np.linspace(-1, 1, 40).reshape(8, 5), "b": np.ones(3)}
    optimizer = package.Adam(averaging=EMA(0.9), lookahead=Lookahead(2), clip_value=0.2)
    for step in range(3):
        optimizer.update(params, {"W": np.full((8, 5), 2.0), "b": np.arange(3.0) if step else None})
    found.append([x.tobytes() for x in (*params.values(), *optimizer.weight_average.values(), *optimizer.slow_weights.values())])
    optimizer = package.Adam(averaging=EMA(0.9))
    for step in range(3):
        optimizer.update(params, {"W": Rows(np.array([step, 5]), np.ones((2, 5))), "b": np.ones(3)})
    found[-1] += [x.tobytes() for x in (*params.values(), *optimizer.weight_average.values())]
print(found[0] == found[1])
"""


@pytest.mark.parametrize("setting", ["NUMBA_DISABLE_JIT", "FASTOPT_CHECK"])
def test_in_pure_python(setting):
    assert python(IN_PYTHON, **{setting: "1"}).stdout == "True\n"
