"""JSON Lines files: one object per line, split at newlines only (a completion may hold any other line separator)."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from itertools import takewhile
from pathlib import Path
from typing import Any
from zlib import crc32

from r1.core.storage import damaged, named, parse_json, require_regular

CHECKSUM = b', "crc": "'  # CRC-32 of the line without this field


def append_rows(file: Path, rows: Iterable[dict[str, Any]], sync: bool = False, checksums: bool = False) -> None:
    """Append ``rows`` to a file, which is created if need be.

    Args:
        sync: return only when the rows are on the disk.
        checksums: add a checksum to each line.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    with named(file), file.open("a", encoding="utf-8", newline="\n") as out:
        out.writelines(encode_line(row).decode() if checksums else row_to_line(row) for row in rows)
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
        row = parse_json(line)
    except ValueError:
        row = None
    if not isinstance(row, dict):
        raise damaged(file, "the line is not a JSON object", number)
    return row


def repair_and_read(file: Path, checksums: bool = False) -> list[dict[str, Any]]:
    """The rows of a file that will be appended to; an incomplete last line is cut off. No file: no rows.

    Args:
        checksums: the lines have them; the first damaged line and all after it are cut off, too, to be made again.
    """
    if not file.is_file():
        return []
    content = file.read_bytes()
    end = content.rfind(b"\n") + 1  # rfind gives -1 without a newline: nothing is complete
    rows: list[dict[str, Any]] = []
    if checksums:
        lines = [line + b"\n" for line in content[:end].split(b"\n")[:-1]]
        rows = [row for row in takewhile(lambda row: row is not None, map(decode_line, lines)) if row is not None]
        end = sum(map(len, lines[: len(rows)]))
    os.truncate(file, end)
    return rows if checksums else read_rows(file)


def encode_line(row: dict[str, Any]) -> bytes:
    """One line with a checksum, its last field."""
    text = json.dumps(row, ensure_ascii=False).encode()
    return text[:-1] + CHECKSUM + b'%08x"}\n' % crc32(text)


def decode_line(line: bytes) -> dict[str, Any] | None:
    """The row of a line with a checksum; None if they do not match."""
    body, _, checksum = line.rpartition(CHECKSUM)
    if checksum != b'%08x"}\n' % crc32(body + b"}"):
        return None
    row: dict[str, Any] = json.loads(body + b"}")
    return row
