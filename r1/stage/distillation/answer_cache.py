"""A file of what was paid for: JSON lines that are only ever added, each with its checksum, on the disk at once.

One process at a time has it open; another waits for it, and then finds what the first has added.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any
from zlib import crc32

from rich.markup import escape

from r1.core.console import console
from r1.core.errors import STORAGE, UserError

LINE_PREFIX = b'{"key": "'  # of every line
CHECKSUM = b', "crc": "'  # CRC-32 of the line without it
WAIT_S = 0.1


class AnswerCache:
    """Context manager around the open file.

    Args:
        file: made if need be, readable by its owner only.
        where: the config key that names it.
        poll: called while another process has the file; raises if the run is asked to stop.

    Raises:
        UserError: ``file`` is a folder, or holds something else than a store.
    """

    def __init__(self, file: Path, where: str, poll: Callable[[], None]) -> None:
        self.file, self.where, self.poll = file, where, poll
        if file.is_dir():
            raise self._error("this is a folder", allowed="a file, which is made if it is not there")
        if file.is_file():
            with file.open("rb") as opened:
                held = opened.read(len(LINE_PREFIX))
            if held != LINE_PREFIX[: len(held)]:
                raise self._error("this file is no store, and is left as it is", allowed="a new file, or a store")

    def __enter__(self) -> AnswerCache:
        try:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            self._descriptor = os.open(self.file, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600)
        except OSError as error:
            raise self._error(f"the store cannot be written: {error.strerror}", code=STORAGE) from None
        try:
            self._lock()
            self._truncate_partial_line()
            _sync_folder(self.file.parent)
        except BaseException:
            os.close(self._descriptor)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._descriptor)  # which unlocks it, as the end of the process does

    def _lock(self) -> None:
        told = False
        while True:
            try:
                return fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if not told:
                    console.print(f"[dim]r1[/]  waiting for another run, which is writing {escape(str(self.file))}")
                told = True
                self.poll()
                time.sleep(WAIT_S)

    def _truncate_partial_line(self) -> None:
        """Cut away what a crash left of a last line."""
        size = end = os.fstat(self._descriptor).st_size
        while end and os.pread(self._descriptor, 1, end - 1) != b"\n":
            end -= 1
        if end < size:
            os.ftruncate(self._descriptor, end)

    def rows(self) -> Iterator[dict[str, Any]]:
        """What the file holds; a line whose checksum is wrong is passed over, and said so."""
        damaged = []
        with open(self._descriptor, "rb", closefd=False) as lines:
            lines.seek(0)
            for number, line in enumerate(lines, 1):
                row = decode_line(line)
                if row is None:
                    damaged.append(number)
                else:
                    yield row
        if damaged:
            some = ", ".join(map(str, damaged[:5])) + (", ..." if len(damaged) > 5 else "")
            console.print(f"warning: {escape(str(self.file))}: damaged lines are passed over: {some}")

    def add(self, rows: Iterable[dict[str, Any]]) -> None:
        """Come back when they are on the disk.

        Raises:
            UserError: they cannot be written.
        """
        left = memoryview(b"".join(map(encode_line, rows)))
        try:
            while left:
                left = left[os.write(self._descriptor, left) :]
            os.fsync(self._descriptor)
        except OSError as error:
            do = "make room, then go on with resume=auto: what is there is kept"
            raise self._error(f"the store cannot be written: {error.strerror}", do=do, code=STORAGE) from None

    def _error(self, what: str, **more: Any) -> UserError:
        return UserError(what, key=self.where, value=str(self.file), **more)


def encode_line(row: dict[str, Any]) -> bytes:
    """A line; ``row`` begins with its ``key``."""
    text = json.dumps(row, ensure_ascii=False).encode()
    return text[:-1] + CHECKSUM + b'%08x"}\n' % crc32(text)


def decode_line(line: bytes) -> dict[str, Any] | None:
    """The row of a line; None if the line is not as it was written."""
    body, _, checksum = line.rpartition(CHECKSUM)
    if checksum != b'%08x"}\n' % crc32(body + b"}"):
        return None
    row: dict[str, Any] = json.loads(body + b"}")
    return row


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
