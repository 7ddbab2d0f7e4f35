"""The settings that every optimizer has."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields
from functools import cache
from typing import Any, ClassVar, Literal, cast

import numpy as np

from fastopt import constraints, representation
from fastopt.averages import EMA, SWA, Lookahead
from fastopt.kernels.transforms import TRANSFORMS
from fastopt.typed import BoundsSetting, GroupSettings, MaskSetting, Number, number


@dataclass(init=False, eq=False, repr=False)
class SharedSettings:
    """The hyperparameters that all optimizers share; a rule's class adds its own."""

    on_nonfinite: Literal["propagate", "raise", "skip"] = field(default="propagate", kw_only=True, repr=False)
    """How to treat gradients that are NaN or infinite, or, in a rule that squares them, so large that their squares
    are infinite (beyond 1.8e19 in float32, 1.3e154 in float64, after scale and clipping): "propagate" them into the
    parameters, as the textbook does; "raise" FloatingPointError before anything is written; "skip" the step, which then
    does not count."""

    max_skips: Number = field(default=number(math.inf), kw_only=True, repr=False)
    """How many steps in a row `on_nonfinite="skip"` may skip before FloatingPointError is raised."""

    weight_decay: Number = field(default=number(0.0), kw_only=True, repr=False)
    """The weight of the L2 penalty `weight_decay p^2 / 2`, whose gradient is added: `g = g + weight_decay p`."""

    decoupled: bool = field(default=False, kw_only=True, repr=False)
    """Whether weight decay is separate from the gradient: `p = p - lr weight_decay p` before the rule's step."""

    maximize: bool = field(default=False, kw_only=True, repr=False)
    """Whether to maximize: `g = -g`."""

    gradient_scale: Number = field(default=number(1.0), kw_only=True, repr=False)
    """A factor of the gradient: 1/n if it is the sum of n micro-batches, 1/s if the loss was multiplied by s."""

    clip_value: Number = field(default=number(math.inf), kw_only=True, repr=False)
    """The largest magnitude of an element of a gradient, after scale and clipping by norm:
    `g = min(max(g, -clip_value), clip_value)`."""

    clip_norm: Number = field(default=number(math.inf), kw_only=True, repr=False)
    """The largest norm of all gradients together, after scaling: larger ones are scaled down to it. Costs one read of
    the gradients."""

    clip_array_norm: Number = field(default=number(math.inf), kw_only=True, repr=False)
    """The largest norm of the gradient of each array, after scale and `clip_norm`."""

    centralize: bool = field(default=False, kw_only=True, repr=False)
    """Whether to subtract the mean from gradients after clipping (Yong et al., ECCV 2020, arXiv:2004.01461): of a
    matrix (inputs, outputs) over axis 0, of an array of more dimensions (filters, ...) over all axes but the first;
    vectors are left alone. Costs one read of the gradients."""

    modulus: bool = field(default=False, kw_only=True, repr=False)
    """Whether both parts of a complex parameter have one second moment, that of `|g|^2`, as in JAX and optax: steps
    then turn with the complex plane. Otherwise real and imaginary part have their own, as in PyTorch. For rules that
    square single elements; real parameters are as without it."""

    bounds: BoundsSetting = field(default=number(None), kw_only=True, repr=False)
    """The smallest and the largest value of a parameter, `(low, high)`: each step ends with `np.clip(p, low, high)`, in
    the same pass. Numbers, arrays that broadcast to the parameter (in groups, one for each), or None for no bound."""

    nonnegative: bool = field(default=False, kw_only=True, repr=False)
    """Whether negative parameters become 0 at the end of a step, as with `bounds=(0, None)`."""

    l1: Number = field(default=number(0.0), kw_only=True, repr=False)
    """The weight of the L1 penalty `l1 |p|`: after the rule's step comes a proximal one, soft thresholding by l1 times
    the step size of the element, so that weights become exactly 0. That step size is the step per gradient, were the
    gradient constant: lr, lr / (1 - momentum), or lr / (sqrt(v_hat) + eps) in Adam, as in ProxGen (Yun, Lozano and
    Yang, NeurIPS 2021, arXiv:2007.07484)."""

    l2_prox: Number = field(default=number(0.0), kw_only=True, repr=False)
    """The weight of the penalty `l2_prox p^2 / 2`, by a proximal step `p / (1 + l2_prox step_size)` after that of `l1`:
    stable for any weight, unlike `weight_decay`."""

    group_lasso: Number = field(default=number(0.0), kw_only=True, repr=False)
    """The weight of the sum of the norms of rows (see `constraint_axis`): a proximal step after the rule's, which makes
    whole rows exactly 0. For rules whose elements have one step size, as SGD and Momentum."""

    max_norm: Number = field(default=number(math.inf), kw_only=True, repr=False)
    """The largest norm of a row: after a step a longer one is scaled down to it."""

    unit_norm: bool = field(default=False, kw_only=True, repr=False)
    """Whether rows are scaled to norm one after a step; those of zeros, or with a subnormal norm, stay."""

    simplex: bool = field(default=False, kw_only=True, repr=False)
    """Whether rows are projected onto the simplex: the nearest non-negative numbers that sum to one. For rules
    whose elements have one step size: with others steps would not end at the minimum."""

    constraint_axis: Any = field(default=-1, kw_only=True, repr=False)
    """The axis along which `group_lasso`, `max_norm`, `unit_norm` and `simplex` take elements together: -1 for each row
    of a matrix, 0 for each column, None for whole arrays; a vector is one row. These four cost a pass over the
    parameters, in which rows with NaN or infinity are left alone; a report describes the step before it."""

    mask: MaskSetting = field(default=number(None), kw_only=True, repr=False)
    """Arrays of booleans by key, True where elements are updated: `{"W": W != 0}`, or one array where the parameters
    are one. Elsewhere value and state stay as they are, whatever decay, momentum and averages do. State of arrays with
    a mask is not stored in fewer bits."""

    cautious: bool = field(default=False, kw_only=True, repr=False)
    """Whether elements that a step would move along their gradient, as momentum may, stay (Liang et al.,
    arXiv:2411.16085). The steps of the others in an array are divided by their share of it, at least 0.001; the
    gradient is the one that the rule sees. Costs one read of what the step reads."""

    cautious_decay: bool = field(default=False, kw_only=True, repr=False)
    """Whether decoupled weight decay leaves out elements that the step moves away from zero (Chen et al.,
    arXiv:2510.12402); it then comes after the step, `p = p - lr weight_decay p_before`."""

    groups: GroupSettings = field(default=number(None), kw_only=True, repr=False)
    """Settings for some of the parameters: `{"b*": {"lr_scale": 0.1}, "embedding": {"frozen": True}}`. See
    `fastopt.Groups`; `optimizer.groups["b*"]["lr"] = 0.1` changes one between steps."""

    averaging: EMA | SWA | None = field(default=None, kw_only=True, repr=False)
    """An average of the weights, `EMA` or `SWA`: state `weight_average`, by key."""

    lookahead: Lookahead | None = field(default=None, kw_only=True, repr=False)
    """`Lookahead`, which every few steps pulls the weights back towards slow ones: state `slow_weights`, by key."""

    state_storage: Literal["float32", "bfloat16", "int8"] = field(default="float32", kw_only=True, repr=False)
    """How state is stored: "bfloat16" in 2 bytes an element of a slot, "int8" in 1.06, of float32 parameters. Arrays of
    fewer than 4,096 elements, rules with norms or sums of arrays, `Rows` and what is centralized stay float32. After a
    change the next step converts the state."""

    storage_seed: int = field(default=0, kw_only=True, repr=False)
    """The seed of the stochastic rounding of compact state: the same seed gives the same bits."""

    batch_axis: Literal[0] | None = field(default=None, kw_only=True, repr=False)
    """0 where parameters are many independent problems, of shape (problems, ...): each then has a step count, a norm to
    clip, skips, and an lr of its own, where `lr` is an array of shape (problems,). See `active` and `restart`."""

    _shared: ClassVar[frozenset[str]]
    """The settings of every optimizer, which transforms follow from."""

    _of_plans: ClassVar[frozenset[str]] = frozenset(
        {"centralize", "modulus", "state_storage", "batch_axis", *constraints.OF_PLANS}
    )
    """Those that plans are made for."""

    _decays_itself: ClassVar[bool] = False
    """Whether decoupled weight decay is in the formula, which `_formula_decay` is for."""

    # Not annotated, which would make hyperparameters of them.
    _transforms = cast("tuple[str, ...] | None", None)  # what the settings call for; None: not worked out yet
    _scheduled = cast("tuple[str, ...]", ())

    def _formula_decay(self) -> float:
        """The weight decay of a formula that has its own."""
        return self.weight_decay if self.decoupled else 0.0

    def _needed_transforms(self) -> tuple[str, ...]:
        """The transforms of `fastopt.kernels.transforms` that the settings call for."""
        decays = self.weight_decay != 0 and self.decoupled and not self._decays_itself
        needed = {
            "scale": self.maximize
            or self.gradient_scale != 1
            or self.clip_norm != math.inf
            or self.clip_array_norm != math.inf,
            "clip": self.clip_value != math.inf,
            "weight_decay": self.weight_decay != 0 and not self.decoupled,
            "decoupled_weight_decay": decays and not self.cautious_decay,
            "cautious_decay": decays and self.cautious_decay,
            "cautious": self.cautious,
            "l1": self.l1 != 0,
            "l2_prox": self.l2_prox != 0,
        }
        if self.nonnegative or self.bounds is not None:
            low, high = constraints.lowest(self), constraints.highest(self)
            needed["lower"] = not isinstance(low, np.ndarray) and low > -math.inf
            needed["upper"] = not isinstance(high, np.ndarray) and high < math.inf
        # A plan sees to `centralize`, and to what comes from arrays.
        return tuple(transform for transform in TRANSFORMS if needed.get(transform))

    @classmethod
    def _scheduled_names(cls, settings: dict[str, Any]) -> tuple[str, ...]:
        """Which settings are functions of the step; remembered, so that a step without any does not look."""
        return tuple(name for name in cls._hyperparameters() if callable(settings.get(name)))

    @classmethod
    @cache
    def _hyperparameters(cls) -> tuple[str, ...]:
        own_first = sorted(fields(cls), key=lambda field: bool(field.kw_only))
        return tuple(field.name for field in own_first)

    def __repr__(self) -> str:
        """The settings of the rule, and all others that are not the default."""
        return representation.of(self)


SharedSettings._shared = frozenset(SharedSettings._hyperparameters())
