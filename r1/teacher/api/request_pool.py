"""Threads that ask, and hand over each reply as soon as it is there."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from queue import Empty, SimpleQueue
from threading import Event, Lock, Semaphore, Thread
from types import TracebackType

from r1.teacher.base import Question, Reply

POLL_S = 0.1


class RequestPool:
    """Context manager around at most ``size`` threads that call ``work(question, stopping)`` for one after the other.

    A thread takes its next question when a reply has been dealt with: never more than ``size`` are in flight or
    waiting, and that is all that a crash can cost. Once ``stopping`` is set they take no further question, and ``work``
    may return None. They do not keep the process alive: what is in flight when the block ends is abandoned.

    Attributes:
        last_straw: the reply that stopped them: one without an answer more than ``max_failures``, or a hopeless one.
    """

    def __init__(
        self,
        work: Callable[[Question, Event], Reply | None],
        questions: Sequence[Question],
        size: int,
        max_failures: int,
    ) -> None:
        self.work, self.stopping, self._left = work, Event(), len(questions)
        self.max_failures, self._num_failed, self._lock = max_failures, 0, Lock()
        self.fatal_reply: Reply | None = None
        self._todo, self._done = SimpleQueue[Question](), SimpleQueue[Reply]()
        self._consumed = Semaphore(0)
        self._crashes: list[BaseException] = []
        for question in questions:
            self._todo.put(question)
        self._threads = [Thread(target=self._run, name="teacher", daemon=True) for _ in questions[:size]]

    def __enter__(self) -> RequestPool:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()

    def _stop(self) -> None:
        self.stopping.set()  # wakes those that wait for another attempt
        self._consumed.release(max(1, len(self._threads)))

    def _run(self) -> None:
        try:
            with suppress(Empty):
                while not self.stopping.is_set():
                    if reply := self.work(self._todo.get_nowait(), self.stopping):
                        self._count(reply)
                        self._done.put(reply)
                        self._consumed.acquire()
        except BaseException as error:
            self._crashes.append(error)

    def _count(self, reply: Reply) -> None:
        if reply.answer is None:
            with self._lock:
                self._num_failed += 1
                if self._num_failed > self.max_failures or reply.failures[-1].fatal:
                    self.fatal_reply = self.fatal_reply or reply
                    self.stopping.set()

    def replies(self, poll: Callable[[], None]) -> Iterator[list[Reply]]:
        """All replies, in lists of what has come since the last list; ``poll`` is called in between."""
        while self._left:
            poll()
            if batch := self._arrived(POLL_S):
                yield batch
                self._consumed.release(len(batch))
            if self._crashes:
                raise self._crashes[0]

    def drain(self, seconds: float) -> Iterator[list[Reply]]:
        """Ask nothing more; what is in flight and comes within ``seconds``."""
        self._stop()
        deadline = time.monotonic() + seconds
        while any(thread.is_alive() for thread in self._threads) and time.monotonic() < deadline:
            if batch := self._arrived(POLL_S):
                yield batch
        if batch := self._arrived(0.0):
            yield batch

    def _arrived(self, seconds: float) -> list[Reply]:
        batch: list[Reply] = []
        with suppress(Empty):
            batch.append(self._done.get(timeout=seconds))
            while True:
                batch.append(self._done.get_nowait())
        self._left -= len(batch)
        return batch
