"""Scoring processes: a batch of comparisons is shared among them, and each has a time limit.

An operation on huge numbers cannot be interrupted from within its process, so each comparison is made in a child
(r1/data/verifier/worker.py) that can be killed. One that hangs, crashes or is killed costs only the answer that it was
working on. Only text goes to a child and only JSON comes back. The children start when they are first needed, from
threads that live as long as this process: the system kills a child when the thread that started it ends.
"""

from __future__ import annotations

import atexit
import contextlib
import itertools
import json
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from r1.core.errors import REWARD, UserError
from r1.data.verifier import worker
from r1.data.verifier.relation import Rules

NUM_WORKERS = min(4, os.cpu_count() or 1)
START_SECONDS = 120.0  # for one process to start, on the slowest file system
MAX_STARTS = 3  # attempts before the error that no process starts
MANY_TIMEOUTS = 8  # in one batch; from then on the batch has a quarter of the time per answer
CACHE_SIZE = 16_384  # verdicts
ENVIRONMENT = {"PYTHONHASHSEED": "0", "OMP_NUM_THREADS": "1"}  # nothing depends on the order of a set

Outcome = Literal["right", "wrong", "timeouts", "died", "guard", "gold"]


@dataclass(frozen=True)
class Job:
    """One comparison of two canonical texts."""

    gold: str
    answer: str
    rules: Rules


@dataclass
class Batch:
    """Jobs in progress, shared by the threads that work on them."""

    jobs: Sequence[Job]
    seconds: float
    todo: deque[int] = field(init=False)
    outcomes: list[Outcome] = field(init=False)

    def __post_init__(self) -> None:
        self.todo = deque(range(len(self.jobs)))
        self.outcomes = ["died"] * len(self.jobs)

    def limit(self) -> float:
        """Seconds for the next job; a batch with many hostile answers gets less time for each."""
        return self.seconds / (4 if self.outcomes.count("timeouts") >= MANY_TIMEOUTS else 1)


class WorkerProcess:
    """One scoring process, with one job at a time."""

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

    def run(self, job: Job, seconds: float) -> Outcome:
        """The outcome, after ``seconds`` at the latest."""
        deadline = time.monotonic() + seconds
        self.num_jobs += 1
        try:
            self._send({"id": self.num_jobs, "gold": job.gold, "answer": job.answer, "rules": asdict(job.rules)})
            while (message := self._message(deadline)).get("id") != self.num_jobs:
                if message.get("ready"):  # the fork died, and its supervisor replaced it
                    return "died"
        except TimeoutError:
            self.ready = False
            self.process.send_signal(signal.SIGUSR1)
            return "timeouts"
        except (OSError, ValueError):
            self.ready = False
            return "died"
        return "right" if message.get("equal") is True else "wrong"

    def _send(self, message: dict[str, Any]) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(
            json.dumps(message).encode() + b"\n"
        )  # cannot block: the guard keeps jobs smaller than the pipe's buffer

    def _message(self, deadline: float) -> dict[str, Any]:
        """The next message.

        Raises:
            TimeoutError: there is none before the deadline.
            OSError: the process has ended.
        """
        assert self.process.stdout is not None
        poller = select.poll()
        poller.register(self.process.stdout, select.POLLIN)
        while b"\n" not in self.buffer:
            if not poller.poll(max(0.0, deadline - time.monotonic()) * 1000):
                raise TimeoutError
            if not (chunk := self.process.stdout.read(65536)):
                raise BrokenPipeError
            self.buffer += chunk
        line, _, self.buffer = self.buffer.partition(b"\n")
        return dict(json.loads(line))

    def close(self) -> None:
        with self.process:  # closes the pipes and waits
            self.process.kill()


class Pool:
    """``num_workers`` scoring processes, started when first used; safe to use from any thread.

    Args:
        path: the program that they run; another one is for tests.
    """

    def __init__(self, num_workers: int = NUM_WORKERS, path: str = worker.__file__) -> None:
        self.num_workers, self.path = num_workers, path
        self.threads = ThreadPoolExecutor(num_workers, thread_name_prefix="scorer")
        self.children: set[WorkerProcess] = set()
        self.idle: deque[WorkerProcess] = deque()
        self.cache: dict[tuple[Job, float], Outcome] = {}
        self.lock = threading.Lock()

    def judge(self, jobs: Sequence[Job], seconds: float) -> list[Outcome]:
        """``right``, ``wrong``, ``timeouts`` (took longer than ``seconds``) or ``died`` for each job.

        Raises:
            UserError: no scoring process starts.
        """
        cached = {job: self.cache.get((job, seconds)) for job in jobs}
        fresh = [job for job, outcome in cached.items() if outcome is None]
        batch = Batch(fresh, seconds)
        futures = [self.threads.submit(self._work, batch) for _ in range(min(self.num_workers, len(fresh)))]
        try:
            wait(futures)
        finally:
            batch.todo.clear()  # if interrupted, the threads stop after their current job
        for future in futures:
            future.result()
        outcomes = dict(zip(fresh, batch.outcomes, strict=True))
        self._add_to_cache({(job, seconds): outcome for job, outcome in outcomes.items() if outcome != "died"})
        return [cached[job] or outcomes[job] for job in jobs]

    def _add_to_cache(self, outcomes: dict[tuple[Job, float], Outcome]) -> None:
        """Reward and validation score the same completions, and must not differ because of one slow moment."""
        with self.lock:
            self.cache |= outcomes
            for oldest in list(itertools.islice(self.cache, max(0, len(self.cache) - CACHE_SIZE))):
                del self.cache[oldest]

    def _work(self, batch: Batch) -> None:
        """One thread's part of a batch."""
        child = self._take()
        with contextlib.suppress(IndexError):  # no job is left
            while True:
                index = batch.todo.popleft()
                batch.outcomes[index] = child.run(batch.jobs[index], batch.limit())
                if batch.outcomes[index] in ("timeouts", "died"):
                    self.idle.append(child)
                    child = self._take()
        self.idle.append(child)

    def _take(self) -> WorkerProcess:
        """A child that is ready for a job."""
        for _ in range(MAX_STARTS + self.num_workers):
            try:
                child = self.idle.popleft()
            except IndexError:
                child = WorkerProcess(self.path)
                self.children.add(child)
            if child.wait_until_ready():
                return child
            self._drop(child)
        raise UserError(
            "no scoring process starts",
            hint=f"see why: {sys.executable} -s -P {self.path} 0",
            code=REWARD,
        )

    def _drop(self, child: WorkerProcess) -> None:
        self.children.discard(child)
        child.close()

    def close(self) -> None:
        """End all children and wait for each, so that no zombie is left."""
        self.threads.shutdown(cancel_futures=True)
        for child in list(self.children):
            self._drop(child)
        self.idle.clear()


POOL = Pool()
"""The children that all verifiers of this process share."""

atexit.register(POOL.close)
