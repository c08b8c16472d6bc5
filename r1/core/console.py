"""The console that people read, and how text looks on it; it imports nothing slow."""

from __future__ import annotations

from rich.console import Console
from rich.markup import escape

from r1.core.rank_info import RankInfo, rank_info_from_env

# stdout carries the record's folder and nothing else; of several processes only rank 0 prints
console = Console(
    stderr=True, highlight=False, soft_wrap=True, emoji=False, quiet=(rank_info_from_env() or RankInfo()).rank > 0
)


def status_line(text: str) -> str:
    """One of r1's own lines, for ``console.print``."""
    return f"[dim]r1[/]  {escape(text)}"


def strip_control_chars(text: str) -> str:
    """One line without control characters: a completion must not be able to write to the terminal."""
    return "".join(c if c.isprintable() else " " for c in text)


def format_duration(seconds: float) -> str:
    """``2:05`` for 125 seconds."""
    return f"{int(seconds) // 60}:{int(seconds) % 60:02}"
