"""A whole step in one call from Python: checks parameters and gradients, and runs the kernel if all is as planned.

`one_call` becomes a method of C that Python calls without a wrapper of numba's. It walks dicts by functions of CPython
and reads arrays as `array_scan.scan` does. No signal comes between. Nor does another thread, as the GIL is held, but
for the time of a kernel that takes long; what was checked is held until it is back.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic
from numba.np.arrayobj import make_array, populate_array

from fastopt.kernels.array_scan import (
    ARRAY_FLAGS,
    DATA,
    HOLDER,
    LEAF_FIELDS,
    LENGTH_OF_TUPLE,
    LIST_ITEMS,
    PLACE,
    ROW,
    STAGED,
    TUPLE_ITEMS,
    TYPE,
    VALUE,
    WRITEABLE,
    scan_items,
)
from fastopt.kernels.intrinsics import peek
from fastopt.kernels.loops import walk
from fastopt.kernels.python_objects import (
    compare_texts,
    integer,
    item_of,
    keep,
    let_others_run,
    new_float,
    new_list,
    next_item,
    release,
    set_in_list,
    set_item,
    wait_for_turn,
)

MISFIT, DONE = 0, 1
"""Results of a call: nothing is written and Python must see to it, or the step is made."""

# The words of a plan's memory, an int64 array that is the method's `self`.
(
    BARE, COUNT, LEAVES, SHAPES, SIZES,  # whether params are one array; what is expected of each array
    WRITTEN, BLOCKS,  # the blocks that a step writes, and how many
    TABLE, COLUMNS, STARTS, LENGTH, KERNEL, FORM,  # the launch
    SCALARS, SCALAR_COUNT, SCALAR_ROWS, SCALAR_STRIDE,  # how many are in a row, and the words from one to the next
    STEPS, COUNTS,  # the names under which an optimizer keeps its number of steps, and those of its leaves
    DICT, FLAT_DICT, NDARRAY, NONE, FLOAT, FLOAT64, STRING, TUPLE,  # addresses of objects
    PARAMETERS, GRADIENTS,  # room for the addresses of parameters and gradients
    POSITION, FOUND_KEY, FOUND,  # where `PyDict_Next` writes
    VIEWS, VIEW_COUNT,  # the addresses of arrays that must be writeable, the views of a FlatDict
    LIST, NODES, NODE_COUNT, CHILDREN, CHILD_COUNT,  # the containers of the arrays, see below
    PARAMETER_NODES, GRADIENT_NODES,  # room for their addresses
    TAKES_LONG,  # whether other threads may run beside the kernel
    THREADS, DRIVER,  # how many a step takes, and the address of what goes for `walk` and takes them, 0 where none does
) = range(44)  # fmt: skip
WORDS = 44

# Columns of `nodes`, the table of containers, each behind the one that holds it.
NODE_KIND = 0  # address of the type that one of parameters must have
NODE_FORM = 1
NODE_SIZE = 2  # number of children
FIRST_CHILD = 3  # where they start in `children`
NODE_FIELDS = 4

MAPPING, LISTED, TUPLED, NAMED = range(4)
"""Forms of a node: a dict, a list, a tuple, a tuple whose places have names."""

# Columns of `children`
CHILD_KEY = 0  # address of its key in a dict
TARGET = 1  # the number of an array; -n of the n-th node; or NOTHING
NOTHING = -(2**40)
"""Where there is None."""


def one_call(self, arguments, count):
    """Makes a step: the method `(params, grads, scalars, settings, step, counts) -> MISFIT or DONE`.

    scalars : a tuple of floats, those of the rule, row after row
    settings : the optimizer's `__dict__`, where the number of steps becomes `step`, and those of leaves `counts`

    `(params, grads)` only checks, and takes up the gradients' addresses. Where those are in containers it returns a
    list of them, which keeps them alive, in place of DONE.
    """
    plan = peek(self + DATA)
    params, grads, only_checks = peek(arguments), peek(arguments + 8), count == 2
    count, columns, blocks = word(plan, COUNT), word(plan, COLUMNS), word(plan, BLOCKS)
    leaves = array_at(word(plan, LEAVES), (count, LEAF_FIELDS))
    shapes = array_at(word(plan, SHAPES), (word(plan, SIZES),))
    written = array_at(word(plan, WRITTEN), (2, blocks))
    table = array_at(word(plan, TABLE), (word(plan, LENGTH), columns))
    starts = array_at(word(plan, STARTS), (word(plan, LENGTH),))
    items = word(plan, PARAMETERS), word(plan, GRADIENTS)

    if not _collect(plan, params, items[0], word(plan, PARAMETER_NODES), True):
        return integer(MISFIT)
    if not _collect(plan, grads, items[1], word(plan, GRADIENT_NODES), False):
        return integer(MISFIT)
    for number in range(word(plan, VIEW_COUNT)):
        if peek(peek(word(plan, VIEWS) + 8 * number) + ARRAY_FLAGS) & WRITEABLE == 0:
            return integer(MISFIT)
    if not only_checks and not _take_scalars(plan, peek(arguments + 16)):
        return integer(MISFIT)
    first = 0
    while first < count:
        leaf = scan_items(*items, first, word(plan, NDARRAY), word(plan, NONE), leaves, shapes, written, table)
        if leaf < 0 or (leaf < count and not _take_floats(plan, items, leaves, leaf, table)):
            return integer(MISFIT)
        first = leaf + 1
    if only_checks:
        return integer(DONE) if word(plan, BARE) != 0 else _list_of(items[1], count)

    if word(plan, TAKES_LONG) != 0:
        for number in range(count):
            keep(peek(items[0] + 8 * number))
            keep(peek(items[1] + 8 * number))
        thread = let_others_run()
        _run(plan, table, starts)
        wait_for_turn(thread)
        for number in range(count):
            release(peek(items[0] + 8 * number))
            release(peek(items[1] + 8 * number))
    else:
        _run(plan, table, starts)

    for leaf in range(count):
        staged = leaves[leaf, STAGED]
        if staged != 0 and leaves[leaf, ROW] >= 0:
            number = new_float(staged)
            if number == 0 or not _replace(plan, leaves[leaf, HOLDER], leaves[leaf, PLACE], number):
                return 0  # MemoryError
    settings = peek(arguments + 24)
    if set_item(settings, word(plan, STEPS), peek(arguments + 32)) != 0:
        return 0
    if set_item(settings, word(plan, COUNTS), peek(arguments + 40)) != 0:
        return 0
    return integer(DONE)


def _run(plan, table, starts):
    """Runs the kernel, on one thread or several."""
    kernel, form, driver = word(plan, KERNEL), word(plan, FORM), word(plan, DRIVER)
    if driver != 0:
        call_driver(driver, kernel, form, table, starts, word(plan, THREADS))
    else:
        walk(kernel, form, table, starts, 0, starts[-1])


def _collect(plan, arrays, items, held, exact):
    """Writes the addresses of parameters or gradients to `items`; False if they are not held as those of the plan.

    held : room for the addresses of the containers
    exact : whether types of containers and the order of keys must be those of the plan; otherwise what is None stands
        for all that is in it
    """
    if word(plan, BARE) != 0:
        poke(items, arrays)
        return True
    nodes = array_at(word(plan, NODES), (word(plan, NODE_COUNT), NODE_FIELDS))
    children = array_at(word(plan, CHILDREN), (word(plan, CHILD_COUNT), 2))
    none = word(plan, NONE)
    poke(held, arrays)
    for node in range(len(nodes)):
        value = peek(held + 8 * node)
        kind, expected = peek(value + TYPE), nodes[node, NODE_KIND]
        form, size = nodes[node, NODE_FORM], nodes[node, NODE_SIZE]
        targets = children[nodes[node, FIRST_CHILD] : nodes[node, FIRST_CHILD] + size]
        if kind != expected and exact:
            return False
        if value == none and node != 0:
            for child in range(size):
                if not _hand_on(none, targets[child, TARGET], items, held, none):
                    return False
        elif form == MAPPING:
            if kind != expected and kind != word(plan, DICT) and kind != word(plan, FLAT_DICT):
                return False
            if not _collect_dict(plan, value, targets, items, held) and (
                exact or not _look_up(plan, value, targets, items, held)
            ):
                return False
        else:
            if kind == word(plan, LIST) or (kind == expected and form == LISTED):
                first = peek(value + LIST_ITEMS)
            elif kind == word(plan, TUPLE) or kind == expected:
                first = value + TUPLE_ITEMS
            else:
                return False
            if (form == NAMED and kind != expected) or peek(value + LENGTH_OF_TUPLE) != size:
                return False
            for child in range(size):
                if not _hand_on(peek(first + 8 * child), targets[child, TARGET], items, held, none):
                    return False
    return True


def _collect_dict(plan, value, children, items, held):
    position, found_key, found = plan + 8 * POSITION, plan + 8 * FOUND_KEY, plan + 8 * FOUND
    poke(position, 0)
    text = word(plan, STRING)
    for child in range(len(children)):
        if next_item(value, position, found_key, found) == 0:
            return False
        key, expected = peek(found_key), children[child, CHILD_KEY]
        # Equal texts need not be one object: "W" + str(1).
        if key != expected and (
            peek(key + TYPE) != text or peek(expected + TYPE) != text or compare_texts(key, expected) != 0
        ):
            return False
        if not _hand_on(peek(found), children[child, TARGET], items, held, word(plan, NONE)):
            return False
    return next_item(value, position, found_key, found) == 0


def _look_up(plan, value, children, items, held):
    """`_collect_dict` for a dict in another order, of which all keys are texts: to compare them runs no Python."""
    position, found_key, text, size = plan + 8 * POSITION, plan + 8 * FOUND_KEY, word(plan, STRING), 0
    poke(position, 0)
    while next_item(value, position, found_key, plan + 8 * FOUND) != 0:
        size += 1
        if peek(peek(found_key) + TYPE) != text:
            return False
    if size != len(children):
        return False
    for child in range(size):
        key = children[child, CHILD_KEY]
        found = item_of(value, key) if peek(key + TYPE) == text else 0
        if found == 0 or not _hand_on(found, children[child, TARGET], items, held, word(plan, NONE)):
            return False
    return True


def _hand_on(child, target, items, held, none):
    """Writes the address of an array, or of a container, to where it is looked at."""
    if target >= 0:
        poke(items + 8 * target, child)
    elif target == NOTHING:
        return child == none
    else:
        poke(held - 8 * target, child)
    return True


def _replace(plan, holder, place, number):
    """Puts a new number in the place of a parameter; False if there was no memory for that."""
    container = peek(word(plan, PARAMETER_NODES) + 8 * holder)
    nodes = array_at(word(plan, NODES), (word(plan, NODE_COUNT), NODE_FIELDS))
    if nodes[holder, NODE_FORM] == LISTED:
        return set_in_list(container, place, number) == 0  # which lets go of it
    done = set_item(container, place, number) == 0
    release(number)
    return done


def _list_of(items, count):
    """The address of a new list of objects; 0 if there is no memory for it."""
    new = new_list(count)
    if new != 0:
        for number in range(count):
            keep(peek(items + 8 * number))
            set_in_list(new, number, peek(items + 8 * number))
    return new


def _take_scalars(plan, scalars):
    """Copies the scalars to where the kernel reads them."""
    count, rows = word(plan, SCALAR_COUNT), word(plan, SCALAR_ROWS)
    if peek(scalars + TYPE) != word(plan, TUPLE) or peek(scalars + LENGTH_OF_TUPLE) != count * rows:
        return False
    for row in range(rows):
        for number in range(count):
            scalar = peek(scalars + TUPLE_ITEMS + 8 * (row * count + number))
            if peek(scalar + TYPE) != word(plan, FLOAT):
                return False
            poke(word(plan, SCALARS) + 8 * (row * word(plan, SCALAR_STRIDE) + number), peek(scalar + VALUE))
    return True


def _take_floats(plan, items, leaves, leaf, table):
    """Copies a parameter and its gradient to where the kernel works on them; False if they are no floats."""
    staged = leaves[leaf, STAGED]
    if staged == 0:
        return False
    parameter, gradient = peek(items[0] + 8 * leaf), peek(items[1] + 8 * leaf)
    kind = peek(gradient + TYPE)
    if peek(parameter + TYPE) != word(plan, FLOAT) or (kind != word(plan, FLOAT) and kind != word(plan, FLOAT64)):
        return False
    poke(staged, peek(parameter + VALUE))
    poke(staged + 8, peek(gradient + VALUE))
    table[leaves[leaf, ROW], 1] = staged + 8
    return True


_INT64, _POINTER = ir.IntType(64), ir.IntType(8).as_pointer()


@intrinsic
def call_driver(typingctx: Any, address: Any, kernel: Any, form: Any, table: Any, starts: Any, threads: Any) -> Any:
    """Calls what is compiled like `loops.parallel`, at an address, by the interface that numba gives it for C."""
    kinds = types.int64, types.int64, table, starts, types.int64

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        address, *arguments = args
        driver = ir.FunctionType(_POINTER, [context.get_value_type(kind) for kind in kinds])
        builder.call(builder.inttoptr(address, driver.as_pointer()), arguments)
        return context.get_dummy_value()

    return types.void(types.int64, *kinds), codegen


@intrinsic
def poke(typingctx: Any, address: Any, value: Any) -> Any:
    """Writes an int64 to an address."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        builder.store(args[1], builder.inttoptr(args[0], _INT64.as_pointer()))
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), codegen


@intrinsic
def word(typingctx: Any, plan: Any, number: Any) -> Any:
    """A word of a plan's memory."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.load(builder.gep(builder.inttoptr(args[0], _INT64.as_pointer()), [args[1]]))

    return types.int64(types.int64, types.int64), codegen


@intrinsic
def array_at(typingctx: Any, address: Any, shape: Any) -> Any:
    """The int64 numbers at an address as an array."""
    result = types.Array(types.int64, len(shape), "C")

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        array, sizes = make_array(result)(context, builder), cgutils.unpack_tuple(builder, args[1])
        strides = [ir.Constant(_INT64, 8)]
        for size in reversed(sizes[1:]):
            strides.insert(0, builder.mul(strides[0], size))
        data = builder.inttoptr(args[0], _INT64.as_pointer())
        populate_array(array, data=data, shape=sizes, strides=strides, itemsize=ir.Constant(_INT64, 8), meminfo=None)
        return array._getvalue()

    return result(types.int64, shape), codegen
