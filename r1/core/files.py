"""Files that several processes may be after at once, or that must survive a crash."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import TextIO

from r1.core.errors import LOCKED, STORAGE, UserError


def lock(folder: Path, name: str = ".lock") -> TextIO:
    """Make a folder and keep it from other processes until the returned file is closed.

    Args:
        name: of the file that is locked; who writes a folder and who has it written do not shut each other out.

    Raises:
        UserError: it cannot be written, or another process holds it.
    """
    where, value = "output_dir", str(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        held = (folder / name).open("w")
    except OSError as error:
        message = f"the run's folder cannot be written: {error.strerror}"
        raise UserError(message, key=where, value=value, code=STORAGE) from None
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        held.close()
        raise UserError("another process is writing this run", key=where, value=value, code=LOCKED) from None
    return held


def is_locked(folder: Path) -> bool:
    """Whether another process is writing a folder."""
    try:
        with (folder / ".lock").open() as held:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    return False


def replace(file: Path, text: str) -> None:
    """Write a file so that it is either the old one or the new one, whenever the power goes."""
    partial = file.with_name(f"{file.name}.tmp.{os.getpid()}")
    with partial.open("w", encoding="utf-8") as out:
        out.write(text)
        out.flush()
        os.fsync(out.fileno())
    partial.replace(file)
