"""The base class of reference optimizers: the walk over the parameters, and the flush of subnormal state."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import partial
from typing import Any, ClassVar, cast

import numpy as np

from fastopt.kernels import codecs
from fastopt.pairs import is_complex, pairs
from fastopt.reference.constraints import Masked, by_rows, elementwise
from fastopt.reference.norms import Array as Array
from fastopt.reference.norms import clipped, global_norm, means, total
from fastopt.reference.walk import as_array, at, items, leaves
from fastopt.rows import Rows


@dataclass(eq=False)
class Reference:
    """Walks over the parameters; a subclass says in `step` what happens to one array and its state, in place."""

    slots: ClassVar[tuple[str, ...]] = ()
    exact: ClassVar[tuple[str, ...]] = ()  # those of which small values are kept
    signed: ClassVar[tuple[str, ...]] = ()  # those of which small values keep their sign
    unsigned: ClassVar[tuple[str, ...]] = ()  # those that are never negative
    by_array: ClassVar[bool] = False  # a step depends on norms of each array, so state stays float32
    decays_itself: ClassVar[bool] = False  # decoupled weight decay is in the step
    lr: float = 0.01
    weight_decay: float = field(default=0.0, kw_only=True, repr=False)
    decoupled: bool = field(default=False, kw_only=True, repr=False)
    maximize: bool = field(default=False, kw_only=True, repr=False)
    gradient_scale: float = field(default=1.0, kw_only=True, repr=False)
    clip_value: float = field(default=math.inf, kw_only=True, repr=False)
    clip_norm: float = field(default=math.inf, kw_only=True, repr=False)
    clip_array_norm: float = field(default=math.inf, kw_only=True, repr=False)
    centralize: bool = field(default=False, kw_only=True, repr=False)
    modulus: bool = field(default=False, kw_only=True, repr=False)
    bounds: Any = field(default=None, kw_only=True, repr=False)
    nonnegative: bool = field(default=False, kw_only=True, repr=False)
    l1: float = field(default=0.0, kw_only=True, repr=False)
    l2_prox: float = field(default=0.0, kw_only=True, repr=False)
    group_lasso: float = field(default=0.0, kw_only=True, repr=False)
    max_norm: float = field(default=math.inf, kw_only=True, repr=False)
    unit_norm: bool = field(default=False, kw_only=True, repr=False)
    simplex: bool = field(default=False, kw_only=True, repr=False)
    constraint_axis: int | None = field(default=-1, kw_only=True, repr=False)
    mask: Any = field(default=None, kw_only=True, repr=False)
    cautious: bool = field(default=False, kw_only=True, repr=False)
    cautious_decay: bool = field(default=False, kw_only=True, repr=False)
    groups: Any = field(default=None, kw_only=True, repr=False)
    averaging: Any = field(default=None, kw_only=True, repr=False)
    lookahead: Any = field(default=None, kw_only=True, repr=False)
    state_storage: str = field(default="float32", kw_only=True, repr=False)
    storage_seed: int = field(default=0, kw_only=True, repr=False)

    # Not annotated, which would make settings of them.
    flush = True
    _iter = 0
    _has_pairs = False  # whether the arrays in `step` are the parts of complex numbers, whose squares go together
    factors = cast("dict[str, Array]", None)
    counts = cast("dict[Any, int]", None)
    averages = cast("dict[Any, int]", None)
    weight_average = cast("dict[Any, Array] | None", None)
    slow_weights = cast("dict[Any, Array] | None", None)

    def __post_init__(self) -> None:
        self.counts, self.averages = {}, {}
        self.estimates: dict[str, float] = {}
        self.before: dict[str, float] = {}
        self.kept: dict[Any, dict[str, Array]] = {}  # of rules of whole matrices, by key; `factors` in `step`
        for slot in self.slots:
            setattr(self, slot, None)
        self.runs: dict[tuple[str, Any], Array] = {}  # codes and scales of compact state, by slot and key

    @property
    def iter(self) -> int:
        """The number of updates; in `step`, those of the array. Assigned, it is the count of every array."""
        return self._iter

    @iter.setter
    def iter(self, value: int) -> None:
        self._iter, self.counts = value, dict.fromkeys(self.counts, value)

    def step(self, p: Array, g: Array, *state: Array) -> None:
        raise NotImplementedError

    def totals(self, p: Array, g: Array, *state: Array) -> tuple[Array, Array] | None:
        """Two arrays of numbers, whose sums over all parameters `estimate` is for; None of most rules."""
        return None

    def estimate(self, one: float, other: float) -> dict[str, float]:
        raise NotImplementedError

    def product(self, x: Array, y: Array) -> Array:
        """The products of elements, with `modulus` the sums of those of both parts of complex ones."""
        products = x * y
        return products + products[..., ::-1] if self._has_pairs else products

    def squared(self, x: Array) -> Array:
        return self.product(x, x)

    def magnitude(self, x: Array) -> Array:
        """The magnitudes of elements, with `modulus` those of complex ones."""
        x = np.abs(x)
        if not self._has_pairs:
            return x
        larger, smaller = np.maximum(x, x[..., ::-1]), np.minimum(x, x[..., ::-1])
        with np.errstate(all="ignore"):
            ratio, one = smaller / larger, larger / larger
            return np.where(one == 1, larger * np.sqrt(one + ratio * ratio), larger + smaller)

    def clipped(self, x: Array, most: Array) -> Array:
        """Elements clipped to a magnitude, with `modulus` to that of complex ones; NaN goes through."""
        if not self._has_pairs:
            return np.where(x < -most, -most, np.where(x > most, most, x))
        size = self.magnitude(x)
        with np.errstate(all="ignore"):
            return np.where(size > most, x * (most / size), x)

    def norm(self, x: Array) -> float:
        """The exact norm of an array."""
        return global_norm({None: x})

    def start_values(self) -> dict[str, Any]:
        """The value before the first step of each state slot that does not start at zero; None for the parameter."""
        return {}

    def update(self, params: Any, grads: Any) -> None:
        """One step: writes `params` and the state in place.

        params : a dict of arrays or numbers, one array, or nested lists, tuples, dicts, namedtuples and dataclasses;
            state is by the names of the arrays in these
        """
        if isinstance(params, np.ndarray):
            self._update({None: params}, {None: grads})
        elif isinstance(params, Mapping) and not any(value is None or items(value) for value in params.values()):
            self._update(cast("dict[Any, Any]", params), grads)
        else:
            holders = dict(leaves(params, ""))
            arrays = {name: holder[key] for name, (holder, key) in holders.items()}
            self._update(arrays, {name: at(grads, name) for name in holders})
            for name, (holder, key) in holders.items():
                if not isinstance(arrays[name], np.ndarray):
                    holder[key] = arrays[name]

    def _update(self, params: dict[Any, Any], grads: dict[Any, Any]) -> None:
        self._iter += 1
        self._begin(params)
        parts = {key: self._part(key, as_array(p)) for key, p in params.items()}
        given = {
            key: grads[key] for key in params if not getattr(parts[key], "frozen", False) and grads[key] is not None
        }
        distinct = {key: np.unique(g.indices) for key, g in given.items() if isinstance(g, Rows) and not g.exact}
        seen = {
            key: _summed(g, distinct.get(key, np.arange(len(params[key]))), params[key].dtype)
            if isinstance(g, Rows)
            else pairs(_as_shaped(np.asarray(g).astype(as_array(params[key]).dtype, copy=False), as_array(params[key])))
            for key, g in given.items()
        }
        scale = self._scale(seen)
        self._estimate(params, parts, seen, scale)
        for key in seen:
            p, state = as_array(params[key]), [getattr(self, slot)[key] for slot in self.slots]
            if key in distinct:
                whole = [p, *state]
                p, *state = (x[distinct[key]] for x in whole)
            part = copy.copy(parts[key])
            part._iter = self.counts[key] = self.counts[key] + 1
            part.factors = self.kept.setdefault(key, {})
            part._has_pairs = part.modulus and is_complex(p.dtype)
            kept = Masked(self.mask, key, p, *state)
            # NumPy makes scalars of arrays without dimensions; the power of a scalar is not always that of an array.
            p_1d, g_1d, *state_1d = np.atleast_1d(pairs(p), seen[key], *map(pairs, state))
            part._step(p_1d, part._processed(p_1d, g_1d, scale), state_1d)
            elementwise(part, p, state, params[key], distinct.get(key, ...))
            by_rows(part, p)
            for factor in part.factors.values():
                self._flush(factor)
            kept.put_back(p, *state)
            self._flush_state(state)
            if key not in distinct:
                self._store(key, p, state, parts[key], self.iter)
            self._look_ahead(p, key, kept)
            if key in distinct:
                for x, rows in zip(whole, (p, *state), strict=True):
                    x[distinct[key]] = rows
            elif not isinstance(params[key], np.ndarray):
                params[key] = p[()] if isinstance(params[key], np.floating) else p.item()
        self._average(params)

    def _estimate(
        self, params: dict[Any, Any], parts: dict[Any, Reference], seen: dict[Any, Array], scale: float
    ) -> None:
        """Before a step, adds up over all parameters what a rule with totals needs."""
        if type(self).totals is Reference.totals:
            return
        sums = []
        self.before.clear()
        self.before.update(self.estimates)
        for key, g in seen.items():
            part, p = copy.copy(parts[key]), pairs(as_array(params[key]))
            part._iter = self.counts[key] + 1
            state = [pairs(getattr(self, slot)[key]) for slot in self.slots]
            both = part.totals(p, part._processed(p, g, scale), *state)
            assert both is not None
            sums.append(both)
        if sums:
            self.estimates.update(self.estimate(*map(total, zip(*sums, strict=True))))

    def metric(self, *state: Array) -> Array | None:
        """By what the effective learning rate of each element is divided; None where they are all alike."""
        return None

    def effective_lr(self) -> float:
        """The learning rate as a constant gradient meets it in the long run."""
        raise NotImplementedError

    def _begin(self, params: dict[Any, Any]) -> None:
        """Makes the state of parameters that have none."""
        for key in params:
            self.counts.setdefault(key, 0)
            self.averages.setdefault(key, 0)
        for slot in self.slots:
            start = self.start_values().get(slot, 0.0)
            present = getattr(self, slot) or {}
            setattr(
                self,
                slot,
                _with_more(present, params, np.copy if start is None else partial(_filled, start)),
            )
            for key, p in params.items() if start else ():
                if key not in present:
                    arrays = [getattr(self, slot)[key] if name == slot else None for name in self.slots]
                    self._store(key, as_array(p), arrays, self._part(key, as_array(p)), 0)
        if self.lookahead is not None:
            self.slow_weights = _with_more(self.slow_weights, params, np.copy)
        if self.averaging is not None:
            self.weight_average = _with_more(self.weight_average, params, np.zeros_like)

    def _store(self, key: Any, p: Array, state: list[Any], part: Reference, step: int) -> None:
        """Encodes the state of an array where it is compact, and leaves in it what the codes mean."""
        storage = part.state_storage
        if storage == "float32" or self.by_array or p.size < 4096 or (part.centralize and p.ndim > 1):
            return
        if self.mask is not None and key in self.mask:
            return
        order: Any = "F" if p.flags.f_contiguous and not p.flags.c_contiguous else "C"
        for number, (slot, x) in enumerate(zip(self.slots, state, strict=True)):
            if x is not None:
                seed = codecs.step_key(self.storage_seed if step else 0, step)
                noise, run = codecs.slot_key(seed, codecs.name_key(key), number), codecs.empty_run(storage, x.size)
                codecs.encode(storage, slot in self.unsigned, x.ravel(order=order), noise, run)
                decoded = codecs.decode(storage, slot in self.unsigned, run, x.size)
                x[...] = decoded.reshape(x.shape, order=order)
                self.runs[slot, key] = run

    def _look_ahead(self, p: Array, key: Any, kept: Masked) -> None:
        """Every some steps the slow weights follow, and p goes on from them, but where both are kept."""
        amount = 0.0 if self.lookahead is None else self.lookahead.amount(self.iter, 0)
        if amount:
            assert self.slow_weights is not None
            slow = self.slow_weights[key]
            new = slow.copy()
            pairs(new)[...] += amount * (pairs(p) - pairs(slow))  # complex infinity times amount has a NaN
            kept.write(p, new)
            self._flush(pairs(new))
            kept.write(slow, new)

    def _average(self, params: dict[Any, Any]) -> None:
        """The average follows, that of parameters without a gradient too."""
        for key, value in params.items() if self.averaging is not None else ():
            amount = self.averaging.amount(self.iter, self.averages[key])
            if amount:
                assert self.weight_average is not None
                self.averages[key] += 1
                average = pairs(self.weight_average[key])  # as amount times a complex infinity has a NaN
                average += amount * (pairs(as_array(value)) - average)
                self._flush(average)

    def _flush_state(self, state: list[Array]) -> None:
        for slot, x in zip(self.slots, state, strict=True):
            if slot not in self.exact:
                self._flush(pairs(x), keep_sign=slot in self.signed)

    def _flush(self, x: Array, keep_sign: bool = False) -> None:
        if self.flush:
            smallest = np.finfo(x.dtype).tiny * x.dtype.type(2.0**16)
            small = np.abs(x) < smallest
            # Zero, or the smallest, with the same sign.
            x[small] = np.copysign(smallest * np.sign(np.abs(x[small])), x[small]) if keep_sign else x[small] * 0

    def _part(self, key: Any, p: Array) -> Reference:
        """A copy with the settings of the groups that an array belongs to."""
        part = self
        for selector, settings in (self.groups or {}).items():
            if selector(key, p) if callable(selector) else key == selector or fnmatchcase(str(key), str(selector)):
                part = copy.copy(part)
                vars(part).update(settings)
        if "lr_scale" in vars(part):
            part.lr = part.lr * vars(part)["lr_scale"]
        return part

    def _scale(self, grads: dict[Any, Array]) -> float:
        scale = -self.gradient_scale if self.maximize else self.gradient_scale
        if self.clip_norm < math.inf:
            scale = clipped(scale, grads, self.clip_norm)
        return scale

    def _processed(self, p: Array, g: Array, scale: float) -> Array:
        """The gradient that the rule sees; writes p where weight decay is decoupled."""
        if self.clip_array_norm < math.inf:
            scale = clipped(scale, {None: g}, self.clip_array_norm)
        if scale != 1:
            g = g * scale
        if self.clip_value < math.inf:
            g = np.where(g < -self.clip_value, -self.clip_value, np.where(g > self.clip_value, self.clip_value, g))
            g = g.astype(p.dtype, copy=False)
        if self.centralize and g.ndim > 1 and g.size:
            g = g - means(g)
        return self._decayed(p, g) if self.weight_decay else g

    def _step(self, p: Array, g: Array, state: list[Array]) -> None:
        """The step, of which caution leaves out elements."""
        old = p.copy() if self.cautious or self.cautious_decay else p
        self.step(p, g, *state)
        if self.cautious:
            stays = ((p >= old) & (g >= 0)) | ((p <= old) & (g <= 0))
            if stays.any():
                share = int(np.count_nonzero(~stays)) / stays.size
                p[...] = np.where(stays, old, old + 1 / max(share, 1e-3) * (p - old))
        if self.cautious_decay and self.decoupled and self.weight_decay and not self.decays_itself:
            decays = ((p <= old) & (old >= 0)) | ((p >= old) & (old <= 0))
            p[...] = np.where(decays, p - self.lr * self.weight_decay * old, p)

    def _decayed(self, p: Array, g: Array) -> Array:
        if not self.decoupled:
            return g + self.weight_decay * p
        if not self.decays_itself and not self.cautious_decay:
            p *= 1 - self.lr * self.weight_decay
        return g


def _filled(start: float, p: Array) -> Array:
    """State of an array that begins with a number, of complex ones in both parts."""
    new = np.empty_like(p)
    pairs(new)[...] = start
    return new


def _with_more(
    slot: dict[Any, Array] | None, params: dict[Any, Any], start: Callable[[Array], Array]
) -> dict[Any, Array]:
    present = slot or {}
    return present | {key: start(as_array(p)) for key, p in params.items() if key not in present}


def _summed(gradient: Rows, distinct: Array, dtype: Any) -> Array:
    """The gradient of each updated row: the values of one row are added up in the order given, from zero on."""
    values = np.asarray(gradient.values).astype(dtype, copy=False)
    sums = np.zeros((len(distinct), *values.shape[1:]), dtype)
    np.add.at(sums, np.searchsorted(distinct, gradient.indices), values)
    return sums


def _as_shaped(g: Array, p: Array) -> Array:
    """A gradient whose shape differs only by axes of length one, in the parameter's shape."""
    return g.reshape(p.shape) if np.squeeze(g).shape == np.squeeze(p).shape else g
