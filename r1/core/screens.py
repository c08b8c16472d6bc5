"""stdout and stderr whose reader may go away, or whose disk may be full: neither ends a command."""

from __future__ import annotations

import io
import os
import sys
from typing import Any, TextIO


class Screen(io.FileIO):
    """The file descriptor of a screen; bytes that cannot be written are lost."""

    def write(self, data: Any) -> int:
        try:
            # None: a terminal that does not block is full
            return super().write(data) or len(data)
        except OSError:
            return len(data)


def keep_screens() -> None:
    """Let ``sys.stdout`` and ``sys.stderr`` swallow what cannot be written; libraries look them up later."""
    _open_closed_descriptors()
    sys.stdout = _tolerant(sys.stdout, sys.__stdout__)
    sys.stderr = _tolerant(sys.stderr, sys.__stderr__)


def _open_closed_descriptors() -> None:
    """Open descriptors 0 to 2 where the parent has closed them: else the next file has their number.

    A library's message would then be written into that file.
    """
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(descriptor, True)
    os.close(descriptor)


def _tolerant(stream: TextIO | None, original: TextIO | None) -> TextIO:
    if stream is None:  # closed when Python started
        return open(os.devnull, "w", encoding="utf-8")
    if stream is not original or not isinstance(stream, io.TextIOWrapper):
        return stream  # replaced by a test or a notebook, which handles its own errors
    stream.flush()
    screen = Screen(stream.fileno(), "w", closefd=False)
    return io.TextIOWrapper(
        screen if stream.write_through else io.BufferedWriter(screen),  # type: ignore[arg-type]  # as Python's own
        encoding=stream.encoding,
        errors=stream.errors,
        line_buffering=stream.line_buffering,
        write_through=stream.write_through,
    )
