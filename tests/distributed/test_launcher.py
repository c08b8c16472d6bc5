"""The launcher's supervision of its ranks, with ranks that are one line of Python."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from r1.core.errors import RankFailed
from r1.distributed import launcher
from r1.distributed.collectives import FAILED, HOSTNAME
from r1.distributed.launcher import RankSupervisor, serve_tcp_store
from r1.distributed.process import ChildProcess, stopped_by

SLEEP = "import time; time.sleep(60)"
STOP = f"import os; os.kill(os.getpid(), {int(signal.SIGSTOP)})"
LIMIT_S = 1.0


def outcome(
    monkeypatch: pytest.MonkeyPatch, folder: Path, codes: list[str], published: RankFailed | None = None
) -> tuple[RankFailed, float]:
    """How a run ends whose ranks run these lines, and after how many seconds."""
    monkeypatch.setattr(
        launcher, "start_rank", lambda task, env: ChildProcess([sys.executable, "-S", "-c", env["CODE"]], env)
    )
    closed: list[Any] = []
    with serve_tcp_store() as (store, _):
        if published:
            store.set(FAILED, json.dumps(published.fields))
        supervisor = RankSupervisor(folder, store, lambda *args: closed.append(args[1]) or args[1], LIMIT_S)
        started = time.monotonic()
        with pytest.raises(RankFailed) as failed:
            supervisor.run("", [os.environ | {"CODE": code} for code in codes])
    assert closed == ["failed"]
    return failed.value, time.monotonic() - started


def test_stopped_rank_is_killed_after_the_limit_and_the_others_after_the_grace_time(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    failed, seconds = outcome(monkeypatch, tmp_path, [SLEEP, STOP])
    assert str(failed) == f"rank 1 on {HOSTNAME}: was stopped by SIGSTOP for 1 s"
    assert failed.code == 1
    assert LIMIT_S < seconds < 3 * LIMIT_S  # the starts of two processes are part of it


def test_rank_that_goes_on_within_the_limit_is_left_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    wake = "import os, subprocess; subprocess.Popen(['sh', '-c', f'sleep 0.5; kill -CONT {os.getpid()}'])"
    failed, _ = outcome(monkeypatch, tmp_path, [f"{wake}; {STOP}; raise SystemExit(3)"])
    assert (str(failed), failed.code) == ("rank 0: exited with code 3 without reporting an error", 3)


def test_rank_that_another_rank_found_silent_is_killed_at_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    failed, seconds = outcome(monkeypatch, tmp_path, [SLEEP, ""], RankFailed("shows no sign of life", 0, code=1))
    assert str(failed) == "rank 0: shows no sign of life"
    assert seconds < LIMIT_S


def test_stopped_by_is_the_signal_of_a_process_that_is_stopped_now() -> None:
    child = ChildProcess([sys.executable, "-S", "-c", SLEEP], os.environ)
    assert stopped_by(child.pid) is None
    for number in (signal.SIGSTOP, signal.SIGTSTP):
        child.send_signal(number)
        while not stopped_by(child.pid):
            time.sleep(0.01)
        assert stopped_by(child.pid) == stopped_by(child.pid) == number
        child.send_signal(signal.SIGCONT)
        while stopped_by(child.pid):
            time.sleep(0.01)
    child.kill()
    while os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT) is None:
        time.sleep(0.01)
    assert stopped_by(child.pid) is None, "it has ended, and nobody has waited for it"
    child.wait()
