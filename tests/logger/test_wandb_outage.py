"""Whatever W&B does, the run goes on, says so once, and ends with the same record; what was logged can be sent on."""

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
from forkserver import Ended, Whole, log
from wandbruns import check, only

from r1.core.runs import read_run

Run = Callable[..., Ended]
Shell = Callable[..., subprocess.CompletedProcess[str]]


def unharmed(folder: Path, whole: Path, warnings: int = 1) -> None:
    text = log(folder)
    assert text.count("warning: W&B") == warnings, text
    assert read_run(str(folder)).manifest["status"] == "finished"
    assert (folder / "metrics.jsonl").read_bytes() == (whole / "metrics.jsonl").read_bytes()


def sync(shell: Shell, folder: Path) -> None:
    """As the run has said that one should."""
    (line,) = [line for line in log(folder).splitlines() if "wandb sync" in line]
    done = shell(*line.split("`")[1].split())
    assert done.returncode == 0, done.stderr


@pytest.fixture
def elsewhere() -> Iterator[Server]:
    """Another server, which is not well."""
    with Server() as server:
        yield server


@pytest.mark.long
@pytest.mark.parametrize("mood", ["gone", "silent", "failing"])
def test_a_server_that_does_not_answer_at_the_start(
    wandb_server: Server, elsewhere: Server, logged: Run, whole_run: Whole, shell: Shell, folder: Path, mood: Any
) -> None:
    whole, _ = whole_run("grpo")
    if mood == "gone":
        elsewhere.stop()
    elsewhere.mood = mood
    assert logged("grpo", "logger.start_timeout=3", env={"WANDB_BASE_URL": elsewhere.url}).code == 0
    unharmed(folder, whole)
    sync(shell, folder)
    check(wandb_server, only(wandb_server), folder)


# ---- in the middle ----


def processes(server: Server, name: str) -> list[int]:
    """Those of W&B that talk to this server."""
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        try:
            ours = f"WANDB_BASE_URL={server.url}".encode() in (place / "environ").read_bytes()
            if ours and name.encode() in (place / "cmdline").read_bytes():
                found.append(int(place.name))
        except OSError:
            continue
    return found


def kill(server: Server, name: str) -> None:
    for number in processes(server, name):
        os.kill(number, signal.SIGKILL)


def fall_silent(server: Server) -> None:
    server.mood = "silent"


def fail(server: Server) -> None:
    server.mood = "failing"


TROUBLES: dict[str, Callable[[Server], None]] = {
    "gone": Server.stop,
    "silent": fall_silent,
    "failing": fail,
    "core": lambda server: kill(server, "wandb-core"),
    "courier": lambda server: kill(server, "r1.logger.wandb_run.worker"),
}


@pytest.mark.long
@pytest.mark.parametrize("trouble", TROUBLES)
def test_trouble_in_the_middle(
    wandb_server: Server, elsewhere: Server, logged: Run, whole_run: Whole, shell: Shell, folder: Path, trouble: str
) -> None:
    whole, _ = whole_run("grpo")
    go_on = folder.with_name("go_on")

    def spoil() -> None:
        while not (elsewhere.state.runs and len(only(elsewhere)["history"]) >= 2):
            time.sleep(0.05)
        TROUBLES[trouble](elsewhere)
        go_on.touch()

    threading.Thread(target=spoil, daemon=True).start()
    patience = [WAITING, f"+reward.terms.low_ids.file={go_on}", "logger.finish_timeout=3"]
    ended = logged("grpo", *patience, env={"WANDB_BASE_URL": elsewhere.url})
    print(trouble, ended, log(folder))
    assert ended.code == 0
    unharmed(folder, whole)
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
def test_a_full_disk(logged: Run, whole_run: Whole, folder: Path, tiny_disk: Path, mode: str) -> None:
    whole, _ = whole_run("grpo")
    assert logged("grpo", f"logger.mode={mode}", env={"WANDB_DIR": str(tiny_disk)}).code == 0
    print(mode, log(folder))
    unharmed(folder, whole)
