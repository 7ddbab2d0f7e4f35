"""`modulus=True`: second moments of complex parameters by |g|^2, to the bit of the reference, and as optax has them."""

import copy
import pickle
import sys

import numpy as np
import pytest

import fastopt
from fastopt import EMA, Lookahead, combinations, reference, threads, tuning
from fastopt.commands.explain import explain
from fastopt.kernels import RULES, clipped, magnitude, product, squared
from fastopt.kernels.modulus import OF_PAIRS, in_pairs
from fastopt.kernels.pure_python import in_pure_python
from fastopt.optimizers import OPTIMIZERS
from fastopt.pairs import pairs
from tests.conftest import THREAD_COUNTS, assert_same_bits

SQUARING = [name for name in OPTIMIZERS if RULES[name].squares_elements]
SHAPES = {"z": (3, 4), "fortran": (4, 3), "strided": (4, 4), "one": (), "none": (0, 2)}


def numbers(seed, dtype="complex128", **shapes):
    rng = np.random.default_rng(seed)
    parts = {key: rng.standard_normal((2, *shape)) for key, shape in (shapes or SHAPES).items()}
    made = {key: np.asarray(one + 1j * two).astype(dtype) for key, (one, two) in parts.items()}
    if "fortran" in made:
        made["fortran"], made["strided"] = np.asfortranarray(made["fortran"]), made["strided"][::2, 1::2]
    return made


def both(rule, **settings):
    """A compiled optimizer and its reference."""
    name = OPTIMIZERS[rule].__name__
    return getattr(fastopt, name)(modulus=True, **settings), getattr(reference, name)(modulus=True, **settings)


def assert_same(fast, slow, params, plain):
    for key in params:
        assert_same_bits(pairs(params[key]), pairs(plain[key]))
        for slot in slow.slots:
            assert_same_bits(pairs(getattr(fast, slot)[key]), pairs(getattr(slow, slot)[key]))


def assert_equals_reference(rule, dtype="complex128", steps=3, report=False, **settings):
    fast, slow = both(rule, **settings)
    params = numbers(0, dtype)
    plain = {key: value.copy(order="K") for key, value in params.items()}
    for step in range(steps):
        grads = numbers(step + 1, dtype)
        grads["z"][0, :2] = 0, 1e-30
        fast.update(params, grads, report=report)
        slow.update(plain, grads)
    assert_same(fast, slow, params, plain)
    return fast, params


def test_these_rules_square_elements():
    others = "sgd momentum nesterov sgd_momentum sgd_nesterov signum lion lars novograd muon rprop asgd sophia dog dowg"
    others += " prodigy dadapt_adam adafactor shampoo soap schedule_free_sgd"
    assert {*OPTIMIZERS} - {*SQUARING} == {*others.split()}


@pytest.mark.parametrize("rule", SQUARING)
def test_each_rule_equals_its_reference_and_turns_with_the_plane(rule):
    _, params = assert_equals_reference(rule)
    turn, turned = np.exp(0.7j), numbers(0)
    turned = {key: np.asarray(value * turn) for key, value in turned.items()}
    other = both(rule)[0]
    for step in range(3):
        grads = numbers(step + 1)
        grads["z"][0, :2] = 0, 1e-30
        other.update(turned, {key: value * turn for key, value in grads.items()})
    for key in params:
        np.testing.assert_allclose(turned[key], params[key] * turn, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("rule", ["adam", "lamb"])
def test_single_precision_in_pure_python_too(rule):
    _, params = assert_equals_reference(rule, "complex64")
    slow, plain = both(rule)[0], numbers(0, "complex64")
    slow.__dict__["_rule"] = in_pure_python(slow._rule)
    for step in range(3):
        grads = numbers(step + 1, "complex64")
        grads["z"][0, :2] = 0, 1e-30
        report = slow.update(plain, grads, report=True)
    for key in params:
        assert_same_bits(pairs(params[key]), pairs(plain[key]))
    assert report.gradient_norm == pytest.approx(float(np.sqrt(sum((np.abs(g) ** 2).sum() for g in grads.values()))))


def test_optax_and_the_formula_in_complex_numbers():
    z, grads = numbers(0)["z"], [numbers(step)["z"] for step in range(1, 6)]
    first, optimizer = z.copy(), fastopt.Adam(lr=0.1, form="paper", modulus=True)
    for grad in grads:
        optimizer.update(first, grad)
    second, m, v = z.copy(), 0, 0
    for step, g in enumerate(grads, 1):
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * np.abs(g) ** 2
        second -= 0.1 * m / (1 - 0.9**step) / (np.sqrt(v / (1 - 0.999**step)) + 1e-8)
    np.testing.assert_allclose(first, second, rtol=1e-12)
    assert np.allclose(optimizer.v.real, v) and np.array_equal(optimizer.v.real, optimizer.v.imag)
    without, other = z.copy(), fastopt.Adam(lr=0.1, form="paper")
    for grad in grads:
        other.update(without, grad)
    assert not np.allclose(without, first, rtol=1e-3)


@pytest.mark.parametrize("name", ["adam", "rmsprop", "adagrad", "adabelief"])
def test_optax_has_the_same_steps(name):
    optax, jax = pytest.importorskip("optax"), pytest.importorskip("jax")
    theirs, ours = {
        "adam": (optax.adam(0.1), fastopt.Adam(lr=0.1, form="paper", modulus=True)),
        "rmsprop": (optax.rmsprop(0.1, eps=1e-8), fastopt.RMSProp(lr=0.1, decay_rate=0.9, eps=0, eps_root=1e-8)),
        "adagrad": (optax.adagrad(0.1), fastopt.AdaGrad(lr=0.1, initial_accumulator=0.1, eps=0, eps_root=1e-7)),
        "adabelief": (optax.adabelief(0.1), fastopt.AdaBelief(lr=0.1)),
    }[name]
    ours.modulus = True
    with jax.enable_x64(True):
        z = numbers(0)["z"]
        params = jax.numpy.asarray(z)
        state = theirs.init(params)
        for step in range(1, 4):
            grad = numbers(step)["z"]
            ours.update(z, grad)
            updates, state = theirs.update(jax.numpy.asarray(grad), state, params)
            params = optax.apply_updates(params, updates)
        np.testing.assert_allclose(z, np.asarray(params), rtol=1e-6)


def test_settings_before_and_after_the_rule():
    mask = {"z": np.arange(12).reshape(3, 4) % 2 == 0}
    settings = {"clip_norm": 3.0, "weight_decay": 0.1, "maximize": True, "averaging": EMA(0.5)}
    assert_equals_reference("adam", lookahead=Lookahead(2, 0.5), mask=mask, **copy.deepcopy(settings))
    fast, _ = assert_equals_reference("adam", unit_norm=True, constraint_axis=None, decoupled=True, weight_decay=0.1)
    assert "modulus=True" in repr(fast)
    assert "With modulus=True product, squared of a complex" in explain(fastopt.CentredRMSProp(modulus=True))


@pytest.mark.parametrize("count", THREAD_COUNTS[:2])
def test_threads_and_forms_have_the_same_bits(count):
    """Of arrays that begin anywhere, an element across two lines among them, and in pieces of several threads."""
    memory = numbers(0, "complex64", z=(9001,))["z"].view(np.float32)
    grads = numbers(1, "complex64", z=(9000,), w=(3,))
    results = []
    for form in ("plain", "prefetch", "burst", "nontemporal", "ahead"):
        params = {"z": memory[1:-1].copy().view(np.complex64), "w": grads["w"].copy()}
        params["z"] = np.zeros(18_002, np.float32)[1:-1].view(np.complex64)
        params["z"][...] = memory[1:-1].view(np.complex64)
        optimizer = fastopt.Adam(modulus=True)
        tuning.set_tuning(form)
        try:
            with threads.exactly(count):
                for _ in range(3):
                    optimizer.update(params, grads)
        finally:
            tuning.set_tuning("auto")
        results.append(params)
    plain, slow = {"z": memory[1:-1].copy().view(np.complex64), "w": grads["w"].copy()}, reference.Adam(modulus=True)
    for _ in range(3):
        slow.update(plain, grads)
    for params in results:
        assert_same_bits(pairs(params["z"]), pairs(plain["z"]))
        assert_same_bits(pairs(params["w"]), pairs(plain["w"]))


def test_real_parameters_groups_and_assignment():
    """Real leaves step as ever; the setting is one of groups, and can be changed between steps."""
    params = numbers(0) | {"real": np.ones(5), "single": np.ones(3, np.float32)}
    plain, settings = copy.deepcopy(params), {"groups": {"z": {"modulus": False}, "real": {"lr": 0.1}}}
    fast, slow = fastopt.Adam(modulus=True, **settings), reference.Adam(modulus=True, **settings)
    for step in range(6):
        if step == 2:
            fast.modulus = slow.modulus = False
        if step == 4:
            fast.groups["z"]["modulus"] = slow.groups["z"]["modulus"] = True
        grads = numbers(step + 1) | {"real": np.full(5, 0.5), "single": np.full(3, 0.5, np.float32)}
        fast.update(params, grads)
        slow.update(plain, grads)
    assert_same(fast, slow, params, plain)


def test_containers_reports_and_one_call():
    shapes = {"z": (3, 4), "w": (5,)}
    params = numbers(0, **shapes)
    flat, nested, alone, plain = fastopt.flatten(params), [copy.deepcopy(params)], params["z"].copy(), params
    optimizers, slow = [fastopt.Adam(modulus=True) for _ in range(3)], reference.Adam(modulus=True)
    for step in range(4):
        grads = numbers(step + 1, **shapes)
        before = flat["w"].copy()
        report = optimizers[0].update(flat, fastopt.flatten(grads), report=step == 3)
        optimizers[1].update(nested, [grads])
        optimizers[2].update(alone, grads["z"])
        slow.update(plain, grads)
    assert optimizers[2]._calls
    for key in plain:
        assert_same_bits(pairs(flat[key]), pairs(plain[key]))
        assert_same_bits(pairs(nested[0][key]), pairs(plain[key]))
    assert_same_bits(pairs(alone), pairs(plain["z"]))
    of_w = report.by_key["w"]
    assert of_w.update_norm == pytest.approx(float(np.linalg.norm(flat["w"] - before)))
    assert of_w.parameter_norm == pytest.approx(float(np.linalg.norm(flat["w"])))


def test_checkpoints_and_copies(tmp_path):
    params = numbers(0)
    optimizer = fastopt.Adam(modulus=True)
    optimizer.update(params, numbers(1))
    optimizer.save(tmp_path / "file", params)
    assert b"modulus" in (tmp_path / "file").read_bytes()
    fastopt.Adam().save(tmp_path / "without")
    assert b"modulus" not in (tmp_path / "without").read_bytes()  # so that versions without it can read it
    loaded, by_dict = fastopt.Adam(modulus=True), fastopt.Adam(modulus=True)
    others = copy.deepcopy(params)
    loaded.load(tmp_path / "file", others)
    by_dict.load_state_dict(optimizer.state_dict())
    for one in (loaded, by_dict, pickle.loads(pickle.dumps(optimizer)), copy.deepcopy(optimizer)):
        assert one.modulus
        some = copy.deepcopy(others)
        one.update(some, numbers(2))
        expected, mine = copy.deepcopy(optimizer), copy.deepcopy(params)
        expected.update(mine, numbers(2))
        for key in mine:
            assert_same_bits(pairs(some[key]), pairs(mine[key]))


def test_what_does_not_go_together_is_named():
    for name in ("SGD", "Lion", "Muon", "Prodigy", "NovoGrad"):
        with pytest.raises(ValueError, match=f"{name}: modulus and a rule without squares.*leave modulus out"):
            getattr(fastopt, name)(modulus=True)
    for setting in ({"clip_value": 1.0}, {"cautious": True}, {"cautious_decay": True, "weight_decay": 0.1}):
        with pytest.raises(ValueError, match=r"modulus and (clip_value|cautious|cautious_decay) do not go together"):
            fastopt.AdamW(modulus=True, **setting)
    with pytest.raises(ValueError, match="modulus and clip_value"):
        fastopt.Adam(groups={"z": {"modulus": True}}, clip_value=1.0).update(numbers(0), numbers(1))
    with pytest.raises(TypeError, match="modulus must be True or False"):
        fastopt.Adam(modulus=1)
    optimizer = fastopt.SGD()
    with pytest.raises(ValueError, match="modulus and a rule"):
        optimizer.modulus = True
    assert not optimizer.modulus
    assert {row.other for row in combinations.TABLE if row.one == "modulus"} > {"clip_value"}


def test_squares_that_overflow_together():
    """Each part has a finite square, but not both together."""
    z, g = np.ones(2, np.complex64), np.array([1.5e19 + 1.5e19j, 1], np.complex64)
    fastopt.Adam(on_nonfinite="raise").update(z.copy(), g)
    optimizer = fastopt.Adam(on_nonfinite="raise", modulus=True)
    with pytest.raises(FloatingPointError, match=r"1 of 2 values whose squares.*at 0"):
        optimizer.update(z, g)
    assert (z == 1).all() and optimizer.iter == 0
    optimizer.update(z, g / 2)
    fastopt.Adam(on_nonfinite="raise", modulus=True, gradient_scale=0.5).update(z, g)
    large = np.full(2, 3e38 + 1e38j, np.complex64)  # Adamax has magnitudes without squares
    z, optimizer = np.ones(2, np.complex64), fastopt.Adamax(modulus=True)
    optimizer.update(z, large)
    assert np.isfinite(z).all() and np.allclose(optimizer.u, optimizer.u.real * (1 + 1j))
    np.testing.assert_allclose(optimizer.u.real, np.abs(large), rtol=1e-6)


@fastopt.rule(state=("m", "v"), lr=0.1, beta=0.9, most=2.0)
def one_of_my_own(p, g, m, v, lr, beta, most):
    """With what formulas may have: names that are bound again, tuples, and branches in expressions."""
    m, kept = beta * m + g, m
    v += squared(clipped(m - kept, most)) + magnitude(g) + product(g, m)
    lr = lr if v > lr else lr * lr
    return p - lr * m / v, m, v


@fastopt.rule(state=("v",), lr=0.1)
def with_if(p, g, v, lr):
    v = v + squared(g)
    if g > v:
        g = v
    return p - lr * g / v, v


def test_rules_of_ones_own():
    optimizer, z, v = one_of_my_own(modulus=True), numbers(0)["z"], 0
    plain, m = z.copy(), 0
    for step in range(1, 4):
        g = numbers(step)["z"]
        optimizer.update(z, g)
        m, change = 0.9 * m + g, 0.9 * m + g - m
        v = v + np.minimum(np.abs(change), 2) ** 2 + np.abs(g) + (np.conj(g) * m).real
        plain -= np.where(v > 0.1, 0.1, 0.01) * m / v
    np.testing.assert_allclose(z, plain, rtol=1e-10)
    assert fastopt.check(optimizer, steps=2).identical
    before = z.copy()
    with pytest.raises(TypeError, match=r"with_if: line \d+, `if g > v:`, cannot go for real and imaginary part"):
        with_if(modulus=True).update(z, before)
    assert np.array_equal(z, before)
    with_if().update(z, before)


def test_formulas_without_their_source(monkeypatch, tmp_path):
    text = "from fastopt.kernels import squared\n\ndef formula(p, g, v):\n    return p, squared(g)\n"
    space = {}
    exec(compile(text, "<typed in>", "exec"), space)
    with pytest.raises(TypeError, match=r"formula: modulus=True needs the source of the formula, .* cannot be read"):
        in_pairs(space["formula"], 3)
    (tmp_path / "changing.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    module = __import__("changing")
    assert in_pairs(module.formula, 3)((1.0, 2.0), (3.0, 4.0), (0.0, 0.0)) == ((1.0, 2.0), (25.0, 25.0))
    in_pairs.cache_clear()
    (tmp_path / "changing.py").write_text(text.replace("squared(g)", "squared(p + g)"))
    with pytest.raises(TypeError, match="has changed since it was loaded"):
        in_pairs(module.formula, 3)
    with pytest.raises(TypeError, match="squared is imported within a function; import it at the top"):
        _with_a_local_import()


def _with_a_local_import():
    from fastopt.kernels import squared

    @fastopt.rule(state=("v",))
    def local(p, g, v):
        return p, squared(g)


def test_magnitudes_at_the_edges():
    of_pair, each = OF_PAIRS[magnitude], [0.0, 3.0, 1e200, 5e-324, np.inf, np.nan]
    with np.errstate(all="ignore"):
        for x in map(np.float64, each):
            for y in map(np.float64, each):
                expected = np.nan if np.isnan(x) or np.isnan(y) else np.hypot(x, y)
                np.testing.assert_allclose(of_pair(x, -y), expected, rtol=4e-16)
    assert magnitude(-2.0) == 2 and clipped(3.0, 2.0) == 2 == -clipped(-3.0, 2.0)
