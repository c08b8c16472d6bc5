"""Where words to a person go, and how they look; nothing heavy is imported for it."""

from __future__ import annotations

from rich.console import Console
from rich.markup import escape

from r1.core.rank_info import RankInfo, rank_info_from_env
from r1.core.statistics import Estimate

console = Console(  # stdout carries the record's folder and nothing else; of several processes the first one speaks
    stderr=True, highlight=False, soft_wrap=True, emoji=False, quiet=(rank_info_from_env() or RankInfo()).rank > 0
)


def status_line(text: str) -> str:
    return f"[dim]r1[/]  {escape(text)}"


def strip_control_chars(text: str) -> str:
    """One line without control characters: a completion must not be able to write to the terminal."""
    return "".join(c if c.isprintable() else " " for c in text)


def interval(figure: Estimate) -> str:
    digits = 3 if abs(figure.value) < 10 else 1
    return f"{figure.value:.{digits}f} ({figure.low:.{digits}f} to {figure.high:.{digits}f})"


def duration(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02}"
