"""The settings of a step as numbers, for all parameters and for each group."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from fastopt import checks, combinations, hyperparameters
from fastopt.groups import NO_GROUPS, Part
from fastopt.kernels.constraints import CONSTRAINTS
from fastopt.kernels.transforms import OPTIONS

if TYPE_CHECKING:
    from fastopt.engine.plan import Plan
    from fastopt.optimizer import Optimizer

Asked = dict[tuple[str, int], float]
"""Values of schedules at a step, by setting and identity of the schedule, so that each is asked once."""


class StepSettings:
    """Settings of an optimizer at a step; kept from step to step as long as nothing is assigned and no group changes.

    Each part of the parameters has a copy of the optimizer without state, in which only the values of schedules change.
    """

    def __init__(self, optimizer: Optimizer) -> None:
        self.owner, self.groups, self.changes = type(optimizer), optimizer.groups, optimizer.groups.changes
        self._own = {name: value for name, value in optimizer.__dict__.items() if not name.startswith("_")}
        self._by_part: dict[Part, PartSettings] = {}

    def at(self, step: int, part: Part, asked: Asked) -> Any:
        """A copy of the optimizer whose settings are numbers, those of a part at a step."""
        return self.part(part).at(step, asked)

    def of_plan(self, plan: Plan, step: int, asked: Asked) -> tuple[list[Any], tuple[str, ...]]:
        """The settings of each part of a plan, and the options that some of them call for."""
        if plan.settings is None or plan.settings.whole is not self:
            plan.settings = PlanSettings(self, [self.part(part) for part in plan.parts])
        return plan.settings.at(step, asked)

    def refuse_another_start(self, parts: Iterable[Part], step: int, asked: Asked) -> None:
        """Raises ValueError where the state of a part would begin with other values than that of all."""
        start = self.at(step, NO_GROUPS, asked).start_values()
        for part in parts:
            if self.at(step, part, asked).start_values() != start:
                raise ValueError(checks.read_at_the_start(self.owner.__name__, self.groups.settings_of(part)))

    def part(self, part: Part) -> PartSettings:
        """The settings of one part, asked for no step yet or the last one."""
        found = self._by_part.get(part)
        if found is None:
            settings = {**self._own, **self.groups.settings_of(part)}
            combinations.check(self.owner, settings)
            found = self._by_part[part] = PartSettings(self.owner, settings, "lr_scale" in self._own)
        return found


class PartSettings:
    """The settings of one part."""

    def __init__(self, owner: type[Optimizer], settings: dict[str, Any], owns_lr_scale: bool) -> None:
        self.owner, self.values = owner, object.__new__(owner)
        self.values.__dict__.update(settings)
        self.schedules = [
            (name, schedule, (name, id(schedule))) for name, schedule in settings.items() if callable(schedule)
        ]
        scheduled = {name for name, *_ in self.schedules}
        # An `lr_scale` that is not that of a rule of one's own; and lr, unless it is a schedule, before it is scaled.
        self.scales_lr = "lr_scale" in settings and not owns_lr_scale
        self.unscaled_lr = None if "lr" in scheduled else settings.get("lr")
        self.options_vary = not scheduled.isdisjoint(owner._shared)
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
        if self.options_vary or self.asked is None:
            values["_options"] = self.values._wanted_options()
        self.asked = asked
        return self.values


class PlanSettings:
    """The settings of each part of a plan."""

    def __init__(self, whole: StepSettings, parts: list[PartSettings]) -> None:
        self.whole, self._distinct = whole, list(dict.fromkeys(parts))
        self._parts = [part.values for part in parts]
        self._options_vary = any(part.options_vary for part in parts)
        self._options: tuple[str, ...] | None = None

    def at(self, step: int, asked: Asked) -> tuple[list[Any], tuple[str, ...]]:
        """Of a step; with the options that some part calls for."""
        for part in self._distinct:
            part.at(step, asked)
        if self._options is None or self._options_vary:
            wanted = {option for part in self._distinct for option in part.values._options or ()}
            self._options = tuple([option for option in (*OPTIONS, *CONSTRAINTS) if option in wanted])
        return self._parts, self._options
