"""JSON Lines files: one object per line, split at newlines only (a completion may hold any other line separator)."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from r1.core.storage import damaged, named, require_regular


def append_rows(file: Path, rows: Iterable[dict[str, Any]], sync: bool = False) -> None:
    """Append ``rows`` to a file, which is created if need be.

    Args:
        sync: return only when the rows are on the disk.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    with named(file), file.open("a", encoding="utf-8", newline="\n") as out:
        out.writelines(row_to_line(row) for row in rows)
        if sync:
            out.flush()  # fsync sees only what has left Python's buffer
            os.fsync(out.fileno())


def row_to_line(row: dict[str, Any]) -> str:
    return json.dumps(row, ensure_ascii=False) + "\n"


def read_rows(file: Path) -> list[dict[str, Any]]:
    """The rows of a file, without a last line that has no newline: its writer is still at it, or crashed.

    Raises:
        UserError: it is not a regular file, or names the line that is no JSON object.
    """
    require_regular(file)
    return [_row(file, i, line) for i, line in enumerate(file.read_bytes().split(b"\n")[:-1], 1)]


def _row(file: Path, number: int, line: bytes) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        row = None
    if not isinstance(row, dict):
        raise damaged(file, "the line is not a JSON object", number)
    return row


def repair_and_read(file: Path) -> list[dict[str, Any]]:
    """The rows of a file that will be appended to; an incomplete last line is cut off. No file: no rows."""
    if not file.is_file():
        return []
    os.truncate(file, file.read_bytes().rfind(b"\n") + 1)  # rfind gives -1 without a newline: nothing is complete
    return read_rows(file)
