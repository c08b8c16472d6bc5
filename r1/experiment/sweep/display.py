"""What a person sees of a sweep while it runs: a line whenever a point starts or ends, and in a terminal a table."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.live import Live
from rich.markup import escape
from rich.table import Column, Table

from r1.core.console import console, format_duration, status_line
from r1.core.errors import one_line
from r1.experiment.sweep.study import Point, Study


class SweepDisplay:
    """Context manager around the runner's work."""

    def __init__(self, study: Study) -> None:
        self.study, self.metric = study, study.sweep.metric
        self.started: dict[int, float] = {}
        self.live = Live(console=console, auto_refresh=False, transient=True) if console.is_terminal else None

    def __enter__(self) -> SweepDisplay:
        points = self.study.points()
        ended = sum(point.status != "begun" for point in points)
        told = f"{self.study.sweep.name}: {self.study.sweep.method}, {self.study.limit} points, {ended} of them done"
        console.print(status_line(f"{told}; in {self.study.folder}"))
        self._shown: AbstractContextManager[Any] = self.live or nullcontext()
        self._shown.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._shown.__exit__(*error)

    def print_event(self, point: Point, what: str) -> None:
        """One line about a point that has just started or ended."""
        if what in ("starts", "goes on"):
            self.started[point.number] = time.monotonic()
            console.print(status_line(f"{point.folder.name}  {what}: {self.text(point)}"))
            return
        took = f" after {format_duration(self._seconds(point))}" if point.number in self.started else ""
        value = f", {self.metric} {point.value:.4g}" if point.value is not None else ""
        console.print(status_line(f"{point.folder.name}  {what}{took}{value}: {self.text(point)}"))
        if point.error and what == "failed":
            console.print(f"      {escape(point.error)}")

    def show(self, running: Sequence[Point]) -> None:
        """How far the points have come that run here."""
        if self.live:
            self.live.update(self._table(running), refresh=True)

    def text(self, point: Point) -> str:
        return one_line(" ".join(f"{name}={value}" for name, value in point.values.items() if self._varies(name)))

    def _varies(self, name: str) -> bool:
        return name not in self.study.space.constants

    def _seconds(self, point: Point) -> float:
        return time.monotonic() - self.started[point.number]

    def _table(self, running: Sequence[Point]) -> Table:
        points = self.study.points()
        counts = {point.status: sum(other.status == point.status for other in points) for point in points}
        told = ", ".join(f"{count} {status}" for status, count in counts.items())
        columns = ("point", "step", self.metric, "time")
        table = Table(*columns, Column(f"{told} of {self.study.limit}"), box=SIMPLE_HEAD, pad_edge=False)
        histories = {point.number: point.history for point in points}
        for point in running:
            step, value = next(reversed(histories[point.number].items()), ("", None))
            last = "" if value is None else f"{value:.4g}"
            cells = (point.folder.name, str(step), last, format_duration(self._seconds(point)), self.text(point))
            table.add_row(*map(escape, cells))
        return table
