"""The answers of a teacher on disk: append-only JSON lines, each with a checksum, synced as they arrive.

Own code rather than sqlite: answers cost money, and this file stays readable by any tool, survives a kill at any byte,
and loses at most the damaged lines. One process at a time has it open; the next one waits.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

from rich.markup import escape

from r1.core.console import console, status_line
from r1.core.errors import STORAGE, UserError
from r1.core.files import sync_path
from r1.core.jsonl import decode_line, encode_line

LINE_PREFIX = b'{"key": "'  # of every line
POLL_S = 0.1
MAX_LINES_SHOWN = 5


class AnswerCache:
    """Context manager around the locked file.

    Args:
        file: created if missing, readable by its owner only.
        key: the config key that names the file, for errors.
        check_for_stop: called while another process has the file; raises if the run must stop.

    Raises:
        UserError: ``file`` is a folder or another kind of file.
    """

    def __init__(self, file: Path, key: str, check_for_stop: Callable[[], None]) -> None:
        self.file, self.key, self.check_for_stop = file, key, check_for_stop
        if file.is_dir():
            raise self._error("this is a folder", expected="a file, which is created if it does not exist")
        if file.is_file():
            with file.open("rb") as opened:
                start = opened.read(len(LINE_PREFIX))
            if start != LINE_PREFIX[: len(start)]:  # a kill may have left a shorter file
                raise self._error(
                    "this file is not a store of answers and was not changed", expected="a new file, or a store"
                )

    def __enter__(self) -> AnswerCache:
        try:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            self._descriptor = os.open(self.file, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600)
        except OSError as error:
            raise self._error(f"the store cannot be written: {error.strerror}", code=STORAGE) from None
        try:
            self._lock()
            self._truncate_partial_line()
            sync_path(self.file.parent)
        except BaseException:
            os.close(self._descriptor)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._descriptor)  # also unlocks the file

    def _lock(self) -> None:
        waiting = False
        while True:
            try:
                return fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if not waiting:
                    console.print(status_line(f"waiting for another run, which is writing {self.file}"))
                waiting = True
                self.check_for_stop()
                time.sleep(POLL_S)

    def _truncate_partial_line(self) -> None:
        """Remove a last line that a kill has cut, so that the next line starts at its own beginning."""
        size = end = os.fstat(self._descriptor).st_size
        while end and os.pread(self._descriptor, 1, end - 1) != b"\n":
            end -= 1
        if end < size:
            os.ftruncate(self._descriptor, end)

    def rows(self) -> Iterator[dict[str, Any]]:
        """All rows of the file. A line with a wrong checksum is skipped with a warning."""
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
            numbers = ", ".join(map(str, damaged[:MAX_LINES_SHOWN])) + (", ..." * (len(damaged) > MAX_LINES_SHOWN))
            console.print(f"warning: {escape(str(self.file))}: damaged lines are skipped: {numbers}")

    def add(self, rows: Iterable[dict[str, Any]]) -> None:
        """Append ``rows`` and return when they are on the disk.

        Raises:
            UserError: the disk does not take them.
        """
        unwritten = memoryview(b"".join(map(encode_line, rows)))
        try:
            while unwritten:  # os.write may write less than all
                unwritten = unwritten[os.write(self._descriptor, unwritten) :]
            os.fsync(self._descriptor)
        except OSError as error:
            hint = "free some space, then resume with resume=auto: the answers in the store stay valid"
            raise self._error(f"the store cannot be written: {error.strerror}", hint=hint, code=STORAGE) from None

    def _error(self, message: str, **fields: Any) -> UserError:
        return UserError(message, key=self.key, value=str(self.file), **fields)
