"""How a sweep is stopped: whoever started it is asked, and passes that on, once, to its runs in other processes."""

from __future__ import annotations

import fcntl
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from types import FrameType
from typing import Any

from r1.core.errors import Interrupted

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
FROM_TERMINAL = (signal.SIGINT, signal.SIGHUP)  # these come to every process of a terminal's foreground
NOTICES = (signal.SIGUSR1, signal.SIGUSR2)  # by which a cluster says that it will soon take the machine away
POLL_S = 0.2


class SweepStopSignal:
    """What a sweep was asked by signals, in a file that its runs on the same machine look at.

    The process that started the sweep holds a lock on the file: a run that can have it has been left alone.
    """

    parent_is_dead = False

    def __init__(self, file: Path) -> None:
        self.file, self.cluster_job = file, os.environ.get("SLURM_JOB_ID")
        self._held = file.open("a")
        fcntl.flock(self._held, fcntl.LOCK_EX)
        self._running = False

    def __getstate__(self) -> dict[str, Any]:
        self.listen()  # Ray has put a handler of its own in place by the time it packs up a job
        return {"file": self.file, "cluster_job": self.cluster_job}

    # ---- in the process that started the sweep ----

    def listen(self) -> None:
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                signal.signal(number, self._ask)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        at_once = self._running or bool(self.asked)
        self._held.write(f"{number}\n")
        self._held.flush()
        if at_once:
            raise Interrupted(number)

    def close(self) -> None:
        self._held.close()

    @contextmanager
    def run_in_process(self) -> Iterator[None]:
        """A run in this process: a signal ends it wherever it is, but for its steps, which have their own handler."""
        self._running = True
        try:
            self.check()
            yield
        finally:
            self._running = False

    # ---- in any process of the sweep ----

    @property
    def is_same_machine(self) -> bool:
        """Whether this process belongs to the sweep's own machine, and not to a cluster that stops it by itself."""
        return self.file.exists() and os.environ.get("SLURM_JOB_ID") == self.cluster_job

    @property
    def asked(self) -> list[int]:
        return [int(number) for number in self.file.read_text().split()]

    def check(self) -> None:
        """Raise Interrupted if the sweep was asked to stop."""
        if self.is_same_machine and self.asked:
            raise Interrupted(self.asked[0])

    @contextmanager
    def passed_on(self) -> Iterator[None]:
        """A run in another process: it is sent what the sweep is asked, and SIGTERM if the sweep's process dies."""
        with suppress(OSError):  # a session's leader has no need of it
            os.setpgid(0, 0)  # away from the terminal's ^C
        done = threading.Event()
        with _handlers(SIGNALS, signal.SIG_IGN):  # what a terminal has sent this process before is forgotten
            signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
            for number in SIGNALS:
                signal.signal(number, _raise_interrupted)
            if self.is_same_machine:
                threading.Thread(target=self._watch, args=(done,), daemon=True).start()
            try:
                yield
            finally:
                done.set()

    def _watch(self, done: threading.Event) -> None:
        with self.file.open() as file:
            while not done.wait(POLL_S):
                for number in file.read().split():
                    os.kill(os.getpid(), int(number))
                with suppress(BlockingIOError):
                    fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
                    self.parent_is_dead = True
                    os.kill(os.getpid(), signal.SIGTERM)
                    return


class PreemptionNotice:
    """A cluster's notice, kept until the run has stopped and saved."""

    def __init__(self) -> None:
        self.expected = False
        self.given: Callable[[], Any] | None = None

    def pass_on(self) -> None:
        """To the cluster's own handler, which has the job started again and does not come back."""
        if self.given:
            self.given()


@contextmanager
def notices() -> Iterator[PreemptionNotice]:
    """A cluster's notice that comes inside asks the run to stop as SIGTERM does."""
    notice = PreemptionNotice()
    theirs = {number: handler for number in NOTICES if callable(handler := signal.getsignal(number))}
    notice.expected = bool(theirs)

    def keep(number: int, frame: FrameType | None) -> None:
        notice.given = lambda: theirs[signal.Signals(number)](number, frame)
        if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:  # nothing has begun that could be saved
            raise Interrupted(signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)

    with _handlers(theirs, keep):
        yield notice


@contextmanager
def stoppable() -> Iterator[SweepStopSignal]:
    """Around a sweep. What is started inside does not get a terminal's ^C, which is passed on to the runs once."""
    idle = threading.Event()
    threading.Thread(target=idle.wait, daemon=True).start()  # takes the signals that this thread blocks for its heirs
    with TemporaryDirectory(prefix="r1-") as folder, _handlers(SIGNALS, signal.SIG_DFL):
        stop = SweepStopSignal(Path(folder) / "asked")
        stop.listen()
        before = signal.pthread_sigmask(signal.SIG_BLOCK, FROM_TERMINAL)
        try:
            yield stop
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
            idle.set()
            stop.close()


def _raise_interrupted(number: int, frame: FrameType | None) -> None:
    raise Interrupted(number)


@contextmanager
def _handlers(numbers: Any, handler: Any) -> Iterator[None]:
    """Other handlers for these signals inside."""
    before = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)
