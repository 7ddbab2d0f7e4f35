"""The base class of all optimizers: settings, state and the step."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from inspect import signature
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self, TypeVar, cast, overload

from fastopt import averages, checks, combinations, hyperparameters, names, tuning
from fastopt.accumulation import Accumulation
from fastopt.averages import AveragedWeights
from fastopt.checkpoint.saving import Saving
from fastopt.engine import catch_up, containers, objects, problem_step, step
from fastopt.engine.norms import ONE_PROCESS
from fastopt.engine.objects import OWN
from fastopt.engine.plan import Plan
from fastopt.engine.state import State
from fastopt.engine.step_counts import Counts, StepCounts
from fastopt.flat import Array
from fastopt.groups import NO_GROUPS, GroupNumbers, Groups
from fastopt.kernels import RULES
from fastopt.kernels.averages import SLOTS
from fastopt.kernels.rule import Factors, Rule
from fastopt.kernels.stores import FORMS, PLAIN
from fastopt.leaves import Leaves
from fastopt.problems import Problems
from fastopt.report import Report
from fastopt.settings import Asked, StepSettings
from fastopt.shared_settings import SharedSettings
from fastopt.structure import Node
from fastopt.trial import Trials
from fastopt.tuning import AS_THEY_COME, Tuning
from fastopt.views import NoState

if TYPE_CHECKING:
    from fastopt.typed import Slot

Params = TypeVar("Params")


@dataclass(init=False, eq=False, repr=False)
class Optimizer(SharedSettings, Saving, AveragedWeights, Leaves, Accumulation, Trials, Problems):
    """The base class of optimizers; a subclass names its rule, its hyperparameters and how they become scalars.

    Hyperparameters are attributes and may be changed between steps. One that is a number may also be a schedule
    (`fastopt.schedules`) or any function of the step, counted from 1. Each name in the rule's state (`m`, `v`, `h`) is
    an attribute too: an empty mapping before the first step, then a dict of arrays by key (or one array, where
    parameters are one array) whose values are the state itself; to assign None forgets all state. `iter` is the number
    of steps taken, which schedules use; bias corrections use the step count of each leaf, the number of steps that
    updated it. `skipped` is the number of steps that `on_nonfinite="skip"` did not make. Pickle and `copy.deepcopy`
    keep settings, state and counts.
    """

    rule: ClassVar[str]
    """The name of the rule, by which files know it: a key of `fastopt.kernels.RULES`, or that of one's own."""

    _rule: ClassVar[Rule]

    def __init_subclass__(cls) -> None:
        """Finds the rule by its name where the class does not bring its own."""
        super().__init_subclass__()
        if "__repr__" not in vars(cls):
            cls.__repr__ = cls.__repr__  # type: ignore[method-assign]  # where it is, `dataclass` writes none
        if "rule" in vars(cls) and "_rule" not in vars(cls):
            if cls.rule not in RULES:
                raise KeyError(checks.unknown_rule(cls.__name__, cls.rule))
            cls._rule = RULES[cls.rule]

    def __init__(self) -> None:
        raise TypeError("Optimizer is what all optimizers share; make one of its subclasses, such as fastopt.Adam()")

    def __new__(cls, *values: Any, **settings: Any) -> Self:
        """Refuses parameters and unknown settings, with the name that they have here."""
        settable = cls._hyperparameters()
        if values or not settings.keys() <= {*settable}:
            expected = signature(cls.__init__).parameters.values()  # which a subclass may have of its own
            if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in expected) and cls is not Optimizer:
                taken = [parameter.name for parameter in expected][1:]
                checks.arguments(cls.__name__, values if (*taken[:1],) == settable[:1] else (), settings, taken)
        return super().__new__(cls)

    # Not annotated, which would make hyperparameters of them.
    _assigned = cast("object", None)  # another object after each assignment
    _steps = 0
    _skipped = 0
    _skips_in_a_row = 0
    _state = cast("State | None", None)
    _node = cast("Node | None", None)  # the structure of nested parameters, in which state is shown
    _plan = cast("Plan | None", None)
    _report_plan = cast("Plan | None", None)
    _others = cast("tuple[Plan, ...]", ())  # plans for other arrays
    _calls = cast("tuple[Any, ...]", ())  # steps of these plans in one call, as long as nothing is assigned
    # What `StepCounts` has.
    _cohorts = cast("Mapping[Any, int]", MappingProxyType({}))
    _counts = cast("Counts", ())
    _averages = cast("Counts", ())
    _kept_settings = cast("StepSettings | None", None)  # as long as nothing is assigned, nor groups changed
    _estimates = cast("Mapping[str, float]", MappingProxyType({}))  # of a rule with totals, from the first step on
    _factors = cast("Mapping[Any, Factors]", MappingProxyType({}))  # by key; never written in place
    _processes = ONE_PROCESS
    _accumulated = 0
    _sums = cast("Any", None)  # a `GradientSums`
    _problems = cast("Any", None)  # the `ProblemCounts`, after the first step with `batch_axis`
    _wanted_active = cast("Array | None", None)  # before it
    _skipped_rows = cast("dict[Any, catch_up.SkippedSteps]", MappingProxyType({}))  # by key, of rows that wait for them

    def scalars(self, step: int) -> tuple[float, ...]:
        """The scalars of the rule's formula at a step of a leaf, counted from 1."""
        raise NotImplementedError

    def trust_ratio(self, one: float, other: float, size: int) -> float:
        """Trust ratio of an array of `size` elements from the norms of its two measures, for a rule that has them."""
        raise NotImplementedError

    def estimated(self, one: float, other: float, estimates: Mapping[str, float]) -> dict[str, float]:
        """The numbers that a rule with totals keeps from step to step, from those before and the two totals."""
        raise NotImplementedError

    def total_scalars(self, estimates: Mapping[str, float]) -> tuple[float, ...]:
        """The scalars of the formula that depend on them after a step's totals, the last ones."""
        return ()

    def effective_lr(self, step: int) -> float:
        """The step of a leaf per gradient, were that constant, in the long run; for `l1` and the like.

        In a rule that has a metric it is divided by that, element by element.
        """
        raise NotImplementedError

    def kept_share(self) -> float:
        """The fraction of its state that a step without a gradient keeps, where the rule has a closed form of those."""
        return 1.0

    def prepared(self, direction: Array, parameter: Array, step: int, factors: Factors) -> Factors:
        """Turns an array of the last state slot into the update direction, in place; returns the new factors."""
        raise NotImplementedError

    def start_values(self) -> dict[str, float]:
        """The value of each state slot before the first step."""
        return dict.fromkeys(self._rule.state, 0.0)

    def _start(self) -> dict[str, float | None]:
        """The same with the slots of averages."""
        return {**self.start_values(), **averages.start_values(self)}

    @overload
    def update(self, params: Any, grads: Any = ..., *, report: Literal[False] = False) -> None: ...

    @overload
    def update(self, params: Any, grads: Any = ..., *, report: Literal[True]) -> Report: ...

    @overload
    def update(self, params: Any, grads: Any = ..., *, report: bool) -> Report | None: ...

    def update(self, params: Any, grads: Any = OWN, *, report: bool = False) -> Report | None:
        """Makes one step: writes `params` and the state in place; never writes `grads`.

        Parameters
        ----------
        params : dict of arrays, FlatDict, one array, or nested containers
            float32, float64, complex64 or complex128 arrays of any shape and strides, of several dtypes if you like, in
            a dict or in nested lists, tuples, dicts, namedtuples and dataclasses. Complex numbers step as pairs of real
            ones, and so does their state; their gradient is dL/dx + i dL/dy, which is 2 dL/d conj(z). Plain numbers in
            dicts and lists work too: they are replaced. The same array under several keys is updated once per key.
            Arrays of other libraries in the memory of the CPU (PyTorch's) are written in place. A key that is new
            begins with fresh state and a step count of its own; one that is gone keeps its state until `forget`.
        grads : the same structure, with at least the keys of `params`
            Gradients of the shapes of the parameters. Another dtype or memory layout is converted first. None
            leaves a parameter, or a whole branch, and its state as they are; `Rows` are the gradient of some rows only.
            Leave it out after `accumulate`, for a step with the mean of what that was given; and where parameters are
            objects with `.data` and `.grad`, or a model that returns such objects by `.params()` or `.parameters()`:
            those whose gradient or data is None are left as they are.
        report : bool
            Whether to return a `Report`: norms of gradients, parameters and updates, and shares of zero and non-finite
            gradients, in total and by key, from the same pass.

        Raises
        ------
        TypeError
            if a dtype or a kind of value is not one of the above.
        ValueError
            if shapes differ, a parameter is read-only, arrays that are written overlap, or a schedule leaves the range.
        KeyError
            if a gradient is missing, or one bare array comes where a dict was before.
        FloatingPointError
            if a gradient is NaN or infinite, or too large for a rule that squares it, and `on_nonfinite` is "raise".

        Everything is checked before anything is written: after an error parameters, state and `iter` are unchanged.
        """
        attributes = self.__dict__
        if "_stepping" in attributes:
            raise RuntimeError(checks.in_use(type(self).__name__, attributes["_stepping"]))
        # Not a lock: between the test above and this line there is no call, so CPython lets no other thread and no
        # signal in, while Ctrl-C just after `acquire()` would leave a lock locked for ever.
        attributes["_stepping"] = True
        try:
            if grads is OWN and self._accumulated:
                params = objects.by_name(self, params)[0]
                grads = self._sums.gradients(type(self).__name__, params)
                return self._make(params, grads, report, self._accumulated)
            if grads is OWN:
                params, grads = objects.arrays_of(type(self).__name__, params, attributes.setdefault("_objects", {}))
            if not report and attributes.get("_calls") and step.in_one_call(self, attributes, params, grads):
                return None
            return self._make(params, grads, report)
        finally:
            del attributes["_stepping"]

    def _make(self, params: Any, grads: Any, report: bool, summed: int = 0) -> Report | None:
        """Makes a step of any kind."""
        if self.batch_axis is None:
            return step.make(self, params, grads, report, summed)
        problem_step.make(self, params, grads, report, summed)
        return None

    def updated(self, params: Params, grads: Any = OWN) -> Params:
        """Makes one step and returns the new parameters; `params` stay as they are and may be read-only.

        The optimizer's state advances as with `update`. Takes as much memory as `params`, and the time to copy them.

        Parameters
        ----------
        params, grads
            As in `update`, but not objects with `.data` and `.grad`.

        Returns
        -------
        as `params`
            New arrays in containers of the same types; the same array under several keys stays one array.

        Raises
        ------
        TypeError, ValueError, KeyError, FloatingPointError
            as `update` does.

        Examples
        --------
        >>> import numpy as np
        >>> from fastopt import SGD
        >>> old, optimizer = {"W": np.array([1.0])}, SGD(lr=0.5)
        >>> new = optimizer.updated(old, {"W": np.array([1.0])})
        >>> old["W"], new["W"]
        (array([1.]), array([0.5]))
        """
        if (grads is OWN and not self._accumulated) or objects.by_name(self, params)[1]:
            raise TypeError(checks.step_on_copies(type(self).__name__))
        new = copy.deepcopy(params)
        self.update(new, grads)
        return new

    def _step_counts(self) -> StepCounts | None:
        """Those of the leaves; None without state, where leaves are not known and count what `iter` does."""
        if self._state is None and not self._start():
            return None
        return StepCounts(self._cohorts, self._counts, self._averages)

    @property
    def _averaged(self) -> int:
        """How often averages of the weights moved."""
        return max(self._averages, default=0)

    @property
    def iter(self) -> int:
        """The number of steps taken, which schedules use; assigned, it becomes the step count of every leaf too."""
        return self._steps

    @iter.setter
    def iter(self, value: int) -> None:
        steps = checks.step_count(type(self).__name__, value)
        self._refuse_in_a_step()
        self.__dict__.update(_steps=steps, _counts=(steps,) * len(self._counts), _calls=())
        if self._problems is not None:
            self.__dict__["_problems"] = self._problems.all_at(steps)

    @property
    def skipped(self) -> int:
        """The number of steps skipped because of gradients that are NaN or infinite."""
        return self._skipped

    @property
    def tuning(self) -> Tuning:
        """How steps run, and the measurements behind that choice: see `fastopt.set_tuning`."""
        plan = self._plan or self._report_plan
        if plan is None:
            return Tuning(FORMS[PLAIN], "no step has been made yet")
        fixed, reason = tuning.fixed(), tuning.why_not(plan.parameter_bytes)
        if fixed is not None or plan.tuner is None:
            return Tuning(FORMS[plan.form_of(fixed or AS_THEY_COME)], reason or "not tuned: kernels are in pure Python")
        return plan.tuner.report()

    def _attribute(self, name: str) -> Any:
        # Reached only for names that are not set: the state slots.
        if name in self._rule.state or name in SLOTS.values():
            if self._state is None or name not in self._state.views:
                return NoState(f"{type(self).__name__}.{name}") if name in self._start() else None
            return containers.presented(self._state.views[name], self._node)
        if name.startswith("_"):
            raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")
        raise AttributeError(names.unknown_attribute(type(self).__name__, name, *self._public_names()))

    def _assign(self, name: str, value: Any) -> None:
        owner, changed = type(self), cast("dict[str, Any]", {})
        if name.startswith("_"):
            object.__setattr__(self, name, value)
            return
        if name == "groups":
            value = Groups(owner, value)
        elif name in SLOTS:
            value = averages.setting(owner.__name__, name, value)
            combinations.check(owner, self.__dict__ | {name: value})
            changed |= _FORGOTTEN  # plans may be without its slot
        elif name in self._hyperparameters():
            # A default of None is worked out by __post_init__.
            unset = value is None and name not in self.__dict__ and getattr(owner, name) is None
            if not unset:
                value = hyperparameters.hyperparameter(owner.__name__, name, value)
            # Defaults are counted in by the check of `averaging`, which is always assigned.
            if name in combinations.SETTINGS and (name in self.__dict__ or value is not getattr(owner, name)):
                combinations.check(owner, self.__dict__ | {name: value})
            hyperparameters.check_rates(owner.__name__, self.__dict__, name, value)
            if callable(value) or name in self._scheduled:
                changed["_scheduled"] = self._scheduled_names(self.__dict__ | {name: value})
            changed["_transforms"] = None
            if name in self._of_plans:
                changed |= _FORGOTTEN
        elif name in self._rule.state or name in SLOTS.values():
            checks.state_value(owner.__name__, name, value)
            self._refuse_in_a_step()
            self._forget_plans()
            self.__dict__.update(_state=None, _node=None, _skipped_rows={}, _cohorts={}, _counts=(), _averages=())
            self.__dict__.update(_estimates={}, _factors={})
            return
        elif name in ("iter", "active"):
            object.__setattr__(self, name, value)
            self.__dict__.update(_kept_settings=None, _calls=())
            return
        else:
            raise AttributeError(names.unknown_attribute(owner.__name__, name, *self._public_names()))
        # In one call of C, so that a step in another thread has all of it or nothing.
        self.__dict__.update(changed, **{name: value}, _kept_settings=None, _calls=(), _assigned=object())

    if TYPE_CHECKING:  # the state of all rules
        m = v = h = d = u = s = n = o = v_max = slow = average = previous = step_size = offset = start = Slot()
        weight_average = slow_weights = Slot()
    else:  # to a type checker they would make all names known
        __getattr__, __setattr__ = _attribute, _assign

    def _at(self, step: int, groups: GroupNumbers = NO_GROUPS, asked: Asked | None = None) -> Any:
        """Something with the settings of a step as numbers, those of some groups; see `settings`."""
        return self._step_settings().at(step, groups, {} if asked is None else asked)

    def _settings_by_row(
        self, plan: Plan, step: int, asked: Asked, begins: bool = True
    ) -> tuple[list[Any], tuple[str, ...]]:
        """The settings of a step for each row of scalars of a plan, and the transforms that some of them call for.

        begins : whether it is the plan's first step, at which the state of some leaves may begin
        """
        settings = self._step_settings()
        if begins and self._rule.state:
            combinations = {leaf.groups for leaf in plan.table.leaves if leaf.key in plan.table.begun}
            settings.refuse_another_start(combinations, step, asked)
        return settings.of_plan(plan, step, asked)

    def _step_settings(self) -> StepSettings:
        settings = self._kept_settings
        if settings is None or settings.changes != self.groups.changes:
            assigned, settings = self._assigned, StepSettings(self)
            if self._assigned is assigned:
                self.__dict__["_kept_settings"] = settings
        return settings

    def _public_names(self) -> tuple[list[str], list[str]]:
        """Return the names that can be set, and those that can be called."""
        settings = [*self._hyperparameters(), *self._rule.state, *SLOTS.values(), "iter"]
        return settings, [name for name in dir(type(self)) if not name.startswith("_") and name not in settings]

    def __copy__(self) -> Optimizer:
        """Like `copy.deepcopy`: two optimizers never share state."""
        return copy.deepcopy(self)

    def __getstate__(self) -> dict[str, Any]:
        if "_stepping" in self.__dict__:
            raise RuntimeError(checks.in_use(type(self).__name__, self.__dict__["_stepping"]))
        return {
            name: value
            for name, value in self.__dict__.items()
            # Those are the class's, put here by steps that updated nothing and by trials; they cannot be copied.
            if name not in _NOT_SAVED and not isinstance(value, MappingProxyType)
        }

    def _refuse_in_a_step(self) -> None:
        if self.__dict__.get("_stepping") is True:
            raise RuntimeError(checks.in_use(type(self).__name__, True))

    def _forget_plans(self) -> None:
        self.__dict__.update(_FORGOTTEN)

    @contextmanager
    def _not_stepping(self, doing: Any = True) -> Iterator[None]:
        """No step is being made and none can begin; `doing` chooses the text of the error."""
        attributes = self.__dict__
        if "_stepping" in attributes:
            raise RuntimeError(checks.in_use(type(self).__name__, attributes["_stepping"]))
        attributes["_stepping"] = doing
        try:
            yield
        finally:
            del attributes["_stepping"]


_FORGOTTEN = {"_plan": None, "_report_plan": None, "_others": (), "_calls": ()}
_NOT_SAVED = {*_FORGOTTEN, "_assigned", "_trial", "_in_trial", "_kept_settings", "_tuners", "_processes", "_objects"}
