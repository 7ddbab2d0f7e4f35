"""How new parameters get to memory, which in a training loop is what a step of the optimizer waits for.

BLAS's other threads have read the parameters since the last step, so the cache lines lie in other cores too. A store to
such a line must take it away from them first, and x86 commits stores in their order: where parameter and state are
stored in turn, those to the state queue up behind the few of the parameter that fit into the store buffer. To read what
another core has read or written costs little, as it is prefetched. Five forms of a step, all with the same bits:

- `PLAIN` stores what it computes as it comes: right where nothing is shared.
- `PREFETCH` asks for the parameter's lines, to write them, a block ahead.
- `BURST` copies a block of the parameter into the first cache, works on it there, and copies it back in one run, so
  that many lines are on their way at once.
- `NONTEMPORAL` does the same, but writes past the caches: whole lines then need not be fetched at all. The next to read
  them finds them in memory, or in the last cache.
- `AHEAD` stores as `PLAIN` and asks for the lines of all arrays a page ahead, to read them: for models that wait for
  memory; see `passes.py`.

Which is fastest depends on processor, machine and loop; `fastopt.tuning` finds out.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from fastopt.kernels.intrinsics import LINE

PLAIN, PREFETCH, BURST, NONTEMPORAL, AHEAD = range(5)
FORMS = ("plain", "prefetch", "burst", "nontemporal", "ahead")
"""Their names, by number."""

# The bytes of a block. Of PREFETCH as many lines as a core has on their way: more would wait, and the loop behind them.
# Of the others 4 kB: with 1 kB the loop begins too often, 16 kB push state out of the first cache.
WHOLE = 1 << 60
LENGTHS = {PLAIN: WHOLE, AHEAD: WHOLE, PREFETCH: 16 * LINE, BURST: 64 * LINE, NONTEMPORAL: 64 * LINE}
LONGEST = 8192  # where a kernel has its reasons for other blocks

# What the kernels get of a form: the address of int64 numbers.
FORM, LENGTH, OPEN, CLOSE = range(4)  # its number, the bytes of a block, `open_block` and `close_block`, compiled
SHIFT = 4  # the bytes of an element, as a power of two
IN_PIECES = 5  # whether the kernel is one for `loops.walk_pieces`
SLOTS = 6  # how many slots are stored in fewer bits, 0 where none are; for those of a `loops.walk_stored`:
DECODE, ENCODE, KINDS = 7, 8, 9  # functions and forms of `storage.py`, the latter at an address
NAMES, STEP = 10, 13  # addresses: of a hash for each array and slot, and of that of the step; see `codecs.slot_key`
STRIP = 11  # the elements of a strip of AHEAD, which else is PLAIN; see `loops.step_loop`
LANES = 14  # how many elements the rule takes at a time, which a block does not divide
SCHEDULER = 15  # `cpus.scheduler`
FIELDS = 16

_INT64, _BYTE = ir.IntType(64), ir.IntType(8)


def open_block(form, stack, parameter, size, index, end, last):
    """Begins a block; returns where element 0 of the parameter would lie, were it all where the step is to work on it.

    stack : what `stack_block` returned
    parameter : the address of element 0, `size` the bytes of an element
    index, end, last : the first element of the block, the one behind it, and the one behind the last block
    """
    begin, behind = parameter + index * size, parameter + end * size
    if form == PREFETCH:
        prefetch(behind, min(behind + behind - begin, parameter + last * size))
        return parameter
    place = stack + begin % LINE  # so that lines there are lines here
    copy(begin, place, place + behind - begin)
    return place - index * size


def close_block(form, stack, parameter, size, index, end, last):
    """Copies a block back to where it came from, and returns its home."""
    begin, behind = parameter + index * size, parameter + end * size
    if form == BURST:
        copy(stack + begin % LINE, begin, behind)
    elif form == NONTEMPORAL:
        copy_past_caches(stack + begin % LINE, begin, behind)
    return parameter


@intrinsic
def stack_block(typingctx: Any) -> Any:
    """The address of memory for a block on the stack, for as long as the function that asks for it runs."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        with builder.goto_entry_block():  # `cgutils.alloca_once` would fill it with zeros
            block = builder.alloca(ir.ArrayType(_BYTE, LINE + LONGEST))
        block.align = LINE
        return builder.ptrtoint(block, _INT64)

    return types.int64(), codegen


@intrinsic
def stack_bytes(typingctx: Any, size: Any) -> Any:
    """The address of so many bytes on the stack, as `stack_block`; not to be asked for in a loop."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        block = builder.alloca(_BYTE, size=args[0])
        block.align = LINE
        return builder.ptrtoint(block, _INT64)

    return types.int64(types.int64), codegen


@intrinsic
def invoke(typingctx: Any, address: Any, form: Any, stack: Any, parameter: Any, size: Any, block: Any) -> Any:
    """Calls the compiled `open_block` or `close_block` at an address; `block` is index, end and last.

    `storage.decode` and `storage.encode` take as many numbers.
    """

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        address, *arguments, block = args
        arguments += cgutils.unpack_tuple(builder, block)
        kind = ir.FunctionType(_INT64, [_INT64] * len(arguments))
        return builder.call(builder.inttoptr(address, kind.as_pointer()), arguments)

    return types.int64(*[types.int64] * 5, block), codegen


def _for_each_vector(builder: Any, begin: Any, end: Any, step: int, body: Callable[[Any], None]) -> None:
    with cgutils.for_range_slice(builder, begin, end, ir.Constant(_INT64, step), _INT64) as (at, _):
        body(at)


@intrinsic
def prefetch(typingctx: Any, begin: Any, end: Any) -> Any:
    """Asks for the lines from one address to another, to write them."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        pointer, flag = _BYTE.as_pointer(), ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [pointer, flag, flag, flag])
        ask = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
        how = [ir.Constant(flag, value) for value in (1, 3, 1)]  # to write it, to keep it, data
        begin, end = args
        _for_each_vector(builder, begin, end, LINE, lambda at: builder.call(ask, [builder.inttoptr(at, pointer), *how]))
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), codegen


def _copying(past_caches: bool) -> Any:
    """Type and code of `copy` and `copy_past_caches`."""
    word, line, width = ir.IntType(32), ir.VectorType(ir.IntType(32), LINE // 4), 4

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        source, target, end = args
        offset = builder.sub(source, target)

        def move(at: Any, kind: Any, align: int) -> None:
            value = builder.load(builder.inttoptr(builder.add(at, offset), kind.as_pointer()), align=width)
            stored = builder.store(value, builder.inttoptr(at, kind.as_pointer()), align=align)
            if past_caches and kind is line:
                stored.set_metadata("nontemporal", builder.module.add_metadata([ir.Constant(word, 1)]))

        mask = ir.Constant(_INT64, -LINE)
        up = builder.and_(builder.add(target, ir.Constant(_INT64, LINE - 1)), mask)
        first = builder.select(builder.icmp_signed("<", up, end), up, end)
        down = builder.and_(end, mask)
        last = builder.select(builder.icmp_signed(">", down, first), down, first)
        _for_each_vector(builder, target, first, width, lambda at: move(at, word, width))
        _for_each_vector(builder, first, last, LINE, lambda at: move(at, line, LINE))
        _for_each_vector(builder, last, end, width, lambda at: move(at, word, width))
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64), codegen


@intrinsic
def copy(typingctx: Any, source: Any, target: Any, end: Any) -> Any:
    """Copies memory from one address to another one, up to `end` there: whole lines, and words around them."""
    return _copying(past_caches=False)


@intrinsic
def copy_past_caches(typingctx: Any, source: Any, target: Any, end: Any) -> Any:
    """`copy`, with whole lines by non-temporal stores: there must be a `fence` behind the last of them."""
    return _copying(past_caches=True)


@intrinsic
def fence(typingctx: Any) -> Any:
    """Lets no later access of this thread come before an earlier one.

    Non-temporal stores wait in buffers of their own, in no order with others. Without a fence BLAS's threads, told by
    an ordinary store that there is work, may read parameters of the step before.
    """

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        builder.fence("seq_cst")
        return context.get_dummy_value()

    return types.void(), codegen
