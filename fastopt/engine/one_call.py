"""A plan whose steps are one call of C: of one dtype, on one thread, without anything that Python must see to."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable
from functools import cache, partial
from typing import Any

import numpy as np
from numba.core import config

from fastopt import tuning
from fastopt.engine.plan import Plan
from fastopt.flat import Array, FlatDict
from fastopt.kernels import array_scan, build, one_call
from fastopt.kernels.stores import FORMS, PLAIN
from fastopt.tuning import Tuner

# A step that reads and writes more takes longer than a thread should be kept waiting for the GIL, and a microsecond
# more or less is nothing to it.
MOST_BYTES = 1_000_000

METH_FASTCALL = 0x80

Call = Callable[[Any, Any, tuple[float, ...], dict[str, Any], int], int]
"""`(params, grads, scalars, settings, step)`, see `fastopt.kernels.one_call`; 0 if the step was not made."""


def prepare(plan: Plan) -> None:
    """Gives a plan its look, if compiled code can look at all of its parameters."""
    plan.is_prepared = True
    specials = [plan.entries[number] for number in plan._special_numbers]
    if not getattr(sys, "_is_gil_enabled", lambda: True)():  # which keeps other threads away from what is looked at
        return
    # To replace a float under another key than a string may run code of the key's.
    if plan._scan is None or build.CHECK or any((type(at.value), type(at.key)) != (float, str) for at in specials):
        return
    floats = np.zeros((len(specials), 2))
    for number, entry, pair in zip(plan._special_numbers, specials, floats, strict=True):
        staged, address = pair[:1].reshape(()), pair.ctypes.data
        if entry.row >= 0:  # no calls, between which Ctrl-C could come
            entry.staged = staged
            plan._table[entry.row, 0] = plan._expected[number, array_scan.STAGED] = address
    room = np.zeros((2, len(plan.entries)), np.int64)
    words = np.zeros(one_call.WORDS, np.int64)
    for word, value in {
        one_call.BARE: plan.mode != "dict",
        one_call.COUNT: len(plan.entries),
        one_call.ENTRIES: plan._expected.ctypes.data,
        one_call.SHAPES: plan._shapes.ctypes.data,
        one_call.SIZES: len(plan._shapes),
        one_call.WRITTEN: plan.written.ctypes.data,
        one_call.BLOCKS: plan.written.shape[1],
        one_call.TABLE: plan._table.ctypes.data,
        one_call.COLUMNS: plan._table.shape[1],
        one_call.LENGTH: len(plan._table),
        one_call.SCALARS: plan._scalars.ctypes.data,
        one_call.SCALAR_COUNT: len(plan.rule.scalars),
        one_call.STEPS: id(STEPS),
        one_call.DICT: id(dict),
        one_call.FLAT_DICT: id(FlatDict),
        one_call.NDARRAY: array_scan.NDARRAY,
        one_call.NONE: array_scan.NONE,
        one_call.FLOAT: id(float),
        one_call.FLOAT64: id(np.float64),
        one_call.STRING: id(str),
        one_call.TUPLE: id(tuple),
        one_call.PARAMETERS: room[0].ctypes.data,
        one_call.GRADIENTS: room[1].ctypes.data,
    }.items():
        words[word] = value
    owner = words.view(Memory)
    # Not the plan itself, which has the method: nothing should wait for the garbage collector.
    owner.alive = plan._expected, plan._shapes, plan.written, plan._table, plan._scalars, plan.keys, room, floats
    owner.alive += plan.state, plan._launches
    plan.words, plan.memory, plan.looked = words, owner, True
    if plan.mode == "flat":
        watch(plan)
    plan.look = _flat(_method(owner), plan.flat_layout) if plan.mode == "flat" else _method(owner)


def call_for(plan: Plan, options: tuple[str, ...]) -> Call | None:
    """The call for a plan; None if its steps cannot be made in one.

    The amounts of the options are those of the last step that was made otherwise.
    """
    if plan.call_options != options:
        plan.call, plan.call_options = None, options
        launch = plan._launches[0] if len(plan._launches) == 1 and plan.is_plain else None
        launch = None if plan.stored_launches else launch
        if plan.look is not None and launch is not None and launch.moved_bytes < MOST_BYTES:
            kernel = launch.call(plan.rule, "step", options)[0]
            if isinstance(kernel, partial):
                address, form = kernel.args
                plan.words[one_call.KERNEL], plan.words[one_call.FORM] = address, form
                plan.words[one_call.STARTS] = launch.starts.ctypes.data
                plan.call = plan.look if plan.tuner is None else _tuned(plan.look, plan.words, plan.tuner, launch.dtype)
    return plan.call  # type: ignore[no-any-return]


STEPS = "_steps"
"""The name under which an optimizer keeps its number of steps."""


class Memory(np.ndarray[Any, Any]):
    """A plan's memory, with what must live as long."""

    alive: Any = None
    views: Any = None


def watch(plan: Plan) -> None:
    """Has the look see to the views of a FlatDict, which must stay writeable as its buffer must."""
    addresses = np.array([id(view) for view in plan.views], np.int64)
    plan.words[one_call.VIEW_COUNT] = 0  # nothing is read of those that go, whenever Ctrl-C comes
    plan.memory.views = plan.views, addresses
    plan.words[one_call.VIEWS] = addresses.ctypes.data
    plan.words[one_call.VIEW_COUNT] = len(addresses)


def _flat(method: Any, layout: Any) -> Any:
    """The same for FlatDicts of a layout, of which it gets the buffers."""

    def call(params: Any, grads: Any, *rest: Any) -> int:
        if type(params) is not FlatDict or type(grads) is not FlatDict:
            return 0
        if params.layout is not layout or grads.layout is not layout:
            return 0
        return method(params._buffer, grads._buffer, *rest)  # type: ignore[no-any-return]

    return call


def _tuned(method: Any, words: Array, tuner: Tuner, dtype: str) -> Any:
    """The same in the form that a tuner chooses, which is told how long each step takes."""
    addresses = [build.form_address(form, dtype) for form in range(len(FORMS))]

    def call(*arguments: Any) -> int:
        if tuning.fixed() is not None:
            words[one_call.FORM] = addresses[PLAIN]
            return method(*arguments)  # type: ignore[no-any-return]
        begin = tuner.begin()
        words[one_call.FORM] = addresses[tuner.choice.form]
        done: int = method(*arguments)
        if begin and done:
            tuner.end(begin)
        return done

    return call


class _Definition(ctypes.Structure):
    """PyMethodDef."""

    _fields_ = (
        ("name", ctypes.c_char_p),
        ("function", ctypes.c_void_p),
        ("flags", ctypes.c_int),
        ("doc", ctypes.c_char_p),
    )


@cache
def compiled_call() -> _Definition:
    """`one_call`, compiled."""
    address = 0 if config.DISABLE_JIT else build.compiled_for_c(one_call.one_call, 3)
    return _Definition(b"one_call", address, METH_FASTCALL, None)


def _method(owner: Array) -> Any:
    """The compiled function as a method of an array."""
    new = ctypes.pythonapi.PyCFunction_NewEx
    new.restype, new.argtypes = ctypes.py_object, [ctypes.c_void_p, ctypes.py_object, ctypes.c_void_p]
    return new(ctypes.addressof(compiled_call()), owner, None)
