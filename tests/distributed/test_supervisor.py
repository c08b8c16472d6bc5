"""The supervisor of child processes, with children that are one line of Python."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

from r1.distributed.process import ChildProcess
from r1.distributed.supervisor import Supervisor

COUNT = """
import signal, sys, time
received = []
signal.signal(signal.SIGTERM, lambda number, _: received.append(number))
print("ready", flush=True)
while len(received) < {num_signals}:
    time.sleep(0.01)
time.sleep(0.3)
sys.exit(len(received))
"""


def start(code: str, log: Path, stdin: str = "") -> ChildProcess:
    child = ChildProcess([sys.executable, "-S", "-c", code], os.environ, log, stdin)
    deadline = time.monotonic() + 30
    while "ready" in code and "ready" not in log.read_text():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return child


def test_last_error_line_of_a_killed_child_is_its_signal(tmp_path: Path) -> None:
    for name, text in (("SIGKILL", "killed by SIGKILL: out of memory?"), ("SIGSEGV", "killed by SIGSEGV")):
        child = start(f"import os, signal; print('r1: half'); os.kill(os.getpid(), signal.{name})", tmp_path / name)
        child.wait()
        assert child.last_error_line() == text
        assert child.exit_code == 128 + signal.Signals[name]
    child = start("raise SystemExit('r1: no data')", tmp_path / "log")
    child.wait()
    assert (child.last_error_line(), child.exit_code) == ("no data", 1)


def wait(supervisor: Supervisor[str]) -> dict[str, int]:
    codes = {}
    while supervisor.running:
        codes |= {job: child.exit_code for child, job in supervisor.poll()}
    return codes


def test_signal_is_forwarded_once_to_every_child(tmp_path: Path) -> None:
    with Supervisor[str](0.01).session() as supervisor:
        for job in ("a", "b"):
            supervisor.running[start(COUNT.format(num_signals=1), tmp_path / job)] = job
        signal.raise_signal(signal.SIGTERM)
        assert wait(supervisor) == {"a": 1, "b": 1}
        assert supervisor.stop_signal == signal.SIGTERM


def test_child_that_ignores_sigterm_is_killed_after_the_grace_time(tmp_path: Path) -> None:
    with Supervisor[str](0.01).session() as supervisor:
        child = start(COUNT.format(num_signals=99), tmp_path / "log")
        supervisor.running[child] = "a"
        supervisor.stop(child, grace_s=0.2)
        assert wait(supervisor) == {"a": 128 + signal.SIGKILL}
        assert supervisor.stop_signal is None


def test_exit_kills_running_children_and_restores_handlers(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGTERM)
    with Supervisor[str](0.01).session() as supervisor:
        child = start("import time; time.sleep(60)", tmp_path / "log")
        supervisor.running[child] = "a"
    assert child.returncode == -signal.SIGKILL
    assert signal.getsignal(signal.SIGTERM) == before


def test_child_reads_stdin_and_its_last_error_line_is_of_this_start(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("r1: an older error\n")
    child = start("import sys; sys.exit(f'r1: wrong {input()}')", log, stdin="value")
    child.wait()
    assert (child.exit_code, child.last_error_line()) == (1, "wrong value")
