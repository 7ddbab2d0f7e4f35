"""PyTorch as an independent authority, where it is installed. Conventions are matched, state is compared too."""

import numpy as np
import pytest

import fastopt

torch = pytest.importorskip("torch")

# ours, theirs, and their state beside ours as a function of theirs
CASES = {
    "sgd": (lambda: fastopt.SGD(lr=0.1), lambda p: torch.optim.SGD([p], lr=0.1), {}),
    # PyTorch's velocity has the other sign and is not multiplied by lr.
    "momentum": (
        lambda: fastopt.Momentum(lr=0.1),
        lambda p: torch.optim.SGD([p], lr=0.1, momentum=0.9),
        {"v": lambda state: -0.1 * state["momentum_buffer"]},
    ),
    "nesterov": (
        lambda: fastopt.Nesterov(lr=0.1),
        lambda p: torch.optim.SGD([p], lr=0.1, momentum=0.9, nesterov=True),
        {"v": lambda state: -0.1 * state["momentum_buffer"]},
    ),
    "sgd_momentum": (
        lambda: fastopt.SGDMomentum(lr=0.1, dampening=0.3),
        lambda p: torch.optim.SGD([p], lr=0.1, momentum=0.9, dampening=0.3),
        {"v": lambda state: state["momentum_buffer"]},
    ),
    "sgd_nesterov": (
        lambda: fastopt.SGDNesterov(lr=0.1),
        lambda p: torch.optim.SGD([p], lr=0.1, momentum=0.9, nesterov=True),
        {"v": lambda state: state["momentum_buffer"]},
    ),
    "asgd": (
        lambda: fastopt.ASGD(lr=0.1, lambd=0.01, alpha=0.5, t0=10),
        lambda p: torch.optim.ASGD([p], lr=0.1, lambd=0.01, alpha=0.5, t0=10),
        {"average": lambda state: state["ax"]},
    ),
    "rprop": (
        lambda: fastopt.Rprop(lr=0.1, min_step_size=0.01, max_step_size=0.3),
        lambda p: torch.optim.Rprop([p], lr=0.1, step_sizes=(0.01, 0.3)),
        {"previous": lambda state: state["prev"], "step_size": lambda state: state["step_size"]},
    ),
    "adagrad": (
        lambda: fastopt.AdaGrad(lr=0.1, eps=1e-7, initial_accumulator=0.01, lr_decay=0.1),
        lambda p: torch.optim.Adagrad([p], lr=0.1, eps=1e-7, initial_accumulator_value=0.01, lr_decay=0.1),
        {"h": lambda state: state["sum"]},
    ),
    "rmsprop": (
        lambda: fastopt.RMSProp(lr=0.1),
        lambda p: torch.optim.RMSprop([p], lr=0.1, alpha=0.99, eps=1e-7),
        {"h": lambda state: state["square_avg"]},
    ),
    "rmsprop_momentum": (
        lambda: fastopt.RMSPropMomentum(lr=0.1),
        lambda p: torch.optim.RMSprop([p], lr=0.1, alpha=0.99, eps=1e-7, momentum=0.9),
        {"h": lambda state: state["square_avg"], "v": lambda state: state["momentum_buffer"]},
    ),
    "centred_rmsprop": (
        lambda: fastopt.CentredRMSProp(lr=0.1, eps=0.01, momentum=0.5),
        lambda p: torch.optim.RMSprop([p], lr=0.1, alpha=0.99, eps=0.01, momentum=0.5, centered=True),
        {
            "h": lambda state: state["square_avg"],
            "m": lambda state: state["grad_avg"],
            "v": lambda state: state["momentum_buffer"],
        },
    ),
    "adadelta": (
        lambda: fastopt.Adadelta(),
        lambda p: torch.optim.Adadelta([p]),
        {"h": lambda state: state["square_avg"], "d": lambda state: state["acc_delta"]},
    ),
    "adam": (
        lambda: fastopt.Adam(lr=0.1, form="paper"),
        lambda p: torch.optim.Adam([p], lr=0.1),
        {"m": lambda state: state["exp_avg"], "v": lambda state: state["exp_avg_sq"]},
    ),
    "amsgrad": (
        lambda: fastopt.AMSGrad(lr=0.1, beta2=0.9),
        lambda p: torch.optim.Adam([p], lr=0.1, betas=(0.9, 0.9), amsgrad=True),
        {
            "m": lambda state: state["exp_avg"],
            "v": lambda state: state["exp_avg_sq"],
            "v_max": lambda state: state["max_exp_avg_sq"],
        },
    ),
    "adamw": (
        lambda: fastopt.AdamW(lr=0.1, weight_decay=0.1),
        lambda p: torch.optim.AdamW([p], lr=0.1, weight_decay=0.1),
        {"m": lambda state: state["exp_avg"], "v": lambda state: state["exp_avg_sq"]},
    ),
    "adamax": (
        lambda: fastopt.Adamax(lr=0.1, eps=0.01),
        lambda p: torch.optim.Adamax([p], lr=0.1, eps=0.01),
        {"m": lambda state: state["exp_avg"], "u": lambda state: state["exp_inf"]},
    ),
    "nadam": (
        lambda: fastopt.NAdam(lr=0.1, momentum_decay=0.1, eps=0.01),
        lambda p: torch.optim.NAdam([p], lr=0.1, momentum_decay=0.1, eps=0.01),
        {"m": lambda state: state["exp_avg"], "v": lambda state: state["exp_avg_sq"]},
    ),
    "radam": (
        lambda: fastopt.RAdam(lr=0.1, eps=0.01),
        lambda p: torch.optim.RAdam([p], lr=0.1, eps=0.01),
        {"m": lambda state: state["exp_avg"], "v": lambda state: state["exp_avg_sq"]},
    ),
}


# In tests/optimizers/test_peers.py, beside optax, or in tests/optimizers/test_optimizers.py, beside the lines of the paper.
ELSEWHERE = (
    "signum",
    "lion",
    "adabelief",
    "yogi",
    "ademamix",
    "adan",
    "laprop",
    "sophia",
    "schedule_free_sgd",
    "schedule_free_adamw",
    "lars",
    "lamb",
    "stable_adamw",
    "novograd",
    "muon",  # below
    *("adafactor", "shampoo", "soap"),  # in test_matrix.py
    "adopt",
    "mars",
    "prodigy",
    "dadapt_adam",
    "dog",
    "dowg",
)


@pytest.fixture
def scalars_in_float64():
    """NAdam's product of mu is a tensor of PyTorch's default dtype."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 2e-5), ("float64", 1e-13)])
@pytest.mark.parametrize("rule", CASES)
def test_torch_takes_the_same_path(rule, dtype, tolerance, rng, scalars_in_float64):
    make_ours, make, state_of = CASES[rule]
    ours = make_ours()
    start = rng.standard_normal((40, 30)).astype(dtype)
    params, p = {"W": start.copy()}, torch.nn.Parameter(torch.tensor(start))
    theirs = make(p)
    for _ in range(50):
        g = rng.standard_normal(start.shape).astype(dtype)
        ours.update(params, {"W": g})
        p.grad = torch.tensor(g)
        theirs.step()
    np.testing.assert_allclose(params["W"], p.detach().numpy(), rtol=tolerance, atol=tolerance)
    for slot, translate in state_of.items():
        expected = translate(theirs.state[p]).numpy()
        np.testing.assert_allclose(getattr(ours, slot)["W"], expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("rule", CASES)
def test_complex_parameters_take_the_same_path(rule, rng, scalars_in_float64):
    make_ours, make, state_of = CASES[rule]
    ours, start = make_ours(), rng.standard_normal((4, 3)) + 1j * rng.standard_normal((4, 3))
    params, p = {"z": start.copy()}, torch.nn.Parameter(torch.tensor(start))
    theirs = make(p)
    for _ in range(20):
        g = rng.standard_normal((4, 3)) + 1j * rng.standard_normal((4, 3))
        ours.update(params, {"z": g})
        p.grad = torch.tensor(g)
        theirs.step()
    np.testing.assert_allclose(params["z"], p.detach().numpy(), rtol=1e-13, atol=1e-13)
    for slot, translate in state_of.items():
        expected = translate(theirs.state[p]).numpy()
        np.testing.assert_allclose(getattr(ours, slot)["z"], expected, rtol=1e-13, atol=1e-13)


def test_the_gradient_of_complex_parameters_is_pytorchs():
    """Steps on a tensor's own memory, with the gradient that autograd finds."""
    matrix = torch.tensor([[1.0 + 1.0j, 0.5], [0.2j, 2.0], [1.0, -1.0j]], dtype=torch.complex128)
    wanted = torch.tensor([1.0 - 2.0j, 0.5j], dtype=torch.complex128)
    z, optimizer = torch.nn.Parameter(torch.zeros(2, dtype=torch.complex128)), fastopt.Adam(lr=0.1)
    for _ in range(300):
        loss = (matrix @ (z - wanted)).abs().square().sum()
        z.grad = None
        loss.backward()
        optimizer.update({"z": z}, {"z": z.grad})
    np.testing.assert_allclose(z.detach().numpy(), wanted.numpy(), atol=1e-3)


@pytest.mark.parametrize("rule", CASES)
def test_a_parameter_without_gradients_for_a_while_takes_the_same_path(rule, rng, scalars_in_float64):
    make_ours, make, _ = CASES[rule]
    ours, start = make_ours(), rng.standard_normal((4, 3))
    params, p = {"first": np.zeros(2), "late": start.copy()}, torch.nn.Parameter(torch.tensor(start))
    theirs = make(p)
    for step in range(30):
        g = None if step < 12 or step % 5 == 0 else rng.standard_normal(start.shape)
        ours.update(params, {"first": np.ones(2), "late": g})
        p.grad = None if g is None else torch.tensor(g)
        theirs.step()
    np.testing.assert_allclose(params["late"], p.detach().numpy(), rtol=1e-13, atol=1e-13)


def test_every_rule_is_covered():
    from fastopt.kernels import RULES

    assert set(CASES) == set(RULES) - set(ELSEWHERE)


SPARSE = {
    "sgd": (lambda: fastopt.SGD(lr=0.1), lambda p: torch.optim.SGD([p], lr=0.1)),
    "adagrad": (lambda: fastopt.AdaGrad(lr=0.1), lambda p: torch.optim.Adagrad([p], lr=0.1, eps=1e-7)),
    "adam": (lambda: fastopt.Adam(lr=0.1, eps=1e-8), lambda p: torch.optim.SparseAdam([p], lr=0.1)),
}


@pytest.mark.filterwarnings("ignore:Sparse invariant checks")
@pytest.mark.parametrize("rule", SPARSE)
def test_rows_equal_pytorchs_sparse_gradients(rule, rng):
    ours, theirs = SPARSE[rule]
    table = rng.standard_normal((20, 3))
    tensor = torch.nn.Parameter(torch.tensor(table))
    optimizer, other = ours(), theirs(tensor)
    for _ in range(30):
        indices, values = rng.integers(0, 20, 12), rng.standard_normal((12, 3))
        optimizer.update(table, fastopt.Rows(indices, values))
        tensor.grad = torch.sparse_coo_tensor(indices[None], values, (20, 3), check_invariants=True)
        other.step()
    np.testing.assert_allclose(table, tensor.detach().numpy(), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("adjust", ["original", "match_rms_adamw"])
@pytest.mark.parametrize("shape", [(60, 20), (20, 60), (32, 32)])
def test_muon_goes_the_same_way(shape, adjust, rng):
    """PyTorch makes directions orthogonal in bfloat16, which has three digits; momentum is compared to all of them."""
    p = torch.nn.Parameter(torch.tensor(rng.standard_normal(shape).astype("float32")))
    params = {"W": p.detach().numpy().copy()}
    ours = fastopt.Muon(lr=0.1, adjust=adjust)
    theirs = torch.optim.Muon([p], lr=0.1, adjust_lr_fn=adjust)
    for _ in range(10):
        before, g = params["W"].copy(), rng.standard_normal(shape).astype("float32")
        ours.update(params, {"W": g})
        p.grad = torch.tensor(g)
        theirs.step()
        gap = np.linalg.norm(p.detach().numpy() - params["W"])
        assert gap < 0.02 * np.linalg.norm(params["W"] - before)
        with torch.no_grad():
            p.copy_(torch.tensor(params["W"]))  # so that gaps do not add up
    momentum = theirs.state[p]["momentum_buffer"].numpy() / (1 - 0.95)  # where gradients are averaged, not added up
    np.testing.assert_allclose(ours.m["W"], momentum, rtol=1e-4, atol=1e-4)


def test_muons_singular_values_are_about_one(rng):
    params, optimizer = {"W": np.zeros((50, 30))}, fastopt.Muon(lr=1.0, adjust="original", weight_decay=0.0)
    optimizer.update(params, {"W": rng.standard_normal((50, 30))})
    values = np.linalg.svd(params["W"] / np.sqrt(50 / 30), compute_uv=False)
    assert 0.6 < values.min() and values.max() < 1.3
