"""A compiled check of a list of NumPy arrays: are they those of a plan?

`scan` reads what a step must know of each array (its type, dtype, flags, shape, address) from the structs themselves.
Asking in Python costs 1 to 2 us an array, this 5 ns. Every field it reads belongs to a public binary interface:
PyListObject (CPython's listobject.h) and PyArrayObject_fields (NumPy's ndarraytypes.h), the fields behind the macros
that every compiled extension has built in. `layout_is_known` checks them once against what Python says.
"""

from __future__ import annotations

import ctypes
from functools import cache
from typing import Any

import numpy as np
from numba.core import config

from fastopt.kernels.intrinsics import peek

_HEADER = object.__basicsize__
# PyListObject: header, ob_size, ob_item
LIST_ITEMS = _HEADER + 8
# PyFloatObject: header, ob_fval. PyTupleObject: header, ob_size, in some versions ob_hash, items
VALUE = LENGTH_OF_TUPLE = _HEADER
TUPLE_ITEMS = tuple.__basicsize__
# PyArrayObject_fields: header, data, nd (a C int), dimensions, strides, base, descr, flags (a C int)
TYPE = _HEADER - 8
DATA, NDIM, DIMENSIONS, DESCR, ARRAY_FLAGS = (_HEADER + offset for offset in (0, 8, 16, 40, 48))
INT_MASK = 0xFFFFFFFF
# PyArray_Descr: header, typeobj, then the chars kind, type, byteorder and flags and the int type_num in one word.
# Dtypes are compared by that word without the flags, as the dtype of an unpickled array equals np.float32's but is
# another object.
DTYPE_WORD, DTYPE_MASK = _HEADER + 8, ~0xFF000000

C_ORDER, F_ORDER, ALIGNED, WRITEABLE = 0x1, 0x2, 0x100, 0x400  # NPY_ARRAY_*

# Columns of `leaves`, the table of what a plan expects of each array.
ROW = 0  # its row in the table of addresses, -1 where the gradient is to be None
PARAMETER = 1  # address of the parameter object, 0 where Python checks it
DTYPE = 2  # its dtype, as `dtype_word` gives it
ORDER = 3  # the flags that the gradient must have: contiguous in the order of the state, and aligned
DIMENSION = 4  # number of dimensions
SHAPE = 5  # where its shape starts in `shapes`
BYTES = 6  # its size
STAGED = 7  # where `one_call` copies a parameter that is a float to, and behind it its gradient; 0 for all others
HOLDER = 8  # of such a parameter the node that holds it
PLACE = 9  # and where: the address of its key in a dict, its index in a list
LEAF_FIELDS = 10

NDARRAY = id(np.ndarray)
NONE = id(None)


def scan(parameters, gradients, first, ndarray, none, leaves, shapes, written, table):
    """Checks a step's arrays against the plan and refreshes the gradients' addresses.

    parameters, gradients : addresses of two lists with an object per leaf
    first : the leaf to start at
    ndarray, none : addresses of `np.ndarray` and None; other ones in every process, so not constants
    leaves : int64[leaf, LEAF_FIELDS], what is expected
    shapes : int64[...], the shapes of all leaves, one after the other
    written : int64[2, n], starts and ends of the disjoint memory blocks that a step writes, ascending
    table : int64[row, 2 + state slots]; column 1 is written

    Returns the number of leaves if all is as planned; k < that if Python must check gradient k (another dtype,
    layout or shape, or memory that the step writes); -1 if the parameters are not those of the plan.
    """
    items = peek(parameters + LIST_ITEMS), peek(gradients + LIST_ITEMS)
    return scan_items(*items, first, ndarray, none, leaves, shapes, written, table)


def scan_items(parameters, gradients, first, ndarray, none, leaves, shapes, written, table):
    """`scan`, with two addresses at which those of the arrays stand, one behind the other."""
    for leaf in range(first, len(leaves)):
        row = leaves[leaf, ROW]
        gradient = peek(gradients + 8 * leaf)
        if row < 0:
            if gradient != none:
                return -1
            continue
        expected = leaves[leaf, PARAMETER]
        if expected != 0:
            parameter = peek(parameters + 8 * leaf)
            if parameter != expected or peek(parameter + DATA) != table[row, 0]:
                return -1
            if not matches(parameter, leaves, leaf, shapes, leaves[leaf, ORDER] | WRITEABLE):
                return -1
        if peek(gradient + TYPE) != ndarray:
            return leaf
        if not matches(gradient, leaves, leaf, shapes, leaves[leaf, ORDER]):
            return leaf
        address = peek(gradient + DATA)
        if address != table[row, 1]:
            block = np.searchsorted(written[1], address, side="right")
            if block < written.shape[1] and written[0, block] < address + leaves[leaf, BYTES]:
                return leaf
            table[row, 1] = address
    return len(leaves)


def matches(array, leaves, leaf, shapes, flags):
    """Whether an array has the expected dtype, shape and flags."""
    if peek(peek(array + DESCR) + DTYPE_WORD) & DTYPE_MASK != leaves[leaf, DTYPE]:
        return False
    if peek(array + ARRAY_FLAGS) & flags != flags:
        return False
    dimension = leaves[leaf, DIMENSION]
    if peek(array + NDIM) & INT_MASK != dimension:
        return False
    dimensions = peek(array + DIMENSIONS)
    shape = leaves[leaf, SHAPE]
    for axis in range(dimension):
        if peek(dimensions + 8 * axis) != shapes[shape + axis]:
            return False
    return True


def dtype_word(dtype: Any) -> int:
    """The word by which `scan` tells dtypes apart."""
    return _word(id(dtype) + DTYPE_WORD) & DTYPE_MASK


def address_of(array: Any) -> int:
    """Where an array's elements begin."""
    # `ctypes.data` takes a microsecond.
    return _word(id(array) + DATA) if layout_is_known() else int(array.ctypes.data)


def _word(address: int) -> int:
    return ctypes.c_int64.from_address(address).value


@cache
def layout_is_known() -> bool:
    """Whether objects of this Python and this NumPy lie in memory as `scan` and `one_call`, compiled, read them."""
    if config.DISABLE_JIT:
        return False
    probe = np.zeros((3, 5), dtype=np.float32)
    array, items, dtype = id(probe), [probe], np.dtype(np.float32)
    number, pair = 1.5, (probe, dtype)
    return (
        ctypes.c_double.from_address(id(number) + VALUE).value == number
        and [_word(id(pair) + offset) for offset in (LENGTH_OF_TUPLE, TUPLE_ITEMS, TUPLE_ITEMS + 8)]
        == [2, array, id(dtype)]
        and _word(_word(id(items) + LIST_ITEMS)) == array
        and _word(array + TYPE) == NDARRAY
        and _word(array + DATA) == probe.ctypes.data
        and _word(array + NDIM) & INT_MASK == 2
        and [_word(_word(array + DIMENSIONS) + 8 * axis) for axis in range(2)] == [3, 5]
        and _word(array + DESCR) == id(dtype)
        and _word(array + ARRAY_FLAGS) & (C_ORDER | F_ORDER | ALIGNED | WRITEABLE) == C_ORDER | ALIGNED | WRITEABLE
        and dtype_word(dtype) == int.from_bytes(b"ff=\0", "little") + (dtype.num << 32)
    )
