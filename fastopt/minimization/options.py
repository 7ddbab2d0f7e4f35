"""The options of `minimize`, checked."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import Any

from fastopt import checks, names
from fastopt.minimization.stopping import count, number
from fastopt.optimizer import Optimizer
from fastopt.optimizers import OPTIMIZERS


@dataclass
class Options:
    optimizer: Optimizer
    maxiter: int | None = None
    gtol: float | None = None
    patience: int | None = None
    ftol: float = 1e-9
    smoothing: float | None = None
    keep_best: bool = False
    rng: Any = None
    batches: Iterable[Any] | None = None
    disp: bool = False

    @classmethod
    def of(cls, options: dict[str, Any], method: Any, tol: float | None) -> Options:
        """The options as they were given, checked; those that have other names are settings of the optimizer."""
        of_minimize = {field.name for field in fields(cls)}
        settings = {name: value for name, value in options.items() if name not in of_minimize}
        chosen = {name: value for name, value in options.items() if name in of_minimize}
        if tol is not None:
            chosen = {"gtol": tol, "ftol": tol} | chosen
        chosen["optimizer"] = _optimizer(method, chosen.get("optimizer"), settings, of_minimize)
        checked = cls(**chosen)
        if checked.maxiter is not None:
            checked.maxiter = count("maxiter", checked.maxiter, 0)
        if checked.patience is not None:
            checked.patience = count("patience", checked.patience, 1)
        if checked.gtol is not None:
            checked.gtol = number("gtol", checked.gtol, 0.0)
        checked.ftol = number("ftol", checked.ftol, 0.0)
        if checked.smoothing is not None:
            checked.smoothing = number("smoothing", checked.smoothing, 0.0, 1.0)
        stochastic = checked.rng is not None or checked.batches is not None
        if checked.smoothing is None:
            checked.smoothing = 0.9 if stochastic else 0.0
        if "gtol" not in chosen and not stochastic:
            checked.gtol = 1e-5
        return checked


def _optimizer(method: Any, given: Any, settings: dict[str, Any], options: Iterable[str]) -> Optimizer:
    if given is not None and not (isinstance(method, str) and method.lower() == "adam"):
        raise ValueError(f"minimize: both method={method!r:.100} and options['optimizer'] are given; leave one of them")
    given = method if given is None else given
    if isinstance(given, str):
        if given.lower() not in OPTIMIZERS:
            raise ValueError(
                f"minimize: there is no method {given!r:.100}; it is one of {', '.join(OPTIMIZERS)}"
                f"{names.did_you_mean(given.lower(), OPTIMIZERS)}, or an optimizer such as Adam(lr=0.1)"
            )
        kind = OPTIMIZERS[given.lower()]
        settable = kind._hyperparameters()
        for name in settings:
            if name not in settable:
                raise TypeError(
                    f"minimize: there is no option {name!r}{names.did_you_mean(name, [*options, *settable])}; there "
                    f"are {', '.join(sorted(options))}, and the settings of {kind.__name__}: {', '.join(settable)}"
                )
        optimizer: Optimizer = kind(**settings)
    elif isinstance(given, Optimizer):
        if settings:
            raise TypeError(
                f"minimize: there is no option {next(iter(settings))!r} beside an optimizer; there are "
                f"{', '.join(sorted(options))}. Settings belong in {type(given).__name__}(...)"
            )
        optimizer = copy.deepcopy(given)
    else:
        raise TypeError(checks.no_optimizer("minimize", given))
    if optimizer.maximize:
        raise ValueError("minimize: the optimizer has maximize=True; leave that and return the negative value from fun")
    return optimizer
