"""The console that people read, how text and errors look on it, and the command line; it imports nothing slow."""

from __future__ import annotations

import shlex
import sys

from rich.console import Console
from rich.markup import escape

from r1.core.errors import UserError
from r1.core.rank_info import RankInfo, rank_info_from_env

# stdout carries the record's folder and nothing else; of several processes only rank 0 prints
console = Console(
    stderr=True, highlight=False, soft_wrap=True, emoji=False, quiet=(rank_info_from_env() or RankInfo()).rank > 0
)


def command_line(module: str) -> str:
    """This process's command line, as the user would type it again."""
    return shlex.join(["python", "-m", module, *sys.argv[1:]])


def print_error(error: UserError) -> int:
    """Print an error on stderr, on rank 0 only; returns its exit code."""
    if not console.quiet:
        print(f"r1: {error}", file=sys.stderr)
    return int(error.code)


def status_line(text: str) -> str:
    """One of r1's own lines, for ``console.print``."""
    return f"[dim]r1[/]  {escape(text)}"


def strip_control_chars(text: str) -> str:
    """One line without control characters: a completion must not be able to write to the terminal."""
    return "".join(c if c.isprintable() else " " for c in text)


def format_duration(seconds: float) -> str:
    """``2:05`` for 125 seconds."""
    return f"{int(seconds) // 60}:{int(seconds) % 60:02}"
