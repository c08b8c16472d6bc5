"""One supervisor of child processes, for the ranks of a run, the steps of a pipeline and the points of a sweep."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Generic, Self, TypeVar

from r1.core.errors import STOP_SIGNALS
from r1.distributed.process import ChildProcess
from r1.distributed.signals import signal_handlers

Job = TypeVar("Job")
POLL_S = 0.05


class Supervisor(Generic[Job]):
    """Polls child processes, forwards stop signals to them, and leaves none behind.

    Args:
        poll_s: seconds between two polls of the children; None: ``POLL_S``.

    Attributes:
        running: the children that ``poll`` has not returned yet, each with its job.
        received: the stop signals, in their order.
    """

    def __init__(self, poll_s: float | None = None) -> None:
        self.poll_s = POLL_S if poll_s is None else poll_s
        self.running: dict[ChildProcess, Job] = {}
        self.received: list[int] = []
        self._num_forwarded = 0
        self._kill_at: dict[ChildProcess, float] = {}

    @contextmanager
    def session(self) -> Iterator[Self]:
        """Around the children's lives. Inside, stop signals are only forwarded; at the end the children are killed."""
        with signal_handlers(STOP_SIGNALS, lambda number, _: self.received.append(number)):
            try:
                yield self
            finally:  # while the handlers are in place: a signal must not end this process before its children
                for child in self.running:
                    child.kill()
                for child in self.running:
                    child.wait()

    @property
    def stop_signal(self) -> int | None:
        """The first signal that asked for a stop."""
        return self.received[0] if self.received else None

    def poll(self) -> list[tuple[ChildProcess, Job]]:
        """Wait ``poll_s``, forward signals, kill the children whose grace time is over; return those that ended."""
        time.sleep(self.poll_s)
        for number in self.received[self._num_forwarded :]:  # each signal once: a second one means "at once"
            self._num_forwarded += 1
            for child in self.running:
                child.send_signal(number)
        for child, deadline in self._kill_at.items():
            if time.monotonic() > deadline:
                child.kill()
        return [(child, self.running.pop(child)) for child in list(self.running) if child.poll() is not None]

    def stop(self, child: ChildProcess, grace_s: float) -> None:
        """Ask one child to save and end; it is killed after ``grace_s`` seconds."""
        child.send_signal(signal.SIGTERM)
        self._kill_at[child] = time.monotonic() + grace_s

    def kill_running_after(self, grace_s: float) -> None:
        self._kill_at |= dict.fromkeys(self.running, time.monotonic() + grace_s)
