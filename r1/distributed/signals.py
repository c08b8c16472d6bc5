"""Stop signals: how a sweep's process forwards them, once each, to its runs in other processes."""

from __future__ import annotations

import fcntl
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from types import FrameType
from typing import Any

from r1.core.errors import STOP_SIGNALS, Interrupted

TERMINAL_SIGNALS = (signal.SIGINT, signal.SIGHUP)  # these come to every process of a terminal's foreground
PREEMPTION_SIGNALS = (signal.SIGUSR1, signal.SIGUSR2)  # a cluster's notice that it will soon take the machine away
WATCH_S = 0.2  # between two looks at the file of a sweep's signals


class SweepStopSignal:
    """The signals that a sweep has received, in a file that its runs on the same machine watch.

    The process that started the sweep holds a lock on the file: a run that can take the lock is an orphan.
    """

    parent_is_dead = False

    def __init__(self, file: Path) -> None:
        self.file, self.cluster_job = file, os.environ.get("SLURM_JOB_ID")
        self._locked_file = file.open("a")
        fcntl.flock(self._locked_file, fcntl.LOCK_EX)
        self._run_is_here = False

    def __getstate__(self) -> dict[str, Any]:
        self.install_handlers()  # Ray has installed a handler of its own by the time it pickles a job
        return {"file": self.file, "cluster_job": self.cluster_job}

    # ---- in the process that started the sweep ----

    def install_handlers(self) -> None:
        if threading.current_thread() is threading.main_thread():
            for number in STOP_SIGNALS:
                signal.signal(number, self._handle)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        raise_now = self._run_is_here or bool(self.signals_received)
        self._locked_file.write(f"{number}\n")
        self._locked_file.flush()
        if raise_now:
            raise Interrupted(number)

    def close(self) -> None:
        self._locked_file.close()

    @contextmanager
    def run_in_process(self) -> Iterator[None]:
        """A run in this process: a signal interrupts it anywhere, except in its steps, which have their own handler."""
        self._run_is_here = True
        try:
            self.check()
            yield
        finally:
            self._run_is_here = False

    # ---- in any process of the sweep ----

    @property
    def is_same_machine(self) -> bool:
        """Whether this process is on the sweep's own machine; elsewhere its cluster stops it."""
        return self.file.exists() and os.environ.get("SLURM_JOB_ID") == self.cluster_job

    @property
    def signals_received(self) -> list[int]:
        return [int(number) for number in self.file.read_text().split()]

    def check(self) -> None:
        """Raise Interrupted if the sweep has received a stop signal."""
        if self.is_same_machine and self.signals_received:
            raise Interrupted(self.signals_received[0])

    @contextmanager
    def forward_signals(self) -> Iterator[None]:
        """A run in another process: it gets the sweep's signals, and SIGTERM when the sweep's process dies."""
        with suppress(OSError):  # a session leader is in a group of its own already
            os.setpgid(0, 0)  # a terminal's ^C does not come here, so that it is forwarded once
        done = threading.Event()
        with signal_handlers(STOP_SIGNALS, signal.SIG_IGN):  # drops what a terminal has sent before
            signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)
            for number in STOP_SIGNALS:
                signal.signal(number, _raise_interrupted)
            if self.is_same_machine:
                threading.Thread(target=self._watch, args=(done,), daemon=True).start()
            try:
                yield
            finally:
                done.set()

    def _watch(self, done: threading.Event) -> None:
        with self.file.open() as file:
            while not done.wait(WATCH_S):
                for number in file.read().split():
                    os.kill(os.getpid(), int(number))
                with suppress(BlockingIOError):
                    fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
                    self.parent_is_dead = True
                    os.kill(os.getpid(), signal.SIGTERM)
                    return


@dataclass
class PreemptionNotice:
    """A cluster's preemption notice, which waits until the run has stopped and saved.

    Attributes:
        expected: the cluster has a handler for such notices.
        requeue: that handler, which requeues the job and does not return; None: no notice has come.
    """

    expected: bool
    requeue: Callable[[], Any] | None = None


@contextmanager
def preemption_notice() -> Iterator[PreemptionNotice]:
    """Inside, a cluster's notice stops the run as SIGTERM does."""
    handlers = {number: handler for number in PREEMPTION_SIGNALS if callable(handler := signal.getsignal(number))}
    notice = PreemptionNotice(expected=bool(handlers))

    def handle(number: int, frame: FrameType | None) -> None:
        notice.requeue = lambda: handlers[signal.Signals(number)](number, frame)
        if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:  # nothing has started that could be saved
            raise Interrupted(signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)

    with signal_handlers(handlers, handle):
        yield notice


@contextmanager
def sweep_stop_signal() -> Iterator[SweepStopSignal]:
    """Around a sweep. A terminal's ^C does not reach the processes started inside; it is forwarded to the runs once."""
    idle = threading.Event()
    threading.Thread(target=idle.wait, daemon=True).start()  # this thread takes the signals that are blocked below
    with TemporaryDirectory(prefix="r1-") as folder, signal_handlers(STOP_SIGNALS, signal.SIG_DFL):
        stop = SweepStopSignal(Path(folder) / "signals")
        stop.install_handlers()
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, TERMINAL_SIGNALS)  # child processes inherit it
        try:
            yield stop
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            idle.set()
            stop.close()


@contextmanager
def signal_handlers(numbers: Iterable[int], handler: Any) -> Iterator[None]:
    """``handler`` for these signals inside; the earlier handlers are restored."""
    before = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)


def _raise_interrupted(number: int, frame: FrameType | None) -> None:
    raise Interrupted(number)
