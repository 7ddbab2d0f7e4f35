"""Optimizers of whole matrices: what they keep of each array besides its state, in steps, checkpoints and copies."""

import copy
import mmap
import pickle
import sys
from pathlib import Path

import numpy as np
import pytest

import fastopt
from fastopt import threads
from fastopt.checkpoint.state_dict import CheckpointError
from fastopt.kernels import RULES, arena
from fastopt.optimizers import OPTIMIZERS
from tests.conftest import THREAD_COUNTS, Pair, assert_same_bits

SETTINGS = {"muon": {"normalize_rows": True}}
KEEPING = [rule for rule in RULES if RULES[rule].factors]
SHAPES = {"W": (12, 5), "F": (5, 12), "T": (3, 2, 4), "b": (7,), "one": (1, 1), "s": (), "none": (0, 3)}


def model(rng, dtype="float64"):
    """Arrays of all kinds, one in Fortran's order and one that is not contiguous."""
    params = {key: rng.standard_normal(shape).astype(dtype) for key, shape in SHAPES.items()}
    params["F"] = np.asfortranarray(params["F"])
    params["V"] = rng.standard_normal((6, 8)).astype(dtype)[::2, ::2]
    return params


def gradients(params, rng):
    return {key: np.asarray(rng.standard_normal(p.shape), p.dtype) for key, p in params.items()}


def make(rule, **settings):
    return OPTIMIZERS[rule](**SETTINGS.get(rule, {}), **settings)


def assert_same_factors(some, others):
    assert some.keys() == others.keys()
    for key, of_key in some.items():
        assert of_key.keys() == others[key].keys()
        for name, array in of_key.items():
            assert_same_bits(array, others[key][name])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("rule", KEEPING)
def test_as_the_reference(rule, dtype, rng):
    groups = {"F": {"lr_scale": 0.5}, "b": {"frozen": True}}
    pair = Pair(
        rule, groups=groups, clip_norm=2.0, averaging=fastopt.EMA(0.9), bounds=(-2, 2), **SETTINGS.get(rule, {})
    )
    fast = model(rng, dtype)
    plain = copy.deepcopy(fast)
    for step in range(12):
        grads = gradients(fast, rng) | ({"T": None} if step % 4 == 1 else {})
        pair.update(fast, plain, grads)
    for key in fast:
        assert_same_bits(fast[key], plain[key])
    pair.assert_same_state()
    assert_same_factors(pair.fast.factors, {key: kept for key, kept in pair.plain.kept.items() if kept})
    assert pair.fast.factors["W"] and "b" not in pair.fast.factors


@pytest.mark.parametrize("rule", KEEPING)
def test_same_bits_for_any_threads_and_order_of_keys(rule):
    results = []
    for count in (*THREAD_COUNTS, 1):
        rng = np.random.default_rng(0)
        params, optimizer = model(rng, "float32"), make(rule)
        if results:
            params = dict(reversed(params.items()))
        for _ in range(4):
            grads = gradients(dict(sorted(params.items())), rng)
            with threads.exactly(count):
                optimizer.update(params, grads)
        results.append(params)
    for params in results[1:]:
        for key in params:
            assert_same_bits(params[key], results[0][key])


@pytest.mark.parametrize("bare", [False, True])
@pytest.mark.parametrize("rule", KEEPING)
def test_factors_go_on_from_checkpoints_and_copies(rule, bare, tmp_path):
    def steps(optimizer, params, count, seed):
        rng = np.random.default_rng(seed)
        for _ in range(count):
            optimizer.update(params, gradients({"": params}, rng)[""] if bare else gradients(params, rng))

    def start():
        params = model(np.random.default_rng(7), "float32")
        return params["W"] if bare else params

    whole, expected = start(), make(rule, lr=0.1)
    steps(expected, whole, 7, 0)
    steps(expected, whole, 13, 1)
    params, optimizer = start(), make(rule, lr=0.1)
    assert optimizer.factors == {}
    steps(optimizer, params, 7, 0)
    assert next(iter(optimizer.factors)) == (None if bare else "W")
    optimizer.save(tmp_path / "file")
    fresh = [OPTIMIZERS[rule]() for _ in range(2)]
    fresh[0].load_state_dict(optimizer.state_dict())
    fresh[1].load(tmp_path / "file")
    for other in (*fresh, copy.deepcopy(optimizer), pickle.loads(pickle.dumps(optimizer))):
        assert_same_factors(other.factors, optimizer.factors)
        mine = copy.deepcopy(params)
        steps(other, mine, 13, 1)
        assert_same_factors(other.factors, expected.factors)
        for key in [...] if bare else mine:
            assert_same_bits(mine[key], whole[key])


@pytest.mark.parametrize("rule", KEEPING)
def test_factors_follow_what_becomes_of_the_state(rule, rng):
    params, optimizer = model(rng), make(rule, on_nonfinite="skip")
    optimizer.update(params, gradients(params, rng))
    before, saved = optimizer.factors, copy.deepcopy(params)
    with optimizer.trial(params) as trial:
        optimizer.update(params, gradients(params, rng))
        assert any((optimizer.factors["W"][name] != array).any() for name, array in before["W"].items())
        trial.reject()
    assert_same_factors(optimizer.factors, before)
    optimizer.update(params, gradients(params, rng) | {"W": np.full((12, 5), np.nan)})
    assert optimizer.skipped == 1
    assert_same_factors(optimizer.factors, before)
    for key in params:
        assert_same_bits(params[key], saved[key])
    with pytest.raises(ValueError, match=r"W.* has factors .*`forget` it"):
        optimizer.reindex("W", [0, 1])
    with pytest.raises(ValueError, match="read-only"):
        next(iter(optimizer.factors["W"].values()))[...] = 0
    optimizer.forget("W")
    assert_same_factors(optimizer.factors, {key: kept for key, kept in before.items() if key != "W"})
    optimizer.reset()
    assert optimizer.factors == {}
    optimizer.update(params, gradients(params, rng))
    setattr(optimizer, RULES[rule].state[-1], None)
    assert optimizer.factors == {}


@pytest.mark.parametrize("rule", KEEPING)
def test_factors_that_do_not_fit_are_refused(rule, rng):
    params, optimizer = {"W": np.ones((3, 4), np.float32), "b": np.ones(3, np.float32)}, make(rule)
    optimizer.update(params, gradients(params, rng))
    good = optimizer.state_dict()
    name, array = next(iter(good["factors"]["W"].items()))
    for factors, words in (
        ("much", "factors in state_dict are 'much', expected a dict of dicts"),
        ({"W": {name: array[:-1]}}, "is .*, expected"),
        ({"W": {name: None}}, "is NoneType, expected"),
        ({"W": {name: array.astype("float64")}}, "is float64, the state float32"),
        ({"W": {}}, f"have no .*{name}"),
        ({"W": {**good["factors"]["W"], "more": array}}, "'more'"),
    ):
        if isinstance(factors, dict) and factors["W"]:
            factors = {"W": {**good["factors"]["W"], **factors["W"]}}
        with pytest.raises(CheckpointError, match=words):
            optimizer.load_state_dict(good | {"factors": factors})
        assert_same_factors(optimizer.factors, good["factors"])
    wide = OPTIMIZERS[rule]()
    wide.load_state_dict(good, cast="float64")
    assert all(array.dtype == np.float64 for of_key in wide.factors.values() for array in of_key.values())
    other = make(rule)
    more = {"W": np.ones((4, 3), np.float32), "b": np.ones(3, np.float32)}
    other.update(more, gradients(more, rng))
    before = other.factors
    assert other.load_state_dict(good, strict=False).reshaped == ["W"]
    assert_same_factors({"W": other.factors["W"]}, {"W": before["W"]})
    assert_same_factors({"b": other.factors.get("b", {})}, {"b": good["factors"].get("b", {})})


@pytest.mark.parametrize("rule", KEEPING)
def test_nan_goes_through_and_empty_arrays_do_no_harm(rule):
    params, optimizer = {"W": np.ones((3, 4)), "none": np.ones((0, 4)), "nothing": np.ones((4, 0))}, make(rule)
    for bad in (1.0, np.nan, 1.0):
        optimizer.update(params, {key: np.full(p.shape, bad) for key, p in params.items()})
    assert np.isnan(params["W"]).all()
    params, optimizer = {"W": np.ones((3, 4), np.float32)}, make(rule)
    optimizer.update(params, {"W": np.zeros((3, 4))})
    assert np.isfinite(params["W"]).all()


# Muon's rows


@pytest.mark.parametrize("shape", [(5, 9), (9, 5), (4, 3, 2)])
def test_rows_are_normalised_as_in_the_paper(shape, rng):
    settings = {"lr": 1.0, "momentum": 0.9, "weight_decay": 0.0, "coefficients": "polar_express"}
    settings["adjust"] = "match_rms_adamw"
    plain, ours = fastopt.Muon(**settings), fastopt.Muon(**settings, normalize_rows=True, beta2=0.8)
    rows, size = shape[0], np.prod(shape)
    v, one, other = 0.0, {"W": np.zeros(shape)}, {"W": np.zeros(shape)}
    for _ in range(6):
        g = rng.standard_normal(shape) * np.exp(rng.standard_normal((rows, *[1] * (len(shape) - 1))))
        plain.update(one, {"W": g})
        o, before = plain.o["W"].reshape(rows, -1), other["W"].copy()
        v = 0.8 * v + 0.2 * (o**2).mean(axis=1, keepdims=True)  # Algorithm 1
        o = o / (np.sqrt(v) + 1e-10)
        step = 0.2 * np.sqrt(size) / np.linalg.norm(o) * o
        ours.update(other, {"W": g})
        taken = (before - other["W"]).reshape(rows, -1)
        np.testing.assert_allclose(np.linalg.norm(taken), np.linalg.norm(plain.o["W"]), rtol=1e-9)
        # Of the paper's norm, that of a matrix whose singular values are one, they are near.
        np.testing.assert_allclose(taken, step * np.linalg.norm(taken) / np.linalg.norm(step), rtol=1e-9)
        np.testing.assert_allclose(taken, step, rtol=0.1)


def test_rows_are_normalised_in_groups_and_from_a_step_on(rng):
    params, optimizer = (
        {"a": np.ones((3, 4)), "b": np.ones((3, 4))},
        fastopt.Muon(groups={"a": {"normalize_rows": True}}),
    )
    optimizer.update(params, gradients(params, rng))
    assert list(optimizer.factors) == ["a"]
    optimizer.normalize_rows = True
    optimizer.update(params, gradients(params, rng))
    assert list(optimizer.factors) == ["a", "b"]


def test_normuon_of_another_package(rng):
    torch, kinds = pytest.importorskip("torch"), pytest.importorskip("pytorch_optimizer")
    start = rng.standard_normal((12, 20)).astype(np.float32)
    params, p = {"W": start.copy()}, torch.nn.Parameter(torch.tensor(start))
    ours = fastopt.Muon(lr=0.1, normalize_rows=True, weight_decay=0.0)
    theirs = kinds.NorMuon([{"params": [p], "use_muon": True, "lr": 0.1}])
    for g in rng.standard_normal((10, 12, 20)).astype(np.float32):
        ours.update(params, {"W": g})
        p.grad = torch.tensor(g)
        theirs.step()
    assert np.abs(params["W"] - start).max() > 0.1
    # Directions are made orthogonal in bfloat16 there.
    np.testing.assert_allclose(params["W"] - start, p.detach().numpy() - start, atol=0.03)


# Adafactor


@pytest.mark.parametrize("shape", [(6, 9), (9, 6), (7,)])
def test_adafactor_as_pytorch(shape, rng):
    torch = pytest.importorskip("torch")
    start = rng.standard_normal(shape)
    params, p = {"W": start.copy()}, torch.nn.Parameter(torch.tensor(start))
    ours, theirs = fastopt.Adafactor(clip_threshold=1.1), torch.optim.Adafactor([p], d=1.1)
    for g in rng.standard_normal((30, *shape)) * np.exp(rng.standard_normal((30, *shape))):
        ours.update(params, {"W": g})
        p.grad = torch.tensor(g)
        theirs.step()
    np.testing.assert_allclose(params["W"] - start, p.detach().numpy() - start, rtol=1e-10)
    state = theirs.state[p]
    if len(shape) > 1:
        np.testing.assert_allclose(ours.factors["W"]["row_squares"], state["row_var"].numpy().ravel(), rtol=1e-10)
        np.testing.assert_allclose(ours.factors["W"]["column_squares"], state["col_var"].numpy().ravel(), rtol=1e-10)
    else:
        np.testing.assert_allclose(ours.factors["W"]["squares"], state["variance"].numpy(), rtol=1e-10)


@pytest.mark.parametrize(("relative", "beta1"), [(True, 0.0), (False, 0.0), (True, 0.8)])
@pytest.mark.parametrize("shape", [(6, 9), (9, 6), (7,)])
def test_adafactor_as_optax(shape, relative, beta1, rng):
    jax, optax = pytest.importorskip("jax"), pytest.importorskip("optax")
    start = rng.standard_normal(shape).astype(np.float32)
    params, p = {"W": start.copy()}, jax.numpy.array(start)
    ours = fastopt.Adafactor(lr=0.03, relative=relative, weight_decay=0.01, clip_threshold=0.9, beta1=beta1)
    theirs = optax.adafactor(
        0.03,
        min_dim_size_to_factor=1,
        clipping_threshold=0.9,
        multiply_by_parameter_scale=relative,
        momentum=beta1 or None,
        weight_decay_rate=0.03 * 0.01,
    )
    state = theirs.init(p)
    for g in (rng.standard_normal((20, *shape)) * np.exp(rng.standard_normal((20, *shape)))).astype(np.float32):
        ours.update(params, {"W": g})
        updates, state = theirs.update(jax.numpy.array(g), state, p)
        p = optax.apply_updates(p, updates)
    np.testing.assert_allclose(params["W"] - start, np.asarray(p) - start, rtol=1e-3, atol=1e-6)


def test_adafactor_with_a_running_mean_of_updates(rng):
    """The formula in plain NumPy, in groups too; bits, whatever the order of storage, are those of the reference."""
    w, m, r, c = rng.standard_normal((4, 5)), 0.0, 0.0, 0.0
    params = {"W": w.copy(), "F": np.asfortranarray(w), "plain": w.copy()}
    plain, settings = copy.deepcopy(params), {"lr": 0.1, "beta1": 0.9, "groups": {"plain": {"beta1": 0.0}}}
    pair, other = Pair("adafactor", **settings), fastopt.Adafactor(lr=0.1)
    alone = w.copy()
    for step in range(1, 8):
        g = rng.standard_normal((4, 5))
        r, c = (x + step**-0.8 * ((g * g).mean(axis) - x) for x, axis in ((r, 1), (c, 0)))
        u = g / np.sqrt(np.outer(r, c) / r.mean())
        u /= max(1, np.sqrt((u * u).mean()))
        m = m + (1 - 0.9) * (max(1e-3, np.sqrt((w * w).mean())) * u - m)
        w = w - 0.1 * m
        pair.update(params, plain, dict.fromkeys(params, g))
        other.update(alone, g)
    for key in ("W", "F"):
        np.testing.assert_allclose(params[key], w, rtol=1e-11)
        np.testing.assert_allclose(pair.fast.u[key], m, rtol=1e-11)
    assert_same_bits(params["plain"], alone)
    for key in params:
        assert_same_bits(params[key], plain[key])
    pair.assert_same_state()


@pytest.mark.parametrize(("order", "columns"), [("C", 1), ("C", 3), ("C", 40_000), ("F", 3)])
def test_adafactor_of_more_elements_than_a_block(order, columns, rng):
    """Block by block the bits are those of whole arrays, which the reference adds up."""
    params = {"W": np.array(rng.standard_normal((3 * 10**5 // columns, columns)), np.float32, order=order)}
    pair, plain = Pair("adafactor", lr=0.1), copy.deepcopy(params)
    for _ in range(2):
        pair.update(params, plain, gradients(params, rng))
    assert_same_bits(params["W"], plain["W"])
    assert_same_factors(pair.fast.factors, pair.plain.kept)
    assert not pair.fast.u["W"].any()


def test_memory_that_is_given_back():
    """Zero, whatever its size and place, and all around it as it was; that of large arrays is the system's again."""
    for size in (10, arena.LEAST_RELEASED // 4 + 10_001):
        block = np.ones(size, np.float32)
        arena.release(block[3:-2])
        assert not block[3:-2].any() and block[:3].all() and block[-2:].all()
    columns = np.ones((3, 4), order="F")
    arena.release(columns)
    assert not columns.any()
    if sys.platform == "linux":
        large = np.ones(1 << 24, np.float32)
        before = resident_bytes()
        arena.release(large)
        assert before - resident_bytes() > 0.9 * large.nbytes
        large += 1
        assert large.all()


def resident_bytes():
    return int(Path("/proc/self/statm").read_text().split()[1]) * mmap.PAGESIZE


def test_adafactor_with_the_learning_rate_of_the_paper(rng):
    torch = pytest.importorskip("torch")
    start = rng.standard_normal((4, 5))
    params, p = {"W": start.copy()}, torch.nn.Parameter(torch.tensor(start))
    ours, theirs = fastopt.Adafactor(lr=lambda t: min(0.5, t**-0.5)), torch.optim.Adafactor([p], lr=0.5)
    for g in rng.standard_normal((12, 4, 5)):
        ours.update(params, {"W": g})
        p.grad = torch.tensor(g)
        theirs.step()
    np.testing.assert_allclose(params["W"], p.detach().numpy(), rtol=1e-10)


@pytest.mark.parametrize("rule", [rule for rule in KEEPING if rule != "muon"])
def test_sums_of_squares_that_are_too_large_are_skipped_or_raise(rule):
    params, optimizer = {"W": np.ones((3, 4), np.float32)}, make(rule, on_nonfinite="raise")
    optimizer.update(params, {"W": np.ones((3, 4), np.float32)})
    before = params["W"].copy(), optimizer.factors
    with pytest.raises(FloatingPointError, match=r"grads\['W'\] is finite, but sums of its squares.*float32"):
        optimizer.update(params, {"W": np.full((3, 4), 1e30, np.float32)})
    assert_same_bits(params["W"], before[0])
    assert_same_factors(optimizer.factors, before[1])


# Shampoo and SOAP


def power(matrix, exponent, least=0.0):
    values, vectors = np.linalg.eigh(matrix)
    return vectors @ np.diag(np.maximum(values, least) ** exponent) @ vectors.T


def test_shampoo_as_in_the_paper(rng):
    """Algorithm 1, with momentum after it."""
    w, left, right, m = rng.standard_normal((6, 4)), 0.01 * np.eye(6), 0.01 * np.eye(4), 0.0
    params, optimizer = {"W": w.copy()}, fastopt.Shampoo(lr=0.3, momentum=0.5, eps=0.01, precondition_every=1)
    for g in rng.standard_normal((8, 6, 4)):
        left, right = left + g @ g.T, right + g.T @ g
        m = 0.5 * m + power(left, -0.25) @ g @ power(right, -0.25)
        w = w - 0.3 * m
        optimizer.update(params, {"W": g})
    np.testing.assert_allclose(params["W"], w, rtol=1e-11)
    np.testing.assert_allclose(optimizer.factors["W"]["sums_1"], right, rtol=1e-12)


@pytest.mark.parametrize("every", [1, 3])
def test_shampoo_of_tensors_large_dimensions_and_vectors(every, rng):
    """Algorithm 2 as one matrix of all elements: the Kronecker product of the roots of the matrices or diagonals."""
    shapes = {"T": (3, 4, 2), "large": (3, 1201), "b": (5,), "s": ()}
    params = {key: np.zeros(shape) for key, shape in shapes.items()}
    optimizer = fastopt.Shampoo(lr=1.0, momentum=0.0, eps=0.1, decay_rate=0.8, precondition_every=every)
    roots, sums = {}, {key: [0.1 * np.eye(n) for n in np.atleast_1d(np.zeros(s)).shape] for key, s in shapes.items()}
    for step in range(6):
        before = {key: p.copy() for key, p in params.items()}
        grads = gradients(params, rng)
        optimizer.update(params, grads)
        for key, g in ((key, np.atleast_1d(g)) for key, g in grads.items()):
            order = g.ndim
            for axis in range(order):
                others = [other for other in range(order) if other != axis]
                products = np.tensordot(g, g, axes=(others, others))
                if order == 1 or g.shape[axis] > 1200:
                    products = np.diag(np.diag(products))
                sums[key][axis] = 0.8 * sums[key][axis] + (1 - 0.8) * products
            exponent = -1 / (2 * order)
            for axis, one in enumerate(sums[key]):
                if order == 1 or len(one) > 1200:
                    roots[key, axis] = np.diag(np.maximum(np.diag(one), 0.1) ** exponent)
                elif step < every or step % every == 0:
                    roots[key, axis] = power(one, exponent, 0.1)
            expected = g
            for axis in range(order):
                expected = np.moveaxis(np.tensordot(roots[key, axis], expected, axes=(1, axis)), 0, axis)
            np.testing.assert_allclose(np.atleast_1d(before[key] - params[key]), expected, rtol=1e-9, atol=1e-12)
    assert optimizer.factors["large"]["root_1"].shape == (1201,)


def test_the_first_step_of_another_shampoo(rng):
    torch, kinds = pytest.importorskip("torch"), pytest.importorskip("pytorch_optimizer")
    for shape in ((6, 4), (4, 6), (3, 4, 2)):
        start, g = rng.standard_normal(shape), rng.standard_normal(shape)
        params, p = {"W": start.copy()}, torch.nn.Parameter(torch.tensor(start))
        fastopt.Shampoo(lr=0.1, eps=0.01).update(params, {"W": g})
        theirs = kinds.Shampoo([p], lr=0.1, matrix_eps=0.01)
        p.grad = torch.tensor(g)
        theirs.step()
        if len(shape) == 2:
            np.testing.assert_allclose(params["W"], p.detach().numpy(), rtol=1e-9)


@pytest.mark.parametrize("shape", [(6, 4), (4, 6), (3, 4, 2), (7,)])
def test_soap_of_another_package(shape, rng):
    torch, kinds = pytest.importorskip("torch"), pytest.importorskip("pytorch_optimizer")
    start = rng.standard_normal(shape)
    params, p = {"W": start.copy()}, torch.nn.Parameter(torch.tensor(start))
    ours = fastopt.SOAP(lr=0.1, weight_decay=0.0, precondition_every=3, beta1=0.9)
    theirs = kinds.SOAP([p], lr=0.1, weight_decay=0.0, precondition_frequency=3, betas=(0.9, 0.95))
    for g in rng.standard_normal((20, *shape)):
        ours.update(params, {"W": g})
        p.grad = torch.tensor(g)
        theirs.step()
        if ours.iter == 1:  # where matrices have no full rank, any basis of their kernel will do
            for axis, basis in enumerate(theirs.state[p]["Q"]):
                if len(basis):
                    basis.copy_(torch.tensor(ours.factors["W"][f"basis_{axis}"]))
    assert np.abs(params["W"] - start).max() > 0.1
    # Bases are made orthogonal in float32 there.
    np.testing.assert_allclose(params["W"] - start, p.detach().numpy() - start, rtol=1e-4, atol=1e-5)


def test_soap_as_in_the_paper(rng):
    """Algorithm 3 with eigenvectors to the last digit where theirs follow by QR, of gradients that have some."""
    rows, columns = np.linalg.qr(rng.standard_normal((5, 5)))[0], np.linalg.qr(rng.standard_normal((3, 3)))[0]
    w, m, v, left, right = np.zeros((5, 3)), 0.0, 0.0, 0.0, 0.0
    params, optimizer = {"W": w.copy()}, fastopt.SOAP(lr=0.1, beta1=0.8, beta2=0.9, weight_decay=0.0)
    for step in range(12):
        size = np.eye(5, 3) * rng.uniform(1, 1.1, 3) * [9, 5, 2]
        g = rows @ size @ columns.T
        optimizer.update(params, {"W": g})
        if step:
            m, v = 0.8 * m + 0.2 * g, 0.9 * v + 0.1 * (rows.T @ g @ columns) ** 2
            scaled = (rows.T @ m @ columns) / (np.sqrt(v) + 1e-8)
            scaled[~np.eye(5, 3, dtype=bool)] = 0  # rounding over rounding
            w = w - 0.1 * np.sqrt(1 - 0.9**step) / (1 - 0.8**step) * rows @ scaled @ columns.T
        left, right = 0.9 * left + 0.1 * g @ g.T, 0.9 * right + 0.1 * g.T @ g
    np.testing.assert_allclose(params["W"], w, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(optimizer.factors["W"]["sums_0"], left, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(optimizer.factors["W"]["sums_1"], right, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("rule", ["shampoo", "soap"])
def test_they_reach_the_minimum_of_a_tilted_valley(rule, rng):
    """|A (W - T) B|^2 / 2, whose curvature is a Kronecker product with a condition number of ten thousand."""
    a, b = (np.linalg.qr(rng.standard_normal((6, 6)))[0] * np.logspace(0, -1, 6) for _ in range(2))
    params, target, loss = {"W": np.zeros((6, 6))}, rng.standard_normal((6, 6)), []
    optimizer = make(rule, lr=fastopt.schedules.Cosine(0.3, 400), weight_decay=0.0)
    for _ in range(400):
        residual = a.T @ (params["W"] - target) @ b
        loss.append((residual**2).sum())
        optimizer.update(params, {"W": a @ residual @ b.T})
    assert loss[-1] < 1e-3 * loss[0]


@pytest.mark.parametrize("rule", KEEPING)
def test_what_does_not_go_together_with_them_says_so(rule):
    for settings, other in (
        ({"mask": {"W": np.ones((2, 2), bool)}}, "mask and a rule with norms of whole arrays"),
        ({"batch_axis": 0}, "batch_axis and a rule with norms of whole arrays"),
        ({"l1": 0.1}, "l1 or l2_prox and a rule without an effective learning rate"),
    ):
        with pytest.raises(ValueError, match=f"{other} do not go together"):
            make(rule, **settings)
    optimizer = make(rule)
    with pytest.raises(TypeError, match=r"W.*Rows"):
        optimizer.update({"W": np.ones((3, 2))}, {"W": fastopt.Rows(np.array([1]), np.ones((1, 2)))})
    with pytest.raises(ValueError, match="a rule of whole matrices"):
        optimizer.update({"W": np.ones((3, 2), complex)}, {"W": np.ones((3, 2), complex)})
    assert optimizer.iter == 0 and optimizer.factors == {}
    compact, plain = make(rule, state_storage="bfloat16"), make(rule)  # stays as it is
    one, other = ({"W": np.ones((80, 70), np.float32)} for _ in range(2))
    for each, params in ((compact, one), (plain, other)):
        each.update(params, {"W": np.linspace(-1, 1, 5600, dtype=np.float32).reshape(80, 70)})
    assert_same_bits(one["W"], other["W"])


@pytest.mark.parametrize("rule", KEEPING)
def test_no_factor_becomes_subnormal(rule):
    pair = Pair(rule, **SETTINGS.get(rule, {}), **({"decay_rate": 0.5, "eps": 0.0} if rule == "shampoo" else {}))
    fast, plain = ({"W": np.ones((3, 4), np.float32), "b": np.ones(4, np.float32)} for _ in range(2))
    for scale in (3e-19, 3e-19, *[0.0] * 30):
        pair.update(fast, plain, {key: np.full(p.shape, scale, np.float32) for key, p in fast.items()})
        for of_key in pair.fast.factors.values():
            for array in of_key.values():
                assert not np.any((array != 0) & (np.abs(array) < np.finfo(np.float32).tiny))
    assert_same_factors(pair.fast.factors, pair.plain.kept)
    for key in fast:
        assert_same_bits(fast[key], plain[key])


@pytest.mark.parametrize("rank", [1, 2])
def test_old_roots_do_not_make_steps_long(rank, rng):
    """Gradients of low rank leave directions in which old roots are large; rounding alone would grow there."""
    start = rng.standard_normal((6, rank)) @ rng.standard_normal((rank, 5))
    pair, fast = Pair("shampoo", lr=0.3, momentum=0.0, precondition_every=20), {"W": start.copy()}
    plain = {"W": start.copy()}
    for _ in range(120):
        before = fast["W"].copy()
        pair.update(fast, plain, {"W": 2 * fast["W"]})
        assert np.linalg.norm(fast["W"] - before) <= 0.3 * 30**0.25 * (1 + 1e-9)
    assert_same_bits(fast["W"], plain["W"])
    assert np.linalg.norm(fast["W"]) < np.linalg.norm(start)


@pytest.mark.parametrize("mode", ["skip", "raise"])
def test_a_step_whose_factors_overflow_leaves_state_as_it_was(mode):
    params, optimizer = {"W": np.float32([0.5, 1.0])}, fastopt.SOAP(on_nonfinite=mode)
    for _ in range(2):
        optimizer.update(params, {"W": np.float32([0.2, 0.3])})
    before = copy.deepcopy((params, optimizer.state_dict()))
    huge = {"W": np.float32([0.1, 1e25])}
    if mode == "raise":
        with pytest.raises(FloatingPointError):
            optimizer.update(params, huge)
    else:
        optimizer.update(params, huge)
        assert optimizer.skipped == 1
    np.testing.assert_array_equal(params["W"], before[0]["W"])
    assert (optimizer.u["W"] != 0).all()
    np.testing.assert_array_equal(optimizer.u["W"], before[1]["state"]["u"]["W"])
