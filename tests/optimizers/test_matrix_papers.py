"""Optimizers of whole matrices: what their papers and other packages say of a step."""

import copy
import mmap
import sys
from pathlib import Path

import numpy as np
import pytest

import fastopt
from fastopt.kernels import arena
from tests.conftest import Pair, assert_same_bits
from tests.optimizers.test_matrix import assert_same_factors, gradients, make

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
