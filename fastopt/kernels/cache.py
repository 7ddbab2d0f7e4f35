"""The disk cache of compiled kernels: numba's place and contents, in files of ours that are checked before use.

numba loads whatever bytes a cache file holds, and machine code with one wrong bit ends the process. Here each kernel is
one file whose first bytes are a digest of the rest, of the file's name and of what the code was compiled for, so that a
file that is damaged, swapped with another or of another processor is a miss. Without numba's index there is no second
file that could be out of step, and processes that compile at once only replace a whole file by an equal one.
"""

from __future__ import annotations

import hashlib
import inspect
import marshal
import os
import pickle
import secrets
import sys
import types
import warnings
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from types import ModuleType
from typing import Any

import numba
from numba.core import config

from fastopt.kernels.flags import FLAGS

DIGEST = hashlib.sha256().digest_size


class CheckedFiles:
    """Takes the place of the `IndexDataCacheFile` in a cache of numba's."""

    def __init__(self, cache: Any) -> None:
        implementation = cache._impl
        self._folder = implementation.locator.get_cache_path()
        self._base = implementation.filename_base
        self._stamp = implementation.locator.get_source_stamp()
        self._ignored = False

    def load(self, key: Any) -> Any:
        """Return what was saved under a key, None where there is no good file."""
        if self._ignored:
            return None
        path = self._path(key)
        try:
            with open(path, "rb") as file:
                content = file.read()
        except OSError:
            return None
        data = memoryview(content)[DIGEST:]
        if content[:DIGEST] != self._digest(path, key, data):
            return None
        loaded = pickle.loads(data)
        _log("data loaded from", path)
        return loaded

    def save(self, key: Any, data: Any) -> None:
        path, dumped = self._path(key), numba.core.serialize.dumps(data)
        temporary = os.path.join(self._folder, f".fastopt-{secrets.token_hex(8)}.tmp")
        try:
            with open(temporary, "xb") as file:
                file.write(self._digest(path, key, dumped))
                file.write(dumped)
            os.replace(temporary, path)
        except BaseException:
            with suppress(OSError):
                os.unlink(temporary)
            raise
        _log("data saved to", path)

    def flush(self) -> None:
        """From now on nothing is loaded, so that all is written anew."""
        self._ignored = True

    def _path(self, key: Any) -> str:
        return os.path.join(self._folder, f"{self._base}.{hashlib.sha256(repr(key).encode()).hexdigest()[:16]}.nbc")

    def _digest(self, path: str, key: Any, data: Any) -> bytes:
        digest = hashlib.sha256(repr((os.path.basename(path), numba.__version__, self._stamp, key)).encode())
        digest.update(data)
        return digest.digest()


def enable(function: Any) -> None:
    """Lets a dispatcher or C function of numba's go through the disk cache; raises where that cannot be."""
    if UNREADABLE:
        raise UNREADABLE[0]
    function.enable_caching()
    function._cache._cache_file = CheckedFiles(function._cache)


def through_cache(make: Callable[[], Any], compile: Callable[[Any], Any]) -> Any:
    """Makes a function of numba's and compiles it, or loads it from the disk cache.

    A cache problem may cost time, never a step. What is damaged is written anew; where that fails too (no folder to
    write to, a full disk) the kernel is kept in memory only, which is said once.
    """
    problem: Exception | None = None
    for again in (False, True):
        try:
            dispatcher = make()
            enable(dispatcher)
            if again:
                dispatcher._cache.flush()
            compile(dispatcher)
            return dispatcher
        except numba.errors.NumbaError:
            raise  # of the formula, not of the cache
        except Exception as error:
            problem = error
    dispatcher = make()
    compile(dispatcher)
    _say_once(problem)
    return dispatcher


UNREADABLE: list[Exception] = []
"""Why the source of a module could be read in no way; then nothing tells old machine code from new."""


def content(module: ModuleType) -> bytes:
    """Return the source of a module, or its byte code where there is no source, as in a frozen program."""
    try:
        loader: Any = module.__loader__
        try:
            return bytes(loader.get_data(module.__file__))
        except (AttributeError, OSError, TypeError):
            return marshal.dumps(loader.get_code(module.__name__))
    except Exception as error:
        UNREADABLE[:] = [OSError(f"the source of {module.__name__} cannot be read: {error}")]
        return b""


def _log(what: str, path: str) -> None:
    if config.DEBUG_CACHE:
        print(f"[cache] {what} {path!r}")


_said = False


def _say_once(problem: Exception | None) -> None:
    global _said
    if problem is not None and not _said:
        _said = True
        warnings.warn(
            f"fastopt: numba's disk cache cannot be used ({problem}), so kernels are compiled in every process. "
            "Set NUMBA_CACHE_DIR to a folder with free space that can be written to.",
            RuntimeWarning,
            stacklevel=2,
        )


def _version() -> str:
    try:
        return version("fastopt")
    except PackageNotFoundError:  # as in a zip file of the package alone
        return "unknown"


def machinery_modules() -> list[types.ModuleType]:
    """Return `compile` and the modules of the package that it takes something from, directly or through others."""
    package, modules = __name__.rpartition(".")[0], {}
    pending = [sys.modules[f"{package}.compile"]]
    while pending:
        module = pending.pop()
        modules[module.__name__] = module
        values = list(vars(module).values())
        for value in [*values, *(item for table in values if isinstance(table, dict) for item in table.values())]:
            name = value.__name__ if isinstance(value, types.ModuleType) else getattr(value, "__module__", None)
            if isinstance(name, str) and name.startswith(f"{package}.") and name not in modules and name in sys.modules:
                pending.append(sys.modules[name])
    return [modules[name] for name in sorted(modules)]


@cache
def _machinery() -> str:
    """Everything that the machine code of every kernel depends on besides the formula."""
    files = [hashlib.sha256(content(module)).hexdigest() for module in machinery_modules()]
    # Settings of numba's that change the code but are not in the key of its cache (numba #10821).
    settings = [getattr(config, name, None) for name in ("OPT", "BOUNDSCHECK", "LOOP_VECTORIZE", "SLP_VECTORIZE")]
    return repr((_version(), FLAGS, files, settings))


def digest_of(*functions: Callable[..., Any], constants: tuple[Any, ...] = ()) -> str:
    """Return the digest of everything that the machine code of functions depends on."""
    parts = _machinery(), *map(_fingerprint, functions), repr(constants)
    return hashlib.sha256("".join(parts).encode()).hexdigest()[:16]


def _fingerprint(function: Callable[..., Any]) -> str:
    """Everything that a Python function's compiled form depends on: its code, and what its global names mean."""
    closure = inspect.getclosurevars(function)
    names = {**closure.nonlocals, **closure.globals}
    return repr((_code(function.__code__), [(name, _meaning(names[name])) for name in sorted(names)]))


def _code(code: types.CodeType) -> tuple[Any, ...]:
    constants = [_code(value) if isinstance(value, types.CodeType) else value for value in code.co_consts]
    return code.co_code, constants, code.co_names, code.co_varnames


def _meaning(value: Any) -> str:
    value = getattr(value, "py_func", value)  # of a compiled function
    if isinstance(value, types.FunctionType):
        return _fingerprint(value)
    return value.__name__ if isinstance(value, types.ModuleType) else repr(value)
