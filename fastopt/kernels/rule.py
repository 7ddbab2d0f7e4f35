"""A rule: its formula on scalars, the names of its state slots, and the passes over memory that it needs."""

from __future__ import annotations

import dis
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from fastopt.kernels.averages import AVERAGES
from fastopt.kernels.constraints import BOUND_COLUMNS, COLUMNS
from fastopt.kernels.intrinsics import FLUSHED, KEPT, SIGN_KEPT
from fastopt.kernels.modulus import in_pairs, names_in

Factors = Mapping[str, np.ndarray[Any, Any]]
"""Arrays that a rule keeps of one parameter besides its state slots, by name."""


@dataclass(frozen=True)
class Rule:
    """An update rule: its formula on scalars and the names of its state slots.

    formula : `(p, g, *state, *scalars) -> (p, *state)` on plain numbers; numeric literals are not allowed (they would
        make float32 arithmetic float64), `math` functions are.
    state : the names of the state slots, in the order of the formula.
    measure : for a rule that needs norms of each array: a formula that takes the same but for the last scalar and
        returns two numbers. What their norms come to is the last scalar.
    totals : for a rule whose steps depend on sums over all leaves: a formula that takes the same but for the scalars of
        `Optimizer.total_scalars`, the last ones, and returns two numbers, which are added up
    rows : whether it may be applied to some rows of a parameter and not to others, for gradients that are `Rows`
    skipped : where steps without a gradient have a closed form: the formula `(p, g, *state, *scalars) -> (p, *state)`
        of several of them, whose scalars are the first of kept, share and moved; see `kernels/skipped_steps.py`
    exact : the slots whose exact value decides a branch, so that small ones are not flushed to zero
    signed : those whose sign decides one, which small values keep
    nonnegative : those that are never negative, which 8 bits then hold without a sign
    squares_norms : whether the trust ratio of its measures is the square of a norm
    metric : where steps differ by element in more than the gradient: a formula `(*state, *scalars)` of the new state
        that returns by what the optimizer's `effective_lr` is divided
    prepare : for a rule that needs whole arrays: a formula that takes the same and returns one number, which goes to
        the last state slot before the step; the optimizer's `prepared` then has each array of that slot.
    factors : for such a rule: the shapes, by name, of the arrays of other shapes that it keeps of an array of a shape
    """

    formula: Callable[..., Any]
    state: tuple[str, ...] = ()
    measure: Callable[..., Any] | None = None
    totals: Callable[..., Any] | None = None
    rows: bool = False
    skipped: Callable[..., Any] | None = None
    prepare: Callable[..., Any] | None = None
    exact: tuple[str, ...] = ()
    signed: tuple[str, ...] = ()
    nonnegative: tuple[str, ...] = ()
    squares_norms: bool = False
    metric: Callable[..., Any] | None = None
    factors: Callable[[tuple[int, ...]], dict[str, tuple[int, ...]]] | None = None

    @cached_property
    def is_by_array(self) -> bool:
        """Whether arrays must be told apart."""
        return bool(self.measure or self.prepare or self.totals)

    @property
    def measured(self) -> tuple[str, ...]:
        """The arrays that the pass before the step reads."""
        before = self.measure or self.prepare or self.totals
        read = {step.argval for step in dis.get_instructions(before)} if before else set()
        return tuple(name for name in ("p", "g", *self.state) if name in read)

    @cached_property
    def preparing(self) -> Rule | None:
        """The rule of the pass over memory that goes before the step, and writes its last state slot only."""
        return Rule(self.prepare, self.state) if self.prepare else None

    @cached_property
    def measuring(self) -> Rule | None:
        """The rule of the pass over memory that goes before the step, and writes nothing."""
        return Rule(self.measure, self.state) if self.measure else None

    @cached_property
    def totalling(self) -> Rule | None:
        """The rule of the pass over memory that goes before the step, adds up over all leaves and writes nothing."""
        return Rule(self.totals, self.state) if self.totals else None

    @cached_property
    def squares_elements(self) -> bool:
        """Whether the formula has squares or magnitudes of single elements, by the functions of `modulus.py`."""
        return bool(names_in(self.formula))

    @cached_property
    def paired(self) -> Rule:
        """The rule of pairs of numbers, whose squares are taken together."""
        return replace(self, formula=in_pairs(self.formula, 2 + len(self.state)))

    @property
    def name(self) -> str:
        return self.formula.__name__

    @cached_property
    def scalars(self) -> tuple[str, ...]:
        """The names of the formula's scalars."""
        return tuple(inspect.signature(self.formula).parameters)[2 + len(self.state) :]

    def columns(self, transforms: tuple[str, ...] = ()) -> tuple[int, ...]:
        """The columns of the table that the formula with transforms takes; the one applied last comes first.

        In the table averages, bounds, masks and means stand behind the state, in this order.
        """
        last = 2 + len(self.state)
        behind = {name: last + number for number, name in enumerate((*AVERAGES, *COLUMNS, "centralize"))}
        order = "averaging", "mask", "lookahead", *reversed(BOUND_COLUMNS), "centralize"
        return 0, 1, *[behind[name] for name in order if name in transforms], *range(2, last)

    def small(self, transforms: tuple[str, ...] = ()) -> tuple[int, ...]:
        """The treatment of small values in the columns that are written, but for parameter and gradient."""
        kinds = [KEPT if slot in self.exact else SIGN_KEPT if slot in self.signed else FLUSHED for slot in self.state]
        return (*(FLUSHED for transform in transforms if transform in AVERAGES), *kinds)


def no_formula(p, g):
    """Stands for a formula where none is applied."""


NO_RULE = Rule(no_formula)
"""For the kernels that only read gradients, which are the same for all rules."""


def gradient_measure(p, g):
    """The gradient as a measure."""
    return g, g


GRADIENT_MEASURE = Rule(gradient_measure)
"""For the norm of gradients whose squares overflow or vanish."""
