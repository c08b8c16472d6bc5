"""Scoring processes: a batch of comparisons is shared among them, and each has a time limit.

An operation on huge numbers cannot be interrupted from within its process, so each comparison is made in a child
(r1/data/verifier/worker.py) that can be killed.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import threading
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import asdict, dataclass, field
from typing import Literal

from r1.core.errors import REWARD
from r1.core.worker_pool import WorkerDied, WorkerPool
from r1.data.verifier import worker
from r1.data.verifier.relation import Rules

NUM_WORKERS = min(4, os.cpu_count() or 1)
MANY_TIMEOUTS = 8  # in one batch; from then on the batch has a quarter of the time per answer
CACHE_SIZE = 16_384  # verdicts

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


class Pool(WorkerPool):
    """Scoring processes and their last verdicts.

    Args:
        path: the program that they run; another one is for tests.
    """

    def __init__(self, num_workers: int = NUM_WORKERS, path: str = worker.__file__) -> None:
        super().__init__(num_workers, path, name="scoring", code=REWARD)
        self.threads = ThreadPoolExecutor(num_workers, thread_name_prefix="scorer")
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
        with contextlib.suppress(IndexError):  # no job is left
            while True:
                index = batch.todo.popleft()
                batch.outcomes[index] = self._outcome(batch.jobs[index], batch.limit())

    def _outcome(self, job: Job, seconds: float) -> Outcome:
        try:
            is_equal = self.run({"gold": job.gold, "answer": job.answer, "rules": asdict(job.rules)}, seconds)
        except TimeoutError:
            return "timeouts"
        except WorkerDied:
            return "died"
        return "right" if is_equal is True else "wrong"

    def close(self) -> None:
        self.threads.shutdown(cancel_futures=True)
        super().close()


POOL = Pool()
"""The children that all verifiers of this process share."""
