"""Settings of some of the parameters."""

from __future__ import annotations

from collections import UserDict
from collections.abc import Callable, Hashable, Mapping
from fnmatch import fnmatchcase
from typing import Any, cast

from fastopt import checks, combinations, constraints, hyperparameters
from fastopt.flat import Array

GroupNumbers = tuple[int, ...]
"""The numbers of the groups that an array belongs to, in their order; where these are the same, so are the settings."""

NO_GROUPS: GroupNumbers = ()


def is_vector(key: Hashable, array: Array) -> bool:
    """Whether an array has fewer than two dimensions, as biases and the scales of normalizations have."""
    return array.ndim < 2


NO_DECAY_ON_VECTORS: Mapping[Any, Mapping[str, Any]] = {is_vector: {"weight_decay": 0.0}}
"""Groups in which arrays of fewer than two dimensions do not decay."""

PREDICATES: dict[str, Callable[[Hashable, Array], bool]] = {"is_vector": is_vector}
"""Those that a checkpoint may name."""

FOR_ALL = (
    "on_nonfinite",
    "max_skips",
    "gradient_scale",
    "maximize",
    "clip_norm",
    "groups",
    "mask",
    "averaging",
    "lookahead",
    "storage_seed",
    "batch_axis",
)
"""Settings that are of all parameters together."""


_ARRANGING = ("frozen", "centralize", "modulus", "state_storage", *constraints.OF_PLANS)
"""Settings that plans are made for."""


class Group(UserDict[str, Any]):
    """The settings that a group has to itself; may be changed between steps."""

    def __init__(self, whole: Groups, selector: Any, settings: Any) -> None:
        self.whole, self.owner, self.selector = whole, whole.owner, selector
        if not isinstance(settings, Mapping):
            raise TypeError(checks.group_settings(self.owner.__name__, selector, settings))
        self._given = dict(settings)  # all at once: their order does not matter
        super().__init__(settings)
        self._given = {}

    def __setitem__(self, name: str, value: Any) -> None:
        owner: Any = self.owner
        settable = [name for name in owner._hyperparameters() if name not in FOR_ALL]
        settable += [
            name
            for name in hyperparameters.FOR_GROUPS
            if name not in settable and (name != "lr_scale" or "lr" in settable)
        ]
        if name not in settable:
            raise ValueError(checks.no_group_setting(owner.__name__, self.selector, name, settable, name in FOR_ALL))
        value = hyperparameters.hyperparameter(owner.__name__, name, value)
        if name == "lr" and not isinstance(value, float) and not callable(value):
            raise TypeError(f"{owner.__name__}: lr of groups[{self.selector!r}] must be a number; give it lr_scale")
        if name in combinations.SETTINGS:
            combinations.check(owner, self._given | self.data | {name: value})
        super().__setitem__(name, value)
        self.whole.changes += 1

    def __delitem__(self, name: str) -> None:
        super().__delitem__(name)
        self.whole.changes += 1

    def __ior__(self, other: Any) -> Group:  # type: ignore[override,misc]  # UserDict's own looks at nothing
        self.update(other)
        return self


class Groups(UserDict[Any, Group]):
    """Settings for groups of parameters; if several groups match an array, the last one wins.

    Parameters
    ----------
    owner : type
        The class of the optimizer.
    groups : dict
        {selector: {setting: value}}; a selector is a key, a pattern of keys such as "b*" (of `fnmatch`), or a function
        `(key, array) -> bool`.

    Notes
    -----
    A group's own `lr` replaces the optimizer's, schedule included; `lr_scale` multiplies it instead, and may be a
    schedule itself.

    `optimizer.groups` is such an object; assign to it, or change it like a dict, between steps. What is no dict, or no
    setting of a group, raises TypeError or ValueError at once; a key or pattern that selects nothing raises ValueError
    at the next step.

    Examples
    --------
    >>> import numpy as np
    >>> from fastopt import SGD
    >>> params, optimizer = {"W": np.ones(2), "b": np.ones(2)}, SGD(lr=0.5, groups={"b*": {"lr": 0.25}})
    >>> optimizer.update(params, {"W": np.ones(2), "b": np.ones(2)})
    >>> optimizer.groups["b*"]["frozen"] = True
    >>> optimizer.update(params, {"W": np.ones(2)})
    >>> params["W"], params["b"]
    (array([0., 0.]), array([0.75, 0.75]))
    """

    def __init__(self, owner: type, groups: Any = None) -> None:
        self.owner, self.changes = owner, 0
        self.matched: set[Any] = set()
        """The keys and patterns that have selected an array at some step."""
        self._seen, self._arrangement, self._by_array = 0, cast("tuple[Any, ...]", ()), False
        if groups is not None and not isinstance(groups, Mapping):
            raise TypeError(checks.groups(owner.__name__, groups))
        super().__init__(groups)

    def __setitem__(self, selector: Any, settings: Any) -> None:
        super().__setitem__(selector, Group(self, selector, settings))
        self.changes += 1

    def __delitem__(self, selector: Any) -> None:
        super().__delitem__(selector)
        self.changes += 1

    def __ior__(self, other: Any) -> Groups:  # type: ignore[override,misc]
        self.update(other)
        return self

    def matching(self, key: Hashable, array: Array) -> GroupNumbers:
        """The numbers of the groups that match an array; its key is None where the parameters are one array."""
        return tuple(number for number, selector in enumerate(self) if selects(selector, key, array))

    def settings_of(self, numbers: GroupNumbers) -> dict[str, Any]:
        """Return the settings that these groups give together."""
        groups, settings = list(self.data.values()), {}
        for number in numbers:
            settings.update(groups[number].data)
        return settings

    def arrangement(self) -> tuple[Any, ...]:
        """Everything that decides which arrays are updated, with which settings, and which are centralized."""
        self._refresh()
        return self._arrangement

    def are_by_array(self) -> bool:
        """Whether a group has a setting for which each array has scalars of its own."""
        self._refresh()
        return self._by_array

    def _refresh(self) -> None:
        if self._seen != self.changes:
            arrangement = [
                (name, *(group.data.get(setting) for setting in _ARRANGING)) for name, group in self.data.items()
            ]
            self._arrangement = tuple(arrangement)
            self._by_array = any(group.data.keys() & {"clip_array_norm", "cautious"} for group in self.data.values())
            self._seen = self.changes


def selects(selector: Any, key: Hashable, array: Array) -> bool:
    """Whether a selector selects an array."""
    if callable(selector):
        return bool(selector(key, array))
    return key == selector or (isinstance(key, str) and isinstance(selector, str) and fnmatchcase(key, selector))
