"""What all commands share: tolerant screens, errors on one screen with an exit code, and no secret on either."""

from __future__ import annotations

import argparse
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from types import TracebackType
from typing import NoReturn

from r1.core.errors import Interrupted, UserError
from r1.core.screens import keep_screens
from r1.core.secrets import redact
from r1.core.storage import storage_errors


class ArgumentParser(argparse.ArgumentParser):
    """A command's parser. Its errors show arguments, so that secrets in them are hidden.

    Args:
        doc: the docstring of the command's module, ``r1 NAME ARGUMENTS: what it does``.
    """

    def __init__(self, doc: str, epilog: str | None = None) -> None:
        name = doc.split()[1].rstrip(":")
        prog = sys.argv[0] if sys.argv[0] == f"r1 {name}" else f"python -m r1.{name}"
        super().__init__(prog=prog, description=doc, epilog=epilog)

    def error(self, message: str) -> NoReturn:
        super().error(redact(message))


def run_command(action: Callable[[], int | None]) -> None:
    """Run a command's work: returns if it succeeds, else exits with its code.

    Args:
        action: returns an exit code, or None for success.
    """
    keep_screens()
    sys.excepthook = print_traceback
    threading.excepthook = lambda args: print_traceback(args.exc_type, args.exc_value, args.exc_traceback)
    try:
        with storage_errors():
            code = action()
    except UserError as error:
        from r1.core.console import print_error  # slow to import

        code = print_error(error)
    except Interrupted as stop:
        code = stop.code
    except KeyboardInterrupt:  # before a run has its handlers
        code = 128 + signal.SIGINT
    if code:
        sys.exit(code)


def print_traceback(kind: type[BaseException], error: BaseException | None, trace: TracebackType | None) -> None:
    """The traceback of a bug on stderr, as Python prints it, but without secrets."""
    if not issubclass(kind, SystemExit):
        print(redact("".join(traceback.format_exception(kind, error, trace))), end="", file=sys.stderr)
