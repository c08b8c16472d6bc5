"""The screen of a running sweep: a line when a point starts or ends, and in a terminal a table of what is running."""

from __future__ import annotations

import time
from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.live import Live
from rich.markup import escape
from rich.table import Column, Table

from r1.core.console import console, format_duration, status_line
from r1.core.errors import one_line
from r1.experiment.sweep.study import Study, SweepPoint


class SweepDisplay:
    """Context manager around the runner's work."""

    def __init__(self, study: Study) -> None:
        self.study, self.metric = study, study.sweep.metric
        self.started: dict[int, float] = {}  # by point, on the monotonic clock
        self.live = Live(console=console, auto_refresh=False, transient=True)

    def __enter__(self) -> SweepDisplay:
        sweep, points = self.study.sweep, self.study.points()
        ended = sum(point.status != "running" for point in points)
        summary = f"{sweep.name}: {sweep.method}, {self.study.limit} points, {ended} of them done"
        console.print(status_line(f"{summary}; in {self.study.folder}"))
        self.live.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.live.stop()

    def print_event(self, point: SweepPoint, event: str) -> None:
        """Print one line about a point that has just started or ended.

        Args:
            event: ``starts``, ``resumes``, or the status with which it ended.
        """
        line = f"{point.folder.name}  {event}"
        if event in ("starts", "resumes"):
            self.started[point.number] = time.monotonic()
        else:
            line += f" after {format_duration(self._seconds(point))}" if point.number in self.started else ""
            line += f", {self.metric} {point.value:.4g}" if point.value is not None else ""
        console.print(status_line(f"{line}: {self.varied_values(point)}"))
        if point.error and event == "failed":
            console.print(f"      {escape(point.error)}")

    def update(self, running: Sequence[SweepPoint]) -> None:
        """Update the table of the points that run here."""
        if console.is_terminal:
            self.live.update(self._table(running), refresh=True)

    def varied_values(self, point: SweepPoint) -> str:
        constants = self.study.space.constants
        return one_line(" ".join(f"{name}={value}" for name, value in point.values.items() if name not in constants))

    def _seconds(self, point: SweepPoint) -> float:
        return time.monotonic() - self.started[point.number]

    def _table(self, running: Sequence[SweepPoint]) -> Table:
        points = self.study.points()
        statuses = [point.status for point in points]
        counts = ", ".join(f"{statuses.count(status)} {status}" for status in dict.fromkeys(statuses))
        columns = ("point", "step", self.metric, "time")
        table = Table(*columns, Column(f"{counts} of {self.study.limit}"), box=SIMPLE_HEAD, pad_edge=False)
        histories = {point.number: point.history for point in points}
        for point in running:
            step, value = next(reversed(histories[point.number].items()), ("", None))
            last = "" if value is None else f"{value:.4g}"
            time_taken = format_duration(self._seconds(point))
            table.add_row(*map(escape, (point.folder.name, str(step), last, time_taken, self.varied_values(point))))
        return table
