"""Settings `cautious` and `cautious_decay`: steps and decay of elements that disagree are left out."""

import copy

import numpy as np
import pytest

import fastopt
from fastopt import Rows, threads
from fastopt.optimizers import OPTIMIZERS
from tests.conftest import THREAD_COUNTS, Pair, assert_same_bits, python

BOTH = {"cautious": True, "cautious_decay": True, "weight_decay": 0.1, "decoupled": True}
# An elementwise rule, one with norms, one with whole arrays.
CASES = [
    pytest.param(rule, settings, dtype, id=f"{rule}-{dtype}-{len(settings)}")
    for rule, settings, dtype in [
        ("adam", {"cautious": True}, "float32"),
        ("adam", BOTH, "float32"),
        ("adam", BOTH, "float64"),
        ("lamb", {"cautious": True, "clip_value": 0.5}, "float32"),
        ("muon", BOTH, "float32"),
        ("adam", {"cautious": True, "centralize": True, "averaging": fastopt.EMA(0.9)}, "float32"),
    ]
]


def arrays(dtype, seed):
    rng = np.random.default_rng(seed)
    shapes = {"W": (131, 97), "b": (97,), "x": (), "none": (0,)}
    return {name: np.asarray(rng.standard_normal(shape)).astype(dtype) for name, shape in shapes.items()}


@pytest.mark.parametrize(("rule", "settings", "dtype"), CASES)
def test_equals_the_reference_for_any_number_of_threads(rule, settings, dtype):
    for count in THREAD_COUNTS[:3]:
        fast, plain, pair = arrays(dtype, 0), arrays(dtype, 0), Pair(rule, **copy.deepcopy(settings))
        with threads.exactly(count):
            for step in range(5):
                pair.update(fast, plain, arrays(dtype, step + 1))
        for name in fast:
            assert_same_bits(fast[name], plain[name])
        pair.assert_same_state()


def test_by_hand():
    """v is 1, -1, 1 after the first step; then the steps of elements 1 and 2 go along their gradients."""
    params, optimizer = {"W": np.zeros(4)}, fastopt.Momentum(lr=1.0, momentum=0.5, cautious=True)
    optimizer.update(params, {"W": np.array([-1.0, 1.0, -1.0, 0.0])})
    assert params["W"].tolist() == [4 / 3, -4 / 3, 4 / 3, 0]  # of four elements three move
    before = params["W"].copy()
    optimizer.update(params, {"W": np.array([-1.0, -0.25, 0.25, 0.0])})
    assert optimizer.v["W"].tolist() == [1.5, -0.25, 0.25, 0.0]
    assert params["W"].tolist() == pytest.approx([before[0] + 4 * 1.5, *before[1:]])


def test_decay_by_hand():
    settings = {"lr": 0.5, "weight_decay": 0.5, "decoupled": True, "cautious_decay": True}
    params, optimizer = {"W": np.array([1.0, -1.0, 1.0, 0.0])}, fastopt.SGD(**settings)
    optimizer.update(params, {"W": np.array([1.0, 1.0, 0.0, 1.0])})
    # The step moves element 1 away from zero.
    assert params["W"].tolist() == [0.5 - 0.25, -1.5, 1.0 - 0.25, -0.5]


def test_decay_as_in_the_paper(rng):
    """Algorithm 1: x = x - lr (u + weight_decay 1[u x >= 0] x), with u of Adam."""
    x, m, v = rng.standard_normal(50), np.zeros(50), np.zeros(50)
    params, optimizer = {"W": x.copy()}, fastopt.AdamW(lr=0.1, weight_decay=0.2, cautious_decay=True)
    for t in range(1, 30):
        g = rng.standard_normal(50)
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
        u = m / (1 - 0.9**t) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
        x = x - 0.1 * (u + 0.2 * (u * x >= 0) * x)
        optimizer.update(params, {"W": g})
    np.testing.assert_allclose(params["W"], x, rtol=1e-12, atol=1e-12)


def test_the_share_is_no_less_than_a_thousandth():
    params, optimizer = {"W": np.zeros(10_000)}, fastopt.SGD(lr=1.0, cautious=True)
    gradient = np.zeros(10_000)
    gradient[7] = 1.0
    optimizer.update(params, {"W": gradient})
    assert params["W"][7] == -1000.0 and np.count_nonzero(params["W"]) == 1


def test_steps_that_all_agree_are_those_of_the_rule():
    gradient = np.linspace(0.1, 1.0, 50)
    results = []
    for cautious in (False, True):
        params, optimizer = {"W": np.linspace(-1, 1, 50)}, fastopt.Adam(cautious=cautious)
        for _ in range(4):
            optimizer.update(params, {"W": gradient})
        results.append(params["W"])
    assert_same_bits(*results)


@pytest.mark.parametrize("setting", [{"cautious": True}, BOTH])
def test_nan_goes_through(setting):
    special = np.array([np.nan, np.inf, -np.inf, 0.0, -0.0, 1.0, -1e300])
    p, g = (x.ravel() for x in np.meshgrid(special, special))
    fast, plain, pair = {"p": p.copy()}, {"p": p.copy()}, Pair("adam", **setting)
    for _ in range(2):
        pair.update(fast, plain, {"p": g})
    assert_same_bits(fast["p"], plain["p"])
    assert np.isnan(fast["p"][np.isnan(g) | np.isnan(p)]).all()


def test_of_a_group_alone():
    groups = {"W": {"cautious": True}, "x": BOTH}
    fast, plain, pair = arrays("float32", 0), arrays("float32", 0), Pair("adam", groups=groups)
    for step in range(4):
        pair.update(fast, plain, arrays("float32", step + 1))
    alone, optimizer = arrays("float32", 0), fastopt.Adam()
    for step in range(4):
        optimizer.update(alone, arrays("float32", step + 1))
    for name in fast:
        assert_same_bits(fast[name], plain[name])
    assert_same_bits(fast["b"], alone["b"])
    assert (fast["W"] != alone["W"]).any() and pair.fast.groups["W"]["cautious"]


@pytest.mark.parametrize("storage", ["bfloat16", "int8"])
def test_with_compact_state_of_which_counting_writes_nothing(storage):
    fast, plain, pair = arrays("float32", 0), arrays("float32", 0), Pair("adam", state_storage=storage, cautious=True)
    for step in range(4):
        pair.update(fast, plain, arrays("float32", step + 1))
    for name in fast:
        assert_same_bits(fast[name], plain[name])


def test_with_rows_whose_share_is_that_of_the_touched():
    rng = np.random.default_rng(0)
    table = rng.standard_normal((50, 8)).astype(np.float32)
    fast, plain, pair = {"e": table.copy()}, {"e": table.copy()}, Pair("adam", cautious=True)
    for _ in range(4):
        rows = Rows(rng.integers(0, 50, 12), rng.standard_normal((12, 8)).astype(np.float32))
        pair.update(fast, plain, {"e": rows})
    assert_same_bits(fast["e"], plain["e"])
    for setting in ("cautious", "cautious_decay"):
        optimizer = fastopt.Momentum(**{setting: True}, weight_decay=0.1, decoupled=True)
        rows = Rows(np.array([1]), np.ones((1, 8), np.float32), exact=True)
        with pytest.raises(ValueError, match=rf"Momentum: {setting} and Rows\(\.\.\., exact=True\) do not go together"):
            optimizer.update(fast, {"e": rows})
        assert optimizer.iter == 0


def test_decay_goes_on_in_one_call(in_one_call):
    settings = {"weight_decay": 0.1, "cautious_decay": True}
    fast, plain, pair = arrays("float32", 0), arrays("float32", 0), Pair("adamw", **settings)
    for step in range(6):
        if step == 3:
            in_one_call()
        pair.update(fast, plain, arrays("float32", step + 1))
    for name in fast:
        assert_same_bits(fast[name], plain[name])


@pytest.mark.parametrize("rule", ["asgd", "schedule_free_sgd", "schedule_free_adamw"])
def test_refused_where_state_follows_the_parameters(rule):
    with pytest.raises(ValueError, match=r"cautious and (ASGD|a schedule-free rule) do not go together"):
        OPTIMIZERS[rule](cautious=True)
    with pytest.raises(ValueError, match="do not go together"):
        OPTIMIZERS[rule](groups={"W": {"cautious": True}})


def test_decay_is_refused_where_it_is_not_after_the_step():
    with pytest.raises(ValueError, match=r"Adam: cautious_decay and an L2 penalty .*; set decoupled=True"):
        fastopt.Adam(weight_decay=0.1, cautious_decay=True)
    with pytest.raises(ValueError, match=r"LAMB: cautious_decay and a rule with weight decay in its formula"):
        fastopt.LAMB(weight_decay=0.1, cautious_decay=True)
    with pytest.raises(ValueError, match="ScheduleFreeSGD: cautious_decay and a schedule-free rule do not go together"):
        fastopt.ScheduleFreeSGD(weight_decay=0.1, decoupled=True, cautious_decay=True)
    optimizer = fastopt.AdamW(weight_decay=0.1, cautious_decay=True)
    with pytest.raises(ValueError, match="cautious_decay and an L2 penalty"):
        optimizer.decoupled = False
    assert optimizer.decoupled
    for name in ("cautious", "cautious_decay"):
        with pytest.raises(TypeError, match=f"{name} must be True or False"):
            fastopt.Adam(**{name: 1})
    with pytest.raises(TypeError, match="its name here is cautious"):
        fastopt.Adam(caution=True)


IN_PURE_PYTHON = """
import numpy as np, fastopt
params, optimizer = {"W": np.linspace(-1, 1, 5000, dtype=np.float32)}, fastopt.Adam(cautious=True, state_storage="int8")
for step in range(2):
    optimizer.update(params, {"W": np.sin(np.arange(5000, dtype=np.float32) * (step + 1))})
print(params["W"].tobytes().hex())
"""


def test_in_pure_python():
    assert len({python(IN_PURE_PYTHON, NUMBA_DISABLE_JIT=flag).stdout for flag in "01"}) == 1


def test_check_of_a_cautious_optimizer():
    assert fastopt.check(fastopt.Adam(cautious=True, cautious_decay=True), steps=2).identical
