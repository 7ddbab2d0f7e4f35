"""Operations of random sequences on which arrays there are and where they lie; `sides.py` has all others."""

import copy

import numpy as np
import pytest

import fastopt
from fastopt.kernels import RULES
from fastopt.pairs import pairs
from tests.random_models import KEYS, LAYOUTS, lay_out, make, values

EXACT = ("sgd", "momentum", "adagrad", "rmsprop")
"""The rules with closed forms of steps without a gradient."""


class LeafOperations:
    """The part of `Sides` that makes, replaces and takes away arrays."""

    # -- parameters that come, go and change --------------------------------------------------------------------------

    def replace(self):
        if self.params and not self.is_flat() and not self.is_aliased():
            key = self.draw(self.params)
            self.params[key] = lay_out(np.array(self.params[key]), self.draw(LAYOUTS))

    def flat(self):
        if self.is_flat():
            self.params = {key: np.array(p) for key, p in self.params.items()}
        elif len({p.dtype for p in self.params.values()}) == 1 and not self.is_aliased():
            self.params = fastopt.flatten(self.params)

    def new(self):
        """One that was not there, or comes again; of another shape only where there is no state of it."""
        absent = [key for key in KEYS if key not in self.params]
        if absent and not self.is_flat() and self.fast.mask is None:
            key, (shape, dtype, *rest) = self.draw(absent), self.tape.array(self.dtypes)
            if key in self.slow.counts and (self.has_state or key in self.groups):  # which may bring bounds
                shape, dtype = self.specs[key]
            self.params[key] = make(shape, dtype, *rest)
            self.plain[key] = np.array(self.params[key])

    def gone(self):
        if self.params and not self.is_flat() and self.fast.mask is None:
            key = self.draw(self.params)
            self.specs[key] = self.params[key].shape, self.params[key].dtype.name
            del self.params[key], self.plain[key]
            if key not in self.slow.counts:
                self.regroup(self.groups)

    def forget(self):
        keys = [key for key in self.slow.counts if self.tape.flag()]
        self.fast.forget(keys)
        for key in keys:
            for known in (self.slow.counts, self.slow.averages):
                del known[key]
            self.slow.kept.pop(key, None)
            for slot in [*self.slow.slots, "weight_average", "slow_weights"]:
                if getattr(self.slow, slot) is not None:
                    del getattr(self.slow, slot)[key]
        self.assert_same()

    def reset(self):
        self.fast.reset()
        self.slow = copy.copy(self.slow)
        self.slow.__post_init__()
        self.slow.weight_average = self.slow.slow_weights = None
        self.slow.iter = self.skipped = 0
        self.regroup(self.groups)
        self.assert_same()

    def reindex(self):
        """Rows pruned, cloned, sorted and new."""
        keys = [
            key
            for key, p in self.params.items()
            if p.ndim and key in self.slow.counts and key not in self.fast._factors and not self.has_bounds(key)
        ]
        if keys and not self.is_flat() and not self.is_aliased() and self.fast.mask is None:
            key, seed = self.draw(keys), self.seed()
            rows = len(self.params[key])
            index = np.random.default_rng(seed).integers(-1, max(rows, 1), self.draw([0, 1, rows, 9]))
            index = index if rows else np.full_like(index, -1)
            new = values("normal", (len(index), *self.params[key].shape[1:]), self.params[key].dtype, seed)
            new[index >= 0] = self.plain[key][index[index >= 0]]
            self.params[key], self.plain[key] = lay_out(new.copy(), self.draw(LAYOUTS)), new
            self.fast.reindex(key, index, self.params[key])
            for slot in [*self.slow.slots, "weight_average", "slow_weights"]:
                known = getattr(self.slow, slot)
                if known is not None:
                    start = self.slow.start_values().get(slot, 0.0) if slot in self.slow.slots else None
                    begun = new.copy()
                    if start is not None:
                        pairs(begun)[...] = start
                    begun[index >= 0] = known[key][index[index >= 0]]
                    known[key] = begun
            self.assert_same()

    def has_bounds(self, key):
        """Whether bounds are arrays, for these rows."""
        return "bounds" in self.groups.get(key, {})

    # -- memory -------------------------------------------------------------------------------------------------------

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

    def alias(self):
        """One array under two keys: it takes the step of each."""
        keys = self.alike()
        by_array = RULES[self.rule].is_by_array or self.made_with.keys() - {"weight_decay", "gradient_scale"}
        if keys and not by_array:
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
        with pytest.raises(ValueError, match="memory"), self.threads_as_drawn():
            self.fast.update(self.params, {key: np.ones(p.shape) for key, p in kept.items()})
        assert not block.any()
        self.params = kept
        self.assert_same()

    def alike(self):
        """Two parameters of one dtype and shape."""
        if self.is_flat():
            return None
        names = list(self.params)
        for number, one in enumerate(names):
            for other in names[number + 1 :]:
                first, second = self.params[one], self.params[other]
                if (first.shape, first.dtype) == (second.shape, second.dtype):
                    return one, other
        return None

    # -- sparse rows -------------------------------------------------------------------------------------------------

    def sparse(self):
        tables = self.tables()
        if tables:
            key, grads, seed = self.draw(tables), self.gradients(), self.seed()
            grads[key] = self.rows(key, seed, self.draw([0, 1, 5]))
            self.update(grads)

    def exact(self):
        """Steps of all rows, those without a gradient in closed form: equal up to rounding, from which both go on."""
        tables = [key for key in self.tables() if self.is_moderate(key)]
        if not tables or self.rule not in EXACT or self.made_with or self.groups or self.fast.lr > 1:
            return
        key, seed = self.draw(tables), self.seed()
        for number in range(3):
            grads = {name: values("normal", p.shape, p.dtype, seed + number) for name, p in self.params.items()}
            rows = self.rows(key, seed + number, 2)
            grads[key] = fastopt.Rows(rows.indices, rows.values, exact=True)
            with np.errstate(all="ignore"), self.threads_as_drawn():
                self.fast.update(self.params, grads)
                self.slow.update(self.plain, grads)
        self.fast.catch_up(self.params)
        slots = [(getattr(self.fast, slot)[key], getattr(self.slow, slot)[key]) for slot in self.slow.slots]
        for found, expected in [(self.params[key], self.plain[key]), *slots]:
            np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)
            expected[...] = found
        self.assert_same()

    def is_moderate(self, key):
        """Whether rounding stays small where a parameter and its state go through other operations."""
        return all((np.abs(x) < 10).all() for x in (self.plain[key], *(slot[key] for slot in self.state_of(key))))

    def tables(self):
        """The parameters whose gradients may be rows."""
        allowed = RULES[self.rule].rows and not self.fast.centralize and not self.fast.lookahead
        if not allowed or self.is_aliased() or self.is_by_rows() or self.fast.mask is not None:
            return []
        return [
            key
            for key, p in self.params.items()
            if p.ndim > 1
            and p.size
            and p.dtype.kind == "f"
            and p.flags.c_contiguous
            and p.flags.aligned
            and not self.is_frozen(key)
            if all(slot[key].flags.c_contiguous for slot in self.state_of(key))
        ]

    def rows(self, key, seed, count):
        shape = self.params[key].shape
        indices = np.random.default_rng(seed).integers(0, shape[0], count)
        return fastopt.Rows(indices, values("normal", (count, *shape[1:]), self.params[key].dtype, seed))

    def state_of(self, key):
        """The arrays of each slot that knows a key."""
        slots = [getattr(self.fast, slot) for slot in [*self.slow.slots, "weight_average"]]
        return [slot for slot in slots if slot and key in slot]
