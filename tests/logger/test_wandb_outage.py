"""Whatever W&B does, the run continues, warns once, and ends with the same record; its log can be synced later."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import WAITING
from fakewandb import Server
from forkserver import Ended, UninterruptedRuns, log
from wandbruns import check, only

from r1.core.runs import read_run

Run = Callable[..., Ended]
Shell = Callable[..., subprocess.CompletedProcess[str]]


def check_unaffected(folder: Path, reference: Path, warnings: int = 1) -> None:
    text = log(folder)
    assert text.count("warning: W&B") == warnings, text
    assert read_run(str(folder)).manifest["status"] == "finished"
    assert (folder / "metrics.jsonl").read_bytes() == (reference / "metrics.jsonl").read_bytes()


def sync(shell: Shell, folder: Path) -> None:
    """Run the command of the warning."""
    (line,) = [line for line in log(folder).splitlines() if "wandb sync" in line]
    done = shell(*line.split("`")[1].split())
    assert done.returncode == 0, done.stderr


@pytest.fixture
def bad_server() -> Iterator[Server]:
    """A second server, which misbehaves."""
    with Server() as server:
        yield server


@pytest.mark.long
@pytest.mark.parametrize("mood", ["gone", "silent", "failing", "dripping"])
def test_run_continues_offline_when_the_server_is_down_at_the_start(
    wandb_server: Server,
    bad_server: Server,
    logged: Run,
    uninterrupted_run: UninterruptedRuns,
    shell: Shell,
    folder: Path,
    mood: Any,
) -> None:
    reference, _ = uninterrupted_run("grpo")
    if mood == "gone":
        bad_server.stop()
    bad_server.mood = mood
    assert logged("grpo", "logger.start_timeout=3", env={"WANDB_BASE_URL": bad_server.url}).code == 0
    check_unaffected(folder, reference)
    sync(shell, folder)
    check(wandb_server, only(wandb_server), folder)


# ---- in the middle ----


def processes(server: Server, name: str) -> list[int]:
    """Processes of W&B that are connected to this server."""
    numbers = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            matches = f"WANDB_BASE_URL={server.url}".encode() in (process / "environ").read_bytes()
            if matches and name.encode() in (process / "cmdline").read_bytes():
                numbers.append(int(process.name))
        except OSError:
            continue
    return numbers


def kill(server: Server, name: str) -> None:
    for number in processes(server, name):
        os.kill(number, signal.SIGKILL)


def fall_silent(server: Server) -> None:
    server.mood = "silent"


def fail(server: Server) -> None:
    server.mood = "failing"


FAILURES: dict[str, Callable[[Server], None]] = {
    "gone": Server.stop,
    "silent": fall_silent,
    "failing": fail,
    "core": lambda server: kill(server, "wandb-core"),
    "worker": lambda server: kill(server, "r1.logger.wandb_run.worker"),
}


@pytest.mark.long
@pytest.mark.parametrize("failure", FAILURES)
def test_run_continues_offline_after_a_failure_of_wandb(
    wandb_server: Server,
    bad_server: Server,
    logged: Run,
    uninterrupted_run: UninterruptedRuns,
    shell: Shell,
    folder: Path,
    failure: str,
) -> None:
    reference, _ = uninterrupted_run("grpo")
    resume_file = folder.with_name("go_on")

    def cause_failure() -> None:
        while not (bad_server.state.runs and len(only(bad_server)["history"]) >= 2):
            time.sleep(0.05)
        FAILURES[failure](bad_server)
        resume_file.touch()

    threading.Thread(target=cause_failure, daemon=True).start()
    options = [WAITING, f"+reward.terms.low_ids.file={resume_file}", "logger.finish_timeout=3"]
    ended = logged("grpo", *options, env={"WANDB_BASE_URL": bad_server.url})
    print(failure, ended, log(folder))
    assert ended.code == 0
    check_unaffected(folder, reference)
    sync(shell, folder)
    check(wandb_server, only(wandb_server), folder)


# ---- no room ----


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    disk = tmp_path / "disk"
    disk.mkdir()
    if os.geteuid() or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=32k", "none", str(disk)]).returncode:
        pytest.skip("only root can mount a disk that is full")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


@pytest.mark.long
@pytest.mark.parametrize("mode", ["online", "offline"])
def test_full_disk_is_one_warning(
    logged: Run, uninterrupted_run: UninterruptedRuns, folder: Path, tiny_disk: Path, mode: str
) -> None:
    reference, _ = uninterrupted_run("grpo")
    assert logged("grpo", f"logger.mode={mode}", env={"WANDB_DIR": str(tiny_disk)}).code == 0
    print(mode, log(folder))
    check_unaffected(folder, reference)
