"""The progress line of work that arrives item by item, in a pipe and in a terminal."""

from __future__ import annotations

import io
import re

import pytest
from rich.console import Console

from r1.core import progress_counter
from r1.core.progress_counter import ProgressCounter

ESCAPE = re.compile(r"\x1b\[[\d;?]*[a-zA-Z]")


def test_progress_in_a_pipe_prints_a_line_now_and_then(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with ProgressCounter("asking", 9) as counter:
        counter.set_progress(1, "too soon")
        now = counter.started + 100.0
        monkeypatch.setattr(progress_counter.time, "monotonic", lambda: now)
        counter.set_progress(5, "a [model]")
        counter.set_progress(6, "too soon again")
        now += 100.0
        counter.set_progress(9, "what is printed at the end comes next")
    assert capsys.readouterr().err == "asking 5/9  a [model], 1:20 left\n"  # 100 s for 5, so 80 s for 4


def test_progress_in_a_terminal_is_one_moving_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    sent = io.StringIO()
    terminal = Console(
        file=sent, force_terminal=True, width=100, color_system="truecolor", highlight=False, emoji=False
    )
    monkeypatch.setattr(progress_counter, "console", terminal)
    with ProgressCounter("asking", 9) as counter:
        counter.set_progress(5, "a [model]")
        counter.bar.refresh()
    text = ESCAPE.sub("", sent.getvalue())
    assert "asking" in text
    assert "5/9" in text
    assert "a [model]" in text
    assert sent.getvalue().endswith("\x1b[1A\x1b[2K")  # up, and cleared
