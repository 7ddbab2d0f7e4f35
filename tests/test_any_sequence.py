"""Hypothesis tries to break it: random sequences of operations on random models, each step against the reference.

After each step parameters, state, averages and step count are the reference's to the bit. `random_models.py` says how
many sequences are tried: few by default, of all that there is for one rule of each kind, of plain settings for all.
"""

import copy
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fastopt
from fastopt import reference, threads
from fastopt.averages import EMA, Lookahead
from fastopt.kernels import RULES
from fastopt.kernels.squares import squares
from fastopt.optimizers import OPTIMIZERS
from tests.conftest import ONE_OF_EACH_KIND, ROOT, THREAD_COUNTS, assert_same_bits, python
from tests.random_models import EXAMPLES, KEYS, LAYOUTS, USUAL, VALUES, arrays, lay_out, make, try_many, values

OPERATIONS = ["step", "step", "step", "none", "parameters", "setting", "replace", "save", "deepcopy", "threads", "flat"]
OPERATIONS += ["propagate", "skip", "raise", "read-only", "alias", "overlap", "sparse", "sparse"]
MORE_OPERATIONS = [*OPERATIONS, "report", "report", "centralize", "group", "group", "ungroup"]

# What an optimizer is made with. Groups change values of these settings, so that one kernel does for all of them.
PLAIN, GROUPED = {}, {"weight_decay": 0.1, "gradient_scale": 0.5}
MADE_WITH = [PLAIN, PLAIN, GROUPED, {"averaging": EMA(0.9)}, {"lookahead": Lookahead(2)}]
GROUPS = [{"frozen": True}, {"frozen": False}, {"lr_scale": 0.5}, {"weight_decay": 0.0}, {"maximize": True}]
GROUPS += [{"clip_array_norm": 0.5}, {"clip_array_norm": 1e300}]


@dataclass(frozen=True)
class Only:
    """Selects one array."""

    wanted: object

    def __call__(self, key, array):
        return key == self.wanted


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


class Sides:
    """An optimizer and its reference, on equal parameters; a method is an operation on both."""

    def __init__(self, rule, data, made_with):
        self.rule, self.data, self.made_with = rule, data, made_with
        model = data.draw(st.dictionaries(st.sampled_from(KEYS), arrays, max_size=4))
        self.params = {key: make(*spec) for key, spec in model.items()}
        self.plain = {key: np.array(value) for key, value in self.params.items()}
        self.fast = OPTIMIZERS[rule](**made_with)
        self.slow = getattr(reference, OPTIMIZERS[rule].__name__)(**made_with)
        self.groups, self.count, self.skipped = {}, 1, 0

    def draw(self, choices):
        return self.data.draw(st.sampled_from(choices))

    def is_frozen(self, key):
        return self.groups.get(Only(key), {}).get("frozen", False)

    def gradients(self):
        """Of a kind, in a layout, for each parameter."""
        kind, layout, seed = self.draw(VALUES), self.draw(LAYOUTS), self.data.draw(st.integers(0, 2**32 - 1))
        clips = any("clip_array_norm" in settings for settings in self.groups.values())
        if clips and self.fast.on_nonfinite != "propagate":  # what counts then is the gradient after clipping
            kind = "normal" if kind in ("huge", "special") else kind
        dtype = self.draw([None, "float32", "float64"])
        return {
            key: make(p.shape, dtype or p.dtype.name, kind, layout, seed + number)
            for number, (key, p) in enumerate(self.params.items())
        }

    def update(self, grads, plain_grads=None, report=False):
        """A step of both sides, or none where `on_nonfinite` says so; then all is compared."""
        plain_grads = grads if plain_grads is None else plain_grads
        with threads.exactly(self.count), np.errstate(all="ignore"):
            seen = {
                key: None if g is None or self.is_frozen(key) else self.summed(key, g) for key, g in plain_grads.items()
            }
            finite = all(g is None or fits(self.rule, g) for g in seen.values())
            before = {key: np.array(p) for key, p in self.params.items()}
            if finite or self.fast.on_nonfinite != "raise":
                made = self.fast.update(self.params, grads, report=report)
                if report:
                    assert made.skipped == (self.fast.on_nonfinite == "skip" and not finite)
                    assert_report(made, self.params, before, seen)
            else:
                with pytest.raises(FloatingPointError):
                    self.fast.update(self.params, grads, report=report)
            if finite or self.fast.on_nonfinite == "propagate":
                self.slow.update(self.plain, plain_grads)
            elif self.fast.on_nonfinite == "skip":
                self.skipped += 1
        self.assert_same()

    def summed(self, key, gradient):
        """What a rule sees of a gradient, as an array."""
        if not isinstance(gradient, fastopt.Rows):
            return gradient.astype(self.params[key].dtype)
        dense = np.zeros_like(self.plain[key])
        np.add.at(dense, gradient.indices, gradient.values.astype(dense.dtype))
        return dense

    def assert_same(self):
        for key in self.params:
            assert_same_bits(self.params[key], self.plain[key])
        for slot in [*self.slow.slots, "weight_average", "slow_weights"]:
            expected = getattr(self.slow, slot)
            for key in self.params if expected is not None else ():
                assert_same_bits(getattr(self.fast, slot)[key], expected[key])
        assert (self.fast.iter, self.fast.skipped) == (self.slow.iter, self.skipped)

    def refused(self, error, grads):
        """A step that raises and changes nothing."""
        with np.errstate(all="ignore"), threads.exactly(self.count), pytest.raises(error):
            self.fast.update(self.params, grads)
        self.assert_same()

    # -- operations ---------------------------------------------------------------------------------------------------

    def step(self):
        self.update(self.gradients())

    def report(self):
        self.update(self.gradients(), report=not self.is_aliased())

    def none(self):
        grads = self.gradients()
        if grads:
            grads[self.draw(list(grads))] = None
        self.update(grads)

    def parameters(self):
        """Each gradient is the array of a parameter, of which none has been updated yet."""
        if self.fast.on_nonfinite == "propagate" and not self.is_aliased():
            self.update(dict(self.params), {key: np.array(p) for key, p in self.params.items()})

    def sparse(self):
        tables = [
            key
            for key, p in self.params.items()
            if p.ndim > 1 and p.size and p.flags.c_contiguous and p.flags.aligned and not self.is_frozen(key)
        ]
        allowed = RULES[self.rule].rows and not self.fast.centralize and not self.fast.lookahead
        if not tables or not allowed or self.is_aliased():
            return
        key, grads = self.draw(tables), self.gradients()
        shape, seed = self.params[key].shape, self.data.draw(st.integers(0, 2**32 - 1))
        indices = np.random.default_rng(seed).integers(0, shape[0], self.draw([0, 1, 5]))
        rows = values("normal", (len(indices), *shape[1:]), self.params[key].dtype, seed)
        grads[key] = fastopt.Rows(indices, rows)
        self.update(grads)

    def setting(self):
        self.fast.lr = self.slow.lr = self.draw([0.0, 1e-3, 0.5, 1e30])

    def centralize(self):
        self.fast.centralize = self.slow.centralize = not self.slow.centralize

    def group(self):
        if self.params and self.made_with is GROUPED:
            key, settings = self.draw(list(self.params)), self.draw(GROUPS)
            if self.rule != "rprop" or "lr_scale" not in settings:  # which reads lr at the first step only
                self.groups = {**self.groups, Only(key): {**self.groups.get(Only(key), {}), **settings}}
                self.fast.groups, self.slow.groups = self.groups, self.groups

    def ungroup(self):
        if self.groups:
            self.groups = {
                name: settings for name, settings in self.groups.items() if name != self.draw([*self.groups])
            }
            self.fast.groups, self.slow.groups = self.groups, self.groups

    def replace(self):
        if self.params and not isinstance(self.params, fastopt.FlatDict) and not self.is_aliased():
            key = self.draw(list(self.params))
            self.params[key] = lay_out(np.array(self.params[key]), self.draw(LAYOUTS))

    def save(self):
        with tempfile.TemporaryDirectory() as folder:
            self.fast.save(Path(folder) / "state")
            if self.draw([False, True]):
                self.fast = OPTIMIZERS[self.rule](lr=0.77, groups=self.groups, **self.made_with)
            self.fast.load(Path(folder) / "state")

    def deepcopy(self):
        self.fast, self.params = copy.deepcopy((self.fast, self.params))

    def threads(self):
        self.count = self.draw(THREAD_COUNTS)

    def flat(self):
        if isinstance(self.params, fastopt.FlatDict):
            self.params = {key: np.array(p) for key, p in self.params.items()}
        elif len({p.dtype for p in self.params.values()}) == 1 and not self.is_aliased():
            self.params = fastopt.flatten(self.params)

    def propagate(self):
        self.fast.on_nonfinite = "propagate"

    def skip(self):
        self.fast.on_nonfinite = "skip"

    def raise_(self):
        self.fast.on_nonfinite = "raise"

    def read_only(self):
        changing = [key for key, p in self.params.items() if not self.is_frozen(key) and p.size]
        if changing:
            key = self.draw(changing)
            array = self.params[key]
            try:
                array.setflags(write=False)
                self.refused(ValueError, {key: np.zeros(p.shape) for key, p in self.params.items()})
            finally:
                array.setflags(write=True)

    def is_aliased(self):
        return len({id(p) for p in self.params.values()}) < len(self.params)

    def alias(self):
        """One array under two keys: it takes the step of each."""
        keys = self.alike()
        if keys and not RULES[self.rule].is_by_array and not self.fast.averaging and not self.fast.lookahead:
            self.params[keys[1]], self.plain[keys[1]] = self.params[keys[0]], self.plain[keys[0]]

    def overlap(self):
        """Two arrays that share an element are refused."""
        keys = [key for key, p in self.params.items() if p.size and not self.is_frozen(key)]
        if len(keys) < 2 or self.params[keys[0]].dtype != self.params[keys[1]].dtype:
            return
        kept, (one, other) = self.params, (self.params[key] for key in keys[:2])
        if one.size == other.size == 1:  # would be one array under two keys
            return
        block = np.zeros(one.size + other.size - 1, one.dtype)
        shared = {keys[0]: block[: one.size].reshape(one.shape), keys[1]: block[one.size - 1 :].reshape(other.shape)}
        self.params = {**kept, **shared}
        with pytest.raises(ValueError, match="memory"), threads.exactly(self.count):
            self.fast.update(self.params, {key: np.ones(p.shape) for key, p in kept.items()})
        assert not block.any()
        self.params = kept
        self.assert_same()

    def alike(self):
        """Two parameters of one dtype and shape."""
        if isinstance(self.params, fastopt.FlatDict):
            return None
        names = list(self.params)
        for number, one in enumerate(names):
            for other in names[number + 1 :]:
                first, second = self.params[one], self.params[other]
                if (first.shape, first.dtype) == (second.shape, second.dtype):
                    return one, other
        return None


FEW = [*ONE_OF_EACH_KIND, "lamb", "muon"]
METHODS = {"read-only": Sides.read_only, "raise": Sides.raise_}


@pytest.mark.parametrize("rule", OPTIMIZERS)
def test_any_sequence_of_operations_equals_the_reference(rule):
    everything = rule in FEW or EXAMPLES > USUAL

    @settings(try_many, max_examples=EXAMPLES if EXAMPLES > USUAL else max(2, EXAMPLES // 4) if everything else 2)
    @given(data=st.data())
    def sequence(data):
        sides = Sides(rule, data, data.draw(st.sampled_from(MADE_WITH if everything else [PLAIN])))
        operations = st.sampled_from(MORE_OPERATIONS if everything else OPERATIONS)
        for operation in data.draw(st.lists(operations, min_size=1, max_size=8)):
            METHODS.get(operation, getattr(Sides, operation, None))(sides)

    sequence()


def test_addresses_are_checked():
    """FASTOPT_CHECK=1: sequences and more in pure Python, after a look at every address."""
    files = [str(ROOT / "tests" / name) for name in ("test_any_sequence.py", "test_any_input.py")]
    code = f"import sys, pytest; sys.exit(pytest.main(['-q', '-p', 'no:cacheprovider', '-k', 'sequence_of or bad_input or resized', *{files}]))"
    out = python(code, cwd=ROOT, FASTOPT_CHECK="1", FASTOPT_EXAMPLES="8").stdout
    assert f"{len(OPTIMIZERS) + 4} passed" in out
