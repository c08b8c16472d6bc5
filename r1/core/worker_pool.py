"""Processes that can be killed, for work on text from outside that nothing within its own process can interrupt.

A job that hangs, crashes or is killed costs only itself. Only JSON goes to a child (``r1.core.worker``) and only JSON
comes back. The children start when they are first needed, from a thread that lives as long as this process: the system
kills a child when the thread that started it ends.
"""

from __future__ import annotations

import atexit
import json
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from r1.core.errors import UserError

START_SECONDS = 120.0  # for one process to start, on the slowest file system
MAX_STARTS = 3  # attempts before the error that no process starts
ENVIRONMENT = {"PYTHONHASHSEED": "0", "OMP_NUM_THREADS": "1"}  # nothing depends on the order of a set


class WorkerDied(Exception):
    """The process has ended during its job: out of memory, or a crash."""


class WorkerProcess:
    """One process, with one job at a time."""

    def __init__(self, path: str) -> None:
        # As isolated as -I, which would ignore PYTHONHASHSEED: there is no other variable to be isolated from.
        command = [sys.executable, "-s", "-P", path, str(os.getpid())]
        libraries = {name: os.environ[name] for name in ("LD_LIBRARY_PATH",) if name in os.environ}
        self.process = subprocess.Popen(
            command,
            bufsize=0,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd="/",
            env=ENVIRONMENT | libraries,
            process_group=0,  # Ctrl-C reaches the trainer only, which ends its processes
        )
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.stdin, self.stdout = self.process.stdin, self.process.stdout
        os.set_blocking(self.stdin.fileno(), False)
        self.ready, self.num_jobs, self.buffer = False, 0, b""

    def wait_until_ready(self) -> bool:
        """Whether the process can take a job; waits while it starts."""
        deadline = time.monotonic() + START_SECONDS
        try:
            while not self.ready:  # skips replies to jobs that had timed out
                self.ready = self._message(deadline).get("ready", False)
        except (OSError, ValueError, TimeoutError):
            return False
        return self.process.poll() is None

    def run(self, job: dict[str, Any], seconds: float) -> Any:
        """The result of a job.

        Raises:
            TimeoutError: there is none after ``seconds``.
            WorkerDied: the process ended.
        """
        deadline = time.monotonic() + seconds
        self.num_jobs += 1
        try:
            self._send({"id": self.num_jobs, "job": job}, deadline)
            while (message := self._message(deadline)).get("id") != self.num_jobs:
                if message.get("ready"):  # the fork died, and its supervisor replaced it
                    raise WorkerDied
        except WorkerDied:  # the new fork is ready
            raise
        except BaseException as error:  # Ctrl-C, too
            self.ready = False
            if isinstance(error, OSError | ValueError) and not isinstance(error, TimeoutError):
                raise WorkerDied from None
            self.process.send_signal(signal.SIGUSR1)
            raise
        return message["result"]

    def _send(self, message: dict[str, Any], deadline: float) -> None:
        data = memoryview(b"\n" + json.dumps(message).encode() + b"\n")  # ends a job before it that was cut
        while data:
            _wait(self.stdin.fileno(), select.POLLOUT, deadline)
            data = data[os.write(self.stdin.fileno(), data) :]

    def _message(self, deadline: float) -> dict[str, Any]:
        """The next message.

        Raises:
            TimeoutError: there is none before the deadline.
            OSError: the process has ended.
        """
        chunks = [self.buffer]
        while b"\n" not in chunks[-1]:
            _wait(self.stdout.fileno(), select.POLLIN, deadline)
            chunks.append(self.stdout.read(65536))
            if not chunks[-1]:
                raise BrokenPipeError
        line, _, self.buffer = b"".join(chunks).partition(b"\n")
        return dict(json.loads(line))

    def close(self) -> None:
        with self.process:  # closes the pipes and waits
            self.process.kill()


def _wait(descriptor: int, event: int, deadline: float) -> None:
    """Wait until a pipe can be read or written. Raises: TimeoutError: it cannot before the deadline."""
    poller = select.poll()
    poller.register(descriptor, event)
    if not poller.poll(max(0.0, deadline - time.monotonic()) * 1000):
        raise TimeoutError


class WorkerPool:
    """``num_workers`` processes of one program, started when first used; safe to use from any thread.

    Args:
        path: the program that they run.
        name: of such a process in the error that none starts.
        code: exit code of that error.
    """

    def __init__(self, num_workers: int, path: str, *, name: str, code: int) -> None:
        self.num_workers, self.path, self.name, self.code = num_workers, path, name, code
        self._reset()
        atexit.register(self.close)
        os.register_at_fork(after_in_child=self._reset)  # the workers and their starter are the parent's

    def _reset(self) -> None:
        self.free = threading.BoundedSemaphore(self.num_workers)
        self.starter = ThreadPoolExecutor(1, thread_name_prefix=self.name)
        self.children: set[WorkerProcess] = set()
        self.idle: deque[WorkerProcess] = deque()

    def run(self, job: dict[str, Any], seconds: float) -> Any:
        """The result of a job.

        Raises:
            TimeoutError: there is none ``seconds`` after a process was ready for it.
            WorkerDied: the process ended.
            UserError: no process starts.
        """
        with self.free:
            child = self._take()
            try:
                return child.run(job, seconds)
            finally:
                self.idle.append(child)

    def _take(self) -> WorkerProcess:
        """A child that is ready for a job."""
        for _ in range(MAX_STARTS + self.num_workers):
            try:
                child = self.idle.popleft()
            except IndexError:
                child = self.starter.submit(WorkerProcess, self.path).result()
                self.children.add(child)
            if child.wait_until_ready():
                return child
            self.children.discard(child)
            child.close()
        raise UserError(
            f"no {self.name} process starts",
            hint=f"see why: {sys.executable} -s -P {self.path} 0",
            code=self.code,
        )

    def close(self) -> None:
        """End all children and wait for each, so that no zombie is left."""
        self.starter.shutdown(cancel_futures=True)
        for child in list(self.children):
            self.children.discard(child)
            child.close()
        self.idle.clear()
