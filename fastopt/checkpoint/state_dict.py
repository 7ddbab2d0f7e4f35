"""An optimizer's settings, step count and state as a dict of copies."""

from __future__ import annotations

import copy
from collections.abc import Hashable, Iterator, Mapping
from dataclasses import fields
from itertools import chain
from typing import Any, NamedTuple

import numpy as np

from fastopt import array_checks, averages, checks, hyperparameters, leaves
from fastopt.checkpoint import factors, with_params
from fastopt.checks import CheckpointError as CheckpointError
from fastopt.engine import catch_up
from fastopt.engine.columns import Codes, Column
from fastopt.engine.containers import BARE
from fastopt.engine.execute import NOTHING, consume
from fastopt.engine.gradient_sums import GradientSums
from fastopt.engine.problem_counts import ProblemCounts
from fastopt.engine.state import Layout, State, layout_of
from fastopt.groups import Groups
from fastopt.kernels.averages import SLOTS
from fastopt.kernels.codecs import FLOAT32, STORAGES
from fastopt.schedules import Schedule


class Mismatch(NamedTuple):
    """Differences found when state was loaded with `strict=False`; all empty if everything fits."""

    missing: list[Hashable]
    """Keys that the optimizer has and the checkpoint has not; their state is what it was."""
    unexpected: list[Hashable]
    """Keys that the checkpoint has and the optimizer has not."""
    reshaped: list[Hashable]
    """Keys whose shape or dtype differs; their state is what it was."""
    settings: list[str]
    """Hyperparameters that only one of the two has; the optimizer's are what they were."""


def state_dict(optimizer: Any) -> dict[str, Any]:
    """The work of `Optimizer.state_dict`."""
    state = optimizer._state
    slots: dict[str, Any] = dict.fromkeys(optimizer._rule.state)  # averages are there only where there are any
    if state is not None:
        for slot in state.views:
            arrays = {key: state.array_of(slot, key) for key in state.layouts}
            copies = {
                key: array.codes() if isinstance(array, Column) else array.copy(order="K")
                for key, array in arrays.items()
            }
            slots[slot] = copies[BARE] if list(copies) == [BARE] else copies
    settings = {name: _copied(getattr(optimizer, name)) for name in optimizer._hyperparameters()}
    rows = catch_up.as_saved(optimizer._skipped_rows)
    whole = optimizer.iter, optimizer._averaged
    # What joined late, or rested meanwhile; all others have the optimizer's.
    counts = {
        key: dict(zip(_COUNTS, count, strict=True)) for key, count in optimizer._leaf_counts().items() if count != whole
    }
    problems, active = optimizer._problems, optimizer._wanted_active
    if problems is None and active is not None and active.size:  # before the first step
        problems = ProblemCounts(active.size).with_steps(np.zeros(active.size, np.int64), active, 0)
    return {
        "rule": optimizer.rule,
        "hyperparameters": settings,
        "step": optimizer.iter,
        "skipped": optimizer.skipped,
        "averaged": optimizer._averaged,
        "state": slots,
        **({"rows": rows} if rows else {}),
        **({"counts": counts} if counts else {}),
        **({"estimates": dict(optimizer._estimates)} if optimizer._estimates else {}),
        **({"factors": factors.saved(optimizer._factors)} if optimizer._factors else {}),
        **({} if problems is None else {"problems": problems.saved(optimizer.iter)}),
        **({"accumulated": optimizer._sums.saved(optimizer.accumulated)} if optimizer.accumulated else {}),
    }


def load_state_dict(
    optimizer: Any,
    saved: Any,
    strict: bool,
    source: str = "state_dict",
    cast: Any = False,
    dtypes: Mapping[Hashable, np.dtype[Any]] | None = None,
    writes: Iterator[None] = NOTHING,
) -> Mismatch:
    """Load a `state_dict`.

    source : its name in error texts
    dtypes : those of the parameters
    writes : calls of C that write the parameters; Ctrl-C comes before them, or after them and the state
    """
    owner = type(optimizer).__name__
    if not isinstance(saved, Mapping) or not {"rule", "hyperparameters", "step", "state"} <= set(saved):
        raise CheckpointError(
            f"{owner}: {source} is not what state_dict() returns, a dict with rule, hyperparameters, step and state"
        )
    same_rule(optimizer, saved["rule"], source)
    settings = _settings(optimizer, saved["hyperparameters"], source)
    state = _state(owner, saved["state"], optimizer._rule.state, optimizer._rule.nonnegative, source)
    settings = _storage(optimizer, settings, cast, source)
    try:
        step = checks.step_count(owner, saved["step"])
        skipped = checks.step_count(owner, saved.get("skipped", 0), "skipped")
        averaged = checks.step_count(owner, saved.get("averaged", 0), "averaged")
        counts = _counts(owner, saved.get("counts", {}))
        estimates = _estimates(owner, saved.get("estimates", {}))
        problems = ProblemCounts.loaded(owner, saved.get("problems"), step)
        sums, accumulated = GradientSums.loaded(owner, saved.get("accumulated"))
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"{source}: {error}") from None

    if step and "groups" in settings:  # whose selectors were looked at then, also of leaves that are gone
        settings["groups"].matched.update(selector for selector in settings["groups"] if not callable(selector))
    current: Mapping[Hashable, Layout] | None = None if optimizer._state is None else optimizer._state.layouts
    if not state and not optimizer._rule.state:
        current = None  # all that it may have are averages, which begin anew
    if cast is not False:
        known_dtypes = {key: layout.dtype for key, layout in (current or {}).items()} or dtypes or {}
        state = with_params.cast_state(optimizer._rule, owner, source, state, known_dtypes, cast)
    layouts = {key: layout_of(array) for key, array in next(iter(state.values()), {}).items()}
    for key in counts.keys() - layouts.keys():
        raise CheckpointError(f"{owner}: counts in {source} have {key!r:.100}, of which there is no state")
    names = optimizer._hyperparameters()
    of_rule = [field.name for field in fields(optimizer) if not field.kw_only]  # later versions may add shared ones
    differing = [name for name in settings if name not in names] + [name for name in of_rule if name not in settings]
    mismatch = Mismatch([], [], [], differing)
    if current is not None:
        mismatch.missing.extend(key for key in current if key not in layouts)
        mismatch.unexpected.extend(key for key in layouts if key not in current)
        mismatch.reshaped.extend(
            key for key, layout in layouts.items() if key in current and current[key][:2] != layout[:2]
        )
    if strict and any(mismatch):
        raise CheckpointError(checks.mismatch(owner, source, mismatch._asdict(), current or {}, layouts))

    saved_layouts = layouts
    if current is not None:
        layouts = {
            key: layout._replace(storage=saved_layouts[key].storage) if key in saved_layouts else layout
            for key, layout in current.items()
        }
    loaded: State | None = None
    taken = layouts.keys() - {*mismatch.missing, *mismatch.reshaped}
    if layouts:
        slots = {} if current is None else optimizer._state.views
        nonnegative = optimizer._rule.nonnegative
        # Averages that are not known of all arrays begin anew.
        begun = {SLOTS["lookahead"]: (True, True), SLOTS["averaging"]: (averaged > 0, optimizer._averaged > 0)}
        whole = [
            slot
            for slot, (is_saved, has_begun) in begun.items()
            if slot in state and is_saved and (len(taken) == len(layouts) or (slot in slots and has_begun))
        ]
        start: dict[str, float | None] = dict.fromkeys((*optimizer._rule.state, *whole), 0.0)  # all is written below
        loaded = State(start, layouts, nonnegative)
        for slot in loaded.views:
            for key in layouts:
                given = state[slot][key] if key in taken else optimizer._state.array_of(slot, key)
                loaded.take(slot, key, given)
    known_counts = optimizer._leaf_counts()
    begins_anew = loaded is None or SLOTS["averaging"] not in loaded.slots
    by_leaf = {}
    for key in loaded.layouts if loaded else ():
        steps, moved = counts.get(key, (step, averaged)) if key in taken else known_counts[key]
        by_leaf[key] = steps, 0 if begins_anew else moved
    left = {} if current is None else {key: kept for key, kept in optimizer._factors.items() if key not in taken}
    kept = factors.loaded(optimizer, source, saved.get("factors", {}), {key: layouts[key] for key in taken}, cast)
    try:
        skipped_steps = catch_up.loaded(owner, saved.get("rows", {}), loaded)
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{source}: {one_line(error)}") from None
    # What is None was not wanted, or not known: it goes on as it is.
    new = {name: _copied(value) for name, value in settings.items() if name in names}
    new = {name: value for name, value in new.items() if name not in SLOTS or value is not None}
    new["_scheduled"] = optimizer._scheduled_names(optimizer.__dict__ | new)
    new |= {
        "_steps": step,
        "_skipped": skipped,
        "_state": loaded,
        "_skipped_rows": skipped_steps,
        "_estimates": estimates,
        "_factors": {**left, **kept},
        **leaves.with_counts(by_leaf),
    }
    new |= {"_transforms": None, "_kept_settings": None, "_sums": sums, "_accumulated": accumulated}
    new |= {"_problems": problems, "_wanted_active": None}
    consume(chain(writes, map(optimizer.__dict__.update, [new])))  # all at once
    missing, unexpected, reshaped = ([None if key is BARE else key for key in keys] for keys in mismatch[:3])
    return Mismatch(missing, unexpected, reshaped, mismatch.settings)


def _estimates(owner: str, estimates: Any) -> dict[str, float]:
    """The numbers that a rule with totals keeps."""
    if not isinstance(estimates, Mapping) or not all(
        isinstance(name, str) and isinstance(value, float) for name, value in estimates.items()
    ):
        raise TypeError(f"{owner}: estimates are {estimates!r:.100}, expected a dict of numbers by name")
    return dict(estimates)


_COUNTS = "steps", "averages"


def _counts(owner: str, saved: Any) -> dict[Hashable, tuple[int, int]]:
    """Steps and averages of the leaves that have others than the optimizer."""
    if not isinstance(saved, Mapping) or not all(isinstance(count, Mapping) for count in saved.values()):
        raise TypeError(f"{owner}: counts are {saved!r:.100}, expected a dict of dicts with {' and '.join(_COUNTS)}")
    counts = {}
    for key, count in saved.items():
        steps, moved = (checks.step_count(owner, count.get(name), f"{name} of {key!r:.100}") for name in _COUNTS)
        counts[key] = steps, moved
    return counts


_COPIED = (Schedule, Groups, *averages.KINDS["averaging"], *averages.KINDS["lookahead"])


def _copied(setting: Any) -> Any:
    """A schedule that is told of values is copied as arrays are, and so is what may hold one; functions cannot be."""
    return copy.deepcopy(setting) if isinstance(setting, _COPIED) else setting


def same_rule(optimizer: Any, rule: Any, source: str) -> None:
    if not isinstance(rule, str) or rule != optimizer.rule:
        raise CheckpointError(
            f"{type(optimizer).__name__}: {source} holds the state of rule {rule!r:.100}, expected {optimizer.rule!r}; "
            "load it into an optimizer of that rule"
        )


def _settings(optimizer: Any, settings: Any, source: str) -> dict[str, Any]:
    kind, settable = type(optimizer), {*optimizer._hyperparameters()} - {"groups", *SLOTS}
    if not isinstance(settings, Mapping):
        raise CheckpointError(
            f"{kind.__name__}: hyperparameters in {source} are {type(settings).__name__}, expected a dict"
        )
    try:
        checked = {
            str(name): hyperparameters.hyperparameter(kind.__name__, name, value)
            if name in settable or hyperparameters.is_hyperparameter(name)
            else value
            for name, value in settings.items()
        }
        both = optimizer.__dict__ | checked
        hyperparameters.check_rates(kind.__name__, both, "lr", both.get("lr"))
        for name in checked.keys() & SLOTS.keys():
            averages.setting(kind.__name__, name, checked[name])
        return checked | {"groups": Groups(kind, checked["groups"])} if "groups" in checked else checked
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"{source}: {error}") from None


def _storage(optimizer: Any, settings: dict[str, Any], cast: Any, source: str) -> dict[str, Any]:
    """The settings with the storage that state is to have: that of the checkpoint, or that which is asked for."""
    storage, saved = optimizer.state_storage, settings.get("state_storage", FLOAT32)
    if cast is False:
        if storage not in (FLOAT32, saved):
            raise CheckpointError(
                f"{type(optimizer).__name__}: {source} holds state in {saved}, and state_storage is {storage!r} here; "
                f"cast={storage!r} or cast=True rounds it to that, state_storage={saved!r} takes it as it is"
            )
        return settings
    return settings | {"state_storage": storage if cast is True else cast if cast in STORAGES else FLOAT32}


def _state(
    owner: str, slots: Any, expected: tuple[str, ...], nonnegative: tuple[str, ...], source: str
) -> dict[str, dict[Hashable, Any]]:
    """{slot: {key: array}}, each slot with the same keys, shapes and dtypes; without slots before the first step."""
    if not isinstance(slots, Mapping) or set(slots) - set(SLOTS.values()) != set(expected):
        found = list(slots) if isinstance(slots, Mapping) else type(slots).__name__
        raise CheckpointError(f"{owner}: {source} has state {found}, expected {list(expected)}")
    expected = (*expected, *(slot for slot in SLOTS.values() if slot in slots))
    if all(value is None for value in slots.values()):
        return {}
    state: dict[str, dict[Hashable, Any]] = {}
    for slot in expected:
        arrays = {BARE: slots[slot]} if isinstance(slots[slot], np.ndarray | Codes) else slots[slot]
        if not isinstance(arrays, Mapping):
            raise CheckpointError(f"{owner}: {slot} in {source} is {type(arrays).__name__}, expected a dict of arrays")
        state[slot] = dict(arrays)
    first = state[expected[0]]
    for slot, arrays in state.items():
        if set(arrays) != set(first):
            raise CheckpointError(f"{owner}: {slot} and {expected[0]} in {source} have different keys")
        for key, array in arrays.items():
            if isinstance(array, Codes):
                wrong = array.error(slot in nonnegative)
                if wrong or slot in SLOTS.values():
                    raise CheckpointError(
                        f"{owner}: {slot}[{key!r}] in {source} has {wrong or 'codes, expected values'}"
                    )
            elif not isinstance(array, np.ndarray) or array.dtype not in array_checks.PARAMETER_DTYPES:
                found = f"dtype {array.dtype}" if isinstance(array, np.ndarray) else f"type {type(array).__name__}"
                raise CheckpointError(
                    f"{owner}: {slot}[{key!r}] in {source} has {found}, expected a float or complex dtype"
                )
            if (array.shape, array.dtype) != (first[key].shape, first[key].dtype):
                raise CheckpointError(
                    f"{owner}: {slot}[{key!r}] in {source} is {array.dtype} of shape {array.shape}, "
                    f"{expected[0]}[{key!r}] is {first[key].dtype} of shape {first[key].shape}; both must be alike"
                )
    return state


def one_line(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:200]
