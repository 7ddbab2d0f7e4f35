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
from fastopt.engine.launch import Launch
from fastopt.engine.problem_counts import ProblemCounts
from fastopt.engine.problem_scalars import ProblemScalars
from fastopt.engine.step import Step
from fastopt.engine.step_counts import counted
from fastopt.engine.transform_scalars import unclipped
from fastopt.flat import Array
from fastopt.groups import NO_GROUPS
from fastopt.kernels import flags
from fastopt.kernels.array_scan import address_of
from fastopt.kernels.compile import problems_kernel
from fastopt.kernels.squares import largest, squares
from fastopt.kernels.transforms import TRANSFORMS
from fastopt.tuning import AS_THEY_COME


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
    step.let_go()
    if step.calls:
        calls = step.calls_of_next()
        if optimizer.__dict__["_calls"] is step.calls:  # nothing was assigned meanwhile
            optimizer.__dict__["_calls"] = calls


class OneCall(Again):
    """Steps like the one before in one call of C, in which no problem is skipped or stopped."""

    def __init__(self, step: ProblemStep, call: Any) -> None:
        self._call, self._scalars = call, step.scalars_of_problems
        self._groups, self._changes = step.optimizer.groups, step.changes
        self._stepping = step.plan.table.counted.stepping
        self._plan = step.plan  # in whose memory the scalars are, though others forget it while the kernel runs
        self._moved_bytes = step.plan.table.launches[0].moved_bytes
        self._threads = AS_THEY_COME.threads_for(self._moved_bytes)

    def __call__(self, attributes: dict[str, Any], params: Any, grads: Any) -> bool:
        if self._groups.changes != self._changes or threads._exactly is not None or tuning.is_forced:
            return False
        number, counts = attributes["_steps"] + 1, attributes["_counts"]
        if AS_THEY_COME.threads_for(self._moved_bytes) != self._threads:  # after a fork there are none
            return False
        scalars = self._scalars.at(number, attributes["_problems"])
        if scalars is None:
            return False
        counts = (counts[0] + 1,) if len(counts) == 1 else counted(counts, self._stepping)
        return bool(self._call(params, grads, scalars.of_rule, attributes, number, counts))


class ProblemAgain(Again):
    """Steps like the one before, as long as nothing is assigned to the optimizer."""

    def __init__(self, step: ProblemStep) -> None:
        self._step, self._changes = step, step.changes

    def __call__(self, attributes: dict[str, Any], params: Any, grads: Any) -> bool:
        step = self._step
        plan, groups = step.plan, step.optimizer.groups
        if groups.changes != self._changes or not plan.finds_all_as_before(params, grads):
            return False
        step.params, step.grads, step.number, step.skipped = params, grads, attributes["_steps"] + 1, None
        step.problems, step.counts = attributes["_problems"], attributes["_counts"]
        plan.summed, step.more = 1, {}
        try:
            step.finish()
        finally:
            step.let_go()
        return True


class ProblemStep(Step):
    """A step of many problems on its way."""

    def can_come_again(self) -> bool:
        """Whether the next step may be one like this."""
        return not self.has_schedules and not self.summed and self.is_reused and self.plan.checked

    def calls_of_next(self) -> tuple[Again, ...]:
        """How the next step may be made."""
        plan = self.plan
        if self.optimizer.on_nonfinite != "propagate" or self.more["_problems"] is not self.problems:
            return self.calls
        clipping = plan.of_problems["clipping"] if isinstance(self.factor, np.ndarray) else None
        if clipping is not None:
            if clipping.words is None:
                return self.calls
            self.scalars_of_problems.clip(clipping.words)
        if self.places is None:
            flat = one_call.call_for(plan, self.transforms)
            call = None if flat is None else flat[0]
        else:
            call = one_call.problems_call(plan, self.transforms, self.places, clipping is not None)
        return self.calls if call is None else (OneCall(self, call),)

    def finish(self) -> None:
        """All that changes from step to step."""
        self.check_gradients()
        self.find_scalars()
        self.add_catch_up()
        self.run()

    def let_go(self) -> None:
        """Lets go of the arguments, which a step that may come again would keep alive."""
        self.params = self.grads = None

    def find_problems(self) -> None:
        """Checks that all arrays have a row for each problem."""
        optimizer, plan = self.optimizer, self.plan
        owner, counts = type(optimizer).__name__, optimizer._problems
        size = None if counts is None else counts.size
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
        active = optimizer._wanted_active
        size = 0 if size is None else size
        if counts is None:
            counts = ProblemCounts(size)
            if active is not None:
                check_active(owner, active, size)
                counts = counts.with_steps(counts.steps(optimizer._steps), active, optimizer._steps)
        lr = optimizer.__dict__.get("lr")
        self.has_rates = isinstance(lr, np.ndarray)
        if isinstance(lr, np.ndarray) and lr.shape != (size,):
            raise ValueError(f"{owner}: lr has shape {lr.shape}, expected ({size},), one for each problem")
        self.problems: ProblemCounts = counts
        groups = optimizer.groups.values()
        self.has_schedules = optimizer._scheduled or any(callable(v) for settings in groups for v in settings.values())
        self.skipped: Array | None = None
        self.asked_at = {self.number: self.asked}
        self.ask_for_problems()

    def ask_for_problems(self) -> None:
        """Finds how gradients are scaled and clipped: numbers, or arrays by problem where schedules ask its count."""
        rows, places = self.settings_by_row, self.problems.slots
        numbers: list[Any]
        if not self.has_schedules:
            numbers = _of_gradients(self.settings, rows)
        else:
            needed, at = set(self.transforms), np.zeros((places.offsets[-1][1] + 1, len(rows) + 3))
            for offset, place in places.offsets:
                needed.update(self._ask_schedules(self.number + self.problems.base + offset))
                at[place] = _of_gradients(self.whole, rows)
            self.transforms = tuple([name for name in TRANSFORMS if name in needed])
            used = at[[place for _, place in places.offsets]]
            numbers = [
                float(seen[0]) if places.of_problems is None or (seen == seen[0]).all() else column[places.of_problems]
                for column, seen in zip(at.T, used.T, strict=True)
            ]
        self.unclipped: Any = numbers[0] / self.plan.summed
        self.most_norm: Any = numbers[1]
        self.most_skips: Any = numbers[2]
        self.most_values: list[Any] = numbers[3:]

    def check_gradients(self) -> None:
        """Finds problems whose gradients are not finite, or too large, and the factor by which each is clipped."""
        plan, factor, most = self.plan, self.unclipped, self.most_norm
        checks_them = self.optimizer.on_nonfinite != "propagate"
        self.factor: Any = factor
        if np.any(most < math.inf):
            clipping = plan.of_problems.get("clipping")
            if clipping is None or not clipping.is_by(factor, most):
                factors = np.empty(self.problems.size) if clipping is None else clipping.factors
                clipping = plan.of_problems["clipping"] = problem_gradients.Clipping(plan, factors, factor, most)
            clipping.find()
            self.factor = clipping.factors
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
                    most = np.asarray(self.most_values[leaf.scalar_row]).astype(dtype)
                    bad |= ~np.isfinite(np.square(np.minimum(processed, most)))
            bad_by_leaf.append(bad if active is None else bad & active)
        skipped = np.logical_or.reduce(bad_by_leaf)
        if not skipped.any():
            return
        in_a_row, limit = self.problems.skips_in_a_row, self.most_skips
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
            limit = np.broadcast_to(limit, skipped.shape)[problem].item()
            raise FloatingPointError(text if raises else checks.too_many_skips(text, limit))
        self.skipped = skipped

    def find_scalars(self) -> None:
        """Works out the scalars of each row, and how the kernel finds those that differ between problems."""
        optimizer, of_plan = self.optimizer, self.plan.of_problems
        factors = self.factor if isinstance(self.factor, np.ndarray) else None
        fits = optimizer._kept_settings, self.transforms, factors is None
        before, scalars = of_plan.get("scalars", ((None, None, None), None))
        is_kept = not self.has_schedules and before[0] is fits[0] and before[1:] == fits[1:]
        prepared = scalars.at(self.number, self.problems) if is_kept else None
        if prepared is None:
            differing = scalars.kernels if before[1:] == fits[1:] else set()
            kept = scalars.kept if is_kept else {}
            others = [transform for transform in reversed(self.transforms) if transform != "scale"]
            schedule = self._ask_schedules if self.has_schedules else None
            scalars = ProblemScalars(
                self.problems, self.settings_by_row, others, factors, self.number, differing, kept, schedule
            )
            of_plan["scalars"] = fits, scalars
            prepared = scalars.at(self.number, self.problems)
        assert prepared is not None
        self.scalars_of_problems, rows = scalars, prepared.rows
        if "scale" in self.transforms:
            factor = self.factor if factors is None else 0.0
            rows = [[*row, factor] for row in rows]
        self.rows = rows

    def _ask_schedules(self, count: int) -> tuple[str, ...]:
        """Puts what schedules say of a step count into the settings; returns the transforms that are called for."""
        asked = self.asked_at.setdefault(count, {})
        self.whole = self.optimizer._at(count, NO_GROUPS, asked)
        transforms: tuple[str, ...] = self.optimizer._settings_by_row(self.plan, count, asked, begins=False)[1]
        return transforms

    def execute(self) -> None:
        """Runs the kernels: the plain one where all problems step alike."""
        plan, counts, scalars = self.plan, self.problems, self.scalars_of_problems
        after = counts.after_step(self.skipped)
        self.more = {"_problems": after, "_wanted_active": None}
        if self.skipped is not None:
            self.more["_skipped"] = self.optimizer._skipped + int(self.skipped.sum())
        stepping = counts.active
        if self.skipped is not None:
            stepping = ~self.skipped if stepping is None else stepping & ~self.skipped
        plan.table.write_scalars([tuple(row) for row in self.rows])
        self.places: tuple[int, ...] | None = None
        if scalars.differing or stepping is not None:
            if stepping is not None:
                scalars.mark(stepping)
            self.places = scalars.places(len(self.rows[0]), stepping is not None)
            self._point_to(scalars)
            calls = [self._problems_call(launch, self.places) for launch in plan.table.launches]
        else:
            self._point(self._constants())
            rule, launches = plan.table.rule, plan.table.launches
            calls = [launch.call(rule, "step", self.transforms, AS_THEY_COME) for launch in launches]
            if flags.CHECK:
                check_addresses(plan.table)
        if len(calls) == 1 and not plan.table.launches[0].staged:
            plan._run_one(*calls[0])
        else:
            plan._run_all(self.params, calls, [], NOTHING)

    def _problems_call(self, launch: Launch, places: tuple[int, ...]) -> tuple[Any, ...]:
        """The kernel for scalars in these places, and its arguments."""
        threads = AS_THEY_COME.threads_for(launch.moved_bytes)
        variant: Any = "problems", threads > 1, self.transforms, places
        kernel = launch.kernels.get(variant)
        if kernel is None:
            kernel = problems_kernel(self.plan.table.rule, launch.dtype, threads > 1, self.transforms, places)
            launch.kernels[variant] = kernel
        return kernel, launch.table, launch.starts, threads

    def _point_to(self, scalars: ProblemScalars) -> None:
        """Has the last column of the table say where the scalars of problems are."""
        table, size = self.plan.table, self.problems.size
        of_arrays = np.array(
            [
                [leaf.layout.size // size, constants, scalars.shared_of(leaf.scalar_row)]
                for leaf, constants in zip(table.active, self._constants(), strict=True)
            ],
            np.int64,
        )
        self.plan.of_problems["arrays"] = of_arrays, scalars  # which must live as long
        first = address_of(of_arrays)
        self._point([first + of_arrays.strides[0] * number for number in range(len(table.active))])

    def _constants(self) -> list[int]:
        """The addresses of the plan's own scalars, by active leaf."""
        addresses: list[int] | None = self.plan.of_problems.get("constants")
        if addresses is None:
            table = self.plan.table
            addresses = [table.scalars[leaf.scalar_row :].ctypes.data for leaf in table.active]
            self.plan.of_problems["constants"] = addresses
        return addresses

    def _point(self, pointers: list[int]) -> None:
        """Puts addresses into the last column of the table."""
        for leaf, pointer in zip(self.plan.table.active, pointers, strict=True):
            self.plan.table.addresses[leaf.row, -1] = pointer


def _of_gradients(whole: Any, rows: list[Any]) -> list[float]:
    """The factor of gradients, their largest norm, how often they may be bad, and the largest value by row."""
    return [unclipped(whole), whole.clip_norm, whole.max_skips, *[row.clip_value for row in rows]]


def check_active(owner: str, active: Array, size: int) -> None:
    """Raises where a mask is not of so many problems."""
    if active.shape != (size,):
        raise ValueError(f"{owner}: active has shape {active.shape}, expected ({size},), a bool for each problem")
