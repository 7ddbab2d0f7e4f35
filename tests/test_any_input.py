"""Hypothesis tries to break it: random models and sequences of operations, bad input, edited checkpoints.

FASTOPT_EXAMPLES sets how many examples of each are tried. Sequences are made for one rule of each kind, unless more
than usual are wanted: then for all.
"""

import copy
import os
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import fastopt
from fastopt import CheckpointError, reference, threads
from fastopt.kernels import RULES
from fastopt.kernels.squares import squares
from fastopt.optimizers import OPTIMIZERS
from tests.conftest import ONE_OF_EACH_KIND, ROOT, THREAD_COUNTS, assert_same_bits, python

USUAL = 40
EXAMPLES = int(os.environ.get("FASTOPT_EXAMPLES", USUAL))
try_many = settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize=EXAMPLES < 1000,  # the same examples in every run of CI
    suppress_health_check=list(HealthCheck),
    print_blob=False,
)

KEYS = ["W", "b", "", 3, ("deep", 1), None]
SHAPES = [(), (0,), (1,), (7,), (3, 5), (2, 0, 3), (4, 3, 2), (130,)]
VALUES = ["normal", "huge", "tiny", "subnormal", "special", "zero"]
LAYOUTS = ["C", "F", "strided", "backwards", "unaligned", "transposed"]


def values(kind, shape, dtype, seed):
    rng, info = np.random.default_rng(seed), np.finfo(dtype)
    x = np.asarray(rng.standard_normal(shape))
    if kind == "special":
        x = rng.choice([np.nan, np.inf, -np.inf, 0.0, -0.0, 1.0, float(info.max), float(info.tiny)], size=shape)
    scale = {"huge": float(info.max) / 8, "tiny": float(info.tiny) * 4, "subnormal": float(info.tiny) / 64, "zero": 0.0}
    with np.errstate(all="ignore"):
        return np.asarray(x * scale.get(kind, 1.0)).astype(dtype)


def lay_out(x, layout):
    """The same values, lying in memory in another way."""
    if layout == "F":
        return np.asfortranarray(x) if x.ndim else x
    if layout == "unaligned":
        packed = np.zeros(x.shape, dtype=[("odd", "i1"), ("value", x.dtype)])["value"]
        packed[...] = x
        return packed
    if x.ndim == 0:
        return x
    if layout == "strided":
        wide = np.zeros((*x.shape[:-1], 2 * x.shape[-1]), x.dtype)[..., ::2]
        wide[...] = x
        return wide
    if layout == "backwards":
        return np.ascontiguousarray(x[::-1])[::-1]
    return np.ascontiguousarray(x.T).T if layout == "transposed" else x


arrays = st.tuples(st.sampled_from(SHAPES), st.sampled_from(["float32", "float64"]), st.sampled_from(VALUES), st.sampled_from(LAYOUTS), st.integers(0, 2**32 - 1))  # fmt: skip


def make(shape, dtype, kind, layout, seed):
    return lay_out(values(kind, shape, dtype, seed), layout)


OPERATIONS = ["step", "step", "step", "report", "setting", "replace", "save", "deepcopy", "threads", "flat", "none"]
OPERATIONS += ["report", "propagate", "skip", "raise", "centralize", "new key", "forget"]


def assert_report(report, params, before, grads):
    """Shares are exact, norms those of NumPy to 6 digits."""
    active = [key for key in params if grads[key] is not None]
    assert list(report.by_key) == active
    size, tolerance = sum(params[key].size for key in active), 2e-6
    if size:
        assert report.zero_share == sum((grads[key] == 0).sum() for key in active) / size
        assert report.nonfinite_share == sum((~np.isfinite(grads[key])).sum() for key in active) / size
    for key, norms in report.by_key.items():
        after, change = params[key].astype(float), params[key].astype(float) - before[key]
        change = np.zeros_like(change) if report.skipped else change  # not NaN where a parameter is infinite
        found = norms.gradient_norm, norms.parameter_norm, norms.update_norm
        for number, array in zip(found, (grads[key].astype(float), after, change), strict=True):
            largest = np.abs(array).max(initial=0.0)
            if 0 < largest < np.inf:  # so that squares neither overflow nor vanish
                np.testing.assert_allclose(number, largest * np.sqrt(np.square(array / largest).sum()), rtol=tolerance)
            else:
                np.testing.assert_equal(number, largest)


def fits(rule, gradient):
    """Whether a gradient is finite, and where the rule squares it, or its norm, the square too."""
    if not np.isfinite(gradient).all():
        return False
    if RULES[rule].squares_norms:
        return np.square(gradient.astype(float)).sum() <= np.finfo(gradient.dtype).max
    return not squares(RULES[rule]) or np.isfinite(np.square(gradient)).all()


def forget(plain, key):
    """What `Optimizer.forget` does, of a reference."""
    for leaves in (plain.counts, plain.averages, *(getattr(plain, slot) or {} for slot in plain.slots)):
        leaves.pop(key, None)


FEW = [*ONE_OF_EACH_KIND, "lamb", "muon"]
TRIED = list(OPTIMIZERS) if EXAMPLES > USUAL else FEW


@pytest.mark.parametrize("rule", TRIED)
@settings(try_many, max_examples=EXAMPLES if EXAMPLES > USUAL else EXAMPLES // 2)
@given(data=st.data())
def test_any_sequence_of_operations_equals_the_reference(rule, data):
    model = data.draw(st.dictionaries(st.sampled_from(KEYS), arrays, max_size=4))
    params = {key: make(*spec) for key, spec in model.items()}
    plain = {key: np.array(value) for key, value in params.items()}
    fast, slow = OPTIMIZERS[rule](), getattr(reference, OPTIMIZERS[rule].__name__)()
    count, skipped = 1, 0
    for operation in data.draw(st.lists(st.sampled_from(OPERATIONS), min_size=1, max_size=8)):
        seed = data.draw(st.integers(0, 2**32 - 1))
        if operation in ("step", "report", "none"):
            kind, layout = data.draw(st.sampled_from(VALUES)), data.draw(st.sampled_from(LAYOUTS))
            dtype = data.draw(st.sampled_from([None, "float32", "float64"]))
            grads = {
                key: make(p.shape, dtype or p.dtype.name, kind, layout, seed + n)
                for n, (key, p) in enumerate(params.items())
            }
            if operation == "none" and grads:
                grads[next(iter(grads))] = None
            with threads.exactly(count), np.errstate(all="ignore"):
                seen = {key: g if g is None else g.astype(params[key].dtype) for key, g in grads.items()}
                finite = all(g is None or fits(rule, g) for g in seen.values())
                before = {key: np.array(p) for key, p in params.items()}
                if finite or fast.on_nonfinite != "raise":
                    report = fast.update(params, grads, report=operation == "report")
                    if operation == "report":
                        assert report.skipped == (fast.on_nonfinite == "skip" and not finite)
                        assert_report(report, params, before, seen)
                else:
                    with pytest.raises(FloatingPointError):
                        fast.update(params, grads, report=operation == "report")
                if finite or fast.on_nonfinite == "propagate":
                    slow.update(plain, grads)
                elif fast.on_nonfinite == "skip":
                    skipped += 1
            for key in params:
                assert_same_bits(params[key], plain[key])
            for slot in slow.slots:
                for key in getattr(slow, slot) or ():
                    assert_same_bits(getattr(fast, slot)[key], getattr(slow, slot)[key])
        elif operation in ("propagate", "skip", "raise"):
            fast.on_nonfinite = operation
        elif operation == "setting":
            fast.lr = slow.lr = data.draw(st.sampled_from([0.0, 1e-3, 0.5, 1e30]))
        elif operation == "centralize":
            fast.centralize = slow.centralize = not slow.centralize
        elif operation == "replace" and params and not isinstance(params, fastopt.FlatDict):
            key = data.draw(st.sampled_from(list(params)))
            params[key] = lay_out(np.array(params[key]), data.draw(st.sampled_from(LAYOUTS)))
        elif operation == "new key" and not isinstance(params, fastopt.FlatDict):
            params["new"] = values("normal", (5,), "float64", seed)
            plain["new"] = params["new"].copy()
        elif operation == "forget" and params and not isinstance(params, fastopt.FlatDict):
            gone = data.draw(st.sampled_from(list(params)))
            del params[gone], plain[gone]
            if gone in fast._leaf_counts():
                fast.forget([gone])
                forget(slow, gone)
        elif operation == "save":
            with tempfile.TemporaryDirectory() as folder:
                fast.save(Path(folder) / "state")
                if seed % 2:
                    fast = OPTIMIZERS[rule](lr=0.77)
                fast.load(Path(folder) / "state")
        elif operation == "deepcopy":
            fast, params = copy.deepcopy((fast, params))
        elif operation == "threads":
            count = data.draw(st.sampled_from(THREAD_COUNTS))
        elif operation == "flat" and len({p.dtype for p in params.values()}) == 1:
            params = (
                {key: np.array(p) for key, p in params.items()}
                if isinstance(params, fastopt.FlatDict)
                else fastopt.flatten(params)
            )
    assert (fast.iter, fast.skipped) == (slow.iter, skipped)


BAD = {
    "shape": lambda params, grads, key: grads.update({key: np.zeros((9, 9))}),
    "missing": lambda params, grads, key: grads.pop(key),
    "complex": lambda params, grads, key: grads.update({key: np.zeros(params[key].shape, complex)}),
    "objects": lambda params, grads, key: grads.update({key: np.full(params[key].shape, None)}),
    "text": lambda params, grads, key: grads.update({key: "1.0"}),
    "list": lambda params, grads, key: grads.update({key: params[key].tolist() if params[key].ndim else [1.0]}),
    "read-only": lambda params, grads, key: params[key].setflags(write=False),
    "integers": lambda params, grads, key: params.update({key: np.ones(params[key].shape, int)}),
    "half": lambda params, grads, key: params.update({key: params[key].astype(np.float16)}),
    "no array": lambda params, grads, key: params.update({key: None}),
    "set": lambda params, grads, key: params.update({key: {1.0}}),
    "swapped bytes": lambda params, grads, key: params.update({key: params[key].astype(params[key].dtype.newbyteorder())}),
    "broadcast": lambda params, grads, key: params.update({key: np.broadcast_to(params[key].dtype.type(1), (4, 4))}),
    "other shape": lambda params, grads, key: (params.update({key: np.ones((9, 9), params[key].dtype)}), grads.update({key: np.ones((9, 9))})),
    "other dtype": lambda params, grads, key: params.update({key: params[key].astype("float32" if params[key].dtype == "float64" else "float64")}),
    "shared": lambda params, grads, key: (params.update(one=(block := np.zeros(9))[:6], two=block[3:]), grads.update(one=np.ones(6), two=np.ones(6))),
    "own state": lambda params, grads, key: None,
}  # fmt: skip


def snapshot(optimizer, params):
    saved = optimizer.state_dict()
    state = [value for slot in saved.pop("state").values() if slot for value in slot.values()]
    return repr(saved), [
        value.tobytes() if isinstance(value, np.ndarray) else repr(value) for value in [*state, *params.values()]
    ]


@pytest.mark.parametrize("rule", ["sgd", "momentum", "adam"])
@try_many
@given(data=st.data())
def test_bad_input_is_refused_and_changes_nothing(rule, data):
    specs = data.draw(st.dictionaries(st.sampled_from(KEYS), arrays, min_size=1, max_size=4))
    params = {key: make(*spec) for key, spec in specs.items()}
    optimizer = OPTIMIZERS[rule]()
    grads = {key: np.ones(value.shape) for key, value in params.items()}
    with np.errstate(all="ignore"):
        optimizer.update(params, grads)
    kind, key = data.draw(st.sampled_from(list(BAD))), data.draw(st.sampled_from(list(params)))
    if kind == "own state":
        if rule == "sgd" or params[key].size == 0:
            return
        params[key] = next(iter(optimizer._state.views.values()))[key]
    else:
        with np.errstate(all="ignore"):
            BAD[kind](params, grads, key)
    if rule == "sgd" and kind in ("other shape", "other dtype"):
        return  # it has no state that these would not fit
    before = snapshot(optimizer, params)
    with pytest.raises((TypeError, ValueError, KeyError)) as caught:
        optimizer.update(params, grads)
    assert type(caught.value) in (TypeError, ValueError, KeyError) and type(optimizer).__name__ in str(caught.value)
    assert snapshot(optimizer, params) == before


@pytest.fixture(scope="module")
def checkpoint_bytes(tmp_path_factory):
    optimizer, path = fastopt.Adam(), tmp_path_factory.mktemp("checkpoint") / "state"
    params = {"W": np.ones((3, 4), np.float32), "b": np.ones(2), 3: np.asfortranarray(np.ones((2, 3)))}
    optimizer.update(params, {key: np.ones(value.shape) for key, value in params.items()})
    optimizer.save(path)
    return path, path.read_bytes()


def refused(path, content):
    path = path.with_name("edited")
    path.write_bytes(content)
    optimizer, params = fastopt.Adam(), {"W": np.ones((3, 4), np.float32), "b": np.ones(2), 3: np.ones((2, 3))}
    optimizer.update(params, params)
    before = snapshot(optimizer, params)
    for strict in (True, False):
        with pytest.raises(CheckpointError) as caught:
            optimizer.load(path, strict=strict)
        assert "\n" not in str(caught.value) and snapshot(optimizer, params) == before


@try_many
@given(content=st.binary(max_size=300))
def test_random_bytes_are_refused(content, checkpoint_bytes):
    refused(checkpoint_bytes[0], content)


@try_many
@given(data=st.data())
def test_random_edits_of_a_checkpoint_are_refused(data, checkpoint_bytes):
    path, original = checkpoint_bytes
    content = bytearray(original)
    for _ in range(data.draw(st.integers(1, 3))):
        start = data.draw(st.integers(0, len(content)))
        end = data.draw(st.integers(start, min(len(content), start + 20)))
        content[start:end] = data.draw(st.binary(max_size=20))
    if bytes(content) != original:
        refused(path, bytes(content))


def test_addresses_are_checked():
    """FASTOPT_CHECK=1: the tests above in pure Python, after a look at every address."""
    code = f"import sys, pytest; sys.exit(pytest.main(['-q', '-p', 'no:cacheprovider', '-k', 'sequence or bad_input or resized', r'{__file__}']))"
    out = python(code, cwd=ROOT, FASTOPT_CHECK="1", FASTOPT_EXAMPLES="8").stdout
    assert f"{len(FEW) + 4} passed" in out


WRONG_ADDRESS = """
import numpy as np, fastopt
optimizer, params = fastopt.Adam(), {"W": np.ones(3), "b": np.ones(100)}
grads = {key: np.ones(value.shape) for key, value in params.items()}
optimizer.update(params, grads)
row = optimizer._plan.entries[1].row
for column in (0, 1, 2, 3, -1):
    before = optimizer._plan._table[row, column]
    optimizer._plan.accepts(params, grads)
    optimizer._plan._table[row, column] += 8  # one element too far
    try:
        optimizer._plan.run(params, [optimizer.scalars(2)], report=False)
    except RuntimeError as error:
        size = 800 if column >= 0 else optimizer._plan._scalars.nbytes
        print(column, f"is not that of {size} bytes of a live array" in str(error))
    optimizer._plan._table[row, column] = before
"""


def test_a_wrong_address_is_found():
    assert python(WRONG_ADDRESS, FASTOPT_CHECK="1").stdout == "0 True\n1 True\n2 True\n3 True\n-1 True\n"


# -- arrays that change between steps ---------------------------------------------------------------------------------


def test_arrays_that_were_resized_freed_swapped_or_made_read_only_are_noticed():
    def stepped():
        optimizer, params = fastopt.Adam(), {"W": np.ones(1000), "b": np.ones(1000)}
        optimizer.update(params, {key: np.ones(1000) for key in params})
        return optimizer, params

    optimizer, params = stepped()
    params["W"].resize(5, refcheck=False)
    with pytest.raises(ValueError, match=r"params\['W'\] has shape \(5,\), but at the first step it had \(1000,\)"):
        optimizer.update(params, {"W": np.ones(5), "b": np.ones(1000)})
    optimizer, params = stepped()
    params["W"].resize(100_000, refcheck=False)  # lies elsewhere now
    with pytest.raises(ValueError, match=r"grads\['W'\] has shape \(1000,\)|params\['W'\] has shape"):
        optimizer.update(params, {key: np.ones(1000) for key in params})
    optimizer, params = stepped()
    params["W"].resize(100_000, refcheck=False)
    params["W"].resize(1000, refcheck=False)  # the same shape at another address
    before = params["W"].copy()
    optimizer.update(params, {key: np.ones(1000) for key in params})
    assert (params["W"] < before).all()
    optimizer, params = stepped()
    params["b"].setflags(write=False)
    with pytest.raises(ValueError, match=r"params\['b'\] is read-only"):
        optimizer.update(params, {key: np.ones(1000) for key in params})
    optimizer, params = stepped()
    kept = params["W"]
    params["W"], params["b"] = params["b"], params["W"]
    optimizer.update(params, {"W": np.ones(1000), "b": -np.ones(1000)})
    assert (kept > params["W"]).all()
    optimizer, params = stepped()
    old = params["W"].copy()
    params["W"] = np.ones(1000) * 5  # the old one has no owner but the optimizer's plan any more
    optimizer.update(params, {key: np.ones(1000) for key in params})
    assert (params["W"] < 5).all() and (old < 1).all()
