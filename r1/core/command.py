"""What all commands share: screens that may go away, and errors on one screen with an exit code."""

from __future__ import annotations

import sys
from collections.abc import Callable

from r1.core.errors import Interrupted, UserError
from r1.core.screens import keep_screens
from r1.core.storage import storage_errors


def run_command(action: Callable[[], int | None]) -> None:
    """Run a command's work: returns if it succeeds, else exits with its code.

    Args:
        action: returns an exit code, or None for success.
    """
    keep_screens()
    try:
        with storage_errors():
            code = action()
    except UserError as error:
        from r1.core.console import print_error  # slow to import

        code = print_error(error)
    except Interrupted as stop:
        code = stop.code
    if code:
        sys.exit(code)
