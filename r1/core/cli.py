"""What every command shares: its own command line, and an error's screen and exit code."""

from __future__ import annotations

import shlex
import sys

from r1.core.console import console
from r1.core.errors import UserError


def command(module: str) -> str:
    """The command line as the user would type it again."""
    return shlex.join(["python", "-m", module, *sys.argv[1:]])


def fail(error: UserError) -> int:
    if not console.quiet:
        print(f"r1: {error}", file=sys.stderr)
    return int(error.code)
