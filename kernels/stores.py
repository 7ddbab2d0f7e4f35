"""How new parameters get to memory, which in a training loop is what a step of the optimizer waits for.

BLAS's other threads have read the parameters since the last step, so the cache lines lie in other cores too. A store to
such a line must take it away from them first, and x86 commits stores in their order: where parameter and state are
stored in turn, those to the state queue up behind the few of the parameter that fit into the store buffer. To read what
another core has read or written costs little, as it is prefetched. Four forms of a step, all with the same bits:

- `PLAIN` stores what it computes as it comes: right where nothing is shared.
- `PREFETCH` asks for the parameter's lines, to write them, a block ahead.
- `BURST` copies a block of the parameter into the first cache, works on it there, and copies it back in one run, so that
  many lines are on their way at once.
- `NONTEMPORAL` does the same, but writes past the caches: whole lines then need not be fetched at all. The next to read
  them finds them in memory, or in the last cache.

Which is fastest depends on processor, machine and loop; `fastopt.tuning` finds out.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

PLAIN, PREFETCH, BURST, NONTEMPORAL = range(4)
FORMS = ("plain", "prefetch", "burst", "nontemporal")
"""Their names, by number."""

LINE = 64  # bytes of a cache line
# Lines that are asked for at once: as many as a core has on their way. More would wait, and the loop behind them.
PREFETCHED = 16 * LINE
# The block that is worked on in the first cache. 1 kB means more runs of the loop, 16 kB pushes state out of it.
BLOCK = 64 * LINE

# What the kernels get of a form: the address of int64 numbers.
FORM, OPEN, CLOSE = range(3)  # its number, and the addresses of `open_block` and `close_block`, compiled
FIELDS = 3

_INT64, _BYTE = ir.IntType(64), ir.IntType(8)


def open_block(form, stack, parameter, size, index, last):  # type: ignore[no-untyped-def]
    """Begins a block at element `index`, and returns the element at which it ends: with a line, or at `last`.

    stack : what `stack_block` returned; the first number there will be where element 0 of the parameter would lie, were
        it all where the step is to work on the block
    parameter : the address of element 0, `size` the bytes of an element
    """
    begin, behind = parameter + index * size, parameter + last * size
    end = min(behind, (begin + (PREFETCHED if form == PREFETCH else BLOCK)) // LINE * LINE)
    if form == PREFETCH:
        prefetch(end, min(behind, end + PREFETCHED))
        place = begin
    else:
        place = stack + LINE + begin % LINE  # so that lines there are lines here
        copy(begin, place, place + end - begin)
    poke(stack, place - index * size)
    return (end - parameter) // size


def close_block(form, stack, parameter, size, index, end):  # type: ignore[no-untyped-def]
    """Copies a block back to where it came from, and returns its end."""
    begin, behind = parameter + index * size, parameter + end * size
    place = stack + LINE + begin % LINE
    if form == BURST:
        copy(place, begin, behind)
    elif form == NONTEMPORAL:
        copy_past_caches(place, begin, behind)
    return end


@intrinsic
def stack_block(typingctx: Any) -> Any:
    """The address of a line and a block on the stack, for as long as the function that asks for it runs."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        with builder.goto_entry_block():  # `cgutils.alloca_once` would fill it with zeros
            block = builder.alloca(ir.ArrayType(_BYTE, LINE + BLOCK))
        block.align = LINE
        return builder.ptrtoint(block, _INT64)

    return types.int64(), codegen


@intrinsic
def invoke(typingctx: Any, address: Any, form: Any, stack: Any, parameter: Any, size: Any, index: Any, end: Any) -> Any:
    """Calls the compiled `open_block` or `close_block` at an address."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        address, *arguments = args
        kind = ir.FunctionType(_INT64, [_INT64] * len(arguments))
        return builder.call(builder.inttoptr(address, kind.as_pointer()), arguments)

    return types.int64(*[types.int64] * 7), codegen


@intrinsic
def poke(typingctx: Any, address: Any, value: Any) -> Any:
    """Writes an int64 to an address."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        builder.store(args[1], builder.inttoptr(args[0], _INT64.as_pointer()))
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), codegen


def _each(builder: Any, begin: Any, end: Any, step: int, body: Callable[[Any], None]) -> None:
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
        _each(builder, *args, LINE, lambda at: builder.call(ask, [builder.inttoptr(at, pointer), *how]))
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
        _each(builder, target, first, width, lambda at: move(at, word, width))
        _each(builder, first, last, LINE, lambda at: move(at, line, LINE))
        _each(builder, last, end, width, lambda at: move(at, word, width))
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

    Non-temporal stores wait in buffers of their own, in no order with others. Without a fence BLAS's threads, told by an
    ordinary store that there is work, may read parameters of the step before.
    """

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        builder.fence("seq_cst")
        return context.get_dummy_value()

    return types.void(), codegen
