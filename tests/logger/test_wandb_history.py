"""W&B's history is metrics.jsonl, row for row, whatever was killed, stopped and resumed, online and offline."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from fakewandb import Server
from forkserver import Ended
from killpoints import Point
from wandbruns import check, only

Run = Callable[..., Ended]
Shell = Callable[..., subprocess.CompletedProcess[str]]
TERM = signal.SIGTERM
STEP, VALIDATION = "r1.stage.grpo:Grpo.micro_batches", "r1.stage.base:Stage.validation_step"
ENDS = {
    "killed": (
        Point("r1.core.jsonl:append_rows", match="metrics.jsonl", call=8),
        "failed",
    ),  # after the checkpoint of step 4
    "stopped": (Point(STEP, call=4, number=TERM), "preempted"),
    "stopped in a validation": (Point(VALIDATION, call=3, number=TERM), "preempted"),
    "killed at once": (Point(STEP), "failed"),
}


def sync(shell: Shell, folder: Path) -> None:
    (kept,) = folder.glob("wandb/offline-run-*")
    done = shell("wandb", "sync", str(kept))
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("mode", "end"),
    [
        ("online", "killed"),
        pytest.param("online", "stopped", marks=pytest.mark.long),
        pytest.param("online", "stopped in a validation", marks=pytest.mark.long),
        pytest.param("online", "killed at once", marks=pytest.mark.long),
        pytest.param("offline", "killed", marks=pytest.mark.long),
        pytest.param("offline", "stopped in a validation", marks=pytest.mark.long),
    ],
)
def test_ended_and_resumed(wandb_server: Server, logged: Run, shell: Shell, folder: Path, mode: str, end: str) -> None:
    point, _ = ENDS[end]
    asked = ["grpo", f"logger.mode={mode}", "checkpoint_every=2"]
    assert logged(*asked, point=point).code == {signal.SIGKILL: -9, TERM: 143}[point.number]
    assert logged(*asked, resume=True).code == 0
    if mode == "offline":
        sync(shell, folder)
    assert only(wandb_server)["name"] == (folder / "wandb_id").read_text()
    assert only(wandb_server)["state"] == "finished"
    check(wandb_server, only(wandb_server), folder)
    assert len(list(folder.glob("wandb/*run-*-*"))) == 1


@pytest.mark.long
@pytest.mark.parametrize("end", ENDS)
def test_what_it_is_called_until_then(wandb_server: Server, logged: Run, end: str) -> None:
    point, state = ENDS[end]
    logged("grpo", point=point)
    wandb_server.wait_until_runs_ended()
    assert only(wandb_server)["state"] == state


@pytest.mark.long
def test_sent_from_offline_in_the_middle_and_at_the_end(
    wandb_server: Server, logged: Run, shell: Shell, folder: Path
) -> None:
    asked = ["grpo", "logger.mode=offline", "checkpoint_every=2"]
    logged(*asked, point=ENDS["stopped"][0])
    sync(shell, folder)
    assert logged(*asked, resume=True).code == 0
    sync(shell, folder)
    check(wandb_server, only(wandb_server), folder)


@pytest.mark.long
@pytest.mark.parametrize("modes", [("online", "offline"), ("offline", "online")])
def test_begun_in_one_mode_and_ended_in_the_other(
    wandb_server: Server, logged: Run, shell: Shell, folder: Path, modes: tuple[str, str]
) -> None:
    asked = ["grpo", "checkpoint_every=2"]
    logged(*asked, f"logger.mode={modes[0]}", point=ENDS["stopped"][0])
    assert logged(*asked, f"logger.mode={modes[1]}", resume=True).code == 0
    if modes[1] == "offline":
        sync(shell, folder)
    check(wandb_server, only(wandb_server), folder)


@pytest.mark.long
def test_an_agent_s_run_takes_up_a_record(wandb_server: Server, logged: Run, folder: Path) -> None:
    """It has the whole history, also of what was logged under another name."""
    asked = ["grpo", "checkpoint_every=2"]
    logged(*asked, point=ENDS["stopped"][0])
    assert logged(*asked, resume=True, env={"WANDB_RUN_ID": "of-an-agent"}).code == 0
    check(wandb_server, wandb_server.state.runs["local", "r1", "of-an-agent"], folder)
