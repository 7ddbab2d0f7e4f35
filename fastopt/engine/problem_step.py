"""A step of many independent problems: the phases of `step.py` with scalars, norms and skips for each."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from fastopt import checks, combinations, threads, tuning
from fastopt.engine import arguments, one_call, problem_gradients
from fastopt.engine.address_checks import check_addresses
from fastopt.engine.again import Again
from fastopt.engine.execute import NOTHING
from fastopt.engine.problem_counts import ProblemCounts
from fastopt.engine.problem_scalars import of_rule, of_transform, spread
from fastopt.engine.step import Step
from fastopt.engine.step_counts import counted
from fastopt.engine.transform_scalars import unclipped
from fastopt.flat import Array
from fastopt.kernels import flags
from fastopt.kernels.array_scan import address_of
from fastopt.kernels.compile import problems_kernel
from fastopt.kernels.squares import largest, squares
from fastopt.tuning import AS_THEY_COME

MOST_KEPT = 10_000
"""Step counts whose scalars are remembered."""


def make(optimizer: Any, params: Any, grads: Any, report: bool, summed: int = 0) -> None:
    """Makes a step of all active problems; nothing of the user's is written before `run`."""
    owner = type(optimizer).__name__
    if report:
        raise ValueError(f"{owner}: there is no report of many problems at once; leave report=True out")
    step = ProblemStep(optimizer, params, grads, False, summed)
    step.ask_settings()
    step.by_array = True  # so that each array has a row, FlatDicts too
    step.take_plan()
    step.find_problems()
    step.all_transforms, step.averaging = step.transforms, False
    step.calls = (ProblemAgain(step),) if step.can_come_again() else ()
    step.finish()
    if step.calls and step.is_flat:
        call = one_call.call_for(step.plan, step.transforms)
        optimizer.__dict__["_calls"] = step.calls if call is None else (FlatAgain(step, call[0]),)


class FlatAgain(Again):
    """Steps in which all problems step alike: the one call of C that makes them all as if they were one."""

    def __init__(self, step: ProblemStep, call: Any) -> None:
        self._call, self._settings, self._problems = call, step.settings_by_row, step.more["_problems"]
        self._stepping = step.plan.table.counted.stepping
        self._groups, self._changes = step.optimizer.groups, step.optimizer.groups.changes

    def __call__(self, attributes: dict[str, Any], params: Any, grads: Any) -> bool:
        problems = self._problems
        if attributes["_problems"] is not problems or self._groups.changes != self._changes:
            return False
        if threads._exactly is not None or tuning.is_forced:
            return False
        step, counts = attributes["_steps"] + 1, counted(attributes["_counts"], self._stepping)
        first, *others = self._settings
        scalars = row = first.scalars(step + problems.base)
        for settings in others:
            row = row if settings is first else settings.scalars(step + problems.base)
            scalars += row
        return bool(self._call(params, grads, scalars, attributes, step, counts))


class ProblemAgain(Again):
    """Steps like the one before, as long as nothing is assigned to the optimizer."""

    def __init__(self, step: ProblemStep) -> None:
        self._step, self._changes = step, step.optimizer.groups.changes

    def __call__(self, attributes: dict[str, Any], params: Any, grads: Any) -> bool:
        step = self._step
        plan, groups = step.plan, step.optimizer.groups
        if groups.changes != self._changes or not plan.finds_all_as_before(params, grads):
            return False
        step.params, step.grads, step.number, step.skipped = params, grads, attributes["_steps"] + 1, None
        step.problems, step.counts = attributes["_problems"], attributes["_counts"]
        plan.summed, step.more = 1, {}
        step.finish()
        return True


class ProblemStep(Step):
    """A step of many problems on its way."""

    def can_come_again(self) -> bool:
        """Whether the next step may be one like this."""
        return not self.optimizer._scheduled and not self.summed and self.is_reused and self.plan.checked

    def finish(self) -> None:
        """All that changes from step to step."""
        self.check_gradients()
        self.find_scalars()
        self.add_catch_up()
        self.run()

    def find_problems(self) -> None:
        """Checks that all arrays have a row for each problem."""
        optimizer, plan = self.optimizer, self.plan
        owner, known = type(optimizer).__name__, optimizer._problems
        size = None if known is None else known.size
        for leaf in plan.table.leaves:
            name, shape = plan.table.name(leaf.key), leaf.array.shape
            if leaf.sparse is not None:
                combinations.check_step(owner, {"batch_axis": True, "gradients that are Rows": True})
            combinations.check_step(owner, {"batch_axis": True, "complex parameters": leaf.layout.is_complex})
            if leaf.row < 0:
                raise ValueError(
                    f"{owner}: {name} has no gradient, or is frozen, but with batch_axis=0 all arrays of a problem "
                    "step together; hand in zeros, or keep it in an optimizer of its own"
                )
            if not shape or (size is not None and shape[0] != size) or not shape[0]:
                number = "1 or more" if size is None else str(size)
                raise ValueError(
                    f"{owner}: {name} has shape {shape}, expected (problems, ...) with batch_axis=0, and {number} "
                    "problems in all arrays; stack the problems along axis 0"
                )
            size = shape[0]
            if leaf.layout.order != "C":
                raise ValueError(
                    f"{owner}: {name} lies in Fortran's order, but with batch_axis=0 each problem must lie in one "
                    f"piece; make it so once: np.ascontiguousarray({name})"
                )
        if optimizer._state is not None and [*optimizer._state.layouts] != plan.table.keys:
            raise ValueError(
                f"{owner}: params has {plan.table.keys!r:.200}, but at the first step it had "
                f"{[*optimizer._state.layouts]!r:.200}; with batch_axis=0 arrays do not come or go: call reset()"
            )
        wanted = optimizer._wanted_active
        size = 0 if size is None else size
        if known is None:
            known = ProblemCounts(size)
            if wanted is not None:
                check_active(owner, wanted, size)
                known = known.with_steps(known.steps(optimizer._steps), wanted, optimizer._steps)
        lr = optimizer.__dict__.get("lr")
        self.has_rates = isinstance(lr, np.ndarray)
        if isinstance(lr, np.ndarray) and lr.shape != (size,):
            raise ValueError(f"{owner}: lr has shape {lr.shape}, expected ({size},), one for each problem")
        self.problems: ProblemCounts = known
        groups = optimizer.groups.values()
        self.has_schedules = optimizer._scheduled or any(callable(v) for own in groups for v in own.values())
        self.skipped: Array | None = None

    def check_gradients(self) -> None:
        """Finds problems whose gradients are not finite, or too large, and the factor by which each is clipped."""
        optimizer, plan, settings = self.optimizer, self.plan, self.settings
        checks_them, most = optimizer.on_nonfinite != "propagate", settings.clip_norm
        factor: Any = unclipped(settings) / plan.summed
        self.factor: Any = factor
        if not checks_them and most == math.inf:
            return
        if most < math.inf:
            self.factor = problem_gradients.factors(plan, self.problems.size, factor, most)
        if checks_them:
            self._skip_or_raise(problem_gradients.peaks(plan, self.problems.size))

    def _skip_or_raise(self, peaks: list[Array]) -> None:
        optimizer, plan = self.optimizer, self.plan
        squared, active = squares(optimizer._rule), self.problems.active
        bad_by_leaf = []
        for leaf, peak in zip(plan.table.active, peaks, strict=True):
            bad = ~np.isfinite(peak)
            if squared:
                dtype = leaf.layout.dtype.type
                with np.errstate(all="ignore"):
                    processed = np.abs(peak.astype(dtype) * np.asarray(self.factor).astype(dtype))
                    bad |= ~np.isfinite(np.square(np.minimum(processed, dtype(self._most(leaf)))))
            bad_by_leaf.append(bad if active is None else bad & active)
        skipped = np.logical_or.reduce(bad_by_leaf)
        if not skipped.any():
            return
        in_a_row, limit = self.problems.skips_in_a_row, self.settings.max_skips
        raises = optimizer.on_nonfinite == "raise"
        over = skipped if raises else skipped & ((0 if in_a_row is None else in_a_row) >= limit)
        if over.any():
            problem = int(np.argmax(over))
            number = next(number for number, bad in enumerate(bad_by_leaf) if bad[problem])
            leaf, gradient = (
                plan.table.active[number],
                problem_gradients.gradient(plan, number, self.problems.size)[problem],
            )
            name = f"{plan.table.name(leaf.key, 'grads')}[{problem}]"
            bad = ~np.isfinite(gradient)
            if bad.any():
                text = arguments.nonfinite(plan.table.owner, name, gradient, bad)
            else:
                bound = largest(leaf.layout.dtype)
                text = arguments.nonfinite_squares(plan.table.owner, name, gradient, np.abs(gradient) > bound, bound)
            plan.table.gradients = []
            raise FloatingPointError(text if raises else checks.too_many_skips(text, limit))
        self.skipped = skipped

    def _most(self, leaf: Any) -> float:
        return float(self.settings_by_row[leaf.scalar_row].clip_value)

    def find_scalars(self) -> None:
        """Works out the scalars of each row: numbers, or an array where they differ between problems."""
        counts, plan = self.problems, self.plan
        offsets, places = counts.distinct
        kept = plan.of_problems.setdefault("scalars", {})
        if self.optimizer._scheduled or kept.get("settings") is not self.optimizer._kept_settings:
            kept.clear()
            kept["settings"] = self.optimizer._kept_settings
        if len(kept) > MOST_KEPT:
            kept.clear()
        members = [None] if places is None else counts.members
        by_count = []
        for offset, chosen in zip(offsets, members, strict=True):
            count = self.number + counts.base + offset
            if self.has_rates:
                by_count.append(self._scalars_at(count, chosen))
                continue
            if count not in kept:
                kept[count] = self._scalars_at(count, None)
            by_count.append(kept[count])
        if places is None:
            rows = [list(row) for row in by_count[0]]
        else:
            rows = [
                [spread(values, places, members) for values in zip(*[of[row] for of in by_count], strict=True)]
                for row in range(len(plan.table.row_groups))
            ]
        if "scale" in self.transforms:
            rows = [[*row, self.factor] for row in rows]
        self.rows = rows

    def _scalars_at(self, count: int, chosen: Array | None) -> list[list[Any]]:
        """The scalars of each row at a step of some problems, without the scale of gradients."""
        settings = self.settings_by_row
        if self.has_schedules:
            settings, _ = self.optimizer._settings_by_row(self.plan, count, {}, begins=False)
        others = [transform for transform in reversed(self.transforms) if transform != "scale"]
        return [
            [
                *of_rule(own, count, chosen),
                *[of_transform(name, own, chosen) for name in others],
            ]
            for own in settings
        ]

    def execute(self) -> None:
        """Runs the kernels: the plain one where all problems step alike."""
        plan, counts = self.plan, self.problems
        after = counts.after_step(self.skipped)
        self.more = {"_problems": after, "_wanted_active": None}
        if self.skipped is not None:
            self.more["_skipped"] = self.optimizer._skipped + int(self.skipped.sum())
        stepping = counts.active
        if self.skipped is not None:
            stepping = ~self.skipped if stepping is None else stepping & ~self.skipped
        differing = sorted({k for row in self.rows for k, value in enumerate(row) if isinstance(value, np.ndarray)})
        is_clipped = self.settings.clip_norm < math.inf or self.optimizer.on_nonfinite != "propagate"
        self.is_flat = not differing and stepping is None and not is_clipped and after is counts
        plan.table.write_scalars([tuple(0.0 if isinstance(v, np.ndarray) else v for v in row) for row in self.rows])
        alive: list[Any] = []
        if differing or stepping is not None:
            known = plan.of_problems.setdefault("differing", set())
            known.update(differing)  # of which kernels are there
            differing = sorted(known)
            calls = self._calls(differing, stepping, alive)
        else:
            self._point(self._constants())
            rule, launches = plan.table.rule, plan.table.launches
            calls = [launch.call(rule, "step", self.transforms, AS_THEY_COME) for launch in launches]
        if flags.CHECK and not alive:
            check_addresses(plan.table)
        if len(calls) == 1 and not plan.table.launches[0].staged:
            plan._run_one(*calls[0])
        else:
            plan._run_all(self.params, calls, [], NOTHING)

    def _calls(self, differing: list[int], stepping: Array | None, alive: list[Any]) -> list[tuple[Any, ...]]:
        """Kernels and arguments; `alive` takes up what their addresses are of."""
        plan, size = self.plan, self.problems.size
        places = [-1] * (len(self.rows[0]) + 1)
        for place, number in enumerate(differing):
            places[number] = place
        marks: list[int] = []
        before = which = 0
        if stepping is not None:
            places[-1] = len(differing)
            kept = plan.of_problems.get("marks")
            if kept is None or kept[0] is not stepping:
                numbers = np.concatenate([[0], np.cumsum(stepping, dtype=np.int64)])
                kept = plan.of_problems["marks"] = (
                    *(stepping, stepping.astype(np.float64), numbers, np.flatnonzero(stepping).astype(np.int64)),
                )
            alive.append(kept)
            marks, before, which = [kept[1].ctypes.data], kept[2].ctypes.data, kept[3].ctypes.data
        pointers = []
        for leaf, constants in zip(plan.table.active, self._constants(), strict=True):
            row = self.rows[leaf.scalar_row]
            values = [
                np.ascontiguousarray(row[k], np.float64) if isinstance(row[k], np.ndarray) else np.full(size, row[k])
                for k in differing
            ]
            alive += values
            own = [leaf.layout.size // size, constants, len(values) + len(marks), before, which]
            found = np.array([*own, *map(address_of, values), *marks], np.int64)
            alive.append(found)
            pointers.append(address_of(found))
        self._point(pointers)
        calls = []
        for launch in plan.table.launches:
            threads = AS_THEY_COME.threads_for(launch.moved_bytes)
            wanted: Any = "problems", threads > 1, self.transforms, tuple(places)
            kernel = launch.kernels.get(wanted)
            if kernel is None:
                kernel = problems_kernel(plan.table.rule, launch.dtype, threads > 1, self.transforms, tuple(places))
                launch.kernels[wanted] = kernel
            calls.append((kernel, launch.table, launch.starts, threads))
        return calls

    def _constants(self) -> list[int]:
        """The addresses of the plan's own scalars, by active leaf."""
        kept: list[int] | None = self.plan.of_problems.get("constants")
        if kept is None:
            table = self.plan.table
            kept = [table.scalars[leaf.scalar_row :].ctypes.data for leaf in table.active]
            self.plan.of_problems["constants"] = kept
        return kept

    def _point(self, pointers: list[int]) -> None:
        """Puts addresses into the last column of the table."""
        for leaf, pointer in zip(self.plan.table.active, pointers, strict=True):
            self.plan.table.addresses[leaf.row, -1] = pointer


def check_active(owner: str, active: Array, size: int) -> None:
    """Raises where a mask is not of so many problems."""
    if active.shape != (size,):
        raise ValueError(f"{owner}: active has shape {active.shape}, expected ({size},), a bool for each problem")
