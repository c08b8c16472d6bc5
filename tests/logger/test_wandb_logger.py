"""The run's side of W&B: what is asked of a courier, what it reads in a record, and what is said of it."""

from __future__ import annotations

import io
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fakewandb import Server
from lightning.pytorch.loggers.logger import DummyLogger
from wandbruns import check

from r1.core import jsonl
from r1.core.types import Config
from r1.logger.wandb import Wandb, take_run_id_from_env, wandb
from r1.logger.wandb_run import worker as courier
from r1.logger.wandb_run.history import Rows
from r1.logger.wandb_run.worker import WandbJob, run_id_lock, send, wait_for_end
from r1.run import execute

KNOBS: dict[str, Any] = {"project": "p", "entity": None, "group": "g", "name": "n", "tags": ["t"], "log_model": False}
KNOBS |= {"start_timeout": 1, "finish_timeout": 2}


@pytest.fixture(autouse=True)
def without_account(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_SWEEP_ID", "WANDB_RUN_ID"):
        monkeypatch.delenv(name, raising=False)


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
def test_what_auto_means(
    folder: Path, monkeypatch: pytest.MonkeyPatch, mode: Any, environment: dict[str, str], expected: str
) -> None:
    monkeypatch.setattr(Wandb, "_send", lambda self, order: "")
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    made: Any = wandb(folder, {"a": {"b": 1}}, mode=mode, **KNOBS)
    if expected == "disabled":
        assert isinstance(made, DummyLogger)
    else:
        assert made.order == WandbJob(str(folder), {"a.b": 1}, mode=expected, run_id=None, **KNOBS)


def test_only_one_run_of_a_process_is_the_one_that_an_agent_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_RUN_ID", "of-the-agent")
    assert [take_run_id_from_env(), take_run_id_from_env()] == ["of-the-agent", None]


def test_couriers_are_replaced_once_and_offline(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    sent: list[WandbJob] = []

    def send(self: Wandb, order: WandbJob) -> str:
        sent.append(order)
        return f"gone with token=my-secret, {order.mode}"

    monkeypatch.setattr(Wandb, "_send", send)
    made: Any = wandb(folder, {}, mode="online", **KNOBS)
    made.close(0, None)
    assert [(order.mode, order.trouble) for order in sent] == [("online", ""), ("offline", sent[1].trouble)]
    said = capfd.readouterr().err
    assert said.count("warning: W&B") == 1
    assert "my-secret" not in said


# ---- a courier ----


def test_a_row_comes_with_its_timing_and_its_completions(tmp_path: Path) -> None:
    rows = Rows(tmp_path)
    assert list(rows.new()) == []
    completion = {"split": "val", "step": 0, "completion": "x", "rewards": {"format": 1.0}}
    jsonl.append(tmp_path / "samples.jsonl", [completion, completion | {"split": "train"}])
    jsonl.append(tmp_path / "timing.jsonl", [{"step": 0, "time/ask": 2.0}])
    jsonl.append(tmp_path / "metrics.jsonl", [{"step": 0, "val/pass@1": 0.5}])
    assert list(rows.new()) == [(0, {"step": 0, "val/pass@1": 0.5}, [{"completion": "x", "rewards.format": 1.0}])]
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 0, "distill/asked": 3}\n{"step": 1, ')
    assert list(rows.new()) == [(1, {"step": 0, "distill/asked": 3, "time/ask": 2.0}, [])]
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('"train/loss": 1}\n')
    assert list(rows.new()) == [(2, {"step": 1, "train/loss": 1}, [])]


def test_the_id_is_the_record_s_unless_an_agent_has_another(tmp_path: Path) -> None:
    with run_id_lock(tmp_path, None) as first:
        assert len(first) == 8
    with run_id_lock(tmp_path, None) as again:
        assert again == first
    with run_id_lock(tmp_path, "other") as given:
        assert given == "other"
    assert (tmp_path / "wandb_id").read_text() == "other"


def test_what_a_courier_hears_last(monkeypatch: pytest.MonkeyPatch) -> None:
    ending = {"exit_code": 143, "error": "SIGTERM"}
    for heard, last in ((json.dumps(ending), ending), ("", courier.KILLED)):
        monkeypatch.setattr(sys, "stdin", io.StringIO(heard))
        assert next(told for told in wait_for_end(3600) if told) == last


def test_what_a_courier_says_is_one_line_without_secrets(capsys: pytest.CaptureFixture[str]) -> None:
    send(courier.WARNING, "POST https://me:my-secret@host\nfailed")
    out = capsys.readouterr().out
    assert out.count("\n") == 1
    assert "my-secret" not in out


# ---- in one process ----


def test_two_runs_of_a_process_are_two_wandb_runs_and_the_failed_one_failed(
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
    monkeypatch.setattr("r1.stage.base.Stage.report_step", lambda self: 1 / 0)
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
