"""Files that several processes may write at once, or that must survive a crash."""

from __future__ import annotations

import errno
import fcntl
import filecmp
import os
import re
import shutil
import stat
from contextlib import suppress
from pathlib import Path
from typing import TextIO

from r1.core.errors import LOCKED, STORAGE, UserError


def lock_folder(folder: Path, name: str = ".lock") -> TextIO:
    """Create a folder and lock it against other processes until the returned file is closed.

    The kernel drops the lock when the process dies, so a killed run leaves no stale lock.

    Args:
        name: the locked file. A sweep's worker and the run that it starts lock different files in one folder.

    Raises:
        UserError: the folder cannot be written, or another process has locked it.
    """
    key, value = "output_dir", str(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = open_lock(folder / name, os.O_RDWR | os.O_CREAT)
    except OSError as error:
        message = f"the run's folder cannot be written: {name if folder.is_dir() else folder}: {error.strerror}"
        raise UserError(message, key=key, value=value, code=STORAGE) from None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        lock.close()
        raise UserError("another process is writing this run", key=key, value=value, code=LOCKED) from None
    return lock


def is_locked(folder: Path) -> bool:
    """Whether another process is writing a folder."""
    try:
        with open_lock(folder / ".lock", os.O_RDONLY) as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # there is none, or it is no lock of r1's: `lock_folder` refuses it
        return False
    return False


def open_lock(file: Path, flags: int) -> TextIO:
    """Open a lock file as it is: nothing is truncated, and a symbolic link is not followed.

    Raises:
        OSError: it is a link, or not a regular file.
    """
    descriptor = os.open(file, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o666)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):  # e.g. a FIFO
        os.close(descriptor)
        raise OSError(errno.EINVAL, "not a regular file")
    return os.fdopen(descriptor)


def write_atomic(file: Path, text: str) -> None:
    """Write a file so that readers, and a crash at any time, find either the old text or the new one."""
    partial = file.with_name(f"{file.name}.tmp.{os.getpid()}")
    try:
        with partial.open("w", encoding="utf-8") as out:
            out.write(text)
            out.flush()
            os.fsync(out.fileno())  # before the rename, or a power cut could leave the new name with no content
        partial.replace(file)
    except OSError as error:
        if error.errno:
            error.filename = str(file)
        with suppress(OSError):
            partial.unlink()
        raise


def remove_partial(folder: Path, names: str) -> None:
    """Remove the files and folders of a killed writer: NAME.tmp.PID, or NAME.tmp.new and NAME.tmp.old.

    The caller has locked the folder. Another name with ``.tmp.`` in it is the user's.

    Args:
        names: a regular expression for NAME, e.g. ``step_\\d{6}``.
    """
    for path in folder.iterdir() if folder.is_dir() else ():
        if re.fullmatch(rf"(?:{names})\.tmp\.(?:\d+|new|old)", path.name):
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


def link_equal_files(folder: Path, other: Path) -> None:
    """Make files of equal names and contents in two folders one file each on the disk, if the file system has links.

    A crash at any time leaves both folders complete.
    """
    for file in other.iterdir() if folder.is_dir() else ():
        twin = folder / file.name
        if not (file.is_file() and twin.is_file()) or not filecmp.cmp(file, twin, shallow=False):
            continue
        partial = folder.with_name(f"{folder.name}.tmp.{os.getpid()}")  # see ``remove_partial``
        try:
            partial.hardlink_to(file)
        except OSError:  # a file system without hard links, or a file with too many: there are two copies
            return
        partial.replace(twin)


def sync_path(path: Path) -> None:
    """Flush a file, or the names in a folder, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
