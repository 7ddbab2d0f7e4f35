"""Groups of parameters of which each process has parts."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

from fastopt import checks
from fastopt.engine.containers import BARE
from fastopt.flat import Array
from fastopt.groups import GroupNumbers, Groups, selects


class LeafGroups(Groups):
    """`Groups` whose selectors see the name and the array that a piece is a part of."""

    def __init__(self, owner: type, groups: Any = None) -> None:
        super().__init__(owner, groups)
        self._arrays: dict[Hashable, Array] = {}
        self._checked = 0

    def __deepcopy__(self, memo: dict[int, Any]) -> Groups:
        """Plain groups: the arrays are not theirs."""
        return Groups(self.owner, {selector: dict(group.data) for selector, group in self.data.items()})

    def take_up(self, arrays: dict[Hashable, Array]) -> None:
        """Takes up the arrays by path; ValueError for a key or pattern that selects none of them."""
        if arrays is self._arrays and self._checked == self.changes:
            return
        for selector in self.data:
            if callable(selector):
                continue
            if not any(selects(selector, _key(path), array) for path, array in arrays.items()):
                raise ValueError(checks.empty_group(self.owner.__name__, selector, arrays))
            self.matched.add(selector)
        self._arrays, self._checked = arrays, self.changes

    def matching(self, key: Hashable, array: Array) -> GroupNumbers:
        """The groups that the leaf of a piece belongs to."""
        path = key.path  # type: ignore[attr-defined]
        return super().matching(_key(path), self._arrays[path])


def _key(path: Hashable) -> Hashable:
    return None if path is BARE else path
