"""Threads that send requests; each reply is handed over as soon as it arrives.

Own threads rather than ``ThreadPoolExecutor``, whose threads would keep the process alive until a stuck request ends.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from itertools import islice
from queue import Empty, SimpleQueue
from threading import Event, Thread
from types import TracebackType

from r1.teacher.base import Question, Reply

POLL_S = 0.1


class RequestPool:
    """Context manager around at most ``size`` threads that call ``send(question, stopping)``.

    The next question is sent when the caller has consumed a reply. So at most ``size`` replies are in flight or not yet
    consumed, and a crash loses no more than those. Once ``stopping`` is set, no further question is sent and ``send``
    may return None. Requests in flight at the end of the block are abandoned.

    Attributes:
        fatal_reply: the reply that ends the pool: its failure is fatal, or one more than ``max_failures``.
    """

    def __init__(
        self,
        send: Callable[[Question, Event], Reply | None],
        questions: Sequence[Question],
        size: int,
        max_failures: int,
    ) -> None:
        self.send, self.max_failures, self.stopping = send, max_failures, Event()
        self.fatal_reply: Reply | None = None
        self._questions = iter(questions)
        self._num_in_flight = self._num_failed = 0
        self._todo, self._done = SimpleQueue[Question | None](), SimpleQueue[Reply | BaseException | None]()
        self._crash: BaseException | None = None
        self._threads = [Thread(target=self._send_all, name="teacher", daemon=True) for _ in questions[:size]]

    def __enter__(self) -> RequestPool:
        for thread in self._threads:
            thread.start()
        self._dispatch(len(self._threads))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()

    def _dispatch(self, count: int) -> None:
        for question in islice(self._questions, count):
            self._num_in_flight += 1
            self._todo.put(question)

    def _stop(self) -> None:
        self.stopping.set()  # also wakes the threads that wait before a retry
        for _ in self._threads:
            self._todo.put(None)

    def _send_all(self) -> None:
        while question := self._todo.get():
            try:
                self._done.put(self.send(question, self.stopping))
            except BaseException as error:  # raised again by replies()
                self._done.put(error)

    def replies(self, check_for_stop: Callable[[], None]) -> Iterator[list[Reply]]:
        """All replies, in lists of those that arrived since the last list; calls ``check_for_stop`` in between.

        Raises: whatever ``send`` raised.
        """
        while self._num_in_flight:
            check_for_stop()
            if batch := self._receive(POLL_S):
                yield batch
            if self._crash:
                raise self._crash
            if not self.stopping.is_set():
                self._dispatch(len(batch))

    def drain(self, seconds: float) -> Iterator[list[Reply]]:
        """Send no further question; the replies that arrive within ``seconds``."""
        self._stop()
        deadline = time.monotonic() + seconds
        while self._num_in_flight and time.monotonic() < deadline:
            if batch := self._receive(POLL_S):
                yield batch
        if batch := self._receive(0.0):
            yield batch

    def _receive(self, seconds: float) -> list[Reply]:
        """Wait up to ``seconds`` for a reply. Returns all that have arrived."""
        results: list[Reply | BaseException | None] = []
        with suppress(Empty):
            results.append(self._done.get(timeout=seconds))
            while True:
                results.append(self._done.get_nowait())
        self._num_in_flight -= len(results)
        self._crash = next((result for result in results if isinstance(result, BaseException)), self._crash)
        replies = [result for result in results if isinstance(result, Reply)]
        for reply in replies:
            self._check(reply)
        return replies

    def _check(self, reply: Reply) -> None:
        if reply.answer is None:
            self._num_failed += 1
            if self._num_failed > self.max_failures or reply.failures[-1].fatal:
                self.fatal_reply = self.fatal_reply or reply
                self.stopping.set()
