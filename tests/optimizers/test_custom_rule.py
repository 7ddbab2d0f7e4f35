"""`fastopt.rule`: an optimizer of a formula of one's own does what every optimizer does."""

import copy
import math
import pickle
import re
from math import erf

import numpy as np
import pytest

import fastopt
from fastopt import CheckpointError, Rows, reference, schedules, threads
from fastopt.engine.address_table import Table
from fastopt.engine.plan import Plan
from fastopt.kernels.compile import callback
from fastopt.kernels.pure_python import on_arrays
from fastopt.kernels.traffic import traffic_of
from tests.conftest import THREAD_COUNTS, assert_same_bits, python
from tests.optimizers.test_formula_checks import defined


@fastopt.rule(state=("v",), lr=0.01, momentum=0.9)
def my_momentum(p, g, v, lr, momentum):
    """The heavy ball."""
    v = momentum * v - lr * g
    return p + v, v


def adam_scalars(step, lr, beta1, beta2, eps):
    return lr * math.sqrt(1 - beta2**step) / (1 - beta1**step), 1 - beta1, 1 - beta2, eps


@fastopt.rule(state=("m", "v"), scalars=adam_scalars, lr=0.001, beta1=0.9, beta2=0.999, eps=1e-7)
def my_adam(p, g, m, v, step_size, one_minus_beta1, one_minus_beta2, eps):
    m = m + one_minus_beta1 * (g - m)
    v = v + one_minus_beta2 * (g * g - v)
    return p - step_size * m / (math.sqrt(v) + eps), m, v


@fastopt.rule(state=["h"], start={"h": 0.5}, lr=0.01, eps=1e-7)
def my_adagrad(p, g, h, lr, eps):
    h += g * g
    return p - lr * g / (math.sqrt(h) + eps), h


@fastopt.rule(lr=0.01, most=1.0, gain=-2.0)
def my_clipped(p, g, lr, most, gain):
    size = abs(g)
    if size > most:
        return (p + gain * lr * most * g / size,)
    return (p + gain * lr * g,)


OWN = {
    my_momentum: (reference.Momentum, {}),
    my_adam: (reference.Adam, {}),
    my_adagrad: (reference.AdaGrad, {"initial_accumulator": 0.5}),
}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("own", OWN)
def test_the_same_formula_gives_the_same_bits(own, dtype, rng):
    make, fixed = OWN[own]
    ours, theirs = own(lr=0.1), make(lr=0.1, **fixed)
    mine = {"W": rng.standard_normal((30, 20)).astype(dtype), "b": rng.standard_normal(3).astype(dtype), "x": 0.5}
    yours = copy.deepcopy(mine)
    for _ in range(4):
        grads = {"W": rng.standard_normal((30, 20)).astype(dtype), "b": rng.standard_normal(3), "x": 1.0}
        ours.update(mine, grads)
        theirs.update(yours, grads)
    for key in mine:
        assert_same_bits(mine[key], yours[key])
        for slot in theirs.slots:
            assert_same_bits(getattr(ours, slot)[key], getattr(theirs, slot)[key])


def test_it_is_an_optimizer_as_any_other(tmp_path):
    assert issubclass(my_momentum, fastopt.Optimizer) and my_momentum.__doc__ == "The heavy ball."
    assert my_momentum.__module__ == __name__ and "my_adam" in my_adam.__doc__
    assert repr(my_momentum(0.5, gradient_scale=2.0)) == "my_momentum(lr=0.5, momentum=0.9, gradient_scale=2.0)"
    optimizer, params = my_momentum(lr=schedules.Cosine(0.1, steps=10), on_nonfinite="skip"), {"W": np.ones(4)}
    report = optimizer.update(params, {"W": np.ones(4)}, report=True)
    optimizer.update(params, {"W": np.full(4, np.nan)})
    assert report.gradient_norm == 2
    assert optimizer.iter == 1 and optimizer.skipped == 1
    optimizer.save(tmp_path / "state")
    loaded = my_momentum()
    assert not any(loaded.load(tmp_path / "state"))
    for other in (loaded, copy.deepcopy(optimizer), copy.copy(optimizer), pickle.loads(pickle.dumps(optimizer))):
        assert type(other) is my_momentum and other.iter == 1
        mine, yours = ({"W": params["W"].copy()} for _ in range(2))
        copy.deepcopy(optimizer).update(mine, {"W": np.ones(4)})
        other.update(yours, {"W": np.ones(4)})
        assert_same_bits(mine["W"], yours["W"])
    for wrong in ({"lr": -1.0}, {"momentum": 1.5}):
        with pytest.raises(ValueError, match="my_momentum: "):
            my_momentum(**wrong)
    with pytest.raises(AttributeError, match="my_momentum has no setting 'speed'; it has lr, momentum"):
        optimizer.speed = 1.0


def test_settings_of_names_that_fastopt_does_not_know_are_any_finite_number():
    assert my_clipped(gain=-1e30).gain == -1e30 and my_clipped(gain=np.float32(3)).gain == 3.0
    for wrong in (math.nan, math.inf, -math.inf):
        with pytest.raises(ValueError, match=r"my_clipped: gain must be in \(-inf, inf\), got"):
            my_clipped(gain=wrong)
    with pytest.raises(TypeError, match="my_clipped: gain must be a number"):
        my_clipped(gain="much")


def test_scalars_may_be_whole_numbers_of_any_size():
    @fastopt.rule(scalars=lambda step, lr: (step * 10**400, np.int64(step), lr), lr=0.5)
    def whole(p, g, endless, step, lr):
        return (p - lr * g / step - g / endless,)

    optimizer, params = whole(), np.ones(2)
    for _ in range(2):
        optimizer.update(params, np.ones(2))
    assert params.tolist() == [0.25] * 2


def test_a_file_is_loaded_into_the_rule_it_is_of(tmp_path):
    def made(**settings):
        @fastopt.rule(state=("v",), **settings)
        def my_momentum(p, g, v, lr, momentum):
            return p - lr * g, momentum * v

        return my_momentum

    optimizer = my_momentum()
    optimizer.update({"W": np.ones(2)}, {"W": np.ones(2)})
    optimizer.save(tmp_path / "own")
    saved = optimizer.state_dict()
    for other in (my_adam(), fastopt.Momentum()):
        for load in (
            lambda other=other: other.load(tmp_path / "own"),
            lambda other=other: other.load_state_dict(saved),
        ):
            with pytest.raises(CheckpointError, match="holds the state of rule 'my_momentum', expected"):
                load()
    again = made(lr=0.1, momentum=0.8)()  # defined again, with another formula
    assert not any(again.load(tmp_path / "own")) and again.momentum == 0.9
    fastopt.Momentum().save(tmp_path / "momentum")
    with pytest.raises(CheckpointError, match="holds the state of rule 'momentum', expected 'my_momentum'"):
        my_momentum().load(tmp_path / "momentum")
    saved["hyperparameters"]["lr"] = "fast"
    with pytest.raises(CheckpointError, match="lr must be a number"):
        my_momentum().load_state_dict(saved)
    mine = my_clipped().state_dict()
    mine["hyperparameters"]["gain"] = [1, 2]  # of a name that only this rule knows
    with pytest.raises(CheckpointError, match="gain must be a number"):
        my_clipped().load_state_dict(mine)


def test_defined_again_the_new_formula_counts():
    results = []
    for sign in ("-", "+"):
        lines = f"@fastopt.rule(lr=0.5)\ndef again(p, g, lr):\n    return (p {sign} lr * g,)\n"
        results.append(defined(lines, "again"))
    for made, expected in zip(results, (0.5, 1.5), strict=True):
        params = {"W": np.ones(2)}
        made().update(params, {"W": np.ones(2)})
        assert params["W"].tolist() == [expected] * 2


SHELL = """
import sys, numpy as np
sys.path.insert(0, sys.argv[1])
import rules
params = {"W": np.ones(3, np.float32)}
rules.shrink(lr=0.5).update(params, {"W": np.ones(3, np.float32)})
print("RESULT", params["W"][0])
"""


def test_kernels_are_cached_by_their_formula(tmp_path):
    def step(formula):
        (tmp_path / "rules.py").write_text(
            f"import fastopt\n\n@fastopt.rule(lr=0.1)\ndef shrink(p, g, lr):\n    return ({formula},)\n"
        )
        cache = {"NUMBA_CACHE_DIR": str(tmp_path / "cache"), "NUMBA_DEBUG_CACHE": "1", "PYTHONDONTWRITEBYTECODE": "1"}
        out = python(SHELL, str(tmp_path), **cache).stdout
        kernel = [line for line in out.splitlines() if "passes.shrink" in line]
        return any("data loaded" in line for line in kernel), out.split("RESULT")[1].strip()

    assert step("p - lr * g") == (False, "0.5")
    assert step("p - lr * g") == (True, "0.5")
    assert step("p + lr * g") == (False, "1.5")


# -- gradients of some rows -------------------------------------------------------------------------------------------


def in_numpy(own, optimizer, step, p, g, state):
    """The formula on whole arrays, as its author would write it in plain NumPy."""
    scalars = [p.dtype.type(value) for value in optimizer.scalars(step)]
    if own is my_clipped:
        lr, most, gain = scalars
        return [np.where(abs(g) > most, p + gain * lr * most * g / abs(g), p + gain * lr * g)]
    if own is my_momentum:
        v = scalars[1] * state[0] - scalars[0] * g
        return [p + v, v]
    step_size, one_minus_beta1, one_minus_beta2, eps = scalars
    m, v = state
    m = m + one_minus_beta1 * (g - m)
    v = v + one_minus_beta2 * (g * g - v)
    return [p - step_size * m / (np.sqrt(v) + eps), m, v]


@pytest.mark.parametrize("count", THREAD_COUNTS[:2])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("own", [my_clipped, my_momentum, my_adam])
def test_rows_take_the_same_step_as_the_formula_in_numpy(own, dtype, count, rng):
    optimizer, params = own(lr=schedules.Linear(0.1, 0.01, steps=5)), {"e": np.ones((40, 3), dtype), "b": np.ones(2)}
    plain, state = params["e"].copy(), [np.zeros_like(params["e"]) for _ in own._rule.state]
    with threads.exactly(count):
        for step in range(1, 5):
            indices, values = rng.integers(0, 40, 60 if step % 2 else 5), rng.standard_normal((60, 3)).astype(dtype)
            values = values[: len(indices)]
            report = optimizer.update(params, {"e": Rows(indices, values), "b": np.ones(2)}, report=step == 2)
            summed, distinct = np.zeros_like(plain), np.unique(indices)
            np.add.at(summed, indices, values)
            old = [x[distinct] for x in state]
            new = in_numpy(own, optimizer._at(step), step, plain[distinct], summed[distinct], old)
            for x, rows in zip((plain, *state), new, strict=True):
                x[distinct] = rows
            assert_same_bits(params["e"], plain)
            for slot, x in zip(own._rule.state, state, strict=True):
                assert_same_bits(getattr(optimizer, slot)["e"], x)
            if report is not None:
                assert report.by_key["e"].gradient_norm == pytest.approx(np.linalg.norm(summed), rel=1e-6)


def test_rows_of_a_rule_with_a_start_and_with_decay():
    optimizer, params = my_adagrad(lr=0.5, weight_decay=0.5, clip_norm=1.0), {"e": np.ones((3, 1))}
    optimizer.update(params, {"e": Rows(np.array([1]), np.array([[4.0]]))})
    assert optimizer.h["e"].ravel().tolist() == [0.5, 0.5 + 1.5**2, 0.5] and (params["e"][[0, 2]] == 1).all()


def test_no_closed_form_of_skipped_steps_is_known_for_a_rule_of_ones_own():
    optimizer, params = my_momentum(), {"e": np.ones((3, 1))}
    with pytest.raises(TypeError, match=r"my_momentum: .* no closed form of steps without a gradient is known for thi"):
        optimizer.update(params, {"e": Rows(np.array([1]), np.ones((1, 1)), exact=True)})
    assert (params["e"] == 1).all() and optimizer.iter == 0 and not optimizer.v


# -- check ------------------------------------------------------------------------------------------------------------


def test_check_finds_equal_bits():
    found = fastopt.check(my_clipped(gain=-0.5, maximize=True), steps=2)
    assert found.identical and found.numpy_nanoseconds is None and found.nanoseconds > 0
    assert {row.dtype for row in found.rows} == {"float32", "float64"}
    text = str(found)
    assert text.startswith("my_clipped(lr=0.01, most=1.0, gain=-0.5, maximize=True)\n") and text.count(
        "identical bits"
    ) == len(found.rows)
    assert "plain NumPy                    has no form of branches" in text
    assert re.search(r"[\d.]+ ns per element\n    its reads and writes alone     [\d.]+ ns\n", text)


def test_check_makes_no_step_and_times_plain_numpy(monkeypatch):
    monkeypatch.setattr(fastopt.threads, "layer", lambda: None)  # one thread, so that fewer kernels are compiled
    optimizer, params = my_adam(), {"W": np.ones(3)}
    optimizer.update(params, {"W": np.ones(3)})
    before = optimizer.m["W"].copy()
    found = fastopt.check(optimizer, steps=2)
    assert (
        found.identical
        and found.numpy_nanoseconds > 0
        and found.limit_nanoseconds > 0
        and f"plain NumPy                    {found.numpy_nanoseconds:.3g} ns" in str(found)
    )
    assert optimizer.iter == 1 and optimizer.m["W"].tobytes() == before.tobytes()


def test_check_finds_a_difference(monkeypatch):
    monkeypatch.setattr(fastopt.threads, "layer", lambda: None)

    @fastopt.rule(lr=0.1)
    def rounded(p, g, lr):
        return (p - lr * math.exp(g),)

    monkeypatch.setattr(np, "exp", np.expm1)  # what the formula in pure Python takes
    found = fastopt.check(rounded, steps=2)
    different = [row for row in found.rows if not row.identical]
    assert not found.identical and {row.compared for row in different} == {"compiled and pure Python"}
    assert str(found).count("DIFFERENT by up to") == 2


def test_check_takes_optimizers_only():
    for wrong in (dict, None, "Adam"):
        with pytest.raises(TypeError, match=r"fastopt\.check: expected an optimizer or its class, got"):
            fastopt.check(wrong)


def test_check_of_functions_that_numpy_has_not(monkeypatch):
    """In Python some raise where compiled ones return infinity or NaN, as for gradients of 60 orders of magnitude."""
    monkeypatch.setattr(fastopt.threads, "layer", lambda: None)

    @fastopt.rule(lr=0.1, least=2.0)
    def special(p, g, lr, least):
        return (p - lr * math.gamma(max(abs(g), least)) - lr * erf(g),)

    found = fastopt.check(special, steps=2)
    assert found.numpy_nanoseconds is None and {row.compared for row in found.rows} == {"compiled and pure Python"}
    pure = on_arrays(lambda x: (math.gamma(x), math.lgamma(x)))
    assert pure(1e15) == (math.inf, math.lgamma(1e15)) and all(map(math.isnan, pure(-1.0)))


def test_kernels_without_arithmetic_are_one_for_each_number_of_slots():
    rules = [traffic_of(slots) for slots in range(4)]
    assert len({callback(rule, "float32").__name__ for rule in rules}) == 4
    for slots, moving in enumerate(rules):
        p, g = np.ones(9, np.float32), np.full(9, 2, np.float32)
        plan = Plan(Table("limit", moving, p, g, dict.fromkeys(moving.state, 5.0), None))
        plan.run(p, [()], report=False)
        last = plan.table.state.views[moving.state[-1]] if slots else {"": p}
        assert next(iter(last.values())).tolist() == [3.0] * 9 and p[0] == (5 if slots else 3)


class NesterovOf2016:
    """As most copies of the book have it."""

    def __init__(self, lr=0.01, momentum=0.9):
        self.lr, self.momentum, self.v = lr, momentum, None

    def update(self, params, grads):
        if self.v is None:
            self.v = {key: np.zeros_like(val) for key, val in params.items()}
        for key in params.keys():  # as it is there
            self.v[key] *= self.momentum
            self.v[key] -= self.lr * grads[key]
            params[key] += self.momentum * self.momentum * self.v[key]
            params[key] -= (1 + self.momentum) * self.lr * grads[key]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_recipe_in_nesterovs_docstring_gives_the_bits_of_old_copies(dtype, rng):
    lines = [line for line in fastopt.Nesterov.__doc__.splitlines() if line.strip().startswith((">>>", "..."))]
    code = "\n".join(line.strip()[4:] for line in lines[[">>> import fastopt" in line for line in lines].index(True) :])
    names = {"np": np, "fastopt": fastopt}
    exec(code, names)
    start, gradients = rng.standard_normal(50).astype(dtype), rng.standard_normal((20, 50)).astype(dtype)
    results = []
    for make in (NesterovOf2016, names["nesterov_2016"], fastopt.Nesterov):
        params, optimizer = {"W": start.copy()}, make(lr=0.1, momentum=0.9)
        for g in gradients:
            optimizer.update(params, {"W": g})
        results.append(params["W"])
    assert_same_bits(results[0], results[1])
    assert not np.allclose(results[0], results[2])
