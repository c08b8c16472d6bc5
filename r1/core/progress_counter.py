"""Progress of work that comes piece by piece: one line that moves in a terminal, plain lines in a pipe."""

from __future__ import annotations

import time

from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from r1.core.console import console

PLAIN_EVERY_S = 10.0


class ProgressCounter:
    """Context manager around work that comes piece by piece: ``show`` where it is."""

    def __init__(self, title: str, total: int) -> None:
        self.title, self.total, self.last_line = title, total, time.monotonic()
        self.bar = Bar(TextColumn(title), BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"),
                       TimeRemainingColumn(), console=console, transient=True)  # fmt: skip
        self.bar.add_task("", total=total)

    def __enter__(self) -> ProgressCounter:
        if console.is_terminal:
            self.bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        if console.is_terminal:
            self.bar.stop()

    def show(self, done: int, text: str) -> None:
        if console.is_terminal:
            self.bar.update(self.bar.task_ids[0], completed=done, description=escape(text))
        elif time.monotonic() - self.last_line > PLAIN_EVERY_S:
            self.last_line = time.monotonic()
            console.print(f"{self.title} {done}/{self.total}  {escape(text)}")
