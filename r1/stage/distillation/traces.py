"""The datasets that a stage writes into ``traces/`` of its record, each a .jsonl file with its card."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from r1.core import jsonl
from r1.core.console import console, status_line
from r1.core.content_hash import file_hash
from r1.core.errors import STORAGE, UserError
from r1.core.files import write_atomic
from r1.core.storage import parse_json, read_text
from r1.data.base import Row
from r1.stage.runtime.run_context import RunContext

RowsAndCounts = tuple[list[Row], dict[str, int]]


class TraceFiles:
    """The paths in ``traces/`` of a record.

    Attributes:
        traces: training rows, for ``data=traces``.
        questions: questions without an answer, for ``data=dataset``.
        answers: the teacher's answers, an ``AnswerCache``.
        batches: the policy's answers, one line per batch of questions.
    """

    def __init__(self, record_dir: Path) -> None:
        folder = record_dir / "traces"
        self.traces = folder / "traces.jsonl"
        self.questions = folder / "questions.jsonl"
        self.answers = folder / "answers.jsonl"
        self.batches = folder / "samples.jsonl"


def trace_files(run: RunContext) -> TraceFiles | None:
    """The files of this run; None on a rank, or in a run, without a record."""
    return TraceFiles(run.record.dir) if run.record else None


def load_or_make(file: Path | None, make: Callable[[], RowsAndCounts]) -> RowsAndCounts:
    """The rows and counts in ``file``; if it is missing or does not match its card, ``make`` them and write it.

    Raises:
        UserError: the rows that were made again are not those of the card, which the run has trained on.
    """
    card = _read_card(file) if file else None
    if file and card and file.is_file() and file_hash(file) == card["fingerprint"]:
        return jsonl.read_rows(file), card["counts"]
    if file and file.is_file():
        console.print(status_line(f"warning: {file} is damaged and is made again"))
    rows, counts = make()
    if file and card and _digest(rows) != card["fingerprint"]:
        message, hint = f"{file} is damaged, and cannot be made again as it was", "take another output_dir"
        raise UserError(message, key="output_dir", value=str(file), hint=hint, code=STORAGE)
    if file:
        write_traces(file, rows, counts)
    return rows, counts


def _read_card(file: Path) -> dict[str, Any] | None:
    """The card of a file; None: there is none, or it is damaged."""
    try:
        card: dict[str, Any] = parse_json(read_text(file.with_suffix(".json")))
        return card if card.pop("checksum") == _checksum(card) else None
    except (UserError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _checksum(card: Mapping[str, Any]) -> str:
    """Of a card's other fields: its counts become metrics of a resumed run."""
    return hashlib.sha256(json.dumps(card).encode()).hexdigest()


def _digest(rows: Sequence[Row]) -> str:
    return hashlib.sha256("".join(map(jsonl.row_to_line, rows)).encode()).hexdigest()


def write_traces(file: Path, rows: Sequence[Row], counts: Mapping[str, int]) -> None:
    """Write the rows, and a card with their number, their hash and ``counts``."""
    file.parent.mkdir(parents=True, exist_ok=True)
    text = "".join(jsonl.row_to_line(row) for row in rows)
    card = {"fingerprint": _digest(rows), "count": len(rows), "counts": counts}
    card["checksum"] = _checksum(card)
    write_atomic(file.with_suffix(".json"), json.dumps(card, indent=2) + "\n")
    write_atomic(file, text)  # last: a resumed run takes an existing file as complete, card included


def format_counts(counts: Mapping[str, int]) -> str:
    """``generated 48, finished 48, rejected/verifier 20``."""
    return ", ".join(f"{name} {count}" for name, count in counts.items())
