"""The settings of a step as numbers, for all parameters and for each group."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from fastopt import checks, combinations, hyperparameters
from fastopt.groups import NO_GROUPS, GroupNumbers
from fastopt.kernels.transforms import TRANSFORMS

if TYPE_CHECKING:
    from fastopt.engine.plan import Plan
    from fastopt.optimizer import Optimizer

Asked = dict[tuple[str, int], float]
"""Values of schedules at a step, by setting and identity of the schedule, so that each is asked once."""


class StepSettings:
    """Settings of an optimizer at a step; kept from step to step as long as nothing is assigned and no group changes.

    Leaves of the same groups have a copy of the optimizer without state, in which only the values of schedules change.
    """

    def __init__(self, optimizer: Optimizer) -> None:
        self.owner, self.groups, self.changes = type(optimizer), optimizer.groups, optimizer.groups.changes
        self._settings = {name: value for name, value in dict(optimizer.__dict__).items() if not name.startswith("_")}
        self._by_groups: dict[GroupNumbers, LeafSettings] = {}

    def at(self, step: int, groups: GroupNumbers, asked: Asked) -> Any:
        """A copy of the optimizer whose settings are numbers, those of some groups at a step."""
        return self.of_groups(groups).at(step, asked)

    def of_plan(self, plan: Plan, step: int, asked: Asked) -> tuple[list[Any], tuple[str, ...]]:
        """The settings of each row of scalars of a plan, and the transforms that some of them call for."""
        if plan.settings is None or plan.settings.whole is not self:
            plan.settings = PlanSettings(self, [self.of_groups(groups) for groups in plan.table.row_groups])
        return plan.settings.at(step, asked)

    def refuse_another_start(self, combinations: Iterable[GroupNumbers], step: int, asked: Asked) -> None:
        """Raises ValueError where state would begin with other values in some groups than in the rest."""
        start = self.at(step, NO_GROUPS, asked).start_values()
        for groups in combinations:
            if self.at(step, groups, asked).start_values() != start:
                raise ValueError(checks.read_at_the_start(self.owner.__name__, self.groups.settings_of(groups)))

    def of_groups(self, groups: GroupNumbers) -> LeafSettings:
        """The settings of some groups, asked for no step yet or the last one."""
        of_leaf = self._by_groups.get(groups)
        if of_leaf is None:
            settings = {**self._settings, **self.groups.settings_of(groups)}
            combinations.check(self.owner, settings)
            of_leaf = self._by_groups[groups] = LeafSettings(self.owner, settings, "lr_scale" in self._settings)
        return of_leaf


class LeafSettings:
    """The settings of leaves of the same groups."""

    def __init__(self, owner: type[Optimizer], settings: dict[str, Any], has_lr_scale: bool) -> None:
        self.owner, self.values = owner, object.__new__(owner)
        self.values.__dict__.update(settings)
        self.schedules = [
            (name, schedule, (name, id(schedule))) for name, schedule in settings.items() if callable(schedule)
        ]
        scheduled = {name for name, *_ in self.schedules}
        # An `lr_scale` that is not that of a rule of one's own; and lr, unless it is a schedule, before it is scaled.
        self.scales_lr = "lr_scale" in settings and not has_lr_scale
        self.unscaled_lr = None if "lr" in scheduled else settings.get("lr")
        self.transforms_vary = not scheduled.isdisjoint(owner._shared)
        self.asked: Asked | None = None

    def at(self, step: int, asked: Asked) -> Any:
        """The settings at a step; schedules are asked what `asked` does not hold yet."""
        if self.asked is asked:
            return self.values
        values = self.values.__dict__
        for name, schedule, key in self.schedules:
            if key not in asked:
                asked[key] = hyperparameters.hyperparameter_at(self.owner.__name__, name, schedule, step)
            values[name] = asked[key]
        if self.scales_lr:
            values["lr"] = (values["lr"] if self.unscaled_lr is None else self.unscaled_lr) * values["lr_scale"]
        if self.transforms_vary or self.asked is None:
            values["_transforms"] = self.values._needed_transforms()
        self.asked = asked
        return self.values


class PlanSettings:
    """The settings of each row of scalars of a plan."""

    def __init__(self, whole: StepSettings, rows: list[LeafSettings]) -> None:
        self.whole, self._distinct = whole, list(dict.fromkeys(rows))
        self._rows = [row.values for row in rows]
        self._transforms_vary = any(row.transforms_vary for row in rows)
        self._transforms: tuple[str, ...] | None = None

    def at(self, step: int, asked: Asked) -> tuple[list[Any], tuple[str, ...]]:
        """Of a step; with the transforms that some row calls for."""
        for row in self._distinct:
            row.at(step, asked)
        if self._transforms is None or self._transforms_vary:
            needed = {transform for row in self._distinct for transform in row.values._transforms or ()}
            self._transforms = tuple([transform for transform in TRANSFORMS if transform in needed])
        return self._rows, self._transforms
