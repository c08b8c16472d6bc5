"""Faults of a disk, at whatever file: one screen and the exit code ``STORAGE``."""

from __future__ import annotations

import errno
import json
import os
import re
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from r1.core.errors import STORAGE, Interrupted, UserError

NO_ROOM = "make room"
HINTS = {
    errno.ENOSPC: NO_ROOM,
    errno.EDQUOT: f"{NO_ROOM} in your quota",
    errno.EFBIG: "raise the limit on the size of a file (ulimit -f)",
    errno.EIO: "the disk or its connection has failed; take another one",
    errno.EROFS: "make the disk writable",
    errno.EACCES: "make the folder and its files writable",
    errno.EPERM: "make the folder and its files writable",
    errno.ESTALE: "the network disk has gone; mount it again",
    errno.ENAMETOOLONG: "take a shorter name",
    errno.EMFILE: "raise the limit on open files (ulimit -n)",
}
RUST_ERROR = re.compile(r"\(os error (\d+)\)")  # in the text of an error from safetensors or tokenizers
SQLITE_ERRORS = {  # in the text of an error from SQLite, which has no number
    "database or disk is full": errno.ENOSPC,
    "disk I/O error": errno.EIO,
    "attempt to write a readonly database": errno.EROFS,
}


@contextmanager
def named(file: Path) -> Iterator[None]:
    """Give a fault of the disk inside the block the name of its file: ``write``, ``fsync`` and SQLite leave it out.

    Args:
        file: may be a folder that a library writes: the file that was written last is named.

    Raises:
        OSError: the fault, also where a library has raised another kind of error.
    """
    try:
        yield
    except (UserError, Interrupted):
        raise
    except Exception as error:
        fault = error if isinstance(error, OSError) and error.errno else disk_fault(error)
        if fault is None:
            raise
        fault.filename = fault.filename or str(_last_written(file))
        raise fault from None


def _last_written(path: Path) -> Path:
    """A file itself, or the file of a folder that was written last; of several at once the shortest, which is cut."""
    files = [file for file in path.iterdir() if file.is_file()] if path.is_dir() else []
    return max(files, key=lambda file: (file.stat().st_mtime_ns, -file.stat().st_size), default=path)


@contextmanager
def storage_errors() -> Iterator[None]:
    """Turn a fault of the disk inside the block into one screen; any other error passes.

    Raises:
        UserError: names the file, where it is known, and has the exit code ``STORAGE``.
    """
    original = threading.excepthook
    threading.excepthook = partial(_report_thread, original)
    try:
        yield
    except (UserError, Interrupted):
        raise
    except Exception as error:
        if fault := disk_fault(error):
            raise storage_error(fault) from None
        raise
    finally:
        threading.excepthook = original


def _report_thread(original: Callable[[threading.ExceptHookArgs], object], args: threading.ExceptHookArgs) -> None:
    """One line for a fault of the disk in a library's writer thread; its next call in training raises the fault."""
    if args.exc_value and (fault := disk_fault(args.exc_value)):
        print(f"r1  warning: a writer thread has stopped: {fault}", file=sys.stderr)
    else:
        original(args)


def damaged(file: Path, fault: str, line: int | None = None) -> UserError:
    """The screen of a record's file that cannot be read."""
    where = f"{file}:{line}" if line else str(file)
    hint = "restore it from a copy, or take another output_dir to start again"
    return UserError(f"{file.name} is damaged: {fault}", key=where, hint=hint, code=STORAGE)


def require_regular(file: Path) -> None:
    """A FIFO would block its reader for ever.

    Raises:
        UserError: there is something else than a file.
    """
    if os.path.lexists(file) and not file.is_file():
        raise damaged(file, "it is not a regular file")


def read_text(file: Path) -> str:
    """The text of a record's file.

    Raises:
        UserError: it is missing, is not a regular file, cannot be read, or is not UTF-8.
    """
    require_regular(file)
    try:
        return file.read_text(encoding="utf-8")
    except OSError as error:
        raise damaged(file, error.strerror or str(error)) from None
    except UnicodeDecodeError:
        raise damaged(file, "it is not UTF-8 text") from None


def parse_json(text: str | bytes) -> Any:
    """The value that a record's file holds.

    Raises:
        ValueError: it is no JSON, is nested too deeply, or has half of a surrogate pair, which no other file can hold.
    """
    try:
        value = json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    if b"\\u" in text if isinstance(text, bytes) else "\\u" in text:
        json.dumps(value, ensure_ascii=False).encode()
    return value


def storage_error(fault: OSError) -> UserError:
    """The screen of a fault of the disk."""
    file = f"{fault.filename}: " if fault.filename else ""
    hint = HINTS.get(fault.errno or 0)
    return UserError(
        f"{file}{fault.strerror or fault}",
        key=str(fault.filename or ""),
        hint=f"{hint}; then the same command continues, that of a run with resume=auto" if hint else "",
        code=STORAGE,
    )


def disk_fault(error: BaseException) -> OSError | None:
    """The fault of the disk behind an error of any library; None: it has another cause."""
    chain: BaseException | None = error
    while chain is not None:
        if isinstance(chain, OSError) and chain.errno in HINTS:
            return chain
        chain = chain.__cause__ or chain.__context__
    if isinstance(error, OSError) and error.filename is not None and error.errno is not None:
        return error
    text = str(error)
    number = next((number for message, number in SQLITE_ERRORS.items() if message in text), None)
    if number is None and (match := RUST_ERROR.search(text)):
        number = int(match[1])
    return OSError(number, os.strerror(number)) if number else None
