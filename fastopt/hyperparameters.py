"""Hyperparameters by name: the values that they may have, and the errors about others."""

from __future__ import annotations

import math
import numbers
from collections.abc import Mapping
from typing import Any

import numpy as np

from fastopt import constraints, names
from fastopt.kernels.caution import CAUTION
from fastopt.kernels.codecs import STORAGES

Range = tuple[float, float, bool]
"""Lowest, highest, whether the highest itself is allowed."""

# By the name of the hyperparameter.
RANGES: dict[str, Range] = {
    "lr": (0.0, math.inf, False),
    "lr_scale": (0.0, math.inf, False),
    "lr_decay": (0.0, math.inf, False),
    "momentum": (0.0, 1.0, True),
    "dampening": (0.0, 1.0, True),
    "decay_rate": (0.0, 1.0, True),
    "beta1": (0.0, 1.0, False),
    "beta2": (0.0, 1.0, False),
    "beta3": (0.0, 1.0, False),
    "lambd": (0.0, math.inf, False),
    "t0": (0.0, math.inf, False),
    "eta_minus": (0.0, 1.0, False),
    "eta_plus": (1.0, math.inf, False),
    "min_step_size": (0.0, math.inf, False),
    "max_step_size": (0.0, math.inf, False),
    "gamma": (0.0, math.inf, False),
    "alpha": (0.0, math.inf, False),
    "clip_exponent": (0.0, math.inf, False),
    "d0": (1e-12, math.inf, False),
    "d_coef": (0.0, math.inf, False),
    "growth_rate": (1.0, math.inf, True),
    "initial_distance": (1e-12, math.inf, False),
    "momentum_decay": (0.0, math.inf, False),
    "warmup": (0.0, math.inf, False),
    "eps": (0.0, math.inf, False),
    "eps_root": (0.0, math.inf, False),
    "initial_accumulator": (0.0, math.inf, False),
    "weight_decay": (0.0, math.inf, False),
    "gradient_scale": (0.0, math.inf, False),
    "max_skips": (0.0, math.inf, True),
    "clip_value": (0.0, math.inf, True),
    "clip_norm": (0.0, math.inf, True),
    "clip_array_norm": (0.0, math.inf, True),
    "group_lasso": (0.0, math.inf, False),
    "max_norm": (0.0, math.inf, True),
    "l1": (0.0, math.inf, False),
    "l2_prox": (0.0, math.inf, False),
    "precondition_every": (1.0, math.inf, False),
    "decay_exponent": (0.0, math.inf, False),
    "clip_threshold": (1e-3, math.inf, False),
    "min_scale": (0.0, math.inf, False),
    "trust_coefficient": (0.0, math.inf, False),
}

ROUNDING = 2.0**-46
"""How far beyond a bound, relative to it or to 1, a number may be that is meant to be the bound: `lr -= 0.3 / 7`, seven
times, ends at -7e-17."""

FOR_GROUPS = ("lr_scale", "frozen")
"""Settings that only a group has."""

# Of a hyperparameter of one's own, in `fastopt.rule`.
ANY_NUMBER = (-math.inf, math.inf, False)

SWITCHES = (
    *("damp_first", "lr_in_velocity", "bias_correction", "safeguard_warmup"),
    *("decoupled", "maximize", "centralize", "frozen", "nonnegative", "modulus"),
    *("unit_norm", "simplex", "normalize_rows", "relative"),
    *CAUTION,
)

CHOICES: dict[str, tuple[str, ...]] = {
    "form": ("textbook", "paper"),
    "adjust": ("original", "match_rms_adamw"),
    "coefficients": ("original", "polar_express"),
    "on_nonfinite": ("propagate", "raise", "skip"),
    "state_storage": STORAGES,
}

WHOLE_NUMBERS = ("storage_seed",)


def hyperparameter(owner: str, name: str, value: Any) -> Any:
    """The value as a Python float (or as one of the known words), or an error."""
    if name in CHOICES:
        choices = CHOICES[name]
        words = f"{owner}: {name} must be {' or '.join(map(repr, choices))}, got {value!r:.100}"
        if not isinstance(value, str):
            raise TypeError(words)
        if value not in CHOICES[name]:
            raise ValueError(words + names.did_you_mean(value, choices))
        return value
    if name in SWITCHES:
        if not isinstance(value, bool | np.bool_):
            raise TypeError(f"{owner}: {name} must be True or False, got {value!r:.100} of type {type(value).__name__}")
        return bool(value)
    if name in constraints.CHECKS:
        return constraints.CHECKS[name](owner, value)
    if name in WHOLE_NUMBERS:
        if isinstance(value, bool) or not isinstance(value, int | np.integer) or not 0 <= value < 2**63:
            raise ValueError(f"{owner}: {name} must be a whole number from 0 to 2**63 - 1, got {value!r:.100}")
        return int(value)
    if name == "batch_axis":
        if value is not None and (isinstance(value, bool) or value != 0):
            raise ValueError(f"{owner}: batch_axis must be None or 0, the axis of the problems, got {value!r:.100}")
        return value
    if name == "lr" and isinstance(value, np.ndarray) and value.ndim:
        return _rates(owner, value)
    return number_or_schedule(owner, name, value, RANGES.get(name, ANY_NUMBER))


def check_rates(owner: str, settings: Mapping[str, Any], name: str, value: Any) -> None:
    """Raises where a new setting, beside those there are, leaves lr an array without problems that it could be of."""
    if name not in ("lr", "batch_axis"):
        return
    lr, axis = (value if name == each else settings.get(each) for each in ("lr", "batch_axis"))
    if isinstance(lr, np.ndarray) and axis is None:
        raise TypeError(
            f"{owner}: lr is an array, which is for many problems at once; set batch_axis=0, or make lr a number"
        )


def _rates(owner: str, values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Learning rates of many problems as read-only float64, or an error."""
    if values.ndim != 1 or values.dtype.kind not in "fiu":
        raise TypeError(
            f"{owner}: lr must be a number, or with batch_axis=0 an array of shape (problems,), got {values.dtype} of "
            f"shape {values.shape}"
        )
    rates = values.astype(np.float64)
    bad = np.flatnonzero(~((rates >= 0) & (rates < math.inf)))
    if bad.size:
        raise ValueError(f"{owner}: lr must be in [0, inf), got {rates[bad[0]]} for problem {bad[0]}")
    rates.flags.writeable = False
    return rates


def hyperparameter_at(owner: str, name: str, schedule: Any, step: int) -> float:
    """The value at a step of a hyperparameter that is a function of the step, or an error."""
    return number_at(owner, name, schedule, step, RANGES.get(name, ANY_NUMBER))


def number_or_schedule(owner: str, name: str, value: Any, allowed: Range) -> Any:
    """The value as a Python float, or a function of the step that is in the range at the first; or an error."""
    if callable(value) and not isinstance(value, type):
        number_at(owner, name, value, 1, allowed)
        return value
    otherwise = " or a schedule"
    if name == "lr" and isinstance(value, list | tuple):
        otherwise = ", a schedule, or with batch_axis=0 an array of one for each problem (np.asarray(lr))"
    return _in_range(owner, name, value, allowed, otherwise)


def number_at(owner: str, name: str, value: Any, step: int, allowed: Range) -> float:
    """The value of a number or of a function of the step at a step, or an error."""
    if not callable(value):
        return float(value)
    number, (lowest, highest, _) = value(step), allowed
    if type(number) is float and lowest <= number < highest and number != -math.inf:  # as at nearly every step
        return number
    return _in_range(owner, f"{name} at step {step}", number, allowed)


def _in_range(owner: str, called: str, value: Any, allowed: Range, otherwise: str = "") -> float:
    lowest, highest, closed = allowed
    interval = f"{'(' if lowest == -math.inf else '['}{lowest:g}, {highest:g}{']' if closed else ')'}"
    if isinstance(value, bool | np.bool_) or not isinstance(value, numbers.Real):
        raise TypeError(
            f"{owner}: {called} must be a number in {interval}{otherwise}, got {value!r:.100} of type "
            f"{type(value).__name__}"
        )
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    number = rounded(number, lowest, highest)
    if number == -math.inf or not (lowest <= number < highest or (closed and number == highest)):
        raise ValueError(f"{owner}: {called} must be in {interval}, got {number!r}")
    return number


def rounded(number: float, lowest: float, highest: float) -> float:
    """The bound where a number is beyond it by no more than rounding."""
    for bound in (lowest, highest):
        beyond = not lowest <= number <= highest and math.isfinite(bound)
        if beyond and abs(number - bound) <= ROUNDING * max(1.0, abs(bound)):
            return bound
    return number


def is_hyperparameter(name: Any) -> bool:
    """Whether some optimizer has a hyperparameter of that name."""
    return any(name in table for table in (RANGES, CHOICES, SWITCHES, WHOLE_NUMBERS, constraints.CHECKS))
