"""Child processes that die with their parent, and runs as such processes: ``python -m r1.run ARGV``."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import IO, Any

from r1.core.errors import one_line
from r1.core.override_text import path_value

RUN = [sys.executable, "-m", "r1.run"]
LOG = "output.log"
PR_SET_PDEATHSIG = 1


class ChildProcess(subprocess.Popen[bytes]):
    """A process in a process group of its own, so that a terminal's ^C reaches the parent alone, which forwards it.

    Args:
        command: its argv.
        env: its whole environment.
        log: its output is appended to this file; None: it goes to this process's stderr.
        stdin: its whole input.
    """

    def __init__(
        self, command: Sequence[str], env: Mapping[str, str], log: Path | None = None, stdin: str = ""
    ) -> None:
        self.log, self.log_start, self.started_at = log, 0, time.monotonic()
        parent = os.getpid()
        output: Any = log.open("ab") if log else nullcontext(2)  # stdout is for the record's folder
        with output as file:
            if log:
                self.log_start = file.tell()
            super().__init__(
                command,
                stdin=subprocess.PIPE,
                stdout=file,
                stderr=file,
                env=env,
                process_group=0,
                preexec_fn=lambda: kill_on_parent_death(parent),
            )
        pipe: IO[bytes] = self.stdin  # type: ignore[assignment]
        with pipe:
            pipe.write(stdin.encode())

    @property
    def exit_code(self) -> int:
        """Of an ended process, as a shell reports it: 128 + the signal that killed it."""
        return 128 - self.returncode if self.returncode < 0 else self.returncode

    @property
    def wall_s(self) -> float:
        return round(time.monotonic() - self.started_at, 3)

    def last_error_line(self) -> str:
        """The signal that killed it, or the error at the end of its log."""
        assert self.log
        if self.returncode < 0:
            return describe_exit(self.returncode)
        with self.log.open("rb") as log:
            log.seek(self.log_start)
            return last_error_line(log.read().decode(errors="replace"))


def start_run(argv: Sequence[str], folder: Path, env: Mapping[str, str]) -> ChildProcess:
    """``python -m r1.run ARGV`` with its record in ``folder``, resumed if there is one; its output goes to ``LOG``."""
    folder.mkdir(parents=True, exist_ok=True)
    return ChildProcess([*RUN, *argv, f"output_dir={path_value(folder)}", "resume=auto"], env, folder / LOG)


def shared_cores(num_runs: int) -> dict[str, str]:
    """The environment of ``num_runs`` concurrent runs: more threads than cores make each of them many times slower."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(max(1, cores // num_runs)))}


def kill_on_parent_death(parent: int) -> None:
    """Between fork and exec: have the kernel send SIGKILL when ``parent`` dies (Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:  # it died before prctl was called
            os._exit(1)


def stopped_by(pid: int) -> int | None:
    """The signal, such as SIGSTOP, that has stopped a running child and that no SIGCONT has followed (Linux)."""
    if sys.platform != "linux":
        return None
    state = os.waitid(os.P_PID, pid, os.WSTOPPED | os.WEXITED | os.WNOHANG | os.WNOWAIT)
    return state.si_status if state and state.si_code == os.CLD_STOPPED else None


def describe_exit(returncode: int) -> str:
    """How a process has ended, from its return code: ``killed by SIGKILL: out of memory?``."""
    if returncode >= 0:
        return f"exited with code {returncode}"
    name = signal.Signals(-returncode).name
    return f"killed by {name}" + (": out of memory?" if name == "SIGKILL" else "")


def last_error_line(text: str) -> str:
    """The first line of the UserError that ends a text, or the text's last line."""
    error = f"\n{text}".rpartition("\nr1: ")[2] if "\nr1: " in f"\n{text}" else text.strip().rpartition("\n")[2]
    return one_line(error.partition("\n")[0])
