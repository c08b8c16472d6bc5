"""The progress of a run: plain lines in a pipe, a bar in a terminal, no control characters of completions."""

from __future__ import annotations

import importlib.util
import io
import os
import pty
import re
import sys
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from r1.core.console import status_line, strip_control_chars
from r1.core.statistics import Estimate
from r1.stage.validation.metrics import Sample
from r1.train import progress
from r1.train.progress import Progress, closing_table

HOSTILE = "\x1b[2J\x1b]0;owned\x07\r\n\x08\x9b31m[red]markup[/nothing] :smile: \u202eevil\u2028\\等等"
METRICS = {"val/pass@1": Estimate(0.5, 0.25, 0.75, 32), "val/completion_length": Estimate(123.456, 100.0, 150.0, 32)}
SHARPER = ((0.2, 0.9), (0.6, 0.7))  # pass@1 and pass@8 at the start, and at the end
ESCAPE = re.compile(r"\x1b\[[\d;?]*[a-zA-Z]")


def trainer(step: int, **metrics: float) -> Any:
    values = {name.replace("__", "/"): torch.tensor(value) for name, value in metrics.items()}
    return SimpleNamespace(
        global_step=step, max_steps=6, world_size=1, accumulate_grad_batches=2, callback_metrics=values
    )


def stage(*completions: str, correct: bool = False) -> Any:
    samples = [Sample(text, 3, False, correct, text) for text in completions]
    return SimpleNamespace(validator=SimpleNamespace(metrics=METRICS, shown_samples=samples))


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """The output to a terminal."""
    monkeypatch.delenv("NO_COLOR", raising=False)
    sent = io.StringIO()
    fake = Console(file=sent, force_terminal=True, width=100, color_system="truecolor", highlight=False, emoji=False)
    monkeypatch.setattr(progress, "console", fake)
    return sent


@given(st.text())
def test_strip_control_chars_returns_printable_text_of_same_length(text: str) -> None:
    assert strip_control_chars(text).isprintable()
    assert len(strip_control_chars(text)) == len(text)
    assert text.isprintable() == (strip_control_chars(text) == text)


def test_progress_in_pipe_prints_plain_text_of_hostile_completions(capsys: pytest.CaptureFixture[str]) -> None:
    Progress().on_validation_end(trainer(3), stage(HOSTILE))
    out, err = capsys.readouterr()
    assert out == ""
    lines = err.splitlines()
    assert len(lines) == 2
    assert all(line.isprintable() for line in lines)
    assert lines[0] == ("validation at step 3: pass@1 0.500 (0.250 to 0.750), n=32, mean length 123.5 tokens")
    assert lines[1].rstrip().endswith("[2J ]0;owned     31m[red]markup[/nothing] :smile:  evil \\等等")
    assert lines[1].startswith("   wrong  ")


def test_progress_in_terminal_prints_no_control_characters_of_completions(terminal: io.StringIO) -> None:
    Progress().on_validation_end(trainer(3), stage(HOSTILE, correct=True))
    sent = terminal.getvalue()
    assert "\x1b[32mright" in sent  # r1's colours
    text = ESCAPE.sub("", sent)
    assert all(c.isprintable() or c == "\n" for c in text)
    assert "[red]markup[/nothing] :smile:" in text


def test_progress_truncates_long_completions(capsys: pytest.CaptureFixture[str]) -> None:
    Progress().on_validation_end(trainer(0), stage("x" * 1000, "y"))
    lines = capsys.readouterr().err.splitlines()
    assert lines[1] == "   wrong  " + "x" * 160
    assert lines[2] == "   wrong  y"


def test_progress_in_pipe_prints_a_line_per_interval_and_the_last(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    callback = Progress()
    callback.on_train_start(trainer(0), stage())
    for step in range(1, 7):
        now[0] += 4.0
        callback.on_train_batch_end(trainer(step), None, None, SimpleNamespace(num_tokens=20), 2 * step - 2)
        done = trainer(step, train__reward=0.25, train__loss=1.0)
        callback.on_train_batch_end(done, None, None, SimpleNamespace(num_tokens=20), 2 * step - 1)
    callback.on_train_end(trainer(6), stage())
    assert capsys.readouterr().err.splitlines() == [
        "step 1/6  reward 0.250  loss 1.000  10 tok/s",
        "step 4/6  reward 0.250  loss 1.000  10 tok/s",
        "step 6/6  reward 0.250  loss 1.000  10 tok/s",
    ]


@pytest.mark.parametrize("ends", ["on_train_end", "on_exception"])
def test_progress_in_terminal_updates_one_line(terminal: io.StringIO, ends: str) -> None:
    callback = Progress()
    callback.on_train_start(trainer(2), stage())
    callback.on_train_batch_end(trainer(3, train__loss=1.0), None, None, SimpleNamespace(num_tokens=40), 1)
    getattr(callback, ends)(trainer(3), stage(), *([RuntimeError()] if ends == "on_exception" else []))
    text = ESCAPE.sub("", terminal.getvalue())
    assert "3/6" in text
    assert "loss 1.000" in text
    assert terminal.getvalue().endswith("\x1b[?25h")  # the cursor is back


@pytest.mark.parametrize(
    ("estimate", "text"),
    [
        (Estimate(0.5, 0.25, 0.75, 4), "0.500 (0.250 to 0.750)"),
        (Estimate(-0.5, -0.75, 0.0, 4), "-0.500 (-0.750 to 0.000)"),
        (Estimate(123.45, 100.0, 150.0, 4), "123.5 (100.0 to 150.0)"),
    ],
)
def test_estimate_str_has_the_interval(estimate: Estimate, text: str) -> None:
    assert str(estimate) == text


def test_closing_table_has_metrics_before_and_after(capsys: pytest.CaptureFixture[str]) -> None:
    final = METRICS | {"val/reward/[b]odd[/x]": Estimate(1.0, 0.0, 2.0, 8)}
    record: Any = SimpleNamespace(start=METRICS, final=final, dir="/runs/[red]odd")
    progress.console.print(closing_table(record))
    lines = [" ".join(line.split()) for line in capsys.readouterr().err.splitlines()]
    assert "metric before after n" in lines
    assert "val/pass@1 0.500 (0.250 to 0.750) 0.500 (0.250 to 0.750) 32" in lines
    assert "val/reward/[b]odd[/x] 1.000 (0.000 to 2.000) 8" in lines
    assert lines[-1] == "r1 record: /runs/[red]odd"


def test_closing_table_says_once_that_the_policy_only_got_sharper(capsys: pytest.CaptureFixture[str]) -> None:
    start, final = ({"val/pass@1": Estimate(a, a, a, 8), "val/pass@8": Estimate(b, b, b, 8)} for a, b in SHARPER)
    progress.console.print(closing_table(SimpleNamespace(start=start, final=final, dir="x")))  # type: ignore[arg-type]
    note = "pass@1 rose from 0.200 to 0.600, but pass@8 fell from 0.900 to 0.700: sharper, not broader"
    assert capsys.readouterr().err.count(f"r1  note: {note}\n") == 1


def test_status_line_escapes_markup(capsys: pytest.CaptureFixture[str]) -> None:
    progress.console.print(status_line("16 prompts [/x] [red]"))
    assert capsys.readouterr().err == "r1  16 prompts [/x] [red]\n"


@pytest.mark.parametrize("no_color", [True, False])
def test_console_with_no_color_prints_no_escapes(monkeypatch: pytest.MonkeyPatch, no_color: bool) -> None:
    for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    if no_color:
        monkeypatch.setenv("NO_COLOR", "1")
    master, slave = pty.openpty()
    with os.fdopen(slave, "w") as terminal, os.fdopen(master, "rb", buffering=0) as output:
        monkeypatch.setattr(sys, "stderr", terminal)
        spec = importlib.util.find_spec("r1.core.console")
        assert spec
        assert spec.loader
        fresh = importlib.util.module_from_spec(spec)  # the console reads the environment when it is created
        spec.loader.exec_module(fresh)
        fresh.console.print("[red]wrong[/]  [green]right[/]")
        terminal.flush()
        text = output.read(4096).decode()
    assert ESCAPE.sub("", text) == "wrong  right\r\n"
    assert (ESCAPE.search(text) is None) == no_color


def test_console_prints_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    progress.console.print("anything")
    assert capsys.readouterr() == ("", "anything\n")
