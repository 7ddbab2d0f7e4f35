"""Files are written as a whole: after any failure, beside any other save, whatever lies in the place."""

import errno
import fcntl
import os
import signal
import socket
import stat
import subprocess
import sys
import threading

import numpy as np
import pytest
import safetensors

import fastopt
from fastopt import CheckpointError
from fastopt.checkpoint import atomic_file, file
from tests.checkpoint.test_state_dict import stepped

CALLS = {
    "open the temporary file": ("open", 0),
    "open the folder": ("open", 1),
    "lock": ("flock", 0),
    "stat": ("fstat", 0),
    "write": ("write", 0),
    "write the rest": ("write", 1),
    "owner": ("fchown", 0),
    "mode": ("chmod", 0),
    "fsync": ("fsync", 0),
    "rename": ("replace", 0),
    "close": ("close", 0),
    "fsync of the folder": ("fsync", 1),
    "list": ("listdir", 0),
    "look": ("lstat", -1),
}
HARMLESS = {"open the folder", "lock", "owner", "mode", "list"}
"""Calls that a save makes where it can."""


class Failing:
    """A function of the system that fails at one of its calls."""

    def __init__(self, name, number, error, after=False):
        self.module = fcntl if name == "flock" else os
        self.function, self.number, self.error, self.after, self.calls = (
            getattr(self.module, name),
            number,
            error,
            after,
            0,
        )

    def __call__(self, *arguments, **named):
        self.calls += 1
        if self.calls - 1 != self.number:
            return self.function(*arguments, **named)
        if self.after:
            self.function(*arguments, **named)
        raise self.error


def short_writes(monkeypatch):
    write = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: write(descriptor, data[:100]))


@pytest.fixture
def files_before():
    """How many files the process has open."""
    return len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else None


@pytest.mark.parametrize("new", [False, True], ids=["over an old file", "a new file"])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EINTR, None], ids=["ENOSPC", "EIO", "EINTR", "Ctrl-C"])
@pytest.mark.parametrize("call", CALLS)
def test_every_call_of_the_system_fails(call, code, new, tmp_path, monkeypatch, files_before):
    path, (name, number) = tmp_path / "state", CALLS[call]
    before = None
    if not new:
        stepped(W=3).save(path)
        before = path.read_bytes()
    optimizer = stepped(W=4)
    short_writes(monkeypatch)
    if name == "fchown":
        monkeypatch.setattr(atomic_file, "_regular", with_another_group)
    error = KeyboardInterrupt() if code is None else OSError(code, os.strerror(code), "somewhere")
    if call == "look":
        failing, number = Failing(name, 0, error), 0
        failing.number = next(n for n in range(99) if n == lstats(tmp_path, path))
    else:
        failing = Failing(name, number, error)
    with monkeypatch.context() as context:
        context.setattr(failing.module, name, failing)
        try:
            optimizer.save(path)
            raised = None
        except (OSError, KeyboardInterrupt) as caught:
            raised = caught
    unreached = failing.calls <= failing.number
    assert not unreached or (new and name in ("fchown", "chmod")), "the call was not made"
    if code is None:
        assert unreached or isinstance(raised, KeyboardInterrupt)
    elif call in HARMLESS or unreached:
        assert raised is None
    elif not (call == "fsync of the folder" and code == errno.EINTR):
        assert isinstance(raised, OSError) and raised.errno == code
        assert raised.filename == str(path) and "fastopt-tmp" not in str(raised) and "Adam" in str(raised)
    assert os.listdir(tmp_path) in ([], ["state"])
    after = path.read_bytes() if path.exists() else None
    if raised is None:
        assert not any(stepped(W=4).load(path))
    elif after != before:
        assert call in ("close", "fsync of the folder", "open the folder") and not any(stepped(W=4).load(path))
    optimizer.save(path)  # goes on
    assert not any(stepped(W=4).load(path)) and os.listdir(tmp_path) == ["state"]
    if files_before is not None and name not in ("close", "open"):
        assert len(os.listdir("/proc/self/fd")) == files_before


def lstats(folder, path):
    """The number of the `lstat` that looks at the file itself, after those of the folders above it."""
    seen, lstat = [], os.lstat
    with pytest.MonkeyPatch.context() as context:
        context.setattr(os, "lstat", lambda what, **named: (seen.append(os.fspath(what)), lstat(what, **named))[1])
        atomic_file._regular("Adam", path, os.path.realpath(path))
    return len(seen) - 1


def with_another_group(owner, path, target, regular=atomic_file._regular):
    found = regular(owner, path, target)
    return found and os.stat_result((*found[:5], found.st_gid + 1, *found[6:]))


def test_a_file_of_another_group_is_not_opened_to_ours(tmp_path, monkeypatch):
    path = tmp_path / "state"
    stepped(W=3).save(path)
    path.chmod(0o675)
    monkeypatch.setattr(atomic_file, "_regular", with_another_group)
    monkeypatch.setattr(os, "fchown", Failing("fchown", 0, PermissionError(errno.EPERM, "not permitted")))
    stepped(W=3).save(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o605


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root gives files away")
def test_owner_and_group_of_a_file_stay(tmp_path):
    path = tmp_path / "state"
    stepped(W=3).save(path)
    os.chown(path, 1234, 5678)
    stepped(W=3).save(path)
    assert (path.stat().st_uid, path.stat().st_gid) == (1234, 5678)


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o644, 0o400, 0o666, 0o777, 0o707])
def test_the_mode_of_a_file_stays_and_the_temporary_one_is_never_more_open(mode, tmp_path, monkeypatch):
    path, modes, write, fsync = tmp_path / "state", [], os.write, os.fsync
    path.write_bytes(b"")
    path.chmod(mode)

    def note(function, descriptor, *rest):
        if stat.S_ISREG(os.fstat(descriptor).st_mode):
            modes.append(stat.S_IMODE(os.fstat(descriptor).st_mode))
        return function(descriptor, *rest)

    monkeypatch.setattr(os, "write", lambda *arguments: note(write, *arguments))
    monkeypatch.setattr(os, "fsync", lambda *arguments: note(fsync, *arguments))
    stepped(W=3).save(path)
    assert modes[0] == mode & 0o700 and not any(found & ~mode for found in modes)
    assert stat.S_IMODE(path.stat().st_mode) == mode


def test_a_new_file_has_the_mode_that_open_gives(tmp_path):
    (tmp_path / "other").open("w").close()
    stepped(W=3).save(tmp_path / "state")
    assert (tmp_path / "state").stat().st_mode == (tmp_path / "other").stat().st_mode


def folder(path):
    path.mkdir()


def unix_socket(path):
    with socket.socket(socket.AF_UNIX) as server:
        os.chdir(path.parent)  # names of sockets are short
        server.bind(path.name)


def circle(path):
    path.symlink_to(path)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (folder, "a folder"),
        (os.mkfifo, "a FIFO"),
        (unix_socket, "a socket"),
        (circle, "a link in a circle"),
        (None, "a device"),
    ],
)
def test_what_is_no_file_is_refused_and_stays(make, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "state" if make else "/dev/null"
    if make:
        make(path)
    (tmp_path / "link").symlink_to(path)
    before = os.lstat(path)
    for name in (path, tmp_path / "link"):
        with pytest.raises(
            OSError,
            match=rf"Adam is not saved: this is {words}, expected a file or a new name; save to another path: '{name}'",
        ):
            stepped(W=3).save(name)
    after = os.lstat(path)
    assert (before.st_ino, before.st_mode) == (after.st_ino, after.st_mode)
    assert set(os.listdir(tmp_path)) <= {"state", "link"}


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(
        FileNotFoundError,
        match=rf"Adam is not saved: there is no folder '{tmp_path}/nowhere'; make it first: '{tmp_path}/nowhere/state'",
    ):
        stepped(W=3).save(tmp_path / "nowhere" / "state")


@pytest.mark.parametrize("name", ["n" * 250, "ä" * 125, "n" * 255, "a b\nc", "\udc80bytes"])
def test_any_name(name, tmp_path):
    stepped(W=3).save(tmp_path / name)
    stepped(W=3).save(tmp_path / name)
    assert os.listdir(tmp_path) == [name] and not any(fastopt.Adam().load(tmp_path / name))


def test_a_name_that_is_too_long(tmp_path):
    with pytest.raises(OSError, match="Adam is not saved: File name too long"):
        stepped(W=3).save(tmp_path / ("n" * 256))


@pytest.mark.parametrize("trap", ["hard link", "symbolic link", "FIFO"])
def test_what_lies_under_the_temporary_name_is_not_followed(trap, tmp_path, monkeypatch):
    monkeypatch.setattr(atomic_file.secrets, "token_hex", lambda count: "guessed")
    victim, name = tmp_path / "victim", tmp_path / ".state.guessed.fastopt-tmp"
    victim.write_text("not ours")
    {
        "hard link": lambda: name.hardlink_to(victim),
        "symbolic link": lambda: name.symlink_to(victim),
        "FIFO": lambda: os.mkfifo(name),
    }[trap]()
    with name.open("rb") if trap == "hard link" else open(os.devnull) as held:
        if trap == "hard link":
            fcntl.flock(held, fcntl.LOCK_EX)  # else it would count as abandoned, and its name alone would go
        with pytest.raises(FileExistsError):
            stepped(W=3).save(tmp_path / "state")
    assert victim.read_text() == "not ours" and os.path.lexists(name) and not (tmp_path / "state").exists()


def test_a_symbolic_link_is_written_through_and_a_hard_link_keeps_the_old_content(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "folder" / "real")  # of which there is none yet
    stepped(W=3).save(tmp_path / "link")
    (tmp_path / "hard").hardlink_to(tmp_path / "folder" / "real")
    before = (tmp_path / "hard").read_bytes()
    stepped(W=4).save(tmp_path / "link")
    assert (tmp_path / "link").is_symlink() and not any(stepped(W=4).load(tmp_path / "folder" / "real"))
    assert (tmp_path / "hard").read_bytes() == before


def test_threads_that_save_to_one_path(tmp_path):
    path, errors, end = tmp_path / "state", [], threading.Event()

    def run(function):
        try:
            while not end.is_set():
                function()
        except Exception as error:
            errors.append(error)

    stepped(W=3000).save(path)
    savers = [stepped(W=3000) for _ in range(3)]
    threads = [threading.Thread(target=run, args=[lambda saver=saver: saver.save(path)]) for saver in savers]
    loader = fastopt.Adam()
    threads.append(threading.Thread(target=run, args=[lambda: loader.load(path)]))
    for thread in threads:
        thread.start()
    end.wait(1.5)
    end.set()
    for thread in threads:
        thread.join()
    assert errors == [] and os.listdir(tmp_path) == ["state"] and loader.iter == 1


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="POSIX")
def test_a_signal_handler_that_saves_during_a_save(tmp_path):
    path, other, handled = tmp_path / "state", stepped(W=500), []
    optimizer = stepped(W=30_000)

    def handler(*_):
        other.save(path)
        handled.append(True)

    before = signal.signal(signal.SIGALRM, handler)
    try:
        for turn in range(150):
            signal.setitimer(signal.ITIMER_REAL, 1e-5 + turn % 50 * 4e-5)
            optimizer.save(path)
            signal.setitimer(signal.ITIMER_REAL, 0)
            assert not any(fastopt.Adam().load(path)) and os.listdir(tmp_path) == ["state"]
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert handled


@pytest.mark.parametrize("call", ["open", "flock", "write", "fchmod", "fsync", "replace"])
def test_a_save_within_a_save_at_each_of_its_calls(call, tmp_path, monkeypatch):
    """Acts as the handler of a signal that comes there."""
    path, other, within = tmp_path / "state", stepped(W=5), []
    module = fcntl if call == "flock" else os
    function = getattr(module, "chmod" if call == "fchmod" else call)

    def nested(*arguments, **named):
        if not within:
            within.append(True)
            other.save(path)
        made = function(*arguments, **named)
        if len(within) == 1:
            within.append(True)
            other.save(path)
        return made

    stepped(W=5).save(path)
    monkeypatch.setattr(module, "chmod" if call == "fchmod" else call, nested)
    stepped(W=5).save(path)
    assert len(within) == 2 and os.listdir(tmp_path) == ["state"] and not any(fastopt.Adam().load(path))


KILLED = """
import os, sys, fastopt, signal, numpy as np
fsync = os.fsync
os.fsync = lambda descriptor: os.kill(os.getpid(), signal.SIGKILL)
fastopt.Adam().save(sys.argv[1])
"""


def test_what_killed_saves_left_is_removed_by_the_next(tmp_path):
    other = tmp_path / ".other.0123.fastopt-tmp"
    other.write_text("of another file")
    for _ in range(2):
        subprocess.run([sys.executable, "-c", KILLED, str(tmp_path / "state")], check=False)
        assert len(os.listdir(tmp_path)) == 2
    stepped(W=3).save(tmp_path / "state")
    assert sorted(os.listdir(tmp_path)) == [other.name, "state"]


def test_a_header_that_could_not_be_read_again_is_not_written(tmp_path, monkeypatch):
    optimizer, path = stepped(W=3), tmp_path / "state"
    optimizer.save(path)
    before = path.read_bytes()
    length = int.from_bytes(before[:8], "little")
    monkeypatch.setattr(file, "LONGEST_HEADER", length)
    optimizer.save(path)
    before = path.read_bytes()  # whose metadata may stand in another order
    monkeypatch.setattr(file, "LONGEST_HEADER", length - 1)
    with pytest.raises(
        CheckpointError,
        match=r"names of its arrays are too long for a file, whose header may have .* make the keys shorter",
    ):
        optimizer.save(path)
    assert path.read_bytes() == before and os.listdir(tmp_path) == ["state"]


def test_that_is_the_limit_of_safetensors():
    def refused(length):
        with pytest.raises(safetensors.SafetensorError) as caught:
            safetensors.deserialize(length.to_bytes(8, "little") + b"{}")
        return str(caught.value).lower().replace(" ", "")

    most = file.LONGEST_HEADER
    assert "toolarge" in refused(most + 1) and "toolarge" not in refused(most)


def test_the_new_file_holds_what_was_saved(tmp_path, monkeypatch):
    """Also where the system takes a few bytes at a time."""
    short_writes(monkeypatch)
    optimizer = stepped(W=100)
    optimizer.save(tmp_path / "state")
    new = fastopt.Adam()
    new.load(tmp_path / "state")
    np.testing.assert_array_equal(new.m["W"], optimizer.m["W"])
