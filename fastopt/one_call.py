"""A plan whose steps are one call of C: of one dtype, on one thread, without anything that Python must see to."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cache, partial
from typing import Any

import numpy as np

from fastopt.flat import Array, FlatDict
from fastopt.kernels import build, memory, one_call
from fastopt.launch import Launch
from fastopt.plan import Plan

# A step that reads and writes more takes longer than a thread should be kept waiting for the GIL, and a microsecond
# more or less is nothing to it.
MOST_BYTES = 1_000_000

METH_FASTCALL = 0x80

Call = Callable[[Any, Any, tuple[float, ...], dict[str, Any], int], int]
"""`(params, grads, scalars, settings, step)`, see `fastopt.kernels.one_call`; 0 if the step was not made."""


def call_for(plan: Plan, options: tuple[str, ...]) -> Call | None:
    """The call for a plan, None if its steps cannot be made in one.

    The amounts of the options are those of the last step that was made otherwise.
    """
    if plan.call_options != options:
        plan.call, plan.call_options = _call_for(plan, options), options
    return plan.call  # type: ignore[no-any-return]


def _call_for(plan: Plan, options: tuple[str, ...]) -> Call | None:
    if plan._scan is None or build.CHECK or plan.divided or len(plan._launches) != 1:
        return None
    launch, staged = plan._launches[0], [number for number in plan._special_numbers if plan.entries[number].row >= 0]
    if type(launch) is not Launch or launch.moved_bytes > MOST_BYTES:
        return None
    if any(type(plan.entries[number].value) is not float for number in plan._special_numbers):
        return None
    kernel = launch.call(plan.rule, "step", options)[0]
    if not isinstance(kernel, partial):
        return None
    floats = np.zeros((len(staged), 2))
    for number, pair in zip(staged, floats, strict=True):
        entry = plan.entries[number]
        entry.staged = pair[:1].reshape(())
        launch.table[entry.row, 0] = plan._expected[number, memory.STAGED] = pair.ctypes.data
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
        one_call.TABLE: launch.table.ctypes.data,
        one_call.COLUMNS: launch.table.shape[1],
        one_call.STARTS: launch.starts.ctypes.data,
        one_call.LENGTH: len(launch.starts),
        one_call.KERNEL: kernel.args[0],
        one_call.SCALARS: plan._scalars.ctypes.data,
        one_call.SCALAR_COUNT: len(plan.rule.scalars),
        one_call.STEPS: id(STEPS),
        one_call.DICT: id(dict),
        one_call.FLAT_DICT: id(FlatDict),
        one_call.NDARRAY: memory.NDARRAY,
        one_call.NONE: memory.NONE,
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
    owner.alive = plan._expected, plan._shapes, plan.written, launch, plan._scalars, plan.state, plan.keys, room, floats
    method = _method(owner)
    return _flat(method, plan) if plan.mode == "flat" else method


STEPS = "_steps"
"""The name under which an optimizer keeps its number of steps."""


class Memory(np.ndarray[Any, Any]):
    """A plan's memory, with what must live as long."""

    alive: Any = None


def _flat(method: Any, plan: Plan) -> Call:
    layout = plan.flat_layout

    def call(params: Any, grads: Any, *rest: Any) -> int:
        if type(params) is not FlatDict or type(grads) is not FlatDict:
            return 0
        if params.layout is not layout or grads.layout is not layout:
            return 0
        return method(params._buffer, grads._buffer, *rest)  # type: ignore[no-any-return]

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
def _definition() -> _Definition:
    return _Definition(b"one_call", build.compiled_for_c(one_call.one_call, 3), METH_FASTCALL, None)


def _method(owner: Array) -> Any:
    """The compiled function as a method of an array."""
    new = ctypes.pythonapi.PyCFunction_NewEx
    new.restype, new.argtypes = ctypes.py_object, [ctypes.c_void_p, ctypes.py_object, ctypes.c_void_p]
    return new(ctypes.addressof(_definition()), owner, None)
