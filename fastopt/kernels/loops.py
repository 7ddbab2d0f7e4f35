"""The loops around a kernel, compiled once for all rules: over arrays, blocks, pieces and threads; see `passes.py`."""

from __future__ import annotations

import numpy as np
from numba import prange

from fastopt.kernels import codecs
from fastopt.kernels.cpus import give_way, leave, own_cpu, own_thread
from fastopt.kernels.intrinsics import LINE, call, fetch_add, peek, put, row_address
from fastopt.kernels.passes import FIELDS
from fastopt.kernels.stores import (
    CLOSE,
    DECODE,
    ENCODE,
    IN_PIECES,
    KINDS,
    LANES,
    LENGTH,
    NAMES,
    NONTEMPORAL,
    OPEN,
    PLAIN,
    SCHEDULER,
    SHIFT,
    SLOTS,
    STEP,
    fence,
    invoke,
    stack_block,
    stack_bytes,
)

# Threads take the elements in pieces of this many: long enough that taking one (some 20 ns) costs nothing, short enough
# that no thread waits long for another.
PIECE = 8192

# Counters of different threads stand a cache line apart.
APART = 8

# Pieces after which a thread that still works alone gives way to those that may wait for its CPU: longer than they take
# to wake up elsewhere, some 20 us.
ALONE = 4

# Elements of a block of compact state, whole groups of it.
STORED = 1024


FIRST, SECOND = np.uint64(codecs.FIRST), np.uint64(codecs.SECOND)


def walk(kernel, form, table, starts, first, last):
    """Has a kernel work on elements `first` to `last` of all arrays, counted through as if they were one.

    It gets them by array, and by block where the form works on blocks. Not part of the kernels: one that is the loop
    over elements alone compiles in a third of the time.
    """
    stack, shift = stack_block(), peek(form + 8 * SHIFT)
    array = np.searchsorted(starts, first, side="right") - 1
    while first < last:
        begin = starts[array]
        end = min(last, starts[array + 1])
        row, scalars, parameter = row_address(table, array), table[array, -1], table[array, 0]
        index, stop = first - begin, end - begin
        if peek(form) == PLAIN:
            call(kernel, row, scalars, parameter, 0, form, index, stop)
            index = stop
        while index < stop:
            line = (parameter + (index << shift) + peek(form + 8 * LENGTH)) // LINE * LINE
            block = (index, min(stop, ((line - parameter) >> shift) & -peek(form + 8 * LANES)), stop)
            home = invoke(peek(form + 8 * OPEN), peek(form), stack, parameter, 1 << shift, block)
            call(kernel, row, scalars, home, 0, form, index, block[1])
            invoke(peek(form + 8 * CLOSE), peek(form), stack, parameter, 1 << shift, block)
            index = block[1]
        first = end
        array += 1
    if peek(form) == NONTEMPORAL:
        fence()


def walk_pieces(kernel, form, table, starts, first, last):
    """`walk` for a kernel that fills a row of the statistics per array and piece.

    The table's last row holds the address of the statistics. Sums over a piece are added up in one order, however many
    threads there are.
    """
    array = np.searchsorted(starts, first, side="right") - 1
    statistics = table[len(starts) - 1, 0]
    while first < last:
        begin, piece = starts[array], first // PIECE
        end = min(last, starts[array + 1], (piece + 1) * PIECE)
        row, cells = row_address(table, array), statistics + 8 * FIELDS * (piece + array)
        call(kernel, row, table[array, -1], table[array, 0], cells, form, first - begin, end - begin)
        first = end
        if end == starts[array + 1]:
            array += 1


def slot_key(form, array, slot):
    """The key of the noise of an array of a slot, as of `codecs.slot_key`."""
    value = np.uint64(peek(peek(form + 8 * NAMES) + 8 * (array * peek(form + 8 * SLOTS) + slot)))
    value = value ^ np.uint64(peek(peek(form + 8 * STEP)))
    value = (value ^ (value >> np.uint64(30))) * FIRST
    value = (value ^ (value >> np.uint64(27))) * SECOND
    value = value ^ (value >> np.uint64(31))
    return np.int64(value & ~np.uint64(1)) | (slot & 1)


def walk_groups(kernel, form, table, starts, first, last):
    """`walk` for the loops of `stored_loops.py`, which decode and encode state.

    Blocks begin where an array does, so that each group of elements is in one; those that begin among the elements
    `first` to `last` are worked on.
    """
    slots, home = peek(form + 8 * SLOTS), stack_block()
    numbers = stack_bytes(8 * (1 + slots))
    array = np.searchsorted(starts, first, side="right") - 1
    while first < last:
        begin, end = starts[array], min(last, starts[array + 1])
        size, scalars, parameter = starts[array + 1] - begin, table[array, -1], table[array, 0]
        index = (first - begin + STORED - 1) // STORED * STORED
        stop = min(size, (end - begin + STORED - 1) // STORED * STORED)
        put(numbers, 0, size)
        for slot in range(slots):
            put(numbers, 1 + slot, slot_key(form, array, slot))
        row = row_address(table, array)
        if peek(form) == PLAIN and index < stop:
            call(kernel, row, scalars, parameter, numbers, form, index, stop)
            index = stop
        while index < stop:
            block = (index, min(index + STORED, stop), size)
            place = invoke(peek(form + 8 * OPEN), peek(form), home, parameter, 4, block)
            call(kernel, row, scalars, place, numbers, form, index, block[1])
            invoke(peek(form + 8 * CLOSE), peek(form), home, parameter, 4, block)
            index = block[1]
        first = end
        array += 1
    if peek(form) == NONTEMPORAL:
        fence()


def walk_stored(kernel, form, table, starts, first, last):
    """`walk_pieces` for a kernel of a rule whose state is stored in fewer bits.

    A block of each slot is decoded to the stack, which the kernel finds in a copy of the table's row. Blocks begin
    where an array does, so that each group of elements is in one; those that begin among the elements `first` to
    `last` are worked on.
    """
    slots, width = peek(form + 8 * SLOTS), table.shape[1]
    stride = 4 * (PIECE + STORED) + LINE  # not at one place modulo 4096 bytes
    stack = stack_bytes(slots * stride + 8 * width)
    copied = stack + slots * stride
    array = np.searchsorted(starts, first, side="right") - 1
    statistics = table[len(starts) - 1, 0]
    while first < last:
        begin, piece = starts[array], first // PIECE
        end = min(last, starts[array + 1], (piece + 1) * PIECE)
        size = starts[array + 1] - begin
        cells = statistics + 8 * FIELDS * (piece + array)
        index = (first - begin + STORED - 1) // STORED * STORED
        stop = min(size, (end - begin + STORED - 1) // STORED * STORED)
        for column in range(width):
            put(copied, column, table[array, column])
        for slot in range(slots):
            codes, place = table[array, 2 + slot], stack + slot * stride
            kind = peek(peek(form + 8 * KINDS) + 8 * slot)
            invoke(peek(form + 8 * DECODE), kind, codes, size, place, (index, stop, 0))
            put(copied, 2 + slot, place - 4 * index)
        call(kernel, copied, table[array, -1], table[array, 0], cells, form, index, stop)
        for slot in range(slots):
            codes, place = table[array, 2 + slot], stack + slot * stride
            kind = peek(peek(form + 8 * KINDS) + 8 * slot)
            if peek(form + 8 * ENCODE):
                block = index, stop, slot_key(form, array, slot)
                invoke(peek(form + 8 * ENCODE), kind, codes, size, place, block)
        first = end
        if end == starts[array + 1]:
            array += 1


def run(kernel, form, table, starts, first, last):
    """`walk` or what goes for it, as the form says."""
    if peek(form + 8 * SLOTS) and peek(form + 8 * IN_PIECES):
        walk_stored(kernel, form, table, starts, first, last)
    elif peek(form + 8 * SLOTS):
        walk_groups(kernel, form, table, starts, first, last)
    elif peek(form + 8 * IN_PIECES):
        walk_pieces(kernel, form, table, starts, first, last)
    else:
        walk(kernel, form, table, starts, first, last)


def serial(address, form, table, starts, threads):
    """Applies a rule to every element of every array.

    address : of the rule's compiled loop of `passes.py`: this function and `parallel` are compiled once for all rules
    form : how parameters are stored: an address that `stores.py` explains
    table : int64[arrays + 1, 8 + state slots], the addresses of parameter, gradient, state, averages, arrays of bounds
        and mask (0 where there are none) and the array's scalars: float64, those of the rule in the order of the
        formula, then those of the transforms. Of the last row the first element is the address of the statistics, if
        there are any. With `centralize` the means of gradients have a column more, before the scalars
    starts : int64[arrays + 1], the running sum of the array sizes
    threads : 1
    """
    run(address, form, table, starts, 0, starts[-1])


def parallel(address, form, table, starts, threads):
    """The same on several threads.

    The elements are cut into as many equal stretches as threads. A thread works through its own, the same at every
    step, so that it stays in its core's cache; then it helps with the others'. A core that BLAS's threads still hold,
    spinning, therefore delays a step by one piece and not by a whole stretch. Nor does a thread wait for the CPU of the
    one that called while there is another: see `cpus.py`.
    """
    total = starts[-1]
    pieces = (total + PIECE - 1) // PIECE
    taken = np.zeros((threads + 1) * APART, dtype=np.int64)
    here = threads * APART  # where it is counted how many others have come
    scheduler = peek(form + 8 * SCHEDULER)
    caller, cpu = own_thread(scheduler), own_cpu(scheduler)
    for thread in prange(threads):
        is_caller, done = own_thread(scheduler) == caller, 0
        if not is_caller:
            fetch_add(taken, here)
            if own_cpu(scheduler) == cpu:
                leave(scheduler, cpu)
        for turn in range(threads):
            owner = (thread + turn) % threads
            begin, end = pieces * owner // threads, pieces * (owner + 1) // threads
            piece = begin + fetch_add(taken, owner * APART)
            while piece < end:
                run(address, form, table, starts, piece * PIECE, min(piece * PIECE + PIECE, total))
                done += 1
                if is_caller and done == ALONE and taken[here] < threads - 1:
                    give_way(scheduler)
                piece = begin + fetch_add(taken, owner * APART)
