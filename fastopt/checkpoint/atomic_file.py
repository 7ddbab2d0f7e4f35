"""Writing a file as a whole: whatever happens, its name stands for the old content or the new."""

from __future__ import annotations

import errno
import os
import secrets
import stat
from collections.abc import Callable
from contextlib import suppress
from typing import Any

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

SUFFIX = ".fastopt-tmp"

LONGEST_STEM = 100
"""The most bytes that a temporary file's name takes of that of the file; file systems know names of 255 or 143."""

FLAGS = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)

LOST = (errno.EIO, errno.ENOSPC, errno.EDQUOT)
"""Errors of syncing a folder that are raised; on some systems folders cannot be synced at all."""

KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFLNK: "a link in a circle",
}


def write(owner: str, path: str | os.PathLike[str], fill: Callable[[int], None]) -> None:
    """Replaces a file, or makes it, with what `fill` writes to a descriptor.

    Where `path` is a symbolic link, what it leads to is replaced. The new content is written to a file of its own in
    the same folder, under a name that no other has, synced, given the old file's owner and mode, and renamed. Until
    then only the user who writes may read it where the old file's mode does not say otherwise. OSError names `path`.
    """
    target = os.path.realpath(path)
    old = _regular(owner, path, target)
    folder, name = os.path.split(target)
    stem = f".{os.fsencode(name)[:LONGEST_STEM].decode(errors='ignore')}."
    try:
        _remove_abandoned(folder, stem)
        while not _replace(target, os.path.join(folder, f"{stem}{secrets.token_hex(8)}{SUFFIX}"), fill, old):
            pass
        _sync(folder)
    except OSError as error:  # the temporary file's name would help nobody
        text = f"{owner} is not saved: {error.strerror or error}"
        if error.errno == errno.ENOENT and not os.path.isdir(folder):
            text = f"{owner} is not saved: there is no folder {folder!r}; make it first"
        raise OSError(error.errno, text, os.fspath(path)) from None


def write_all(descriptor: int, content: Any, place: int) -> None:
    """Writes all of a buffer to a place in a file."""
    os.lseek(descriptor, place, os.SEEK_SET)
    left = memoryview(content).cast("B")
    while left:
        left = left[os.write(descriptor, left) :]


def _regular(owner: str, path: Any, target: str) -> os.stat_result | None:
    """Return the status of a file, None if there is nothing; raises where it is anything but a file."""
    try:
        status = os.lstat(target)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise OSError(error.errno, f"{owner} is not saved: {error.strerror or error}", os.fspath(path)) from None
    if not stat.S_ISREG(status.st_mode):
        kind = KINDS.get(stat.S_IFMT(status.st_mode), "no file")
        code = errno.EISDIR if stat.S_ISDIR(status.st_mode) else errno.EINVAL
        text = f"{owner} is not saved: this is {kind}, expected a file or a new name; save to another path"
        raise OSError(code, text, os.fspath(path))
    return status


def _replace(target: str, temporary: str, fill: Callable[[int], None], old: os.stat_result | None) -> bool:
    """False if another save took the temporary file for an abandoned one, before it was locked."""
    mode = 0o666 if old is None else stat.S_IMODE(old.st_mode) & 0o700
    descriptor = -1
    try:
        try:
            descriptor = os.open(temporary, FLAGS, mode)
        except OSError:  # what lies there is not ours
            temporary = ""
            raise
        if fcntl is not None:
            with suppress(OSError):  # some file systems know no locks
                fcntl.flock(descriptor, fcntl.LOCK_EX)  # until it is closed: it is being written
        if not os.fstat(descriptor).st_nlink:
            return False
        fill(descriptor)
        if old is not None:
            _give(descriptor, temporary, old)
        os.fsync(descriptor)
        if os.name == "nt":  # which renames no open file
            descriptor, closing = -1, descriptor
            os.close(closing)
        os.replace(temporary, target)
        temporary = ""
        return True
    finally:
        if temporary:
            with suppress(OSError):
                os.unlink(temporary)
        if descriptor >= 0:
            os.close(descriptor)


def _give(descriptor: int, temporary: str, old: os.stat_result) -> None:
    """Gives the new file the mode of the old one, and its owner and group; where that cannot be, less of the mode."""
    mode = stat.S_IMODE(old.st_mode)
    if os.name == "posix":
        new = os.fstat(descriptor)
        if new.st_uid != old.st_uid:
            with suppress(OSError):
                os.fchown(descriptor, old.st_uid, -1)
        if new.st_gid != old.st_gid:
            try:
                os.fchown(descriptor, -1, old.st_gid)
            except OSError:  # others are in our group
                mode &= ~0o070
    with suppress(OSError):  # some file systems have no modes
        os.chmod(temporary if os.name == "nt" else descriptor, mode)


def _remove_abandoned(folder: str, stem: str) -> None:
    """Removes what saves to the same name left behind that were killed: nobody holds the lock of such a file."""
    if fcntl is None:
        return
    try:
        names = [name for name in os.listdir(folder) if name.startswith(stem) and name.endswith(SUFFIX)]
    except OSError:  # the folder cannot be read; it may still be written to
        return
    for name in names:
        path = os.path.join(folder, name)
        with suppress(OSError):
            if stat.S_ISREG(os.lstat(path).st_mode):
                descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    os.unlink(path)
                finally:
                    os.close(descriptor)


def _sync(folder: str) -> None:
    """Makes sure that a new name is on the disk too."""
    if os.name != "posix":
        return
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:  # a folder that may be written to and not read
        return
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno in LOST:
            raise
    finally:
        os.close(descriptor)
