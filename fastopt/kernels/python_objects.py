"""Functions of CPython's C interface, on addresses of objects, for compiled code that holds the GIL."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

_INT64, _POINTER, _INT = ir.IntType(64), ir.IntType(8).as_pointer(), ir.IntType(32)


def _of_c(name: str, result: ir.Type, *kinds: ir.Type) -> Any:
    """A function of CPython's C interface on addresses and whole numbers."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        given = [
            builder.inttoptr(value, kind) if kind == _POINTER else value
            for value, kind in zip(args, kinds, strict=True)
        ]
        function = cgutils.get_or_insert_function(builder.module, ir.FunctionType(result, kinds), name)
        returned = builder.call(function, given)
        if result == ir.VoidType():
            return context.get_dummy_value()
        return builder.ptrtoint(returned, _INT64) if result == _POINTER else builder.sext(returned, _INT64)

    return generate


@intrinsic
def next_item(typingctx: Any, mapping: Any, position: Any, key: Any, value: Any) -> Any:
    """0 at the end of a dict; otherwise writes its next key and value to two addresses."""
    return types.int64(*[types.int64] * 4), _of_c("PyDict_Next", _INT, _POINTER, _POINTER, _POINTER, _POINTER)


@intrinsic
def item_of(typingctx: Any, mapping: Any, key: Any) -> Any:
    """The value of a key of a dict, which holds it; 0 if it has none, or an error if comparing keys raised one."""
    return types.int64(*[types.int64] * 2), _of_c("PyDict_GetItemWithError", _POINTER, _POINTER, _POINTER)


@intrinsic
def new_list(typingctx: Any, size: Any) -> Any:
    """The address of a new list of nothing yet."""
    return types.int64(types.int64), _of_c("PyList_New", _POINTER, _INT64)


@intrinsic
def set_in_list(typingctx: Any, items: Any, index: Any, value: Any) -> Any:
    """Puts an object into a list, which then holds it; 0 if it is there."""
    return types.int64(*[types.int64] * 3), _of_c("PyList_SetItem", _INT, _POINTER, _INT64, _POINTER)


@intrinsic
def keep(typingctx: Any, value: Any) -> Any:
    """Holds an object."""
    return types.void(types.int64), _of_c("Py_IncRef", ir.VoidType(), _POINTER)


@intrinsic
def set_item(typingctx: Any, mapping: Any, key: Any, value: Any) -> Any:
    """Puts a value into a dict; 0 if it is there."""
    return types.int64(*[types.int64] * 3), _of_c("PyDict_SetItem", _INT, _POINTER, _POINTER, _POINTER)


@intrinsic
def compare_texts(typingctx: Any, one: Any, other: Any) -> Any:
    """0 if two strings are equal."""
    return types.int64(*[types.int64] * 2), _of_c("PyUnicode_Compare", _INT, _POINTER, _POINTER)


@intrinsic
def release(typingctx: Any, value: Any) -> Any:
    """Lets go of an object."""
    return types.void(types.int64), _of_c("Py_DecRef", ir.VoidType(), _POINTER)


@intrinsic
def let_others_run(typingctx: Any) -> Any:
    """Lets go of the GIL; returns what `wait_for_turn` takes."""
    return types.int64(), _of_c("PyEval_SaveThread", _POINTER)


@intrinsic
def wait_for_turn(typingctx: Any, thread: Any) -> Any:
    """Takes the GIL again."""
    return types.void(types.int64), _of_c("PyEval_RestoreThread", ir.VoidType(), _POINTER)


@intrinsic
def integer(typingctx: Any, value: Any) -> Any:
    """The address of a new Python int."""
    return types.int64(types.int64), _of_c("PyLong_FromSsize_t", _POINTER, _INT64)


@intrinsic
def new_float(typingctx: Any, address: Any) -> Any:
    """The address of a new Python float of the float64 at an address; 0 if there is no memory for it."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        number = builder.load(builder.inttoptr(args[0], ir.DoubleType().as_pointer()))
        kind = ir.FunctionType(_POINTER, [ir.DoubleType()])
        function = cgutils.get_or_insert_function(builder.module, kind, "PyFloat_FromDouble")
        return builder.ptrtoint(builder.call(function, [number]), _INT64)

    return types.int64(types.int64), codegen
