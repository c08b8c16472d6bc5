"""Locks that touch nothing of a user's, and partial files of a killed writer."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from r1.core.errors import STORAGE, UserError
from r1.core.files import is_locked, lock_folder, remove_partial, write_atomic


def test_lock_folder_truncates_nothing_and_excludes_a_second_lock(tmp_path: Path) -> None:
    (tmp_path / ".lock").write_text("mine")
    with lock_folder(tmp_path):
        assert is_locked(tmp_path)
        with pytest.raises(UserError, match="another process"):
            lock_folder(tmp_path)
    assert not is_locked(tmp_path)
    assert (tmp_path / ".lock").read_text() == "mine"


@pytest.mark.parametrize("kind", ["link", "dangling link", "FIFO", "folder"])
def test_lock_folder_where_the_lock_is_another_kind_of_file_raises(tmp_path: Path, kind: str) -> None:
    target, lock = tmp_path / "target", tmp_path / "run" / ".lock"
    lock.parent.mkdir()
    if kind == "link":
        target.write_text("precious")
    if "link" in kind:
        lock.symlink_to(target)
    elif kind == "FIFO":
        os.mkfifo(lock)
    else:
        lock.mkdir()
    with pytest.raises(UserError) as raised:
        lock_folder(lock.parent)
    assert raised.value.code == STORAGE
    assert not is_locked(lock.parent)
    assert target.exists() == (kind == "link")
    assert kind != "link" or target.read_text() == "precious"


def test_remove_partial_removes_own_names_only(tmp_path: Path) -> None:
    own = ["best.tmp.new", "best.tmp.old", "best.tmp.12"]
    others = ["notes.tmp.1", "best.tmp.txt", "my_best.tmp.1", "best.tmp.1x", "best"]
    for name in [*own, *others]:
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text("x")
    (tmp_path / "best.tmp.7").symlink_to(tmp_path / "notes.tmp.1")
    remove_partial(tmp_path, "best")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(others)
    assert all((tmp_path / name / "file").exists() for name in others)


def test_write_atomic_that_fails_leaves_the_old_file_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "manifest.json"
    file.write_text("old")

    def full(descriptor: int) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr("r1.core.files.os.fsync", full)
    with pytest.raises(OSError, match="no space"):
        write_atomic(file, "new")
    assert [path.name for path in tmp_path.iterdir()] == ["manifest.json"]
    assert file.read_text() == "old"
