"""The dataset that a stage writes into its record, for ``data=traces`` to read."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

from r1.core import jsonl
from r1.core.files import write_atomic
from r1.data.base import Row


def write_traces(file: Path, rows: Sequence[Row], counts: dict[str, int]) -> None:
    """A .jsonl file with its card beside it; complete or not there at all."""
    file.parent.mkdir(parents=True, exist_ok=True)
    text = "".join(jsonl.row_to_line(row) for row in rows)
    card = {"fingerprint": hashlib.sha256(text.encode()).hexdigest(), "count": len(rows), "counts": counts}
    write_atomic(file.with_suffix(".json"), json.dumps(card, indent=2) + "\n")
    write_atomic(file, text)
