"""A record's metrics.jsonl as the history of a W&B run: row for row, with the row's timing and completions."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from r1.core.provenance import flatten
from r1.core.runs import NUM_SHOWN_PROMPTS, published

Row = dict[str, Any]


class RecordReader:
    """Reads the rows that were added to a record since the last call.

    The timing and the completions of a row are written before the row. They belong to the first row of their step that
    takes them: completions to a validation row, timing to any other row.
    """

    def __init__(self, folder: Path) -> None:
        self.metrics, self.timing, self.samples = (
            FileTail(folder / f"{name}.jsonl") for name in ("metrics", "timing", "samples")
        )
        self.timing_by_step: defaultdict[int, list[Row]] = defaultdict(list)
        self.completions_by_step: defaultdict[int, list[Row]] = defaultdict(list)
        self.num_rows = 0

    def new_rows(self) -> Iterator[tuple[int, Row, list[Row]]]:
        """(index in metrics.jsonl, row with its timing, completions)."""
        rows = self.metrics.read_new()  # before the other files: they then hold all that belongs to these rows
        for timing in self.timing.read_new():
            self.timing_by_step[timing["step"]].append(timing)
        for sample in self.samples.read_new():
            if sample["split"] == "val" and sample.get("index", 0) < NUM_SHOWN_PROMPTS:
                del sample["split"]
                self.completions_by_step[sample.pop("step")].append(flatten(published(sample)))
        for row in rows:
            if any(name.startswith("val/") for name in row):
                yield self.num_rows, row, self.completions_by_step.pop(row["step"], [])
            else:
                timings = self.timing_by_step[row["step"]]
                yield self.num_rows, row | (timings.pop(0) if timings else {}), []
            self.num_rows += 1


class FileTail:
    """Reads the complete lines that were added to a JSON-lines file since the last call."""

    def __init__(self, file: Path) -> None:
        self.file, self.position = file, 0

    def read_new(self) -> list[Row]:
        if not self.file.is_file():
            return []
        with self.file.open("rb") as file:
            file.seek(self.position)
            lines, newline, _ = file.read().rpartition(b"\n")
        self.position += len(lines + newline)
        return [json.loads(line) for line in lines.split(b"\n") if line]
