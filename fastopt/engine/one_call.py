"""A plan whose steps are one call of C: of one dtype, without anything that Python must see to."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable
from functools import cache, partial
from itertools import accumulate
from typing import Any, cast

import numpy as np
from numba.core import config

from fastopt import threads, tuning
from fastopt.engine.containers import FLAT, Buffers, Container
from fastopt.engine.launch import Launch
from fastopt.engine.plan import Plan
from fastopt.engine.step_counts import Counts
from fastopt.flat import Array, FlatDict
from fastopt.kernels import array_scan, flags, one_call
from fastopt.kernels.compile import compiled_for_c, driver_for_c, form_address, problems_kernel
from fastopt.kernels.loops import parallel
from fastopt.kernels.problem_norms import clipped_problems
from fastopt.kernels.problems import parallel_problems, serial_problems
from fastopt.kernels.stores import FORMS
from fastopt.structure import LEAF, NOTHING, Node
from fastopt.tuning import AS_THEY_COME, Choice

# A step that reads and writes more than this takes longer than a thread should be kept waiting for the GIL.
LONG_BYTES = 1_000_000

METH_FASTCALL = 0x80

Call = tuple[Callable[[Any, Any, tuple[float, ...], dict[str, Any], int, Counts], int], tuple[int, ...]]
"""`(params, grads, scalars, settings, step, counts)`, see `fastopt.kernels.one_call`, which returns 0 if the step was
not made; and the cohorts whose step it is, one for each row of scalars."""


def prepare(plan: Plan) -> None:
    """Gives a plan its compiled check, if compiled code can read all of its parameters."""
    plan.is_prepared = True
    specials = [plan.table.leaves[number] for number in plan.table.special_numbers]
    if not getattr(sys, "_is_gil_enabled", lambda: True)():  # which keeps other threads away from what is read
        return
    if plan.table.scan is None or flags.CHECK or any(type(at.value) is not float for at in specials):
        return
    count = len(plan.table.leaves)
    node = plan.table.container.walk()
    walk = Walk(Node(list, tuple(range(count)), (LEAF,) * count) if node is None else node)
    holders = [walk.holders[number] for number in plan.table.special_numbers]
    # To replace a float under another key than a string may run code of the key's.
    if specials and (node is None or any(type(key) is not str for _, key, is_list in holders if not is_list)):
        return
    floats = np.zeros((len(specials), 2))
    for number, leaf, pair, (holder, key, is_list) in zip(
        plan.table.special_numbers, specials, floats, holders, strict=True
    ):
        plan.table.expected[number, [array_scan.HOLDER, array_scan.PLACE]] = holder, key if is_list else id(key)
        staged, address = pair[:1].reshape(()), pair.ctypes.data
        if leaf.row >= 0:  # no calls, between which Ctrl-C could come
            leaf.staged = staged
            plan.table.addresses[leaf.row, 0] = plan.table.expected[number, array_scan.STAGED] = address
    room = np.zeros((2, len(plan.table.leaves)), np.int64)
    words = np.zeros(one_call.WORDS, np.int64)
    for word, value in {
        one_call.BARE: plan.table.container.is_bare,
        one_call.COUNT: len(plan.table.leaves),
        one_call.LEAVES: plan.table.expected.ctypes.data,
        one_call.SHAPES: plan.table.shapes.ctypes.data,
        one_call.SIZES: len(plan.table.shapes),
        one_call.WRITTEN: plan.table.written.blocks.ctypes.data,
        one_call.BLOCKS: plan.table.written.blocks.shape[1],
        one_call.TABLE: plan.table.addresses.ctypes.data,
        one_call.COLUMNS: plan.table.addresses.shape[1],
        one_call.LENGTH: len(plan.table.addresses),
        one_call.SCALARS: plan.table.scalars.ctypes.data,
        one_call.SCALAR_COUNT: len(plan.table.rule.scalars),
        one_call.SCALAR_ROWS: len(plan.table.scalars),
        one_call.SCALAR_STRIDE: plan.table.scalars.shape[1],
        one_call.STEPS: id(STEPS),
        one_call.COUNTS: id(COUNTS),
        one_call.DICT: id(dict),
        one_call.FLAT_DICT: id(FlatDict),
        one_call.NDARRAY: array_scan.NDARRAY,
        one_call.NONE: array_scan.NONE,
        one_call.FLOAT: id(float),
        one_call.FLOAT64: id(np.float64),
        one_call.STRING: id(str),
        one_call.TUPLE: id(tuple),
        one_call.LIST: id(list),
        one_call.NODES: walk.nodes.ctypes.data,
        one_call.NODE_COUNT: len(walk.nodes),
        one_call.CHILDREN: walk.children.ctypes.data,
        one_call.CHILD_COUNT: len(walk.children),
        one_call.PARAMETER_NODES: walk.room[0].ctypes.data,
        one_call.GRADIENT_NODES: walk.room[1].ctypes.data,
        one_call.PARAMETERS: room[0].ctypes.data,
        one_call.GRADIENTS: room[1].ctypes.data,
    }.items():
        words[word] = value
    owner = words.view(Memory)
    # Not the plan itself, which has the method: nothing should wait for the garbage collector.
    owner.alive = (
        plan.table.expected,
        plan.table.shapes,
        plan.table.written.blocks,
        plan.table.addresses,
        plan.table.scalars,
        plan.table.keys,
        room,
        floats,
    )
    owner.alive += plan.table.state, plan.table.launches, walk
    plan.words, plan.memory, plan.checked = words, owner, True
    if isinstance(plan.table.container, Buffers):
        watch(plan)
        plan.check = _flat(_method(owner), plan.table.flat_layout)
    else:
        plan.check = _method(owner) if node is not None else _listed(_method(owner), plan.table.container)


def call_for(plan: Plan, transforms: tuple[str, ...]) -> Call | None:
    """The call for a plan; None if its steps cannot be made in one.

    The scalars of the transforms are those of the last step that was made otherwise.
    """
    if plan.call_transforms != transforms:
        plan.call, plan.call_transforms = None, transforms
        launch = plan.table.launches[0] if len(plan.table.launches) == 1 and plan.table.is_plain else None
        launch = None if plan.table.stored_launches else launch
        if plan.check is not None and launch is not None:
            kernel = launch.call(plan.table.rule, "step", transforms, Choice(in_parallel=False))[0]
            if isinstance(kernel, partial):
                address, form = kernel.args
                plan.words[one_call.KERNEL], plan.words[one_call.FORM] = address, form
                plan.words[one_call.STARTS] = launch.starts.ctypes.data
                # Containers of numbers are not held meanwhile.
                plan.words[one_call.TAKES_LONG] = launch.moved_bytes > LONG_BYTES and not plan.table.special_numbers
                plan.words[one_call.THREADS], plan.words[one_call.DRIVER] = 1, 0
                is_small = plan.tuner is None and launch.moved_bytes < threads.SMALLEST_PARALLEL
                plan.call = plan.check if is_small else _chosen(plan, launch), tuple(plan.table.cohorts)
    return plan.call  # type: ignore[no-any-return]


def problems_call(plan: Plan, transforms: tuple[str, ...], places: tuple[int, ...], clips: bool) -> Any:
    """The call for a plan of many problems with scalars of their own; None if its steps cannot be made in one.

    clips : whether each is clipped by its norm, which only one thread does in a call
    """
    if plan.check is None or len(plan.table.launches) > 1:
        return None
    plan.call = plan.call_transforms = None
    (launch,) = plan.table.launches
    threads = AS_THEY_COME.threads_for(launch.moved_bytes)
    if clips and threads > 1:
        return None
    kernel = problems_kernel(plan.table.rule, launch.dtype, threads > 1, transforms, places)
    if not isinstance(kernel, partial):
        return None
    plan.words[one_call.KERNEL], plan.words[one_call.FORM] = kernel.args
    driver = parallel_problems if threads > 1 else clipped_problems if clips else serial_problems
    plan.words[one_call.DRIVER] = driver_for_c(driver, in_parallel=threads > 1)
    plan.words[one_call.STARTS], plan.words[one_call.THREADS] = launch.starts.ctypes.data, threads
    plan.words[one_call.TAKES_LONG] = launch.moved_bytes > LONG_BYTES
    return plan.check


STEPS, COUNTS = "_steps", "_counts"
"""The names under which an optimizer keeps its number of steps, and those of its leaves."""


class Memory(np.ndarray[Any, Any]):
    """A plan's memory, with what must live as long."""

    alive: Any = None
    views: Any = None


def watch(plan: Plan) -> None:
    """Has the check see to the views of a FlatDict, which must stay writeable as its buffer must."""
    addresses = np.array([id(view) for view in plan.table.views], np.int64)
    plan.words[one_call.VIEW_COUNT] = 0  # nothing is read of those that go, whenever Ctrl-C comes
    plan.memory.views = plan.table.views, addresses
    plan.words[one_call.VIEWS] = addresses.ctypes.data
    plan.words[one_call.VIEW_COUNT] = len(addresses)


class Walk:
    """Containers as tables that compiled code reads; see `fastopt.kernels.one_call`."""

    def __init__(self, node: Node) -> None:
        self._alive, self._leaves = node, 0
        self._rows: list[list[int]] = []
        self._targets: list[list[tuple[int, int]]] = []
        self.holders: list[tuple[int, Any, bool]] = []
        """Of each array the number of its container, the key or index there, and whether that is a list."""
        self._visit(node)
        starts = accumulate(map(len, self._targets), initial=0)
        rows = [[*row, start] for row, start in zip(self._rows, starts, strict=False)]
        self.nodes = np.array(rows, np.int64).reshape(-1, one_call.NODE_FIELDS)
        self.children = np.array([pair for targets in self._targets for pair in targets], np.int64).reshape(-1, 2)
        self.room = np.zeros((2, len(rows)), np.int64)

    def _visit(self, node: Node) -> int:
        """Appends a container and all within it; returns its number."""
        number, targets = len(self._rows), cast("list[tuple[int, int]]", [])
        self._rows.append([id(node.kind), _form(node.kind), len(node.children)])
        self._targets.append(targets)
        for key, child in zip(node.keys, node.children, strict=True):
            if child is LEAF:
                target, self._leaves = self._leaves, self._leaves + 1
                self.holders.append((number, key, issubclass(node.kind, list)))
            else:
                target = one_call.NOTHING if child is NOTHING else -self._visit(child)
            targets.append((id(key), target))
        return number


def _form(kind: type) -> int:
    if issubclass(kind, dict):
        return one_call.MAPPING
    if issubclass(kind, list):
        return one_call.LISTED
    return one_call.NAMED if hasattr(kind, "_fields") else one_call.TUPLED


def _listed(method: Any, container: Container) -> Any:
    """The same for containers that Python has to walk."""

    def call(params: Any, grads: Any, *arguments: Any) -> int:
        lists = container.lists(params, grads)
        return 0 if lists is None else method(*lists, *arguments)

    return call


def _flat(method: Any, layout: Any) -> Any:
    """The same for FlatDicts of a layout, of which it gets the buffers."""

    def call(params: Any, grads: Any, *arguments: Any) -> int:
        if not isinstance(params, FLAT) or not isinstance(grads, FLAT):
            return 0
        if params.layout is not layout or grads.layout is not layout:
            return 0
        return method(params._buffer, grads._buffer, *arguments)  # type: ignore[no-any-return]

    return call


def _chosen(plan: Plan, launch: Launch) -> Any:
    """The same in the form and on the threads that the table chooses, or a tuner, which is told how long it takes."""
    method, words, tuner, moved_bytes = plan.check, plan.words, plan.tuner, launch.moved_bytes
    addresses = [form_address(form, launch.dtype, False, 1 + launch.modulus) for form in range(len(FORMS))]

    def call(params: Any, grads: Any, scalars: Any, attributes: dict[str, Any], step: int, counts: Counts) -> int:
        measuring, choice, begin = None if tuning.fixed() else tuner, AS_THEY_COME, 0
        if measuring is not None:
            begin, choice = measuring.begin(), measuring.choice
        count = choice.threads_for(moved_bytes)
        words[one_call.DRIVER] = driver_for_c(parallel, in_parallel=True) if count > 1 else 0
        words[one_call.THREADS], words[one_call.FORM] = count, addresses[launch.form_of(choice)]
        done: int = method(params, grads, scalars, attributes, step, counts)
        if begin and done and measuring is not None:
            measuring.end(begin)
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
    address = 0 if config.DISABLE_JIT else compiled_for_c(one_call.one_call, 3)
    return _Definition(b"one_call", address, METH_FASTCALL, None)


def _method(owner: Array) -> Any:
    """The compiled function as a method of an array."""
    new = ctypes.pythonapi.PyCFunction_NewEx
    new.restype, new.argtypes = ctypes.py_object, [ctypes.c_void_p, ctypes.py_object, ctypes.c_void_p]
    return new(ctypes.addressof(compiled_call()), owner, None)
