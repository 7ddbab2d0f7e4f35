"""EMA, SWA and Lookahead: in the pass of the step, with the reference's bits; swapped in and out; saved and resumed."""

import copy
import pickle
import re

import numpy as np
import pytest

import fastopt
from fastopt import EMA, SWA, Lookahead, reference, threads
from fastopt.averages import from_dict, to_dict
from tests.conftest import ONE_OF_EACH_KIND, THREAD_COUNTS, Pair, assert_same_bits, python
from tests.test_build import FLOAT64_ARITHMETIC, WIDTHS, machine_code

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


def test_steps_that_leave_averages_alone_run_the_plain_kernel():
    params, optimizer = model(), fastopt.SGD(averaging=SWA(3, 2), lookahead=Lookahead(4))
    kernels = []
    for step in range(1, 6):
        optimizer.update(params, model(seed=step))
        (launch,) = optimizer._plan._launches
        kernels.append([options for _, _, options in launch.kernels])
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
    assert optimizer.weight_average is None and optimizer.slow_weights is None and optimizer._averaged == 0
    optimizer.update(params, {"W": np.ones(3)})
    assert_same_bits(optimizer.weight_average["W"], params["W"])


# -- swapped in and out -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("flat", [False, True])
def test_averaged_weights_come_and_go(flat):
    optimizer, params = assert_equals_reference("momentum", fast=fastopt.flatten(model()) if flat else None, **BOTH)
    params["W"][0, :3] = -0.0, np.nan, np.inf
    before, arrays = copy.deepcopy(dict(params)), dict(params)
    averaged = optimizer.averaged(params)
    for error in (None, KeyError, KeyboardInterrupt):
        try:
            with optimizer.averaged_weights(params) as inside:
                assert inside is params
                for key, value in params.items():
                    assert_same_bits(value, optimizer.weight_average[key])
                    assert_same_bits(value, averaged[key])
                    value += 1  # what is done in between is lost
                if error:
                    raise error
        except (KeyError, KeyboardInterrupt):
            pass
        for key, value in params.items():
            assert value is arrays[key]
            assert value.tobytes() == before[key].tobytes()
    optimizer.update(params, fastopt.flatten(model(seed=9)) if flat else model(seed=9))


def test_bare_arrays_some_of_the_parameters_and_orders():
    p, optimizer = np.asfortranarray(np.ones((3, 2))), fastopt.Adam(averaging=EMA(0.5))
    optimizer.update(p, np.ones((3, 2)))
    optimizer.update(p, np.ones((3, 2)))
    before = p.copy()
    with optimizer.averaged_weights(p):
        assert_same_bits(p, optimizer.weight_average)
        assert not np.array_equal(p, before)
    assert_same_bits(p, before)
    params, optimizer = model(), fastopt.SGD(averaging=EMA(0.5))
    optimizer.update(params, model(seed=1))
    optimizer.update(params, model(seed=2))
    with optimizer.averaged_weights({"b": params["b"]}):
        assert_same_bits(params["b"], optimizer.weight_average["b"])
    assert list(optimizer.averaged({"b": params["b"]})) == ["b"]


def test_schedule_free_has_its_own_average():
    params, optimizer = {"W": np.ones(3)}, fastopt.ScheduleFreeSGD(lr=0.1)
    for _ in range(3):
        optimizer.update(params, {"W": np.ones(3)})
    expected, before = optimizer.averaged(params)["W"], params["W"].copy()
    with optimizer.averaged_weights(params):
        assert_same_bits(params["W"], expected)
    assert_same_bits(params["W"], before)


def test_errors_come_before_anything_is_written():
    params, optimizer = model(), fastopt.SGD()

    def refused(error, words, params=params):
        before = copy.deepcopy(params)
        with pytest.raises(error, match=words), optimizer.averaged_weights(params):
            raise AssertionError("entered")
        for key, value in before.items():
            assert_same_bits(params[key], value)

    refused(RuntimeError, r"SGD: there is no average of the weights; ask for one: averaging=EMA\(decay=0.999\)")
    optimizer.averaging = SWA(start=3)
    optimizer.update(params, model(seed=1))
    refused(RuntimeError, r"no average of the weights yet, after 1 steps with SWA\(start=3, every=1\); make more steps")
    for seed in (2, 3):
        optimizer.update(params, model(seed=seed))
    refused(KeyError, r"params\['X'\] was not there", params | {"X": np.ones(2)})
    refused(ValueError, r"params\['W'\] has shape \(2,\)", params | {"W": np.ones(2, "float32")})
    refused(TypeError, r"params\['b'\] has dtype float64", params | {"b": np.ones(70)})
    fixed = params | {"b": params["b"].copy()}
    fixed["b"].setflags(write=False)
    refused(ValueError, r"params\['b'\] is read-only", fixed)
    with optimizer.averaged_weights(params):
        for act in (
            lambda: optimizer.update(params, model()),
            optimizer.state_dict,
            lambda: copy.deepcopy(optimizer),
            lambda: optimizer.averaged_weights(params).__enter__(),
        ):
            with pytest.raises(RuntimeError, match="the parameters are the averaged weights"):
                act()


def of_a_name_taken(p, g, slow_weights, lr):
    return p - lr * g, slow_weights


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda: EMA(1.0), ValueError, r"EMA: decay must be in \[0, 1\), got 1.0"),
        (lambda: EMA("0.9"), TypeError, r"EMA: decay must be a number in \[0, 1\), got '0.9' of type str"),
        (lambda: SWA(0), ValueError, "SWA: start must be a whole number of steps, 1 or more, got 0"),
        (
            lambda: SWA(1, every=2.0),
            TypeError,
            "SWA: every must be a whole number of steps, 1 or more, got 2.0 of type",
        ),
        (lambda: Lookahead(every=0), ValueError, "Lookahead: every must be a whole number of steps, 1 or more, got 0"),
        (lambda: Lookahead(alpha=1.5), ValueError, r"Lookahead: alpha must be in \[0, 1\], got 1.5"),
        (
            lambda: fastopt.SGD(averaging=0.999),
            TypeError,
            "SGD: averaging must be None or EMA or SWA of fastopt, got 0.99",
        ),
        (
            lambda: fastopt.SGD(lookahead=EMA()),
            TypeError,
            r"SGD: lookahead must be None or Lookahead of fastopt, got EMA\(",
        ),
        (
            lambda: fastopt.SGD(groups={"b": {"averaging": EMA()}}),
            ValueError,
            r"groups\['b'\] cannot have 'averaging'",
        ),
        (lambda: fastopt.rule(state=("slow_weights",), lr=0.1)(of_a_name_taken), ValueError, "slow_weights"),
    ],
)
def test_bad_settings(make, error, words):
    with pytest.raises(error, match=words):
        make()


# -- between steps ----------------------------------------------------------------------------------------------------


def test_asked_for_later_and_no_more():
    params, pair = model(), Pair("momentum", lr=0.1)
    plain = copy.deepcopy(params)
    for step in range(12):
        if step == 3:
            for optimizer in (pair.fast, pair.plain):
                optimizer.lookahead = Lookahead(2)
        if step == 5:
            for optimizer in (pair.fast, pair.plain):
                optimizer.averaging = EMA(0.5)
        if step == 8:
            for optimizer in (pair.fast, pair.plain):
                optimizer.averaging = optimizer.lookahead = None
        if step == 10:
            for optimizer in (pair.fast, pair.plain):
                optimizer.averaging = SWA(11)
        pair.update(params, plain, model(seed=step + 1))
        if step == 8:
            kept = pair.fast.weight_average["W"].copy()
        if step == 9:
            assert_same_bits(pair.fast.weight_average["W"], kept)
        for key in params:
            assert_same_bits(params[key], plain[key])
        pair.assert_same_state()
        assert_same_averages(pair)
    pair.fast.weight_average = None
    assert pair.fast.weight_average is None and pair.fast.v is None and pair.fast._averaged == 0


def test_averages_begin_with_all_parameters():
    for averaging, steps in ((EMA(0.5), 0), (SWA(3), 1)):
        params, optimizer = model(), fastopt.SGD(on_nonfinite="raise")
        optimizer.lookahead = Lookahead()
        optimizer.update(params, model(seed=1))
        optimizer.averaging = averaging
        for seed in range(steps):
            optimizer.update(params, model(seed=seed))
        some, before = {"b": params["b"]}, params["b"].copy()
        with pytest.raises(
            ValueError, match="averages of the weights begin with all parameters, but params has no 'W'"
        ):
            optimizer.update(some, model(seed=2))
        assert_same_bits(params["b"], before)
        optimizer.update(params, model(seed=2))
        optimizer.update(some, model(seed=3))


def test_a_rule_of_ones_own_and_sophia():
    @fastopt.rule(state=("v",), lr=0.01, momentum=0.9)
    def my_momentum(p, g, v, lr, momentum):
        v = momentum * v - lr * g
        return p + v, v

    params, others = model(), model()
    own, known = my_momentum(**BOTH), fastopt.Momentum(**BOTH)
    for step in range(4):
        own.update(params, model(seed=step))
        known.update(others, model(seed=step))
    for key in params:
        assert_same_bits(own.weight_average[key], known.weight_average[key])
        assert_same_bits(params[key], others[key])
    pair, params, plain = Pair("sophia", **BOTH), model(), model()
    for optimizer, p in ((pair.fast, params), (pair.plain, plain)):
        optimizer.update_hessian(p, model(seed=1))
    pair.update(params, plain, model(seed=2))
    pair.update(params, plain, model(seed=3))
    assert_same_averages(pair)


@pytest.mark.parametrize("way", ["copy", "pickle", "dict", "file"])
def test_saved_and_resumed(way, tmp_path):
    for settings in (BOTH, {"averaging": SWA(2, 2)}, {"lookahead": Lookahead(4)}):
        for kind in (fastopt.SGD, fastopt.Momentum):
            saved, params = kind(**settings), model()
            for step in range(3):
                saved.update(params, model(seed=step))
            if way == "copy":
                loaded = copy.deepcopy(saved)
            elif way == "pickle":
                loaded = pickle.loads(pickle.dumps(saved))
            elif way == "dict":
                loaded = kind()
                loaded.load_state_dict(saved.state_dict())
            else:
                saved.save(tmp_path / "state")
                loaded = kind()
                loaded.load(tmp_path / "state")
            other = copy.deepcopy(params)
            for step in (3, 4):
                saved.update(params, model(seed=step))
                loaded.update(other, model(seed=step))
            assert (loaded.averaging, loaded.lookahead) == (saved.averaging, saved.lookahead)
            for key in params:
                assert_same_bits(params[key], other[key])
                for slot in ("weight_average", "slow_weights"):
                    if getattr(saved, slot) is not None:
                        assert_same_bits(getattr(saved, slot)[key], getattr(loaded, slot)[key])


@pytest.mark.parametrize("kind", [fastopt.SGD, fastopt.Momentum])
def test_a_file_without_averages_and_one_with(kind, tmp_path):
    plain, params = kind(), model()
    plain.update(params, model(seed=1))
    plain.save(tmp_path / "without")
    for stepped in (False, True):
        optimizer, other = kind(**BOTH), copy.deepcopy(params)
        if stepped:
            optimizer.update(other, model(seed=5))
        optimizer.load(tmp_path / "without")
        assert optimizer.averaging == EMA(0.9) and optimizer.weight_average is None and optimizer._averaged == 0
        optimizer.update(other, model(seed=2))
        assert_same_bits(optimizer.weight_average["W"], other["W"])
    optimizer.save(tmp_path / "with")
    again = kind()
    again.update(model(), model(seed=7))
    again.load(tmp_path / "with")
    assert again.averaging == EMA(0.9) and again.lookahead == BOTH["lookahead"]
    assert_same_bits(again.weight_average["W"], optimizer.weight_average["W"])


def test_parts_of_a_file_and_damaged_ones():
    saved, params = fastopt.Momentum(**BOTH), model()
    saved.update(params, model(seed=1))
    content = saved.state_dict()
    for state in content["state"].values():
        del state["b"]
    without, both = fastopt.Momentum(), fastopt.Momentum(**BOTH)
    for optimizer in (without, both):
        optimizer.update(model(), model(seed=2))
        assert optimizer.load_state_dict(content, strict=False).missing == ["b"]
    assert without.weight_average is None and without._averaged == 0, "b has none, so it begins anew"
    assert_same_bits(both.weight_average["W"], saved.weight_average["W"])
    assert not np.array_equal(both.weight_average["b"], saved.weight_average["b"])
    content = saved.state_dict()
    del content["state"]["weight_average"]["b"]
    with pytest.raises(fastopt.CheckpointError, match="weight_average and v in state_dict have different keys"):
        fastopt.Momentum().load_state_dict(content)
    content = saved.state_dict()
    content["hyperparameters"]["averaging"] = 0.9
    with pytest.raises(fastopt.CheckpointError, match="averaging must be None or EMA or SWA"):
        fastopt.Momentum().load_state_dict(content)
    for value in (EMA(0.5), SWA(2, 3), Lookahead(4, 0.1)):
        assert from_dict("lookahead" if isinstance(value, Lookahead) else "averaging", to_dict(value)) == value
    for plain in (
        1,
        {"average": "Adam"},
        {"average": "EMA"},
        {"average": "EMA", "decay": 2.0},
        {"average": "EMA", "x": 1},
    ):
        with pytest.raises(ValueError):
            from_dict("averaging", plain)


IN_PYTHON = """
import numpy as np, fastopt
from fastopt import reference, EMA, Lookahead
found = []
for package in (fastopt, reference):
    params = {"W": np.linspace(-1, 1, 40).reshape(8, 5), "b": np.ones(3)}
    optimizer = package.Adam(averaging=EMA(0.9), lookahead=Lookahead(2), clip_value=0.2)
    for step in range(3):
        optimizer.update(params, {"W": np.full((8, 5), 2.0), "b": np.arange(3.0) if step else None})
    found.append([x.tobytes() for x in (*params.values(), *optimizer.weight_average.values(), *optimizer.slow_weights.values())])
print(found[0] == found[1])
"""


@pytest.mark.parametrize("setting", ["NUMBA_DISABLE_JIT", "FASTOPT_CHECK"])
def test_in_pure_python(setting):
    assert python(IN_PYTHON, **{setting: "1"}).stdout == "True\n"
