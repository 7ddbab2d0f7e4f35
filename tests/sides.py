"""An optimizer and its reference side by side: operations of random sequences, each on both, and what must be equal."""

import copy
import pickle
from contextlib import nullcontext, suppress
from functools import cache

import numpy as np
import pytest

import fastopt
from fastopt import reference, threads
from fastopt.averages import EMA, SWA, Lookahead
from fastopt.kernels import RULES
from fastopt.kernels.squares import squares
from fastopt.optimizers import OPTIMIZERS
from fastopt.pairs import like_kind, pairs
from tests.conftest import THREAD_COUNTS, assert_same_bits
from tests.leaf_operations import LeafOperations
from tests.random_models import COMPLEX, LAYOUTS, REAL, VALUES, make, values

# What an optimizer is made with. Groups change values of these settings, so that one kernel does for all of them.
PLAIN, GROUPED = {}, {"weight_decay": 0.1, "gradient_scale": 0.5}
# By key, of the parameters that are there at the start.
MASKED, ARRAY_BOUNDS = {"mask": {}}, {"groups": {"W": {"bounds": (np.zeros(1), None)}}}
AVERAGED = [{"averaging": EMA(0.9)}, {"averaging": SWA(2, every=2)}, {"lookahead": Lookahead(2)}]
MADE_WITH = [PLAIN, PLAIN, GROUPED, GROUPED, *AVERAGED]
BY_ROWS = [{"max_norm": 0.5}, {"group_lasso": 0.1, "constraint_axis": 0}, {"unit_norm": True}, {"simplex": True}]
BY_ROWS += [{"unit_norm": True, "constraint_axis": None, "group_lasso": 0.1}, {"simplex": True, "constraint_axis": 0}]
CONSTRAINED = [{"bounds": (-0.5, 0.75)}, {"l1": 0.01, "l2_prox": 0.1}, *BY_ROWS, MASKED, ARRAY_BOUNDS, ARRAY_BOUNDS]
CONSTRAINED += [{"cautious": True}, {"cautious_decay": True, "weight_decay": 0.1, "decoupled": True}]
CONSTRAINED += [{"clip_norm": 0.5, "maximize": True}, {"clip_value": 0.5, "nonnegative": True}]
WHOLE = {"constraint_axis": None}  # with others it depends on the order in memory
OF_COMPLEX = [PLAIN, GROUPED, GROUPED, *AVERAGED, BY_ROWS[0] | WHOLE, BY_ROWS[2] | WHOLE, CONSTRAINED[-2]]
GROUPS = [{"frozen": True}, {"frozen": False}, {"lr_scale": 0.5}, {"lr": 0.25}, {"weight_decay": 0.0}]
GROUPS += [{"clip_array_norm": 0.5}, {"clip_array_norm": 1e300}]

OPERATIONS = ["step", "step", "steps", "steps", "none", "parameters", "setting", "replace", "save", "deepcopy"]
OPERATIONS += ["threads", "flat", "propagate", "skip", "raise_", "read_only", "alias", "overlap", "sparse", "sparse"]
OPERATIONS += ["new", "new", "gone", "forget", "reset", "reindex", "trial"]
MORE_OPERATIONS = [
    *OPERATIONS,
    "report",
    "report",
    "centralize",
    "group",
    "group",
    "group",
    "ungroup",
    "hessian",
    "accumulate",
    "exact",
]


@cache
def ways_to_make(rule, more):
    """Settings with which an optimizer of a rule can be made, and dtypes of its parameters."""

    def goes(settings):
        with suppress(ValueError):
            return OPTIMIZERS[rule](**settings)

    real = [(settings, REAL) for settings in MADE_WITH if goes(settings)]
    if not more:
        return real
    constrained = [(settings, REAL) for settings in CONSTRAINED if goes(settings)]
    modulus = [settings | {"modulus": True} for settings in OF_COMPLEX]
    numbers = (
        [] if RULES[rule].prepare else [(settings, COMPLEX) for settings in OF_COMPLEX + modulus if goes(settings)]
    )
    return real + constrained + numbers


def assert_report(report, params, before, grads):
    """Shares are exact, norms those of NumPy to 6 digits."""
    seen = {key: pairs(grads[key]) for key in params if grads[key] is not None}
    assert list(report.by_key) == list(seen)
    size, tolerance = sum(g.size for g in seen.values()), 2e-6
    if size:
        assert report.zero_share == sum((g == 0).sum() for g in seen.values()) / size
        assert report.nonfinite_share == sum((~np.isfinite(g)).sum() for g in seen.values()) / size
    for key, norms in report.by_key.items():
        gradient, after, change = (pairs(x).astype(float) for x in (grads[key], params[key], before[key]))
        change = np.zeros_like(change) if report.skipped else after - change  # not NaN where a parameter is infinite
        found = norms.gradient_norm, norms.parameter_norm, norms.update_norm
        for number, array in zip(found, (gradient, after, change), strict=True):
            largest = np.abs(array).max(initial=0.0)
            if 0 < largest < np.inf:  # so that squares neither overflow nor vanish
                np.testing.assert_allclose(number, largest * np.sqrt(np.square(array / largest).sum()), rtol=tolerance)
            else:
                np.testing.assert_equal(number, largest)


def fits(rule, gradient):
    """Whether a gradient is finite, and where the rule squares it, or its norm, the square too."""
    gradient = pairs(gradient)
    if not np.isfinite(gradient).all():
        return False
    if RULES[rule].squares_norms:
        return np.square(gradient.astype(float)).sum() <= np.finfo(gradient.dtype).max
    return not squares(RULES[rule]) or np.isfinite(np.square(gradient)).all()


class Sides(LeafOperations):
    """An optimizer and its reference, on equal parameters; a method is an operation on both.

    ways : as of `ways_to_make`
    tape : which way, the parameters; later what an operation does
    folder : where files may be
    """

    def __init__(self, rule, ways, tape, folder):
        self.rule, self.tape, self.path = rule, tape, folder / "state"
        made_with, self.dtypes = tape.draw(ways)
        self.params = tape.model(dtypes=self.dtypes)
        self.plain = {key: np.array(value) for key, value in self.params.items()}
        if made_with is MASKED:
            rng = np.random.default_rng(self.seed())
            made_with = {"mask": {key: np.asarray(rng.random(p.shape) < 0.7) for key, p in self.params.items()}}
        if made_with is ARRAY_BOUNDS:
            made_with = {"groups": {key: {"bounds": self.bounds(p.shape)} for key, p in self.params.items()}}
        self.made_with = made_with
        self.fast = OPTIMIZERS[rule](**made_with)
        self.slow = getattr(reference, OPTIMIZERS[rule].__name__)(**made_with)
        self.has_state = bool(RULES[rule].state or self.fast.averaging or self.fast.lookahead)
        self.groups, self.count, self.skipped, self.specs = made_with.get("groups", {}), None, 0, {}

    def bounds(self, shape):
        """Arrays of a parameter's shape, or of one number each."""
        rng, shape = np.random.default_rng(self.seed()), self.draw([shape, (1,) * len(shape)])
        low = np.asarray(rng.normal(-0.5, 0.5, shape))
        return self.draw([(low, low + rng.random(shape)), (low, None), (None, low)])

    def draw(self, choices):
        return self.tape.draw(choices)

    def seed(self):
        return self.tape.seed()

    def threads_as_drawn(self):
        """So many threads as were drawn; else what an optimizer chooses, of which steps in one call are."""
        return nullcontext() if self.count is None else threads.exactly(self.count)

    def is_flat(self):
        return isinstance(self.params, fastopt.FlatDict)

    def is_frozen(self, key):
        return self.groups.get(key, {}).get("frozen", False)

    def is_aliased(self):
        return len({id(p) for p in self.params.values()}) < len(self.params)

    def gradients(self, again=None):
        """Of a kind, in a layout, for each parameter; or other values in arrays that are there."""
        kind, seed = self.draw(VALUES), self.seed()
        clips = any("clip_array_norm" in settings for settings in (*self.groups.values(), self.made_with))
        clips |= self.made_with.keys() >= {"clip_norm"} or self.made_with.keys() >= {"clip_value"}
        if clips and self.fast.on_nonfinite != "propagate":  # what counts then is the gradient after clipping
            kind = "normal" if kind in ("huge", "special") else kind
        if again:
            for number, array in enumerate(again.values()):
                array[...] = values(kind, array.shape, array.dtype, seed + number)
            return again
        dtype, layout = self.draw([None, None, "float32", "float64"]), self.draw(LAYOUTS)
        return {
            key: make(p.shape, like_kind(np.dtype(dtype), p.dtype) if dtype else p.dtype, kind, layout, seed + number)
            for number, (key, p) in enumerate(self.params.items())
        }

    def update(self, grads, plain_grads=None, report=False):
        """A step of both sides, or none where `on_nonfinite` says so; then all is compared.

        grads : None for the sums that were accumulated
        """
        given = (self.params,) if grads is None else (self.params, grads)
        plain_grads = grads if plain_grads is None else plain_grads
        with self.threads_as_drawn(), np.errstate(all="ignore"):
            seen = {
                key: None if g is None or self.is_frozen(key) else self.summed(key, g) for key, g in plain_grads.items()
            }
            finite = all(g is None or fits(self.rule, g) for g in seen.values())
            adds_up = RULES[self.rule].totals or RULES[self.rule].factors
            if finite and adds_up and any(g is not None for g in seen.values()):
                after, plain = copy.deepcopy((self.slow, self.plain))
                after.update(plain, plain_grads)
                sums = [
                    *after.estimates.values(),
                    *(x for key, g in seen.items() if g is not None for x in after.kept.get(key, {}).values()),
                ]
                finite = all(np.isfinite(array).all() for array in sums)
            before = {key: np.array(p) for key, p in self.params.items()} if report else {}
            if finite or self.fast.on_nonfinite != "raise":
                made = self.fast.update(*given, report=report)
                if report:
                    assert made.skipped == (self.fast.on_nonfinite == "skip" and not finite)
                    assert_report(made, self.params, before, seen)
            else:
                with pytest.raises(FloatingPointError):
                    self.fast.update(*given, report=report)
                self.fast.discard_accumulated()
            if finite or self.fast.on_nonfinite == "propagate":
                self.slow.update(self.plain, plain_grads)
            elif self.fast.on_nonfinite == "skip":
                self.skipped += 1
        self.assert_same()

    def summed(self, key, gradient):
        """A gradient as a rule sees it, as an array."""
        if not isinstance(gradient, fastopt.Rows):
            return gradient.astype(self.params[key].dtype)
        dense = np.zeros_like(self.plain[key])
        np.add.at(dense, gradient.indices, gradient.values.astype(dense.dtype))
        return dense

    def assert_same(self):
        """Parameters, state of all keys that are known, averages and counts."""
        for key in self.params:
            assert_same_bits(self.params[key], self.plain[key])
        for slot in [*self.slow.slots, "weight_average", "slow_weights"]:
            expected, found = getattr(self.slow, slot), getattr(self.fast, slot)
            if slot == "weight_average" and not any(self.slow.averages.values()):
                continue  # all zeros: a checkpoint is without them
            assert set(found or ()) == set(expected or ())
            for key in expected or ():
                assert_same_bits(found[key], expected[key])
        if RULES[self.rule].totals:
            np.testing.assert_equal(self.fast.estimates, self.slow.estimates)
        assert (self.fast.iter, self.fast.skipped) == (self.slow.iter, self.skipped)
        moved = self.slow.averages if self.fast.averaging else dict.fromkeys(self.slow.averages, 0)
        if RULES[self.rule].state:
            assert self.fast._leaf_counts() == {key: (count, moved[key]) for key, count in self.slow.counts.items()}
        elif self.has_state:  # leaves whose averages have not begun may be known or not
            assert {key: move for key, (_, move) in self.fast._leaf_counts().items() if move} == {
                key: move for key, move in moved.items() if move
            }

    def refused(self, error, grads):
        """A step that raises and changes nothing."""
        with np.errstate(all="ignore"), self.threads_as_drawn(), pytest.raises(error):
            self.fast.update(self.params, grads)
        self.assert_same()

    # -- steps --------------------------------------------------------------------------------------------------------

    def step(self):
        self.update(self.gradients())

    def steps(self):
        """Several on the same arrays, as of a training loop, which come to be made in one call."""
        grads = self.gradients()
        self.update(grads)
        for _ in range(self.draw([1, 2, 3])):
            self.update(self.gradients(grads))

    def report(self):
        self.update(self.gradients(), report=not self.is_aliased() and not self.is_by_rows())

    def none(self):
        grads = self.gradients()
        if grads:
            grads[self.draw(grads)] = None
        self.update(grads)

    def parameters(self):
        """Each gradient is the array of a parameter, of which none has been updated yet."""
        if self.fast.on_nonfinite == "propagate" and not self.is_aliased():
            self.update(dict(self.params), {key: np.array(p) for key, p in self.params.items()})

    def is_by_rows(self):
        """Whether a pass after the step acts on rows, which reports are without."""
        return any(setting in self.made_with for setting in ("max_norm", "group_lasso", "unit_norm", "simplex"))

    def is_complex(self):
        return self.dtypes is COMPLEX

    def hessian(self):
        """Sophia's other step, which writes h alone."""
        if self.rule == "sophia" and not self.is_aliased():
            estimates = self.gradients()
            active = [key for key in estimates if not self.is_frozen(key)]
            with np.errstate(all="ignore"):
                finite = all(np.isfinite(estimates[key].astype(self.params[key].dtype)).all() for key in active)
                if not finite and self.fast.on_nonfinite == "raise":
                    with pytest.raises(FloatingPointError):
                        self.fast.update_hessian(self.params, estimates)
                else:
                    self.fast.update_hessian(self.params, estimates)
                if finite or self.fast.on_nonfinite == "propagate":
                    self.slow.update_hessian(self.plain, estimates)
            self.assert_same()

    def trial(self):
        """A step that is taken back."""
        if self.is_aliased():
            return
        grads = self.gradients()
        with np.errstate(all="ignore"), self.threads_as_drawn(), self.fast.trial(self.params) as step:
            with suppress(FloatingPointError):
                self.fast.update(self.params, grads)
            step.reject()
        self.assert_same()

    def accumulate(self):
        """A step with the mean of two gradients, which is one with their sum and half the scale."""
        if self.is_aliased() or not self.params:
            return
        seed = self.seed()
        halves = [
            {key: values("normal", p.shape, p.dtype, seed + number) for key, p in self.params.items()}
            for number in range(2)
        ]
        scale = self.slow.gradient_scale
        self.slow.gradient_scale = scale / 2
        for half in halves:
            self.fast.accumulate(half)
        self.update(None, {key: halves[0][key] + halves[1][key] for key in self.plain})
        self.slow.gradient_scale = scale

    # -- settings -----------------------------------------------------------------------------------------------------

    def setting(self):
        self.fast.lr = self.slow.lr = self.draw([0.0, 1e-3, 0.5, 1e30])

    def centralize(self):
        if self.fast.mask is None and not self.is_complex():
            self.fast.centralize = self.slow.centralize = not self.slow.centralize

    def group(self):
        if self.params and self.made_with is GROUPED:
            key, settings = self.draw(self.params), self.draw(GROUPS)
            if self.rule != "rprop" or not settings.keys() & {"lr", "lr_scale"}:  # which it reads at the start only
                self.regroup({**self.groups, key: {**self.groups.get(key, {}), **settings}})

    def ungroup(self):
        if self.groups:
            gone = self.draw(self.groups)
            self.regroup({key: settings for key, settings in self.groups.items() if key != gone})

    def regroup(self, groups):
        """Assigned, or changed in place; without those of leaves that nobody knows, which are errors."""
        groups = {key: own for key, own in groups.items() if key in self.params or key in self.slow.counts}
        self.groups = self.slow.groups = groups
        if self.tape.flag():
            self.fast.groups = groups
        else:
            for key in [key for key in self.fast.groups if key not in groups]:
                del self.fast.groups[key]
            for key, settings in groups.items():
                self.fast.groups[key] = settings

    def threads(self):
        self.count = self.draw([None, None, *THREAD_COUNTS])

    def propagate(self):
        self.fast.on_nonfinite = "propagate"

    def skip(self):
        self.fast.on_nonfinite = "skip"

    def raise_(self):
        self.fast.on_nonfinite = "raise"

    # -- saved, copied ------------------------------------------------------------------------------------------------

    def save(self):
        """To a file, with parameters or without, a dict or a pickle; back into the same optimizer or a new one."""
        form = self.draw(["file", "params", "dict", "pickle"])
        if form == "pickle":
            self.fast = pickle.loads(pickle.dumps(self.fast))
            return
        if form == "dict":
            saved = self.fast.state_dict()
        else:
            self.fast.save(self.path, self.params if form == "params" else None)
        if self.tape.flag():
            self.fast = OPTIMIZERS[self.rule](lr=0.77, **self.made_with)
        if form == "dict":
            self.fast.load_state_dict(saved)
            return
        for p in self.params.values() if form == "params" else ():
            p[...] = 7
        self.fast.load(self.path, self.params if form == "params" else None)

    def deepcopy(self):
        self.fast, self.params = copy.deepcopy((self.fast, self.params))
