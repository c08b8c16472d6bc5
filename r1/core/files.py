"""Files that several processes may write at once, or that must survive a crash."""

from __future__ import annotations

import fcntl
import os
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
        lock = (folder / name).open("w")
    except OSError as error:
        message = f"the run's folder cannot be written: {error.strerror}"
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
        with (folder / ".lock").open() as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    return False


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


def sync_path(path: Path) -> None:
    """Flush a file, or the names in a folder, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
