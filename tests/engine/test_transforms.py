"""Gradients that a step refuses, or takes in another form than the parameter's."""

import copy

import numpy as np
import pytest

import fastopt
from fastopt import Rows
from fastopt.kernels import RULES
from fastopt.kernels.squares import squares
from fastopt.optimizers import OPTIMIZERS
from tests.conftest import Pair, assert_same_bits, python

SQUARING = [rule for rule in OPTIMIZERS if squares(RULES[rule])]

BEYOND = {"float32": 3e19, "float64": 1e155}


def state_of(optimizer, params):
    saved = optimizer.state_dict()
    arrays = [*params.values(), *(value for slot in saved["state"].values() if slot for value in slot.values())]
    return optimizer.iter, [array.tobytes() for array in arrays]


def test_which_rules_square():
    others = {
        "sgd",
        "momentum",
        "nesterov",
        "sgd_momentum",
        "sgd_nesterov",
        "asgd",
        "rprop",
        "signum",
        "lion",
        "adamax",
    }
    others |= {"sophia", "schedule_free_sgd", "lars", "novograd"}  # NovoGrad squares norms
    others |= {rule for rule in RULES if RULES[rule].prepare}  # which square in NumPy: tests/optimizers/test_matrix.py
    assert set(SQUARING) == set(RULES) - others
    assert [rule for rule in RULES if RULES[rule].squares_norms] == ["novograd"]


@pytest.mark.parametrize("flat", [False, True])
@pytest.mark.parametrize("dtype", BEYOND)
@pytest.mark.parametrize("rule", SQUARING)
def test_squares_that_overflow_are_refused_or_skipped(rule, dtype, flat):
    form = fastopt.flatten if flat else dict
    params = form({"W": np.ones((2, 3), dtype), "b": np.ones(2, dtype)})
    optimizer = OPTIMIZERS[rule](on_nonfinite="raise")
    for _ in range(2):
        bad = form({"W": np.ones((2, 3), dtype), "b": np.ones(2, dtype)})
        bad["W"][1, 2] = -BEYOND[dtype]
        optimizer.on_nonfinite, before = "raise", state_of(optimizer, params)
        name = OPTIMIZERS[rule].__name__
        words = (
            rf"{name}: grads\['W'\] has 1 of 6 values whose squares, which the rule needs, are not finite, the first, "
            rf"-(3\.\d+|1)e\+(19|155), at \(1, 2\); in {dtype} they must not be beyond (1.84e\+19|1.34e\+154); nothing"
        )
        with pytest.raises(FloatingPointError, match=words):
            optimizer.update(params, bad)
        assert state_of(optimizer, params) == before
        optimizer.on_nonfinite, skipped = "skip", optimizer.skipped
        assert optimizer.update(params, bad, report=True).skipped and optimizer.skipped == skipped + 1
        assert state_of(optimizer, params) == before
        bad["W"][1, 2] = BEYOND[dtype] / 100  # whose square is finite
        optimizer.update(params, bad)
        assert optimizer.iter > before[0]
        assert all(np.isfinite(value).all() for value in params.values())


@pytest.mark.parametrize(
    "rule", ["muon", *(rule for rule in OPTIMIZERS if rule not in (*SQUARING, "novograd") and not RULES[rule].prepare)]
)
def test_other_rules_take_them(rule):
    params = {"W": np.ones((2, 3), np.float32)}
    OPTIMIZERS[rule](on_nonfinite="raise").update(params, {"W": np.full((2, 3), 3e19, np.float32)})
    assert np.isfinite(params["W"]).all()


def test_what_counts_is_the_gradient_after_scale_and_clipping():
    def step(size, **settings):
        optimizer, params = fastopt.Adam(on_nonfinite="raise", **settings), {"W": np.ones(3, np.float32)}
        optimizer.update(params, {"W": np.full(3, size, np.float32)})
        return np.isfinite(params["W"]).all()

    for settings in (
        {"clip_norm": 1.0},
        {"clip_array_norm": 1.0},
        {"clip_value": 1.0},
        {"gradient_scale": 1e-5},
        {"groups": {"W": {"clip_value": 1.0}}},
    ):
        assert step(3e19, **settings)
    for settings in ({}, {"clip_value": 2e19}, {"maximize": True}, {"groups": {"W": {"lr": 0.1}}}):
        with pytest.raises(FloatingPointError, match=r"beyond 1\.84e"):
            step(3e19, **settings)
    with pytest.raises(FloatingPointError, match=r"beyond 1\.84e"):
        step(3e15, gradient_scale=1e5)
    assert step(1e15, gradient_scale=1e3)


def test_sums_of_rows_and_numbers():
    params = {"e": np.ones((4, 2), np.float32), "x": np.float32(1.0)}
    grads = {"e": Rows(np.array([2, 2]), np.full((2, 2), 1e19, np.float32)), "x": None}
    with pytest.raises(FloatingPointError, match=r"the sum of row 2 of grads\['e'\] has 2 of 2 values whose squares"):
        fastopt.Adam(on_nonfinite="raise").update(params, grads)
    assert (params["e"] == 1).all()
    with pytest.raises(
        FloatingPointError, match=r"grads\['x'\] has 1 of 1 values whose squares, .* 1e\+155; in float64"
    ):
        fastopt.Adam(on_nonfinite="raise").update({"x": 1.0}, {"x": 1e155})


@pytest.mark.parametrize("dtype", BEYOND)
def test_a_squared_norm_that_overflows(dtype):
    params, optimizer = {"W": np.ones(100, dtype)}, fastopt.NovoGrad(on_nonfinite="raise")
    gradient = np.full(100, BEYOND[dtype] / 10, dtype)  # each of which is small enough
    before = state_of(optimizer, params)
    with pytest.raises(FloatingPointError, match=rf"grads\['W'\] has the norm .*; in {dtype} it must not be beyond 1"):
        optimizer.update(params, {"W": gradient})
    assert state_of(optimizer, params) == before
    optimizer.on_nonfinite = "skip"
    optimizer.update(params, {"W": gradient})
    assert optimizer.skipped == 1 and state_of(optimizer, params) == before
    optimizer.clip_array_norm = 1.0
    optimizer.update(params, {"W": gradient})
    assert optimizer.iter == 1 and np.isfinite(params["W"]).all()


def test_rules_of_ones_own():
    @fastopt.rule(state=("h",), lr=0.1)
    def squaring(p, g, h, lr):
        h = h + g * g
        return p - lr * g, h

    with pytest.raises(FloatingPointError, match=r"beyond 1\.34e"):
        squaring(on_nonfinite="raise").update(np.ones(2), np.full(2, 1e160))


CODE = """
import numpy as np, fastopt
optimizer = fastopt.Adam(on_nonfinite="skip")
for _ in range(2):
    optimizer.update(np.ones(2, np.float32), np.full(2, 3e19, np.float32))
    optimizer.update(np.ones(2, np.float32), np.full(2, 1e19, np.float32))
print(optimizer.skipped, optimizer.iter)
"""


@pytest.mark.parametrize("environment", [{"NUMBA_DISABLE_JIT": "1"}, {"FASTOPT_CHECK": "1"}])
def test_without_compiler(environment):
    assert python(CODE, **environment).stdout == "2 2\n"


# -- arrays that carry more than values -------------------------------------------------------------------------------


class WithMask(np.ndarray):
    """As the masked arrays of astropy."""

    mask = np.array([True, False])


@pytest.mark.parametrize("make", [lambda x: np.ma.array(x, mask=[1, 0]), np.ma.array, lambda x: x.view(WithMask)])
def test_masked_arrays_are_refused(make):
    optimizer = fastopt.SGD()
    for _ in range(2):  # the second time the plan is made
        params = {"W": np.ones(2)}
        with pytest.raises(
            TypeError, match=r"SGD: grads\['W'\] is a masked array, expected a plain one, .*\.filled\(0\)"
        ):
            optimizer.update(params, {"W": make(np.ones(2))})
        assert (params["W"] == 1).all()
        optimizer.update(params, {"W": np.ones(2)})
    with pytest.raises(TypeError, match="SGD: grads is a masked array"):
        fastopt.SGD().update(np.ones(2), make(np.ones(2)))
    with pytest.raises(TypeError, match="SGD: params is a masked array"):
        fastopt.SGD().update(make(np.ones(2)), np.ones(2))
    with pytest.raises(TypeError, match=r"flatten: arrays\['W'\] is a masked array"):
        fastopt.flatten({"W": make(np.ones(2))})
    flat = fastopt.flatten({"W": np.ones(2)})
    with pytest.raises(TypeError, match=r"\['W'\] is a plain array, got a masked one"):
        flat["W"] = make(np.ones(2))
    with pytest.raises(TypeError, match=r"Sophia: grads\['W'\] is a masked array"):
        fastopt.Sophia().update_hessian({"W": np.ones(2)}, {"W": make(np.ones(2))})


def test_masked_rows_are_refused():
    for rows in (
        Rows(np.ma.array([0, 1], mask=[1, 0]), np.ones((2, 2))),
        Rows(np.array([0, 1]), np.ma.array(np.ones((2, 2)), mask=np.eye(2))),
    ):
        with pytest.raises(TypeError, match=r"grads\['e'\]\.(indices|values) is a masked array"):
            fastopt.SGD().update({"e": np.ones((3, 2))}, {"e": rows})


@pytest.mark.filterwarnings("ignore::PendingDeprecationWarning")  # of np.matrix
def test_other_subclasses_are_taken_by_their_values():
    for kind in (np.matrix, lambda x: np.asarray(x).view(np.recarray)):
        params = {"W": np.ones((2, 2))}
        fastopt.SGD(lr=1.0).update(params, {"W": kind(np.full((2, 2), 0.5))})
        assert (params["W"] == 0.5).all()


# -- shapes -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", ["sgd", "adam", "lamb"])
@pytest.mark.parametrize(
    ("shape", "gradient"),
    [
        ((1,), np.ones(5).sum()),
        ((1,), 5.0),
        ((1, 1), np.array(5)),
        ((), np.ones(1)),
        ((1, 4), np.arange(4.0)),
        ((4,), np.arange(4.0).reshape(1, 4)),
        ((4, 1), np.arange(4.0)),
        ((4,), np.arange(4.0)[:, None]),
        ((2, 1, 3), np.arange(12.0).reshape(2, 6)[:, ::2]),
        ((2, 3), np.arange(6.0).reshape(3, 2).T[:, None]),
        ((0, 1), np.zeros(0)),
    ],
)
@pytest.mark.parametrize("bare", [False, True])
def test_ones_in_shapes_make_no_difference(bare, shape, gradient, rule):
    pair = Pair(rule)
    fast, plain = ({"W": np.full(shape, 2.0)} for _ in range(2))
    whole = Pair(rule)
    other = {"W": np.full(shape, 2.0)}
    for _ in range(3):
        fitting = np.array(np.reshape(gradient, shape), float)
        if bare:
            pair.fast.update(fast["W"], gradient)
            pair.plain.update(plain["W"], gradient)
        else:
            pair.update(fast, plain, {"W": gradient})
        whole.fast.update(other, {"W": fitting})
    assert_same_bits(fast["W"], plain["W"])
    assert_same_bits(fast["W"], other["W"])


@pytest.mark.parametrize(
    ("shape", "found", "advice"),
    [
        (
            (10,),
            (32, 10),
            r"broadcast along axis 0, over which its gradient must be summed: grads\['W'\].sum\(axis=0\)",
        ),
        ((1, 10), (32, 10), r"along axis 0, .*: grads\['W'\]\.sum\(axis=0\)"),
        ((10, 1), (10, 7), r"along axis 1, .*: grads\['W'\]\.sum\(axis=1\)"),
        ((3, 1), (8, 3, 5), r"along axes \(0, 2\), .*: grads\['W'\]\.sum\(axis=\(0, 2\)\)"),
        ((1,), (5,), r"along axis 0, .*: grads\['W'\]\.sum\(axis=0\)"),
        ((32, 10), (10,), r"it has been summed \(or averaged\) over axes that params\['W'\] has"),
        ((3,), (), r"np\.broadcast_to\(grads\['W'\], \(3,\)\)"),
        ((2, 3), (3, 2), "compute the gradient of the parameter as it is, without broadcasting"),
        ((2, 3), (6,), "without broadcasting"),
    ],
)
def test_broadcasting_is_an_error_that_names_the_sum(shape, found, advice):
    params, optimizer = {"W": np.ones(shape)}, fastopt.SGD()
    sizes = ", ".join(map(str, found)) + ("," if len(found) == 1 else "")
    for _ in range(2):
        with pytest.raises(ValueError) as error:
            optimizer.update(params, {"W": np.ones(found)})
        assert error.match(advice) and f"has shape ({sizes}), params['W'] has {shape}; " in str(error.value)
        optimizer.update(params, {"W": np.zeros(shape)})
    assert (params["W"] == 1).all()


def test_nonfinite_gradients_of_other_shapes():
    optimizer, params = fastopt.Adam(on_nonfinite="raise"), {"W": np.ones((1, 3)), "x": np.ones(1)}
    grads = {"W": np.array([1.0, np.nan, 1.0]), "x": 1.0}
    with pytest.raises(FloatingPointError, match=r"grads\['W'\] has 1 of 3 values that are not finite, .* at \(0, 1\)"):
        optimizer.update(params, grads)
    optimizer.on_nonfinite = "skip"
    assert optimizer.update(copy.deepcopy(params), grads, report=True).by_key["W"].nonfinite_share == 1 / 3
    with pytest.raises(FloatingPointError, match="grads has 1 of 1 values that are not finite"):
        fastopt.Adam(on_nonfinite="raise").update(np.ones(1), np.nan)


# -- frozen groups ----------------------------------------------------------------------------------------------------


def test_sophia_leaves_what_is_frozen_alone():
    pair = Pair("sophia")
    fast, plain = ({key: np.ones(2) for key in "ab"} for _ in range(2))
    settings = {"b": {"frozen": True}, "a": {"beta2": 0.5}}
    for step in range(4):
        for optimizer, params in ((pair.fast, fast), (pair.plain, plain)):
            optimizer.groups = settings if step in (1, 2) else {}
            estimates = {"a": np.full(2, 3.0)} | ({} if step == 2 else {"b": np.full(2, 5.0)})
            optimizer.update_hessian(params, estimates)
            optimizer.update(params, {key: np.ones(2) for key in "ab"})
        for key in fast:
            assert_same_bits(fast[key], plain[key])
        pair.assert_same_state()
        if step == 1:
            kept = pair.fast.h["b"].copy()
        if step in (1, 2):
            assert_same_bits(pair.fast.h["b"], kept)
    assert (pair.fast.h["b"] != kept).all()
