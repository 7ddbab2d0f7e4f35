"""Sums of squares in twice the precision of float64, vectorised by hand."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from fastopt.kernels.intrinsics import element_pointer

_INT64 = ir.IntType(64)

# `add_squares` adds up element k of a run in lane k % LANES of these vectors.
VECTOR, VECTORS = 8, 4
LANES = VECTOR * VECTORS

# Squares of larger numbers might together overflow where their sum does not.
LARGE = 2.0**500


@intrinsic
def add_squares(typingctx: Any, total: Any, compensation: Any, address: Any, first: Any, last: Any, dtype: Any) -> Any:
    """Adds the float64 squares of elements `first` to `last` of an array to a sum and what rounding took from it.

    The two together are exact to about 80 bits or more, so that the number nearest to the sum over a whole model is the
    same in whatever order it is added up. LLVM would not vectorise the loop, whose additions it must not reorder; so
    the lanes are written out. Each begins at the largest of the squares, so that what rounding takes from its sum t and
    a square s is s - ((t + s) - t) (Dekker: t >= s), and the first term is taken away again at the end. Knuth's sum,
    which takes any t and s, is twice as long.
    """
    pair = types.UniTuple(types.float64, 2)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        total, compensation, start, first, last, _ = args
        bits = dtype.dtype.bitwidth
        element, integer, double = context.get_value_type(dtype.dtype), ir.IntType(bits), ir.DoubleType()
        wide = ir.VectorType(double, VECTOR)
        exact = element != double  # a square of a float32 is a float64, so it need not be rounded before it is added
        fused_type = ir.FunctionType(wide, [wide] * 3)
        fused = cgutils.get_or_insert_function(builder.module, fused_type, f"llvm.fmuladd.v{VECTOR}f64")

        def read(place: Any, kind: Any) -> Any:
            pointer = builder.bitcast(element_pointer(builder, start, place, element), kind.as_pointer())
            return builder.load(pointer, align=bits // 8)

        def two_sum(value: Any, total: Any, compensation: Any) -> Any:
            new = builder.fadd(total, value)
            part = builder.fsub(new, total)
            lost = builder.fadd(builder.fsub(total, builder.fsub(new, part)), builder.fsub(value, part))
            return new, builder.fadd(compensation, lost)

        def lane_sum(value: Any, total: Any, compensation: Any) -> Any:
            if exact:
                new = builder.call(fused, [value, value, total])
                lost = builder.call(fused, [value, value, builder.fneg(builder.fsub(new, total))])
            else:
                value = builder.fmul(value, value)
                new = builder.fadd(total, value)
                lost = builder.fsub(value, builder.fsub(new, total))
            return new, builder.fadd(compensation, lost)

        def splat(value: Any, kind: Any) -> Any:
            single = builder.insert_element(ir.Constant(kind, ir.Undefined), value, ir.Constant(ir.IntType(32), 0))
            zeros = ir.Constant(ir.VectorType(ir.IntType(32), VECTOR), [0] * VECTOR)
            return builder.shuffle_vector(single, ir.Constant(kind, ir.Undefined), zeros)

        def places(index: Any) -> list[Any]:
            return [builder.add(index, ir.Constant(_INT64, number * VECTOR)) for number in range(VECTORS)]

        count = builder.sub(last, first)
        middle = builder.add(first, builder.sub(count, builder.srem(count, ir.Constant(_INT64, LANES))))
        step = ir.Constant(_INT64, LANES)

        # The largest magnitude: integers order the bits of magnitudes as their values, NaN last.
        magnitudes = ir.VectorType(integer, VECTOR)
        mask = ir.Constant(magnitudes, [2 ** (bits - 1) - 1] * VECTOR)
        peaks = [cgutils.alloca_once_value(builder, ir.Constant(magnitudes, None)) for _ in range(VECTORS)]
        with cgutils.for_range_slice(builder, first, middle, step, _INT64) as (index, _):
            for place, cell in zip(places(index), peaks, strict=True):
                value, before = builder.and_(read(place, magnitudes), mask), builder.load(cell)
                builder.store(builder.select(builder.icmp_unsigned(">", value, before), value, before), cell)
        peak = ir.Constant(integer, 0)
        for vector in map(builder.load, peaks):
            for lane in range(VECTOR):
                value = builder.extract_element(vector, ir.Constant(ir.IntType(32), lane))
                peak = builder.select(builder.icmp_unsigned(">", value, peak), value, peak)
        peak = builder.bitcast(peak, element)
        peak = builder.fpext(peak, double) if exact else peak
        usual = builder.fcmp_ordered("<", peak, ir.Constant(double, LARGE))
        base = builder.select(usual, builder.fmul(peak, peak), ir.Constant(double, 0.0))
        # Large numbers go to Knuth's sum; infinity and NaN, of which the sum is told anyhow, need not.
        finite = builder.fcmp_ordered("<", peak, ir.Constant(double, float("inf")))
        middle = builder.select(builder.or_(usual, builder.not_(finite)), middle, first)

        lanes = [
            [cgutils.alloca_once_value(builder, start) for start in (splat(base, wide), ir.Constant(wide, None))]
            for _ in range(VECTORS)
        ]
        tail = [cgutils.alloca_once_value(builder, value) for value in (total, compensation)]
        with cgutils.for_range_slice(builder, first, middle, step, _INT64) as (index, _):
            for place, cells in zip(places(index), lanes, strict=True):
                value = read(place, ir.VectorType(element, VECTOR))
                value = builder.fpext(value, wide) if exact else value
                for cell, new in zip(cells, lane_sum(value, *map(builder.load, cells)), strict=True):
                    builder.store(new, cell)
        with cgutils.for_range_slice(builder, middle, last, ir.Constant(_INT64, 1), _INT64) as (index, _):
            value = builder.load(element_pointer(builder, start, index, element), align=bits // 8)
            value = builder.fpext(value, double) if exact else value
            for cell, new in zip(tail, two_sum(builder.fmul(value, value), *map(builder.load, tail)), strict=True):
                builder.store(new, cell)

        vectors = [two_sum(splat(builder.fneg(base), wide), *map(builder.load, cells)) for cells in lanes]
        while len(vectors) > 1:
            (one, one_compensation), (other, other_compensation) = vectors.pop(0), vectors.pop(0)
            vectors.append(two_sum(other, one, builder.fadd(one_compensation, other_compensation)))
        total, compensation = map(builder.load, tail)
        for lane in range(VECTOR):
            at = ir.Constant(ir.IntType(32), lane)
            value, more = (builder.extract_element(vector, at) for vector in vectors[0])
            total, compensation = two_sum(value, total, compensation)
            compensation = builder.fadd(compensation, more)
        return context.make_tuple(builder, pair, (total, compensation))

    return pair(total, compensation, address, types.int64, types.int64, dtype), codegen
