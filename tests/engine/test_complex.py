"""Complex parameters: pairs of real ones, to the bit, in whatever a step, a setting or a file does with them."""

import copy
import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import fastopt
from fastopt import EMA, CheckpointError, Lookahead, Rows, combinations, profiling, reference
from fastopt.functional import cs231n
from fastopt.kernels import RULES
from fastopt.optimizers import OPTIMIZERS
from fastopt.pairs import joined, pairs
from tests.conftest import ONE_OF_EACH_KIND, assert_same_bits
from tests.random_models import LAYOUTS, SHAPES, VALUES, lay_out, try_many, values

BY_ELEMENT = [rule for rule in OPTIMIZERS if not RULES[rule].prepare]
DTYPES = ("complex64", "complex128")


def numbers(seed, dtype="complex128", **shapes):
    rng = np.random.default_rng(seed)
    parts = {key: rng.standard_normal((2, *shape)) for key, shape in (shapes or {"z": (3, 4), "w": (5,)}).items()}
    return {key: np.asarray(one + 1j * two).astype(dtype) for key, (one, two) in parts.items()}


def assert_same_complex(a, b):
    assert a.dtype == b.dtype and a.shape == b.shape
    assert_same_bits(pairs(a), pairs(b))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rule", BY_ELEMENT)
def test_each_rule_equals_its_reference(rule, dtype):
    if dtype == "complex64" and rule not in ONE_OF_EACH_KIND:
        return
    shapes = {"z": (3, 4), "fortran": (4, 3), "strided": (4, 4), "one": (), "none": (0, 2)}
    params = numbers(0, dtype, **shapes)
    params["fortran"], params["strided"] = np.asfortranarray(params["fortran"]), params["strided"][::2, 1::2]
    params["real"] = np.ones(5, params["z"].real.dtype)
    plain = {key: value.copy(order="K") for key, value in params.items()}
    fast, slow = OPTIMIZERS[rule](), getattr(reference, OPTIMIZERS[rule].__name__)()
    for step in range(3):
        grads = numbers(step + 1, dtype, **(shapes | {"strided": (2, 2)})) | {"real": np.full(5, 0.5)}
        fast.update(params, grads)
        slow.update(plain, grads)
    for key in params:
        assert_same_complex(params[key], plain[key])
        for slot in slow.slots:
            assert_same_complex(getattr(fast, slot)[key], getattr(slow, slot)[key])


part = st.tuples(st.sampled_from(VALUES), st.integers(0, 2**32 - 1))
arrays = st.tuples(st.sampled_from(SHAPES), st.sampled_from(DTYPES), part, part, st.sampled_from(LAYOUTS))


def complex_array(shape, dtype, real, imaginary, layout):
    parts = [values(kind, shape, np.dtype(dtype).type(0).real.dtype, seed) for kind, seed in (real, imaginary)]
    return lay_out(joined(np.stack(parts, axis=-1)), layout)


@try_many
@given(st.sampled_from(["momentum", "adam", "lamb"]), st.lists(st.tuples(arrays, arrays), min_size=1, max_size=4))
def test_any_values_and_layouts(rule, drawn):
    params = {key: complex_array(*parameter) for key, (parameter, _) in enumerate(drawn)}
    plain = {key: value.copy(order="K") for key, value in params.items()}
    fast, slow = OPTIMIZERS[rule](), getattr(reference, OPTIMIZERS[rule].__name__)()
    with np.errstate(all="ignore"):
        for _ in range(2):
            grads = {key: complex_array(p[0], *g[1:]) for key, (p, g) in enumerate(drawn)}
            fast.update(params, grads)
            slow.update(plain, grads)
    for key in params:
        assert_same_complex(params[key], plain[key])
        for slot in slow.slots:
            assert_same_complex(getattr(fast, slot)[key], getattr(slow, slot)[key])


SETTINGS = {
    "clip_norm": {"clip_norm": 0.5},
    "others": {"clip_array_norm": 0.7, "clip_value": 0.2, "weight_decay": 0.1, "maximize": True},
    "cautious": {"cautious": True},
    "averages": {"averaging": EMA(0.9), "lookahead": Lookahead(2, 0.5)},
    "schedule": {"lr": lambda step: 0.1 / step},
    "skip": {"on_nonfinite": "skip"},
}


# The settings with a rule by element; those that norms have to do with, with a rule with norms too.
@pytest.mark.parametrize(
    ("rule", "settings"),
    [
        *(("adam", settings) for settings in SETTINGS.values()),
        *(("lamb", SETTINGS[name]) for name in ("others", "skip")),
    ],
)
def test_a_step_is_that_of_the_real_view(rule, settings):
    """With reports and state, accumulated or not; a gradient of zeros and one that is not finite among them."""
    params = numbers(0)
    views, optimizers = {key: pairs(value.copy()) for key, value in params.items()}, []
    for _ in range(2):
        optimizers.append(OPTIMIZERS[rule](**copy.deepcopy(settings)))
    for step in range(6):
        grads = numbers(step + 1)
        grads["w"][:2] = 0
        if step == 3:
            grads["z"][1, 2] = 1 + 1j * (np.nan if "on_nonfinite" in settings else 1e3)
        reports = []
        for optimizer, some, gradients in zip(
            optimizers, (params, views), (grads, {key: pairs(value) for key, value in grads.items()}), strict=True
        ):
            if step == 4:
                optimizer.accumulate(gradients)
                optimizer.update(some)
            else:
                reports.append(optimizer.update(some, gradients, report=step % 3 == 0))
        if reports[:1] != [None] and reports:
            assert reports[0].gradient_norm == reports[1].gradient_norm or step == 3
            assert repr(reports[0]) == repr(reports[1])
    for key in params:
        assert_same_bits(pairs(params[key]), views[key])
        for slot in RULES[rule].state:
            assert_same_bits(pairs(getattr(optimizers[0], slot)[key]), getattr(optimizers[1], slot)[key])
    assert optimizers[0].skipped == optimizers[1].skipped == ("on_nonfinite" in settings)
    if "averaging" in settings:
        one, other = (optimizer.averaged(some) for optimizer, some in zip(optimizers, (params, views), strict=True))
        assert_same_bits(pairs(one["z"]), other["z"])


@pytest.mark.parametrize("settings", [{"averaging": EMA(0.5)}, {"lookahead": Lookahead(1)}])
def test_averages_of_infinite_numbers_are_those_of_the_parts(settings):
    """A number times a complex infinity would be NaN in one of its parts."""
    z = np.array([complex(np.inf, 1), complex(2, -np.inf), 3 + 4j])
    plain, fast, slow = z.copy(), fastopt.SGD(**settings), reference.SGD(**settings)
    fast.update({"z": z}, {"z": np.ones(3, complex)})
    with np.errstate(invalid="ignore"):
        slow.update({"z": plain}, {"z": np.ones(3, complex)})
    assert_same_complex(z, plain)
    for slot in ("weight_average", "slow_weights"):
        if getattr(slow, slot):
            assert_same_complex(getattr(fast, slot)["z"], getattr(slow, slot)["z"])
    if "averaging" in settings:
        assert fast.weight_average["z"].real[0] == np.inf and fast.weight_average["z"].imag[0] == 1


def test_the_average_of_a_leaf_without_a_gradient_is_that_of_the_parts():
    params = {"z": np.array([complex(np.inf, 1), complex(2, -np.inf), 3 + 4j]), "w": np.ones(1)}
    plain, fast, slow = copy.deepcopy(params), fastopt.SGD(averaging=EMA(0.5)), reference.SGD(averaging=EMA(0.5))
    fast.update(params, {"z": None, "w": np.ones(1)})
    slow.update(plain, {"z": None, "w": np.ones(1)})
    assert_same_complex(fast.weight_average["z"], slow.weight_average["z"])
    assert_same_complex(fast.weight_average["z"], params["z"])


def test_sophias_curvature_is_that_of_the_parts():
    z, estimate = np.ones(2, complex), np.array([np.inf - 1j, -1e-300 * 1j])
    fast, slow = fastopt.Sophia(), reference.Sophia()
    fast.update_hessian({"z": z}, {"z": estimate})
    slow.update_hessian({"z": z}, {"z": estimate})
    assert_same_complex(fast.h["z"], slow.h["z"])
    assert fast.h["z"].real[0] == np.inf and fast.h["z"].imag[0] == pytest.approx(-0.01)


def test_later_steps_are_one_call_and_see_other_gradients():
    z, optimizer = numbers(0)["w"], fastopt.Adam()
    plain, slow = z.copy(), reference.Adam()
    kinds = [lambda g: g, lambda g: g, lambda g: g.astype(np.complex64), lambda g: g[::-1], lambda g: g.real.copy()]
    for step, kind in enumerate([*kinds, *kinds]):
        grad = kind(numbers(step + 1)["w"])
        optimizer.update(z, grad)
        slow.update(plain, grad)
        assert_same_complex(z, plain)
        assert step not in (1, 6) or optimizer._calls
    optimizer.update(z.copy(), z.copy())
    with pytest.raises(ValueError, match=r"shape \(2,\)"):
        optimizer.update(z, z[:2].copy())
    with pytest.raises(TypeError, match="float64, but at the first step it had complex128"):
        optimizer.update(z.real.copy(), z.real.copy())


def test_masks_and_norms_of_rows():
    mask, z = np.array([True, False, True]), numbers(0, w=(2, 3))["w"]
    old, optimizer = z.copy(), fastopt.Adam(lr=0.1, mask=mask)
    optimizer.update(z, old)
    assert (z[:, 1] == old[:, 1]).all() and (z[:, ::2] != old[:, ::2]).all() and not optimizer.v[:, 1].any()
    for order, axis in (("C", -1), ("C", None), ("F", 0), ("F", None)):
        for settings in ({"unit_norm": True}, {"max_norm": 0.5}, {"group_lasso": 0.3}):
            z = np.array(numbers(1, w=(2, 3))["w"], order=order)
            plain, settings = z.copy(order="K"), {"constraint_axis": axis, **settings}
            fast, slow = fastopt.SGD(lr=0.1, **settings), reference.SGD(lr=0.1, **settings)
            for step in range(2):
                grad = numbers(step, w=(2, 3))["w"]
                fast.update(z, grad)
                slow.update(plain, grad)
            assert_same_complex(z, plain)
            if "unit_norm" in settings:
                assert np.allclose(np.linalg.norm(z, axis=axis), 1)
    with pytest.raises(ValueError, match=r"constraint_axis is 0, but params is complex, .* must be 1.*transpose"):
        fastopt.SGD(unit_norm=True, constraint_axis=0).update(old, old.copy())


@pytest.mark.parametrize("is_bare", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
def test_checkpoints(tmp_path, dtype, is_bare):
    def trained(optimizer, params, steps):
        for step in range(steps):
            grads = numbers(step + 1, dtype)
            optimizer.update(params["z"] if is_bare else params, grads["z"] if is_bare else grads)
        return optimizer

    params = numbers(0, dtype)
    params["z"] = np.asfortranarray(params["z"])
    optimizer = trained(fastopt.Adam(averaging=EMA(0.5)), params, 3)
    optimizer.accumulate(numbers(9, dtype)["z"] if is_bare else numbers(9, dtype))
    optimizer.save(tmp_path / "file", params["z"] if is_bare else params)
    others = {key: np.zeros_like(value) for key, value in params.items()}
    loaded = fastopt.Adam(averaging=EMA(0.5))
    loaded.load(tmp_path / "file", others["z"] if is_bare else others)
    pickled, by_dict = pickle.loads(pickle.dumps(optimizer)), fastopt.Adam(averaging=EMA(0.5))
    by_dict.load_state_dict(optimizer.state_dict())
    for one, some in ((loaded, others), (pickled, copy.deepcopy(params)), (by_dict, copy.deepcopy(params))):
        expected, mine = copy.deepcopy(optimizer), copy.deepcopy(params)
        for each, arrays in ((expected, mine), (one, some)):
            each.update(arrays["z"] if is_bare else arrays)
            trained(each, arrays, 2)
        assert_same_complex(some["z"], mine["z"])
        assert is_bare or np.array_equal(some["w"], mine["w"])
    other = DTYPES[dtype == DTYPES[0]]
    cast = {key: np.zeros(value.shape, other) for key, value in params.items()}
    converted = fastopt.Adam()
    with pytest.raises(CheckpointError, match="cast=True"):
        converted.load(tmp_path / "file", cast["z"] if is_bare else cast)
    optimizer.discard_accumulated()
    optimizer.save(tmp_path / "file", params["z"] if is_bare else params)
    converted.load(tmp_path / "file", cast["z"] if is_bare else cast, cast=True)
    assert_same_complex(cast["z"], params["z"].astype(other))
    v = optimizer.v if is_bare else optimizer.v["z"]
    assert_same_complex(converted.v if is_bare else converted.v["z"], v.astype(other))
    named = fastopt.Adam()
    named.load(tmp_path / "file", cast="float32")
    assert (named.v if is_bare else named.v["z"]).dtype == np.complex64
    real = {key: np.zeros(value.shape) for key, value in params.items()}
    with pytest.raises(CheckpointError, match=f"is {dtype} of shape"):
        fastopt.Adam().load(tmp_path / "file", real["z"] if is_bare else real, cast=True)


def test_small_values_of_state_are_flushed_by_part(tmp_path):
    z, optimizer = np.ones(2, np.complex128), fastopt.Adam()
    optimizer.update(z, np.array([1e-30 + 1j, 1]))
    optimizer.save(tmp_path / "file")
    loaded = fastopt.Adam()
    loaded.load(tmp_path / "file", cast="float32")
    assert loaded.v[0].real == 0 and np.isclose(loaded.v[0].imag, 1e-3)


def test_flat_containers_and_others():
    params = numbers(0, "complex64")
    flat, plain, slow = fastopt.flatten(params), copy.deepcopy(params), reference.Adam()
    assert flat.buffer.dtype == np.complex64
    nested, alone = [copy.deepcopy(params), None], params["z"].copy()
    optimizers = [fastopt.Adam() for _ in range(3)]
    for step in range(4):
        grads = numbers(step + 1, "complex64")
        optimizers[0].update(flat, fastopt.flatten(grads))
        optimizers[1].update(nested, [grads, None])
        optimizers[2].update(alone, grads["z"])
        slow.update(plain, grads)
    for key in plain:
        assert_same_complex(flat[key], plain[key])
        assert_same_complex(nested[0][key], plain[key])
        assert_same_complex(optimizers[0].v[key], slow.v[key])
    assert_same_complex(alone, plain["z"])
    assert fastopt.flatten(params, dtype="complex128").buffer.dtype == np.complex128
    for arrays, dtype, text in (
        ({"a": np.ones(1), "z": np.ones(1, complex)}, None, r"arrays\['z'\] is complex and arrays\['a'\] is not"),
        ({"z": np.ones(1, complex)}, "float64", "dtype must be 'complex64' or 'complex128'"),
        ({"a": np.ones(1)}, "complex128", "dtype must be 'float32' or 'float64'"),
        ({"y": np.ones(1, "c8"), "z": np.ones(1, complex)}, None, r"\['y'\] is of complex64 .*dtype='complex64'"),
    ):
        with pytest.raises(TypeError, match=text):
            fastopt.flatten(arrays, dtype=dtype)


def test_trials_and_steps_on_copies():
    params = numbers(0)
    optimizer = fastopt.Adam()
    optimizer.update(params, numbers(1))
    before, v = copy.deepcopy(params), optimizer.v["z"].copy()
    with optimizer.trial(params) as step:
        optimizer.update(params, numbers(2))
        step.reject()
    assert_same_complex(params["z"], before["z"])
    assert_same_complex(optimizer.v["z"], v)
    assert (optimizer.updated(params, numbers(2))["z"] != params["z"]).all()


REFUSED = {
    "bounds": {"nonnegative": True},
    "l1 or l2_prox": {"l1": 0.1},
    "simplex": {"simplex": True},
    "centralize": {"centralize": True},
    "compact state": {"state_storage": "bfloat16"},
    "batch_axis": {"batch_axis": 0},
}


@pytest.mark.parametrize("feature", REFUSED)
def test_what_does_not_go_together_is_named(feature):
    params = {"z": np.ones((2, 3), complex), "a": np.ones((2, 3))}
    grads = copy.deepcopy(params)
    wanted = rf"SGDMomentum: complex parameters and {feature} do not|: {feature} and complex parameters do not"
    with pytest.raises(ValueError, match=wanted):
        fastopt.SGDMomentum(**REFUSED[feature]).update(params, grads)
    assert (params["z"] == 1).all() and (params["a"] == 1).all()
    if feature == "batch_axis":
        return
    optimizer = fastopt.SGDMomentum(groups={"a": REFUSED[feature]} if feature != "compact state" else {})
    optimizer.update(params, grads)  # of the other parameter
    for _ in range(3):
        optimizer.update(params, grads)
    assert (params["z"] < 1).all()
    setting, value = next(iter(REFUSED[feature].items()))
    before, optimizer.groups = params["z"].copy(), {}
    setattr(optimizer, setting, value)
    with pytest.raises(ValueError, match=wanted):
        optimizer.update(params, grads)
    assert_same_complex(params["z"], before)


def test_others_that_are_refused():
    z = np.ones((2, 2), complex)
    with pytest.raises(ValueError, match="complex parameters and a rule of whole matrices"):
        fastopt.Muon().update(z, z.copy())
    with pytest.raises(ValueError, match="complex parameters and gradients that are Rows"):
        fastopt.SGD().update(z, Rows(np.array([0]), np.ones((1, 2), complex)))
    with pytest.raises(TypeError, match=r"params\['z'\] is a complex number.*np.array\(params\['z'\]\)"):
        fastopt.SGD().update({"z": 1j}, {"z": 1j})
    with pytest.raises(TypeError, match=r"complex256|clongdouble|dtype >c16|expected float32, float64, complex64"):
        fastopt.SGD().update(z.astype(">c16"), z.copy())
    real = np.ones((2, 2))
    with pytest.raises(TypeError, match=r"grads.real, or make params complex: params.astype\(np.complex128\)"):
        fastopt.SGD().update(real, z)
    assert (real == 1).all() and (z == 1).all()


def test_errors_name_the_element():
    z = np.ones((2, 2), complex)
    bad = np.array([[1, 1], [1, 1j * np.inf]])
    with pytest.raises(
        FloatingPointError, match=r"1 of 4 values that are not finite, the first, \(nan\+infj\), at \(1, 1\)"
    ):
        fastopt.Adam(on_nonfinite="raise").update(z, bad)
    large = np.array([[1, 1], [1e200j, 1]])
    with pytest.raises(FloatingPointError, match=r"1 of 4 values whose squares.*at \(1, 0\)"):
        fastopt.Adam(on_nonfinite="raise").update(z, large)
    assert (z == 1).all()


def test_pairs_and_back():
    z = np.asfortranarray(numbers(0)["z"])
    assert np.shares_memory(pairs(z), z) and pairs(z).shape == (3, 4, 2)
    assert_same_complex(joined(pairs(z)), z)
    assert joined(np.ones((3, 2), order="F")).tolist() == [1 + 1j] * 3
    assert {row.other for row in combinations.TABLE if row.one == "complex parameters"} >= {*REFUSED}


def test_leaves_that_change_and_other_calls():
    """Rows that come begin with the start value in both parts; the course's functions; what a profile counts."""
    z = numbers(0)["z"]
    optimizer = fastopt.AdaGrad(initial_accumulator=0.25)
    optimizer.update({"z": z}, numbers(1))
    h = optimizer.h["z"].copy()
    optimizer.reindex("z", np.array([2, -1]), np.ones((2, 4), complex))
    assert_same_complex(optimizer.h["z"], np.stack([h[2], np.full(4, 0.25 + 0.25j)]))
    w, config = cs231n.adam(z, numbers(2)["z"])
    w, config = cs231n.adam(w, numbers(3)["z"], config)
    plain, slow = {"z": z.copy()}, reference.Adam(form="paper")
    for step in (2, 3):
        slow.update(plain, {"z": numbers(step)["z"]})
    assert_same_complex(w, plain["z"])
    assert_same_complex(config["v"], slow.v["z"])
    assert [array.shape for array in profiling._arrays([z, np.ones(2)])] == [(3, 4, 2), (2,)]
