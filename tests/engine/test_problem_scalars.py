"""Scalars of many problems where the quick way to them is in doubt, or cannot be taken."""

import math

import numpy as np
import pytest

import fastopt
from fastopt.engine.problem_scalars import Rates
from fastopt.engine.problem_step import OneCall
from fastopt.kernels.problems import DIVIDE, DOUBT, MULTIPLY
from tests.conftest import assert_same_bits

STEPS = 4  # the last ones in one call of C


def assert_each_is_as_alone(batch, alone, grads, calls=()):
    """Steps problems of zeros at once, and each in an optimizer of its own."""
    params = np.zeros_like(grads)
    for _ in range(STEPS):
        batch.update(params, grads)
    assert not calls or isinstance(batch._calls[0], calls)
    for problem in range(len(grads)):
        own = np.zeros_like(grads[problem])
        for _ in range(STEPS):
            alone(problem).update(own, grads[problem])
        assert_same_bits(params[problem], own)


def kept(make):
    """Makes an optimizer for each problem once."""
    optimizers = {}
    return lambda problem: optimizers.setdefault(problem, make(problem))


def doubtful_rates(count):
    """Learning rates of which the first step's scalar is another float32 by a product than by what Adam computes."""
    rng, rates = np.random.default_rng(0), Rates()
    settings = fastopt.Adam()
    settings.__dict__["lr"] = rates
    scalars = settings.scalars(1)
    (place,) = [place for place, value in enumerate(scalars) if type(value) is Rates]
    product, found = scalars[place].product(), []
    while len(found) < count:
        low = np.float32(rng.uniform(1e-3, 1e-2))
        middle = (float(low) + float(np.nextafter(low, np.float32(1)))) / 2
        lr = middle / product
        for _ in range(8):
            lr = math.nextafter(lr, 1)
            scalar = fastopt.Adam(lr=lr).scalars(1)[place]
            assert abs(lr * product - scalar) <= DOUBT * scalar
            if np.float32(scalar) != np.float32(lr * product):
                found.append(lr)
                break
            lr = math.nextafter(lr, 1)
    return found


def test_a_product_in_doubt_is_rounded_as_the_operations_are():
    rates = np.array([1e-3, *doubtful_rates(5)])
    batch = fastopt.Adam(lr=rates, batch_axis=0)
    grads = np.linspace(0.5, 2, 6 * 10, dtype=np.float32).reshape(6, 10)
    assert_each_is_as_alone(batch, kept(lambda problem: fastopt.Adam(lr=rates[problem])), grads, OneCall)


@pytest.mark.parametrize("on_nonfinite", ["propagate", "skip"])
def test_a_norm_in_doubt_is_that_of_the_exact_sum(on_nonfinite):
    """Added up plainly, 32 + 2048 * 2**-54 stays 32, and the factor is rounded up instead of down."""
    problem = np.concatenate([np.ones(32), np.full(2048, 2.0**-27)]).astype(np.float32)
    low = np.float32(0.7)
    middle = (float(low) + float(np.nextafter(low, np.float32(1)))) / 2
    most = middle * math.sqrt(32) * (1 + 2.0**-50)
    grads = np.stack([problem, problem[::-1], np.ones_like(problem)])
    batch = fastopt.SGD(lr=1.0, clip_norm=most, on_nonfinite=on_nonfinite, batch_axis=0)
    calls = OneCall if on_nonfinite == "propagate" else ()
    assert_each_is_as_alone(batch, kept(lambda problem: fastopt.SGD(lr=1.0, clip_norm=most)), grads, calls)
    params = np.zeros_like(grads)
    fastopt.SGD(lr=1.0, clip_norm=most, batch_axis=0).update(params, grads)
    assert params[0, 0] == -low == params[1, -1]


def test_norms_of_float32_gradients_that_are_not_numbers():
    grads = np.ones((5, 3), np.float32)
    grads[1, 1], grads[2, 0], grads[3] = np.nan, np.inf, 0
    batch = fastopt.SGD(lr=1.0, clip_norm=1.0, batch_axis=0)
    with np.errstate(all="ignore"):
        assert_each_is_as_alone(batch, kept(lambda problem: fastopt.SGD(lr=1.0, clip_norm=1.0)), grads, OneCall)


def test_clipping_in_one_call_follows_settings_and_gradients():
    shapes = {"W": (4, 7), "b": (4,), "c": (4, 2, 2)}
    rng = np.random.default_rng(0)
    params = {key: np.zeros(shape, np.float32) for key, shape in shapes.items()}
    batch = fastopt.Momentum(clip_norm=1.0, batch_axis=0)
    single = [fastopt.Momentum(clip_norm=1.0) for _ in range(4)]
    own = [{key: np.zeros(shape[1:], np.float32) for key, shape in shapes.items()} for _ in single]
    for step in range(9):
        if step == 4:
            batch.clip_norm = 3.0
            for optimizer in single:
                optimizer.clip_norm = 3.0
        grads = {key: rng.standard_normal(shape).astype(np.float32) for key, shape in shapes.items()}
        batch.update(params, grads)
        assert step not in (3, 8) or isinstance(batch._calls[0], OneCall)
        for problem, optimizer in enumerate(single):
            optimizer.update(own[problem], {key: array[problem] for key, array in grads.items()})
            for key, array in params.items():
                assert_same_bits(array[problem], own[problem][key])


def done(rates, lr):
    """The operations, to a learning rate."""
    for kind, number in zip(rates.kinds, rates.numbers, strict=True):
        lr = lr * number if kind == MULTIPLY else lr / number if kind == DIVIDE else lr + number
    return lr


@pytest.mark.parametrize(
    "formula",
    [
        lambda lr: lr,
        lambda lr: -lr,
        lambda lr: 3 * lr / 7,
        lambda lr: lr * np.float64(0.3),
        lambda lr: np.float64(0.3) * lr,
        lambda lr: 1 - lr * 0.1,
        lambda lr: lr - 0.25,
        lambda lr: 0.1 + lr,
        lambda lr: (lr + 1) / 2.5 * 3,
        lambda lr: ((((-lr * 3) / 0.7) + 1) * 1.1) - 3,
    ],
)
def test_arithmetic_with_learning_rates_is_kept_to_the_bit(formula):
    rates = formula(Rates())
    for lr in (0.0, 1e-3, 0.1, 1 / 3, 7.0):
        assert done(rates, lr) == formula(lr)
    product = rates.product()
    if set(rates.kinds) <= {MULTIPLY, DIVIDE}:
        assert abs(product * 0.1 - formula(0.1)) <= DOUBT * abs(formula(0.1))
    else:
        assert math.isnan(product)


def test_products_that_may_overflow_or_vanish_are_none():
    assert math.isnan((Rates() * 1e200).product()) and math.isnan((Rates() * 1e-200 * 1e200).product())


@pytest.mark.parametrize(
    "formula",
    [
        math.sqrt,
        float,
        bool,
        lambda lr: lr**2,
        lambda lr: lr * lr,
        lambda lr: lr < 1,
        lambda lr: max(0.1, lr),
        lambda lr: lr in (0.1, 0.2),
        lambda lr: 1 / lr,
        lambda lr: lr * "a",
        lambda lr: lr * 2 * 2 * 2 * 2 * 2 * 2 * 2,
    ],
)
def test_what_else_is_done_with_learning_rates_is_refused(formula):
    with pytest.raises(TypeError):
        formula(Rates())


def test_a_division_by_zero_is_one():
    with pytest.raises(ZeroDivisionError):
        Rates() / 0.0


def root_and_least(step, lr):
    return math.sqrt(lr) / step, min(lr, 0.02) if step > 2 else lr


def test_a_rule_whose_scalars_are_no_arithmetic():
    """They are worked out for each pair of learning rate and step count."""

    @fastopt.rule(scalars=root_and_least, lr=0.01)
    def rooted(p, g, root, least):
        return (p - root * g - least,)

    rates = np.array([0.01, 0.04, 0.01, 0.09])
    batch, single = rooted(lr=rates, batch_axis=0), [rooted(lr=rate) for rate in rates.tolist()]
    params, own = np.zeros((4, 5), np.float32), np.zeros((4, 5), np.float32)
    for step in range(6):
        if step == 3:
            batch.restart([2])
            single[2] = rooted(lr=0.01)
        batch.update(params, np.ones_like(params))
        for problem, optimizer in enumerate(single):
            optimizer.update(own[problem], np.ones(5, np.float32))
    assert_same_bits(params, own)


def test_learning_rates_cannot_change_unseen():
    """They are read by the kernel at each step."""
    rates = np.array([0.1, 0.2])
    optimizer, params = fastopt.SGD(lr=rates, batch_axis=0), np.zeros((2, 3))
    for _ in range(3):
        optimizer.update(params, np.ones_like(params))
    rates[:] = 9.0
    with pytest.raises(ValueError, match="read-only"):
        optimizer.lr[0] = 9.0
    optimizer.update(params, np.ones_like(params))
    np.testing.assert_allclose(params[:, 0], [-0.4, -0.8])
    optimizer.lr = np.array([1.0, 0.0])
    optimizer.update(params, np.ones_like(params))
    np.testing.assert_allclose(params[:, 0], [-1.4, -0.8])


def test_an_error_of_a_step_to_come_is_raised_at_that_step():
    """Scalars of steps to come are worked out ahead."""

    def ending(step, lr):
        if step == 9:
            raise ValueError("no ninth step")
        return (lr / step,)

    @fastopt.rule(scalars=ending, lr=0.01)
    def ends(p, g, lr):
        return (p - lr * g,)

    optimizer, params = ends(lr=np.array([0.1, 0.2]), batch_axis=0), np.zeros((2, 3))
    for _ in range(8):
        optimizer.update(params, np.ones_like(params))
    before = params.copy()
    with pytest.raises(ValueError, match="no ninth step"):
        optimizer.update(params, np.ones_like(params))
    assert_same_bits(params, before)
    assert optimizer.iter == 8
