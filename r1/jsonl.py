"""Lines of JSON: one object per line, split at newlines only (a completion may hold any other line separator)."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any


def append(file: Path, rows: Iterable[dict[str, Any]]) -> None:
    with file.open("a", encoding="utf-8", newline="\n") as out:
        out.writelines(dumps(row) for row in rows)


def dumps(row: dict[str, Any]) -> str:
    return json.dumps(row, ensure_ascii=False) + "\n"


def read(file: Path) -> list[dict[str, Any]]:
    with file.open(encoding="utf-8", newline="\n") as lines:
        return [json.loads(line) for line in lines]
