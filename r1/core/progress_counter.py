"""Progress of work that arrives item by item: a moving line in a terminal, plain lines in a pipe."""

from __future__ import annotations

import time

from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from r1.core.console import console, format_duration

PLAIN_INTERVAL_S = 10.0  # between two lines where there is no terminal


class ProgressCounter:
    """Context manager around work on ``total`` items, which calls ``set_progress``."""

    def __init__(self, title: str, total: int) -> None:
        self.title, self.total = title, total
        self.started = self.last_line = time.monotonic()
        columns = [TextColumn(title), BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}")]
        self.bar = Progress(*columns, TimeRemainingColumn(), console=console, transient=True)
        self.task = self.bar.add_task("", total=total)

    def __enter__(self) -> ProgressCounter:
        if console.is_terminal:
            self.bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        if console.is_terminal:
            self.bar.stop()

    def set_progress(self, done: int, text: str) -> None:
        """Show that ``done`` items are finished, with a text behind the count."""
        if console.is_terminal:
            self.bar.update(self.task, completed=done, description=escape(text))
        elif done < self.total and time.monotonic() - self.last_line > PLAIN_INTERVAL_S:
            self.last_line = time.monotonic()
            left = format_duration((self.last_line - self.started) * (self.total - done) / done) if done else "?"
            console.print(f"{self.title} {done}/{self.total}  {escape(text)}, {left} left")
