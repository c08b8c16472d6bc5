"""Shared by all commands: the command line to repeat, and how an error is printed."""

from __future__ import annotations

import shlex
import sys

from r1.core.console import console
from r1.core.errors import UserError


def command_line(module: str) -> str:
    """This process's command line, as the user would type it again."""
    return shlex.join(["python", "-m", module, *sys.argv[1:]])


def print_error(error: UserError) -> int:
    """Print an error on stderr, on rank 0 only; returns its exit code."""
    if not console.quiet:
        print(f"r1: {error}", file=sys.stderr)
    return int(error.code)
