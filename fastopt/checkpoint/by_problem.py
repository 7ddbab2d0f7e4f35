"""Values of each of many problems in a file: step counts, skips, which are active, learning rates."""

from __future__ import annotations

from typing import Any

import numpy as np

PREFIX, RATES = "problems/", "problems/lr"
"""The prefix of the names of these arrays; the name of the learning rates."""


def pack(settings: dict[str, Any], counts: dict[str, Any] | None) -> dict[str, Any]:
    """The arrays of counts and learning rates; takes out of the settings what a file has no need of."""
    arrays = {f"{PREFIX}{name}": array for name, array in (counts or {}).items()}
    if isinstance(settings.get("lr"), np.ndarray):
        arrays[RATES] = settings.pop("lr")
    if settings["batch_axis"] is None:  # so that the file stays readable for versions that know none
        del settings["batch_axis"]
    return arrays


def unpack(tensors: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """Undo `pack`: settings, and counts if there are some; takes the arrays out of all."""
    rates = {"lr": tensors.pop(RATES)} if RATES in tensors else {}
    names = [name for name in tensors if name.startswith(PREFIX)]
    return rates, {name.removeprefix(PREFIX): tensors.pop(name) for name in names} or None
