"""W&B's history equals metrics.jsonl, row for row, after kills, stops and resumes, online and offline."""

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
    # after the checkpoint of step 4
    "killed": (Point("r1.core.jsonl:append_rows", match="metrics.jsonl", call=8), "failed"),
    "stopped": (Point(STEP, call=4, number=TERM), "preempted"),
    "stopped in a validation": (Point(VALIDATION, call=3, number=TERM), "preempted"),
    "killed at once": (Point(STEP), "failed"),
}


def sync(shell: Shell, folder: Path) -> None:
    (run_dir,) = folder.glob("wandb/offline-run-*")
    done = shell("wandb", "sync", str(run_dir))
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
def test_history_is_complete_after_resume(
    wandb_server: Server, logged: Run, shell: Shell, folder: Path, mode: str, end: str
) -> None:
    point, _ = ENDS[end]
    options = ["grpo", f"logger.mode={mode}", "checkpoint_every=2"]
    assert logged(*options, point=point).code == {signal.SIGKILL: -9, TERM: 143}[point.number]
    assert logged(*options, resume=True).code == 0
    if mode == "offline":
        sync(shell, folder)
    assert only(wandb_server)["name"] == (folder / "wandb_id").read_text()
    assert only(wandb_server)["state"] == "finished"
    check(wandb_server, only(wandb_server), folder)
    assert len(list(folder.glob("wandb/*run-*-*"))) == 1


@pytest.mark.long
@pytest.mark.parametrize("end", ENDS)
def test_state_of_an_ended_run_before_resume(wandb_server: Server, logged: Run, end: str) -> None:
    point, state = ENDS[end]
    logged("grpo", point=point)
    wandb_server.wait_until_runs_ended()
    assert only(wandb_server)["state"] == state


@pytest.mark.long
def test_offline_run_synced_before_and_after_resume_is_complete(
    wandb_server: Server, logged: Run, shell: Shell, folder: Path
) -> None:
    options = ["grpo", "logger.mode=offline", "checkpoint_every=2"]
    logged(*options, point=ENDS["stopped"][0])
    sync(shell, folder)
    assert logged(*options, resume=True).code == 0
    sync(shell, folder)
    check(wandb_server, only(wandb_server), folder)


@pytest.mark.long
@pytest.mark.parametrize("modes", [("online", "offline"), ("offline", "online")])
def test_history_is_complete_after_a_change_of_mode(
    wandb_server: Server, logged: Run, shell: Shell, folder: Path, modes: tuple[str, str]
) -> None:
    options = ["grpo", "checkpoint_every=2"]
    logged(*options, f"logger.mode={modes[0]}", point=ENDS["stopped"][0])
    assert logged(*options, f"logger.mode={modes[1]}", resume=True).code == 0
    if modes[1] == "offline":
        sync(shell, folder)
    check(wandb_server, only(wandb_server), folder)


@pytest.mark.long
def test_resume_under_another_run_id_sends_the_complete_history(
    wandb_server: Server, logged: Run, folder: Path
) -> None:
    """Including the rows that were logged under another run id."""
    options = ["grpo", "checkpoint_every=2"]
    logged(*options, point=ENDS["stopped"][0])
    assert logged(*options, resume=True, env={"WANDB_RUN_ID": "of-an-agent"}).code == 0
    check(wandb_server, wandb_server.state.runs["local", "r1", "of-an-agent"], folder)
