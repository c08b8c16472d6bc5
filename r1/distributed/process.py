"""A run as a process of its own, ``python -m r1.run``, as anyone could type it; it dies with its parent."""

from __future__ import annotations

import ctypes
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from r1.core.errors import STOP_SIGNALS, one_line

RUN = [sys.executable, "-m", "r1.run"]
LOG = "output.log"
PR_SET_PDEATHSIG = 1


class Process:
    """Starts a run; what it prints is appended to ``output.log`` in its record.

    Args:
        argv: the command line behind ``python -m r1.run``.
        folder: the record's.
        env: the run's whole environment.
    """

    def __init__(self, argv: Sequence[str], folder: Path, env: Mapping[str, str]) -> None:
        self.folder, self.started = folder, time.monotonic()
        folder.mkdir(parents=True, exist_ok=True)
        parent = os.getpid()
        with (folder / LOG).open("ab") as log:
            self._log_size = log.tell()
            self._child = subprocess.Popen(
                [*RUN, *argv],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=env,
                process_group=0,  # a terminal's ^C comes to the parent alone, which passes it on once
                preexec_fn=lambda: kill_on_parent_death(parent),
            )
        self.send, self.kill = self._child.send_signal, self._child.kill

    @property
    def ended(self) -> bool:
        return self._child.poll() is not None

    @property
    def code(self) -> int:
        """The exit code as a shell reports it: 128 + the signal that killed it; never 0 for a run that is not done."""
        code = self._child.returncode
        return 128 - code if code < 0 else code or 1

    @property
    def wall_s(self) -> float:
        return round(time.monotonic() - self.started, 3)

    def last_words(self) -> str:
        """The error that ends what it has printed, one line."""
        with (self.folder / LOG).open("rb") as log:
            log.seek(self._log_size)
            text = log.read().decode(errors="replace")
        return last_words(text)


def shared_cores(num_runs: int) -> dict[str, str]:
    """The environment of runs at the same time: threads that wait for a core are many times slower than none."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(max(1, cores // num_runs)))}


def output_overrides(folder: Path) -> list[str]:
    """The overrides that make a run write its record into ``folder``, and go on with what is there."""
    return [f"output_dir={escape_hydra(str(folder))}", "resume=auto"]


def escape_hydra(path: str) -> str:
    """A path as Hydra's grammar wants it outside quotes."""
    return re.sub(r"([\\()\[\]{}:=, \t])", r"\\\1", path)


@contextmanager
def signals() -> Iterator[list[int]]:
    """The signals that have asked for a stop since the block began, in their order; none has its usual effect."""
    received: list[int] = []

    def note(number: int, _: Any) -> None:
        received.append(number)

    before = {number: signal.signal(number, note) for number in STOP_SIGNALS}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def kill_on_parent_death(parent: int) -> None:
    """Between fork and exec: be killed when the parent is (Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:
            os._exit(1)


def last_words(text: str) -> str:
    """The first line of the UserError that ends a text, or the text's last line."""
    error = f"\n{text}".rpartition("\nr1: ")[2] if "\nr1: " in f"\n{text}" else text.strip().rpartition("\n")[2]
    return one_line(error.partition("\n")[0])
