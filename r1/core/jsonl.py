"""Lines of JSON: one object per line, split at newlines only (a completion may hold any other line separator)."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any


def append(file: Path, rows: Iterable[dict[str, Any]], sync: bool = False) -> None:
    """Write ``rows`` behind what the file holds; ``sync``: come back when they are on the disk."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("a", encoding="utf-8", newline="\n") as out:
        out.writelines(dumps(row) for row in rows)
        if sync:
            out.flush()
            os.fsync(out.fileno())


def dumps(row: dict[str, Any]) -> str:
    return json.dumps(row, ensure_ascii=False) + "\n"


def read(file: Path) -> list[dict[str, Any]]:
    """The rows of a file; a last line that is not whole (yet) is left out."""
    return [json.loads(line) for line in file.read_bytes().split(b"\n")[:-1]]


def read_repaired(file: Path) -> list[dict[str, Any]]:
    """The rows of a file that is to be written on: what a crash left of a last line is cut away. No file: no rows."""
    if not file.is_file():
        return []
    os.truncate(file, file.read_bytes().rfind(b"\n") + 1)
    return read(file)
