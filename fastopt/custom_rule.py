"""An optimizer of a formula of one's own: `fastopt.rule`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import make_dataclass
from typing import TYPE_CHECKING, Any, overload

from fastopt import formula_checks
from fastopt.kernels import RULES
from fastopt.kernels.averages import SLOTS
from fastopt.kernels.rule import Rule
from fastopt.optimizer import Optimizer

if TYPE_CHECKING:

    class OwnOptimizer(Optimizer):
        """The optimizer of a formula: settings and state have the names that it was given."""

        def __init__(self, *values: float | Callable[[int], float], **settings: Any) -> None: ...

        def __getattr__(self, name: str) -> Any: ...

        def __setattr__(self, name: str, value: Any) -> None: ...

else:
    OwnOptimizer = Optimizer


@overload
def rule(
    formula: Callable[..., Any],
    /,
    *,
    state: Iterable[str] = (),
    scalars: Callable[..., tuple[float, ...]] | None = None,
    start: Mapping[str, float] | None = None,
    nonnegative: Iterable[str] = (),
    **settings: float,
) -> type[OwnOptimizer]: ...


@overload
def rule(
    formula: None = None,
    /,
    *,
    state: Iterable[str] = (),
    scalars: Callable[..., tuple[float, ...]] | None = None,
    start: Mapping[str, float] | None = None,
    nonnegative: Iterable[str] = (),
    **settings: float,
) -> Callable[[Callable[..., Any]], type[OwnOptimizer]]: ...


def rule(
    formula: Callable[..., Any] | None = None,
    /,
    *,
    state: Iterable[str] = (),
    scalars: Callable[..., tuple[float, ...]] | None = None,
    start: Mapping[str, float] | None = None,
    nonnegative: Iterable[str] = (),
    **settings: float,
) -> type[OwnOptimizer] | Callable[[Callable[..., Any]], type[OwnOptimizer]]:
    """Makes an optimizer class from a formula on plain numbers; a decorator.

    The class is an `Optimizer` like any other: its steps are fused, its kernels cached, its settings may be schedules,
    gradients may be `Rows`, it can be saved, reported on and pickled, and `fastopt.check` compares it with the formula
    in plain Python.

    Parameters
    ----------
    formula : function `(p, g, *state, *scalars) -> (p, *state)`
        What happens to one element: parameter, gradient and state are numbers, and so are the new ones. It may use
        arithmetic, comparisons, `a if c else b`, `if`, abs, min, max, and the functions of `math` and NumPy on numbers.
        It holds no literal number, which would turn float32 arithmetic into float64. Its name becomes the optimizer's.
        With `squared(g)` of `fastopt.kernels` for `g * g`, and without `if`, it may step complex numbers by `modulus`.
    state : names
        The arguments that are state, in the order of the formula: arrays like the parameters, kept from step to step.
    scalars : function `(step, **settings) -> tuple`, optional
        Computes the formula's scalars at a step, counted from 1, from the settings: corrections, and what is the same
        for all elements. Without it the scalars are the settings.
    start : dict, optional
        The values that state has before the first step, where not 0.
    nonnegative : names, optional
        The state that is never negative, such as means of squares: with `state_storage="int8"` it has codes without
        a sign, and no value of it that is not zero becomes zero.
    **settings : float
        The hyperparameters and their defaults.

    Returns
    -------
    type
        The subclass of `Optimizer`. Checkpoints identify it by its name; a file with another name, other state or other
        settings is refused. Defining it again, as in a notebook, makes a new class.

    Raises
    ------
    TypeError
        if the formula cannot be compiled as it is meant; says which line, why, and what to write.
    ValueError
        if a name is taken, or a default is out of its range.

    Examples
    --------
    >>> import numpy as np
    >>> import fastopt
    >>> @fastopt.rule(state=("v",), lr=0.01, momentum=0.9)
    ... def my_momentum(p, g, v, lr, momentum):
    ...     v = momentum * v - lr * g
    ...     return p + v, v
    >>> params, optimizer = {"W": np.array([1.0])}, my_momentum(lr=0.1)
    >>> optimizer.update(params, {"W": np.array([1.0])})
    >>> params["W"], optimizer
    (array([0.9]), my_momentum(lr=0.1, momentum=0.9))
    """
    names, begin = formula_checks.slots(state), formula_checks.starts(start)
    unsigned = formula_checks.slots(nonnegative)

    def decorate(formula: Callable[..., Any]) -> type[OwnOptimizer]:
        try:
            return _optimizer(formula, names, scalars, begin, unsigned, settings)
        except (TypeError, ValueError) as error:  # the way to where it was found is of no use
            raise error.with_traceback(None) from None

    return decorate if formula is None else decorate(formula)


def _optimizer(
    formula: Callable[..., Any],
    state: tuple[str, ...],
    scalars: Callable[..., tuple[float, ...]] | None,
    start: dict[str, float],
    nonnegative: tuple[str, ...],
    settings: dict[str, float],
) -> type[OwnOptimizer]:
    formula_checks.check(formula, state, settings, scalars is not None)
    owner = formula.__name__
    if owner.lower() in RULES:
        raise ValueError(formula_checks.taken_rule(owner))
    for kind, names in (("state", state), ("setting", tuple(settings))):
        for name in names:
            if name.startswith("_") or name in ("rule", *SLOTS.values()) or hasattr(Optimizer, name):
                raise ValueError(formula_checks.clash(owner, name, kind, "something that every optimizer has"))
    for name, default in settings.items():
        if name in state:
            raise ValueError(formula_checks.clash(owner, name, "setting", "its state"))
        formula_checks.number(owner, f"the default of {name}", default)
    for slot in (*start, *nonnegative):
        if slot not in state:
            raise TypeError(formula_checks.no_slot(owner, slot, state))
    for slot, value in start.items():
        formula_checks.number(owner, f"the start of {slot}", value)
    if scalars is not None:
        formula_checks.callable_with(owner, scalars, settings)
    rule = Rule(
        formula, state, rows=True, nonnegative=nonnegative
    )  # elements do not know of one another, so some may stay as they are

    def scalars_at(self: Optimizer, step: int) -> tuple[float, ...]:
        values = {name: getattr(self, name) for name in settings}
        if scalars is None:
            return tuple(values[name] for name in rule.scalars)
        return formula_checks.scalar_values(owner, scalars(step, **values), rule.scalars)

    def start_values(self: Optimizer) -> dict[str, float]:
        return dict.fromkeys(state, 0.0) | start

    members = {
        "rule": owner,
        "_rule": rule,
        "scalars": scalars_at,
        "start_values": start_values,
        "__doc__": formula.__doc__ or f"The rule {owner}, of one's own.",
        "__qualname__": formula.__qualname__,
    }
    fields = [(name, float, default) for name, default in settings.items()]
    optimizer = make_dataclass(owner, fields, bases=(Optimizer,), namespace=members, eq=False)
    optimizer.__module__ = formula.__module__  # by which pickle finds it
    optimizer()._at(1).scalars(1)  # looks at all defaults
    return optimizer
