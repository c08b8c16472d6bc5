"""The parts of the W&B logger: its mode, the worker process and its messages, and how it reads a record."""

from __future__ import annotations

import io
import json
import os
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from fakewandb import Server
from wandbruns import check

from r1.core import jsonl
from r1.core.types import Config
from r1.logger.wandb import Wandb, take_run_id_from_env
from r1.logger.wandb_run import session
from r1.logger.wandb_run.history import RecordReader
from r1.logger.wandb_run.job import KILLED, WARNING, RunEnd, WandbJob
from r1.logger.wandb_run.supervisor import WorkerSupervisor
from r1.logger.wandb_run.worker import run_id_lock, send, wait_for_end
from r1.run import execute

KNOBS: dict[str, Any] = {"project": "p", "entity": None, "group": "g", "name": "n", "tags": ["t"], "log_model": False}
KNOBS |= {"start_timeout": 1, "finish_timeout": 2}


@pytest.fixture(autouse=True)
def without_account(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_SWEEP_ID", "WANDB_RUN_ID"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def jobs(monkeypatch: pytest.MonkeyPatch) -> list[WandbJob]:
    """The jobs of all worker processes, none of which is started; each fails."""
    jobs: list[WandbJob] = []

    def run_worker(self: WorkerSupervisor, job: WandbJob) -> str:
        jobs.append(job)
        return f"failed with token=my-secret, {job.mode}"

    monkeypatch.setattr(WorkerSupervisor, "_run_worker", run_worker)
    return jobs


@pytest.mark.parametrize(
    ("mode", "environment", "expected"),
    [
        ("auto", {}, "offline"),
        ("auto", {"WANDB_API_KEY": "x"}, "online"),
        ("auto", {"WANDB_SWEEP_ID": "x"}, "online"),
        ("auto", {"WANDB_API_KEY": "x", "WANDB_MODE": "disabled"}, "disabled"),
        ("online", {"WANDB_MODE": "offline"}, "online"),
        ("disabled", {"WANDB_API_KEY": "x"}, "disabled"),
    ],
)
def test_mode_auto_follows_the_environment(
    folder: Path,
    jobs: list[WandbJob],
    monkeypatch: pytest.MonkeyPatch,
    mode: Any,
    environment: dict[str, str],
    expected: str,
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    Wandb(folder, {"a": {"b": 1}}, mode=mode, **KNOBS).close(0, None)
    first = WandbJob(str(folder), {"a.b": 1}, mode=expected, run_id=None, **KNOBS)
    assert jobs[:1] == ([] if expected == "disabled" else [first])


def test_run_id_from_env_is_used_once_per_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_RUN_ID", "of-the-agent")
    assert [take_run_id_from_env(), take_run_id_from_env()] == ["of-the-agent", None]


def test_failed_worker_is_replaced_once_and_offline(
    folder: Path, jobs: list[WandbJob], capfd: pytest.CaptureFixture[str]
) -> None:
    Wandb(folder, {}, mode="online", **KNOBS).close(0, None)
    assert [(job.mode, job.previous_error) for job in jobs] == [("online", ""), ("offline", jobs[1].previous_error)]
    output = capfd.readouterr().err
    assert output.count("warning: W&B") == 1
    assert "my-secret" not in output


# ---- the worker process ----


def test_new_rows_come_with_their_timing_and_completions(tmp_path: Path) -> None:
    record = RecordReader(tmp_path)
    assert list(record.new_rows()) == []
    completion = {"split": "val", "step": 0, "completion": "x", "rewards": {"format": 1.0}}
    jsonl.append_rows(tmp_path / "samples.jsonl", [completion, completion | {"split": "train"}])
    jsonl.append_rows(tmp_path / "timing.jsonl", [{"step": 0, "time/teacher": 2.0}])
    jsonl.append_rows(tmp_path / "metrics.jsonl", [{"step": 0, "val/pass@1": 0.5}])
    completions = [{"completion": "x", "rewards.format": 1.0}]
    assert list(record.new_rows()) == [(0, {"step": 0, "val/pass@1": 0.5}, completions)]
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 0, "distill/generated": 3}\n{"step": 1, ')
    assert list(record.new_rows()) == [(1, {"step": 0, "distill/generated": 3, "time/teacher": 2.0}, [])]
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('"train/loss": 1}\n')
    assert list(record.new_rows()) == [(2, {"step": 1, "train/loss": 1}, [])]


def test_run_id_is_the_stored_one_unless_an_agent_sets_another(tmp_path: Path) -> None:
    with run_id_lock(tmp_path, None) as first:
        assert len(first) == 8
    with run_id_lock(tmp_path, None) as second:
        assert second == first
    with run_id_lock(tmp_path, "other") as third:
        assert third == "other"
    assert (tmp_path / "wandb_id").read_text() == "other"


def test_end_of_stdin_means_that_the_run_was_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    run_end = RunEnd(143, "SIGTERM")
    for line, expected in ((json.dumps(asdict(run_end)), run_end), ("", KILLED)):
        monkeypatch.setattr(sys, "stdin", io.StringIO(line))
        assert next(end for end in wait_for_end(3600) if end) == expected


def test_messages_are_one_line_without_secrets(capsys: pytest.CaptureFixture[str]) -> None:
    send(WARNING, "POST https://me:my-secret@host\nfailed")
    out = capsys.readouterr().out
    assert out.count("\n") == 1
    assert "my-secret" not in out


def test_full_disk_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    session.check_writable(tmp_path)
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setattr(session, "TemporaryFile", lambda dir: Path("/dev/full").open("wb"))  # noqa: SIM115
    with pytest.raises(OSError, match="is incomplete: No space left on device"):
        session.check_writable(tmp_path)


# ---- in one process ----


def test_second_run_of_a_process_is_a_run_of_its_own_and_its_failure_is_logged(
    wandb_server: Server,
    wandb_env: dict[str, str],
    small: Callable[..., Config],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in wandb_env.items():
        monkeypatch.setenv(name, value)
    short = ["logger=wandb", "trainer.max_steps=1"]
    good, bad = tmp_path / "good", tmp_path / "bad"
    monkeypatch.delenv("WANDB_SERVICE", raising=False)
    execute(small("stage=sft", f"output_dir={good}", *short, "logger.project=mine"), [])
    monkeypatch.setattr("r1.stage.training.base.TrainingStage.report_step", lambda self: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        execute(small("stage=sft", f"output_dir={bad}", *short, "stage.lr=0.5"), [])
    assert "WANDB_SERVICE" not in os.environ
    first, second = wandb_server.state.runs.values()
    assert (first["state"], second["state"]) == ("finished", "failed")
    assert (first["project"], second["project"]) == ("mine", "r1")
    assert json.loads(second["config"])["stage.lr"]["value"] == 0.5
    assert json.loads(second["summaryMetrics"])["error"] == "ZeroDivisionError: division by zero"
    check(wandb_server, first, good)
    check(wandb_server, second, bad)
