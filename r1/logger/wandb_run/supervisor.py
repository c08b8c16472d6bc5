"""The run's side of its W&B worker process: start it, print its messages, replace it once if it fails."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from contextlib import suppress
from dataclasses import asdict, replace
from threading import Lock, Thread

from r1.core.console import console, status_line
from r1.core.errors import one_line
from r1.logger.wandb_run.job import ERROR, INFO, WARNING, RunEnd, WandbJob

OFFLINE_S = 20.0  # enough to start W&B again without a network and to write a complete history


class WorkerSupervisor:
    """Runs a worker process for ``job`` in the background; one that fails is replaced, once, by an offline one."""

    def __init__(self, job: WandbJob) -> None:
        self.job = job
        self._run_end: RunEnd | None = None
        self._process: subprocess.Popen[str] | None = None
        self._lock = Lock()  # both threads write to the process: without it, a new process could miss the run's end
        self._gave_up = False
        self._thread = Thread(target=self._supervise, daemon=True)
        self._thread.start()

    def close(self, exit_code: int, error: BaseException | None) -> None:
        """Wait until W&B has everything, at most ``finish_timeout`` and the time that an offline worker needs."""
        with self._lock:
            message = one_line(f"{type(error).__name__}: {error}") if error else None
            self._run_end = RunEnd(exit_code, message)
            self._send_run_end()
        limit = self.job.finish_timeout + OFFLINE_S
        self._thread.join(limit)
        if self._thread.is_alive():
            self._gave_up = True
            self._kill()
            self._warn(f"the worker process did not end within {limit:g} s")

    def _supervise(self) -> None:
        error = self._run_worker(self.job)
        if error and self.job.mode != "offline" and not self._gave_up:
            error = self._run_worker(replace(self.job, mode="offline", previous_error=error))
        if error and not self._gave_up:
            self._warn(error)

    def _run_worker(self, job: WandbJob) -> str:
        """Run one worker process from start to end. Returns its error; empty: none."""
        try:
            with self._lock:
                self._process = subprocess.Popen(
                    [sys.executable, "-m", "r1.logger.wandb_run.worker"],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    text=True,
                    start_new_session=True,  # a terminal's ^C must not reach it
                )
                self._write(job)
                self._send_run_end()
            last_line = self._print_messages(self._process)
        except OSError as error:
            return str(error)
        code = self._process.wait()
        self._kill()  # W&B's own process may have outlived the worker
        for pipe in (self._process.stdout, self._process.stdin):
            with suppress(OSError):
                pipe.close()  # type: ignore[union-attr]
        return last_line or f"the worker process ended with {code}" if code else ""

    def _print_messages(self, process: subprocess.Popen[str]) -> str:
        """Print the worker's messages. Returns its error, or the last line that W&B printed before it crashed."""
        last_line = ""
        assert process.stdout
        for line in process.stdout:
            kind, _, text = line.strip().partition(" ")
            if kind == INFO:
                console.print(status_line(f"W&B: {one_line(text)}"))
            elif kind == WARNING:
                self._warn(text)
            else:
                last_line = text if kind == ERROR else line.strip() or last_line
        return last_line

    def _send_run_end(self) -> None:
        if self._run_end and self._process:
            self._write(self._run_end)

    def _write(self, message: WandbJob | RunEnd) -> None:
        assert self._process
        assert self._process.stdin
        with suppress(OSError, ValueError):  # the process is dead: _run_worker returns its error
            print(json.dumps(asdict(message)), file=self._process.stdin, flush=True)

    def _kill(self) -> None:
        if self._process:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)

    @staticmethod
    def _warn(message: str) -> None:
        console.print(status_line(f"warning: W&B: {one_line(message)}"))
