"""Warnings of a run that goes wrong: series made by hand, series of healthy runs, one warning per run."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from r1.config.lengths import long_solutions
from r1.core.types import Config
from r1.run import execute
from r1.stage.training.symptoms import (
    MAX_VALUES,
    SYMPTOMS,
    Symptoms,
    entropy_collapse,
    first_validation,
    gradient_growth,
    lost_signal,
    reward_fall,
)

HEALTHY = json.loads(Path(__file__).with_name("healthy.json").read_text())  # of 48-step runs in the tiny world


def ramp(start: float, end: float, steps: int) -> list[float]:
    return [start + (end - start) * i / (steps - 1) for i in range(steps)]


@pytest.mark.parametrize(
    ("symptom", "series", "message"),
    [
        (entropy_collapse, [0.4] * 5 + ramp(0.4, 0.03, 10) + [0.03] * 5, "from 0.4 to 0.03"),
        (lost_signal, [0.2] * 10 + [0.8, 0.9, 0.9, 0.9, 0.8], "86%"),
        (gradient_growth, [0.5, 0.4] * 6 + [6.0, 0.3, 7.0, 9.0, 5.5], "from 0.45 to 6"),
        (reward_fall, [0.5, 0.52, 0.54, 0.52, 0.52] * 2 + ramp(0.5, 0.05, 15) + [0.05] * 5, "from 0.52 to 0.05"),
        (reward_fall, [-1.0, -1.1, -0.9, -1.0, -1.0] * 2 + [-2.0, -2.1, -1.9, -2.0, -2.0], "from -1 to -2"),
    ],
)
def test_series_that_go_wrong_are_named_with_a_key(
    symptom: Callable[[list[float]], str], series: list[float], message: str
) -> None:
    assert message in symptom(series)
    assert "stage." in symptom(series)


@pytest.mark.parametrize(
    ("symptom", "series"),
    [
        (entropy_collapse, ramp(0.4, 0.05, 20)),
        (entropy_collapse, [0.0] * 20),
        (lost_signal, [0.2] * 15 + [0.75] * 5),
        (gradient_growth, [0.5] * 15 + [50.0, 0.5, 40.0, 0.5, 0.5]),
        (gradient_growth, [0.0] * 15 + [1.0] * 5),
        (reward_fall, [0.5, 0.1, 0.4, 0.0, 0.6, 0.3] * 6),
        (reward_fall, ramp(0.5, 0.3, 30)),
        (reward_fall, [0.0] * 30),
    ],
)
def test_series_within_the_bounds_are_silent(symptom: Callable[[list[float]], str], series: list[float]) -> None:
    assert symptom(series) == ""


@pytest.mark.parametrize("name", HEALTHY)
def test_healthy_runs_are_silent(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    symptoms = Symptoms()
    for step, metrics in enumerate(HEALTHY[name], 1):
        symptoms.update(step, metrics)
    assert symptoms.reported == []
    assert len(symptoms.series["train/grad_norm"]) > 40
    assert capsys.readouterr().err == ""


def test_warning_is_printed_once_and_not_again_after_a_resume(capsys: pytest.CaptureFixture[str]) -> None:
    symptoms = Symptoms()
    for step in range(1, 15):
        symptoms.update(step, {"train/frac_zero_std": 1.0})
    assert capsys.readouterr().err == ""
    saved = json.loads(json.dumps(symptoms.state()))
    for _ in range(2):  # the second time from the checkpoint: the same warning at the same step
        resumed = Symptoms()
        resumed.load_state(json.loads(json.dumps(saved)))
        resumed.update(15, {"train/frac_zero_std": 1.0})
        assert "warning: at step 15 100% of the groups" in capsys.readouterr().err
    after = Symptoms()
    after.load_state(resumed.state())
    after.update(16, {"train/frac_zero_std": 1.0})
    assert capsys.readouterr().err == ""


def test_long_run_keeps_its_first_window_and_the_newest_values() -> None:
    symptoms = Symptoms()
    for step in range(2 * MAX_VALUES):
        symptoms.update(step, {"train/entropy": 1.0 + step})
    series = symptoms.series["train/entropy"]
    assert len(series) == MAX_VALUES
    assert series[:6] == [1, 2, 3, 4, 5, 2 * MAX_VALUES - MAX_VALUES + 6]
    assert series[-1] == 2 * MAX_VALUES


@pytest.mark.parametrize(
    ("truncated", "rewards", "expected"),
    [
        (0.5, [[0.0, 1.0], [0.0, 0.0]], []),
        (0.6, None, ["cut off at rollout.max_completion_length=64"]),
        (0.0, [[0.0, 0.0], [1.0, 1.0]], ["no prompt had completions of different reward"]),
        (0.9, [[0.0, 0.0]], ["cut off", "different reward"]),
        (0.0, [[0.0], [0.0]], []),  # one completion per prompt says nothing
    ],
)
def test_first_validation_says_what_the_rollouts_will_be(
    truncated: float, rewards: list[list[float]] | None, expected: list[str]
) -> None:
    messages = first_validation(truncated, rewards, 64)
    assert len(messages) == len(expected)
    assert all(text in message for text, message in zip(expected, messages, strict=True))


def test_run_warns_after_its_first_validation_only(
    small: Callable[..., Config], folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Random weights never end a completion."""
    execute(small("stage=sft", "trainer.max_steps=2", "val.every=1", f"output_dir={folder}"), [])
    assert capsys.readouterr().err.count("100% of the completions were cut off at") == 1


def test_symptoms_of_a_run_are_in_its_checkpoint(
    small: Callable[..., Config], folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("r1.stage.training.symptoms.MIN_BEFORE", 0)
    monkeypatch.setattr("r1.stage.training.symptoms.WINDOW", 2)
    monkeypatch.setitem(SYMPTOMS, "train/grad_norm", lambda series: f"{len(series)} norms")
    knobs: list[Any] = ["stage=sft", "checkpoint_every=1", "keep_best=false", f"output_dir={folder}"]
    execute(small(*knobs, "trainer.max_steps=3"), [])
    assert capsys.readouterr().err.count("warning: at step 2 2 norms") == 1
    execute(small(*knobs, "trainer.max_steps=5", "resume=auto"), [])
    assert "norms" not in capsys.readouterr().err


@pytest.mark.parametrize(("limit", "note"), [(4, "100% of the data's own solutions are longer"), (64, "")])
def test_plan_notes_solutions_longer_than_a_completion(experiment: Callable[..., Any], limit: int, note: str) -> None:
    made = experiment("stage=grpo", "data.num_train=16", "data.num_val=4")
    text = long_solutions(made.data, made.stage.tokenizer, limit)
    assert text.startswith(note)
    assert bool(text) == bool(note)
