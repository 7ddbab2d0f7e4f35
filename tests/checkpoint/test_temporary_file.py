"""The file that a save writes before it has its name: its lock, its owner and mode, and what is left of others."""

import errno
import fcntl
import os
import stat

import pytest

from fastopt.checkpoint import atomic_file
from tests.checkpoint.test_atomic_file import Failing
from tests.checkpoint.test_state_dict import stepped


@pytest.mark.parametrize(
    ("code", "folder", "words"),
    [
        (errno.ENOENT, "nowhere", "there is no folder '.*nowhere'; make it first"),
        (errno.ENOENT, ".", os.strerror(errno.ENOENT)),
        (errno.EPERM, "nowhere", os.strerror(errno.EPERM)),
        (errno.EROFS, "nowhere", os.strerror(errno.EROFS)),
        (None, ".", "a word of its own"),
    ],
)
def test_a_file_that_cannot_be_opened(code, folder, words, tmp_path, monkeypatch):
    path = tmp_path / folder / "state"
    error = OSError("a word of its own") if code is None else OSError(code, os.strerror(code))
    monkeypatch.setattr(os, "open", Failing("open", 0, error))
    with pytest.raises(OSError, match=f"Adam is not saved: {words}: '{path}'") as caught:
        stepped(W=3).save(path)
    assert caught.value.errno == code


def test_what_is_no_file_has_the_error_of_its_kind(tmp_path):
    with pytest.raises(IsADirectoryError):
        stepped(W=3).save(tmp_path)
    with pytest.raises(OSError, match="a device") as caught:
        stepped(W=3).save(os.devnull)
    assert caught.value.errno == errno.EINVAL


@pytest.mark.parametrize("name", ["nt", "posix"])
def test_a_file_is_locked_until_it_has_its_name_but_on_windows(name, tmp_path, monkeypatch):
    """Windows renames no open file; elsewhere a save beside this one would take it for abandoned."""
    closed, replace, close, opened, open_file = [], os.replace, os.close, [], os.open

    def opening(path, *arguments, **named):
        opened.append(open_file(path, *arguments, **named))
        return opened[-1]

    def renaming(temporary, target):
        with open(temporary) as file:
            if name == "nt":
                assert closed == opened
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            else:
                with pytest.raises(BlockingIOError):
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        replace(temporary, target)

    with monkeypatch.context() as context:
        context.setattr(os, "name", name)
        context.setattr(os, "open", opening)
        context.setattr(
            os, "close", lambda descriptor: (closed.append(descriptor), descriptor in opened and close(descriptor))
        )
        context.setattr(os, "replace", renaming)
        atomic_file.write("Adam", str(tmp_path / "state"), lambda descriptor: None)
    assert closed == opened and len(opened) == (1 if name == "nt" else 2)


def test_a_file_that_another_save_removed_before_it_was_locked_is_made_again(tmp_path, monkeypatch):
    flock, removed = fcntl.flock, []

    def late(descriptor, operation):
        if not removed:
            removed.extend(tmp_path.iterdir())
            removed[0].unlink()
        flock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", late)
    stepped(W=3).save(tmp_path / "state")
    assert len(removed) == 1 and os.listdir(tmp_path) == ["state"]


def test_only_what_saves_of_this_name_left_is_removed(tmp_path):
    others = [".state.fastopt", ".other.12.fastopt-tmp", "state.12.fastopt-tmp", ".states.12.fastopt-tmp"]
    for name in [*others, ".state.12.fastopt-tmp"]:
        (tmp_path / name).write_bytes(b"")
    stepped(W=3).save(tmp_path / "state")
    assert sorted(os.listdir(tmp_path)) == sorted([*others, "state"])


@pytest.mark.parametrize("there", [{}, {"st_uid": 7}, {"st_gid": 7}, {"st_uid": 100_000, "st_gid": 100_000}])
def test_owner_and_group_are_given_where_they_differ(there, tmp_path, monkeypatch):
    path, given, mine = tmp_path / "state", [], (os.geteuid(), os.getegid())
    stepped(W=3).save(path)
    path.chmod(0o675)
    with monkeypatch.context() as context:
        context.setattr(os, "fchown", lambda descriptor, *owner: given.append(owner))
        old = {4: there.get("st_uid", mine[0]), 5: there.get("st_gid", mine[1])}
        status = os.stat_result([old.get(place, value) for place, value in enumerate(path.stat())])
        context.setattr(atomic_file, "_regular", lambda *arguments: status)
        stepped(W=4).save(path)
    expected = [(old[4], -1)] * ("st_uid" in there) + [(-1, old[5])] * ("st_gid" in there)
    assert given == expected and stat.S_IMODE(path.stat().st_mode) == 0o675
