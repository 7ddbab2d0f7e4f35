"""Arrays of other libraries that lie in this process's memory: seen as NumPy arrays, without a copy."""

from __future__ import annotations

import array
import ctypes
from typing import Any

import numpy as np

CPU, PINNED = 1, 3
"""Kinds of devices whose memory the processor reads: kDLCPU and kDLCUDAHost of DLPack."""

BUFFERS = (array.array, memoryview, ctypes.Array)


def is_array(value: Any) -> bool:
    """Whether a value is an array of another library: of PyTorch, JAX, Arrow, CuPy, or one with a buffer."""
    return isinstance(value, BUFFERS) or (
        hasattr(type(value), "__dlpack_device__") and not isinstance(value, np.ndarray | np.generic)
    )


def shared(value: Any) -> Any:
    """The same memory as a NumPy array; the value itself where it is no array, or its memory cannot be read."""
    if type(value) is np.ndarray or not is_array(value):
        return value
    try:
        if isinstance(value, BUFFERS):
            return np.asarray(memoryview(value))
        if int(value.__dlpack_device__()[0]) not in (CPU, PINNED):
            return value
        return np.from_dlpack(value.detach() if getattr(value, "requires_grad", False) else value)
    except (BufferError, RuntimeError, TypeError, ValueError):
        return value


def not_shared(name: str, value: Any) -> str:
    """An error text: where an array lies, or why it cannot be read."""
    library = type(value).__module__.partition(".")[0]
    try:
        device = int(value.__dlpack_device__()[0])
    except Exception:
        device = None
    if device in (CPU, PINNED):
        dtype = getattr(value, "dtype", "unknown")
        return f"has the dtype {dtype}, which NumPy has not; convert it: float32 or float64"
    to_cpu = {"torch": ".cpu()", "cupy": ".get()"}.get(library)
    cure = f"{name}{to_cpu}" if to_cpu else f"np.asarray({name})"
    where = getattr(value, "device", "another device")
    return (
        f"lies on {where}, and steps are made in the memory of the CPU; keep the parameters there, and hand in {cure}"
    )
