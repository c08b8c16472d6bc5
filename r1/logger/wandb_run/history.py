"""A record's metrics.jsonl as the history of a W&B run: row for row, with the row's timing and its completions."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from r1.core.provenance import flatten

Row = dict[str, Any]


class Rows:
    """What has been added to the files since one looked last.

    A row's timing and completions are written before the row, and belong to the first row of their step that can have
    them: completions to a validation's, timing to any other.
    """

    def __init__(self, folder: Path) -> None:
        self.metrics, self.timing, self.samples = (
            FileTail(folder / f"{name}.jsonl") for name in ("metrics", "timing", "samples")
        )
        self.timed: defaultdict[int, list[Row]] = defaultdict(list)
        self.sampled: defaultdict[int, list[Row]] = defaultdict(list)
        self.count = 0

    def new(self) -> Iterator[tuple[int, Row, list[Row]]]:
        """(index in metrics.jsonl, the row, its completions)."""
        rows = self.metrics.new()  # first: what belongs to them is there then
        for timing in self.timing.new():
            self.timed[timing["step"]].append(timing)
        for sample in self.samples.new():
            if sample["split"] == "val":
                del sample["split"]
                self.sampled[sample.pop("step")].append(flatten(sample))
        for row in rows:
            if any(name.startswith("val/") for name in row):
                yield self.count, row, self.sampled.pop(row["step"], [])
            else:
                waiting = self.timed[row["step"]]
                yield self.count, row | (waiting.pop(0) if waiting else {}), []
            self.count += 1


class FileTail:
    """The lines of JSON that a growing file has got since one looked last."""

    def __init__(self, file: Path) -> None:
        self.file, self.read = file, 0

    def new(self) -> list[Row]:
        if not self.file.is_file():
            return []
        with self.file.open("rb") as file:
            file.seek(self.read)
            whole, newline, _ = file.read().rpartition(b"\n")
        self.read += len(whole + newline)
        return [json.loads(line) for line in whole.split(b"\n") if line]
