"""The datasets that a stage writes into ``traces/`` of its record, each a .jsonl file with its card."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from r1.core import jsonl
from r1.core.files import write_atomic
from r1.data.base import Row
from r1.stage.runtime.run_context import RunContext

RowsAndCounts = tuple[list[Row], dict[str, int]]


class TraceFiles:
    """The paths in ``traces/`` of a record.

    Attributes:
        traces: training rows, for ``data=traces``.
        questions: questions without an answer, for ``data=jsonl``.
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
    """The rows and counts in ``file``; if the run has not written it yet, ``make`` them and write it."""
    if file and file.is_file():
        return jsonl.read_rows(file), json.loads(file.with_suffix(".json").read_bytes())["counts"]
    rows, counts = make()
    if file:
        write_traces(file, rows, counts)
    return rows, counts


def write_traces(file: Path, rows: Sequence[Row], counts: Mapping[str, int]) -> None:
    """Write the rows, and a card with their number, their hash and ``counts``."""
    file.parent.mkdir(parents=True, exist_ok=True)
    text = "".join(jsonl.row_to_line(row) for row in rows)
    card = {"fingerprint": hashlib.sha256(text.encode()).hexdigest(), "count": len(rows), "counts": counts}
    write_atomic(file.with_suffix(".json"), json.dumps(card, indent=2) + "\n")
    write_atomic(file, text)  # last: a resumed run takes an existing file as complete, card included


def format_counts(counts: Mapping[str, int]) -> str:
    """``generated 48, finished 48, rejected/verifier 20``."""
    return ", ".join(f"{name} {count}" for name, count in counts.items())
