"""EMA, SWA and Lookahead between steps: swapped in and out, asked for later, saved and resumed, refused."""

import copy
import pickle

import numpy as np
import pytest

import fastopt
from fastopt import EMA, SWA, Lookahead, schedules
from fastopt.averages import from_dict, to_dict
from tests.conftest import Pair, assert_same_bits
from tests.optimizers.test_averages import BOTH, assert_equals_reference, assert_same_averages, model

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
    refused(KeyError, r"params\['X'\] has no state", params | {"X": np.ones(2)})
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
        (
            lambda: EMA("0.9"),
            TypeError,
            r"EMA: decay must be a number in \[0, 1\) or a schedule, got '0.9' of type str",
        ),
        (lambda: SWA(0), ValueError, "SWA: start must be a whole number of steps, 1 or more, got 0"),
        (
            lambda: SWA(1, every=2.0),
            TypeError,
            "SWA: every must be a whole number of steps, 1 or more, got 2.0 of type",
        ),
        (lambda: Lookahead(every=0), ValueError, "Lookahead: every must be a whole number of steps, 1 or more, got 0"),
        (lambda: Lookahead(alpha=1.5), ValueError, r"Lookahead: alpha must be in \[0, 1\], got 1.5"),
        (lambda: EMA(lambda step: 1.0), ValueError, r"EMA: decay at step 1 must be in \[0, 1\), got 1.0"),
        (lambda: EMA(float), TypeError, r"EMA: decay must be a number in \[0, 1\) or a schedule, got <class 'float'>"),
        (lambda: Lookahead(alpha=lambda step: None), TypeError, r"Lookahead: alpha at step 1 must be a number in"),
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
    assert not pair.fast.weight_average and not pair.fast.v and pair.fast._averaged == 0


def test_averages_of_parameters_that_are_not_there_begin_later():
    pair, params, plain = Pair("momentum"), model(), model()
    pair.update(params, plain, model(seed=1))
    pair.fast.averaging = pair.plain.averaging = SWA(2)
    for seed, keys in enumerate([["b"], ["b"], list(params), ["W"], list(params)]):
        some, others = ({key: arrays[key] for key in keys} for arrays in (params, plain))
        pair.update(some, others, model(seed=seed))
        if seed == 0:
            with pytest.raises(RuntimeError, match=r"no average of params\['W'\] yet, after 2 steps with SWA"):
                pair.fast.averaged(params)
    assert_same_averages(pair)


def test_slow_weights_begin_with_all_parameters():
    params, optimizer = model(), fastopt.SGD(averaging=EMA(0.5))
    optimizer.update(params, model(seed=1))
    optimizer.lookahead = Lookahead()
    some, before = {"b": params["b"]}, params["b"].copy()
    with pytest.raises(ValueError, match=r"slow weights begin as the parameters, but params has no 'W'.*or `forget`"):
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


@pytest.mark.parametrize("way", ["copy", "pickle", "dict", "file"])
def test_schedules_of_averages_are_saved_and_resumed(way, tmp_path):
    plateau = schedules.ReduceOnPlateau(0.9, factor=0.5, patience=0)
    saved = fastopt.SGD(averaging=EMA(plateau), lookahead=Lookahead(2, schedules.Linear(1.0, 0.5, steps=4)))
    params = model()
    plateau.observe(1.0)
    saved.update(params, model(seed=1))
    if way == "file":
        saved.save(tmp_path / "state")
        loaded = fastopt.SGD()
        loaded.load(tmp_path / "state")
    elif way == "dict":
        loaded = fastopt.SGD()
        loaded.load_state_dict(saved.state_dict())
    else:
        loaded = copy.deepcopy(saved) if way == "copy" else pickle.loads(pickle.dumps(saved))
    assert loaded.averaging.decay == plateau and loaded.lookahead == saved.lookahead
    other = copy.deepcopy(params)
    for step in (2, 3, 4):
        for optimizer, p in ((saved, params), (loaded, other)):
            optimizer.averaging.decay.observe(2.0)
            optimizer.update(p, model(seed=step))
    assert loaded.averaging.decay is not plateau and plateau(1) == loaded.averaging.decay(1) < 0.9
    for key in params:
        assert_same_bits(params[key], other[key])
        assert_same_bits(saved.weight_average[key], loaded.weight_average[key])


def test_functions_of_averages_are_kept_but_in_files(tmp_path):
    optimizer = fastopt.SGD(averaging=EMA(lambda step: 0.5))
    again = fastopt.SGD()
    again.load_state_dict(optimizer.state_dict())
    assert again.averaging == optimizer.averaging
    with pytest.raises(
        fastopt.CheckpointError, match=r"SGD: decay of averaging is a function .* a file holds no code; make it of the"
    ):
        optimizer.save(tmp_path / "state")
    assert not list(tmp_path.iterdir())


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
        assert optimizer.averaging == EMA(0.9) and not optimizer.weight_average and optimizer._averaged == 0
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
    assert not without.weight_average and without._averaged == 0, "b has none, so it begins anew"
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
