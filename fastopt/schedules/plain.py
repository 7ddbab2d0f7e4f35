"""Schedules as plain JSON values, and back; of the known schedules only, so that a file runs no code."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, fields
from typing import Any

from fastopt import names as spellings
from fastopt.schedules import base, curves, plateau
from fastopt.schedules.base import Schedule

_KINDS: list[type[Schedule]] = [
    base.Constant,
    curves.Step,
    curves.Milestones,
    curves.Exponential,
    curves.InverseTime,
    curves.Linear,
    curves.Polynomial,
    curves.Warmup,
    curves.Cosine,
    curves.CosineRestarts,
    curves.OneCycle,
    curves.WSD,
    curves.InverseSquareRoot,
    base.Sequence,
    base.Product,
    plateau.ReduceOnPlateau,
]

SCHEDULES: dict[str, type[Schedule]] = {kind.__name__: kind for kind in _KINDS}
"""The known schedules by name; a file can name no others."""


def to_dict(schedule: Schedule) -> dict[str, Any]:
    """A schedule as plain JSON values.

    >>> from fastopt.schedules import Exponential
    >>> to_dict(Exponential(1.0, gamma=0.5))
    {'schedule': 'Exponential', 'start': 1.0, 'gamma': 0.5}
    """
    if SCHEDULES.get(type(schedule).__name__) is not type(schedule):
        raise ValueError(
            f"{type(schedule).__name__} is not one of fastopt's schedules, which are {', '.join(SCHEDULES)}"
        )
    plain: dict[str, Any] = {"schedule": type(schedule).__name__}
    for setting in fields(schedule):  # type: ignore[arg-type]  # the known ones are dataclasses
        value = getattr(schedule, setting.name)
        if isinstance(value, tuple):
            value = [to_dict(part) if isinstance(part, Schedule) else part for part in value]
        plain[setting.name] = value
    return plain


def from_dict(plain: Mapping[str, Any]) -> Schedule:
    """The schedule that `to_dict` turned into these values; runs no code that they name.

    >>> from_dict({"schedule": "Exponential", "start": 1.0, "gamma": 0.5})
    Exponential(start=1.0, gamma=0.5)
    """
    if not isinstance(plain, Mapping) or "schedule" not in plain:
        raise ValueError(f"expected a dict with the name of a schedule under 'schedule', got {plain!r:.200}")
    name = plain["schedule"]
    if not isinstance(name, str) or name not in SCHEDULES:
        raise ValueError(f"unknown schedule {name!r:.200}{spellings.one_of(name, SCHEDULES)}")
    settings = {setting.name: setting for setting in fields(SCHEDULES[name])}  # type: ignore[arg-type]
    given = {key: value for key, value in plain.items() if key != "schedule"}
    missing = [key for key, setting in settings.items() if key not in given and setting.default is MISSING]
    for what, names in (("unknown", [key for key in given if key not in settings]), ("no", missing)):
        if names:
            raise ValueError(f"{name}: {what} setting {', '.join(map(repr, names))}; it has {', '.join(settings)}")
    for key in ("pieces", "factors"):
        if key in given and isinstance(given[key], list | tuple):
            given[key] = tuple(from_dict(part) for part in given[key])
    return SCHEDULES[name](**given)
