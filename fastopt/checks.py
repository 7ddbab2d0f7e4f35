"""Checks and error texts about settings, state and keys; what only one module raises may stand in it instead.

A text names what was found, what was expected and what to do. TypeError is for a dtype or a kind, ValueError for a
value, a shape or a layout, KeyError for names.
"""

from __future__ import annotations

import numbers
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from enum import Enum
from typing import Any

import numpy as np
import numpy.typing as npt

from fastopt import names

Array = npt.NDArray[Any]


class CheckpointError(ValueError):
    """A checkpoint that cannot be used; the text is one line."""


def no_rows(owner: str, name: str, factors: Iterable[str]) -> str:
    return (
        f"{owner}: {name} has factors ({', '.join(factors)}), which are of all its rows together, so rows "
        "cannot change; `forget` it to begin its state anew"
    )


DTYPES = (np.dtype(np.float32), np.dtype(np.float64))

SWAPPED = "averaged weights"
"""The state of an optimizer while averaged weights stand in the parameters."""


def unknown_tuning(what: str, value: Any, choices: Iterable[str]) -> str:
    choices = list(choices)
    return f"{what}: there is no {value!r:.200}; it is one of {', '.join(choices)}{names.did_you_mean(value, choices)}"


def groups(owner: str, value: Any) -> str:
    return (
        f"{owner}: groups must be a dict such as {{'b*': {{'weight_decay': 0.0}}}}, got {value!r:.200} of type "
        f"{type(value).__name__}"
    )


def group_settings(owner: str, selector: Any, value: Any) -> str:
    return (
        f"{owner}: the settings of groups[{selector!r}] must be a dict such as {{'lr': 0.001}}, got {value!r:.200} of "
        f"type {type(value).__name__}"
    )


def no_group_setting(owner: str, selector: Any, name: Any, choices: Iterable[str], for_all: bool) -> str:
    choices = list(choices)
    there = names.setting_elsewhere(owner, name, choices)
    suggestion = names.did_you_mean(name, choices) if there is None else f"; {there}"
    if for_all:
        suggestion = ", which is a setting of all parameters together"
    return f"{owner}: groups[{selector!r}] cannot have {name!r}{suggestion}; a group can have {', '.join(choices)}"


def read_at_the_start(owner: str, names: Iterable[str]) -> str:
    return (
        f"{owner}: one of {', '.join(names)} in groups is read at the first step, for all parameters; set it for the "
        "optimizer instead"
    )


def same_array(owner: str, name: str) -> str:
    return (
        f"{owner}: {name} is also there under another key, but a rule with norms needs each array once; hand it in "
        "under one key"
    )


def empty_group(owner: str, selector: Any, keys: Iterable[Hashable]) -> str:
    return f"{owner}: groups[{selector!r}] selects none of the parameters, which are {names_of(keys)}; correct its name"


def not_in_module(module: str, name: str, choices: Iterable[str]) -> str:
    choices = sorted(choices)
    has = f"has {', '.join(choices[:8])}" if choices else "has none, which @fastopt.rule makes"
    return f"there is no optimizer {name!r} in module {module!r}, which {has}{names.did_you_mean(name, choices)}"


def no_optimizer(owner: str, value: Any) -> str:
    return f"{owner}: expected an optimizer or its class, got {value!r:.60} of type {type(value).__name__}"


def unknown_optimizer(name: str, choices: Iterable[str]) -> str:
    return f"unknown optimizer {name!r}{names.one_of(name, choices)}, and module:Name for one of your own"


def arguments(owner: str, values: tuple[Any, ...], settings: Mapping[str, Any], choices: Iterable[str]) -> None:
    """Refuses parameters and unknown settings as arguments of an optimizer."""
    choices = list(choices)
    if values and (isinstance(values[0], Mapping | list | tuple | Iterator) or np.ndim(values[0])):
        raise TypeError(
            f"{owner}: the first setting is {choices[0] if choices else 'none'}, got {type(values[0]).__name__}; "
            f"parameters are not given here: make {owner}() and call update(params, grads)"
        )
    for name in settings:
        if name not in choices:
            raise TypeError(names.unknown_setting(owner, name, choices))


def unknown_rule(owner: str, rule: str) -> str:
    return f"{owner}: there is no rule {rule!r}; make an optimizer of a formula of your own with @fastopt.rule"


def step_count(owner: str, value: Any, name: str = "iter") -> int:
    words = f"{owner}: {name} must be a whole number of steps from 0 to 2**53, got {value!r}"
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise TypeError(words)
    if not 0 <= int(value) <= 2**53:
        raise ValueError(words)
    return int(value)


def state_value(owner: str, slot: str, value: Any) -> None:
    """The only value that may be assigned to a whole state slot."""
    if value is not None:
        raise TypeError(
            f"{owner}.{slot} can only be set to None, which forgets all state, got {type(value).__name__}; "
            f"to change the state of one array assign to {owner}.{slot}[key]"
        )


def thread_count(owner: str, value: Any, most: int) -> int:
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise TypeError(f"{owner}: the number of threads must be a whole number from 1 to {most}, got {value!r}")
    if not 1 <= int(value) <= most:
        raise ValueError(
            f"{owner}: the number of threads must be from 1 to {most}, which numba has, got {value}; "
            "NUMBA_NUM_THREADS sets how many numba has"
        )
    return int(value)


def bad_thread_count(variable: str, text: str, most: int, taken: int) -> str:
    return (
        f"{variable}={text[:60]} must be a whole number of threads from 1 to {most}, which numba has here; steps take "
        f"up to {taken}. Correct it, or leave it unset for all of them"
    )


def mismatch(owner: str, source: str, differences: dict[str, list[Any]], expected: Any, saved: Any) -> str:
    """The differences between an optimizer and a checkpoint; `expected` and `saved` are their layouts by key."""
    parts = []
    if differences["missing"]:
        parts.append(f"it has no {names_of(differences['missing'])}")
    if differences["unexpected"]:
        parts.append(f"it has {names_of(differences['unexpected'])}, which the optimizer does not have")
    if differences["settings"]:
        parts.append(f"only one of the two has the settings {', '.join(differences['settings'])}")
    parts += [
        f"{key!r} is {saved[key].dtype} of shape {saved[key].shape} in it and {expected[key].dtype} of shape "
        f"{expected[key].shape} here"
        for key in differences["reshaped"][:8]
    ]
    advice = "strict=False loads what fits"
    if len(parts) == len(differences["reshaped"][:8]) and all(
        saved[key].shape == expected[key].shape for key in differences["reshaped"]
    ):
        advice = f"cast=True converts the precision, {advice}"
    return f"{owner}: {source} does not fit: {'; '.join(parts)}. {advice}"


def positive(owner: str, name: str, value: Any) -> int:
    """The value as a whole number of 1 or more, or an error."""
    words = f"{owner}: {name} must be a whole number of steps, 1 or more, got {value!r}"
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise TypeError(f"{words} of type {type(value).__name__}")
    if value < 1:
        raise ValueError(words)
    return int(value)


def no_average(owner: str, name: str, value: Any, kinds: Iterable[type]) -> str:
    return (
        f"{owner}: {name} must be None or {' or '.join(kind.__name__ for kind in kinds)} of fastopt, "
        f"got {value!r:.100} of type {type(value).__name__}"
    )


def first_average(owner: str, missing: Iterable[Hashable]) -> str:
    return (
        f"{owner}: slow weights begin as the parameters, but params has no {names_of(missing)}; hand in all of them at "
        "this step, or `forget` those that are gone"
    )


def nothing_averaged(owner: str, averaging: Any, step: int, of: str = "the weights") -> str:
    if averaging is None:
        return f"{owner}: there is no average of {of}; ask for one: averaging=EMA(decay=0.999)"
    return f"{owner}: there is no average of {of} yet, after {step} steps with {averaging}; make more steps"


def in_use(owner: str, doing: Any) -> str:
    if doing == SWAPPED:
        return (
            f"{owner}: the parameters are the averaged weights, by `with optimizer.averaged_weights(params)`; leave "
            "that first"
        )
    return (
        f"{owner}: the optimizer is in the middle of a step (or of saving or loading), in another thread, or this is a "
        "signal handler or a fork made at that moment; give each thread an optimizer of its own or put a lock around "
        "it, and let a signal handler set a flag to act on after update()"
    )


# -- containers -------------------------------------------------------------------------------------------------------


def step_on_copies(owner: str) -> str:
    return (
        f"{owner}: updated() makes new arrays, and an object keeps its state by being the same object; write to the "
        "objects by update(model), or hand in arrays by name: updated(params, grads)"
    )


def no_state(
    owner: str, key: Hashable, choices: Iterable[Hashable], naming: Callable[[Hashable], str] | None = None
) -> str:
    naming = naming or name_of
    return (
        f"{owner}: {naming(key)} has no state, which begins at its first step; there is that of "
        f"{', '.join(map(naming, list(choices)[:8]))}"
    )


def array_or_dict(owner: str, key: Hashable, choices: Iterable[Hashable]) -> str:
    return (
        f"{owner}: {name_of(key)} was not there at the first step, there were "
        f"{', '.join(name_of(name) for name in list(choices)[:8])}. An optimizer steps one bare array, or a dict "
        "of arrays: use a new one for the other"
    )


def unknown_key(kind: str, key: Hashable, choices: Iterable[Hashable]) -> str:
    return f"{kind} has no key {key!r} and its keys are fixed; it has {names_of(choices)}"


def fixed_keys(kind: str) -> str:
    return f"the keys of a {kind} are fixed, its values being views of one buffer; make a plain dict of it: dict(...)"


def name_of(key: Hashable) -> str:
    return "one bare array" if isinstance(key, Enum) else f"params[{key!r}]"


def names_of(keys: Iterable[Hashable]) -> str:
    names = ["one bare array" if isinstance(key, Enum) else repr(key) for key in keys]
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "") or "no keys"


# -- gradients --------------------------------------------------------------------------------------------------------


def too_many_skips(reason: str, most: float) -> str:
    text = reason.partition("; nothing was written")[0]
    return (
        f"{text}, after {most:g} steps in a row that were skipped for such gradients, which is max_skips; nothing was "
        "written. Lower lr or clip the gradient, or go back to an earlier checkpoint"
    )
