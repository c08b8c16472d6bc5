"""One process per device of this machine, watched over by this one.

The rendezvous store lives here, so it outlives every rank: the cause of a death is recorded in it, the other ranks read
it there, and none is left behind.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from r1.core.errors import STOP_SIGNALS, Interrupted, RankFailed
from r1.core.types import Config
from r1.distributed.collectives import FAILED
from r1.distributed.process import kill_on_parent_death

if TYPE_CHECKING:
    from torch.distributed import TCPStore  # type: ignore[attr-defined]  # exported in another way


POLL_S = 0.05
GRACE_S = 20.0  # seconds that the others have to end on their own once one has failed


class RankSupervisor:
    """The processes of a run on this machine, from their start to their end.

    Args:
        folder: the record's.
        store: the rendezvous store of all ranks.
        close: writes the status of a run whose record was left open; returns the status that stands there.
    """

    def __init__(self, folder: Path, store: TCPStore, close: Callable[[Path, str, Exception], str]) -> None:
        self.folder, self.store, self.close = folder, store, close
        self.processes: list[subprocess.Popen[bytes]] = []
        self.asked: list[int] = []  # signals

    def run(self, processes: list[subprocess.Popen[bytes]]) -> None:
        """Wait until all have ended.

        Raises:
            RankFailed: one has failed, and then all.
            Interrupted: a signal has stopped them.
        """
        self.processes = processes
        try:
            with self._passing_signals_on():
                self._watch()
        finally:
            for one in processes:
                one.kill()
            for one in processes:
                one.wait()
        self._settle()

    @contextmanager
    def _passing_signals_on(self) -> Iterator[None]:
        before = {number: signal.signal(number, lambda number, _: self._pass_on(number)) for number in STOP_SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _pass_on(self, number: int) -> None:
        self.asked.append(number)
        for one in self.processes:
            one.send_signal(number)

    def _watch(self) -> None:
        """Until all have ended, or one has failed and the others have had their time."""
        deadline = float("inf")
        while any(one.poll() is None for one in self.processes) and time.monotonic() < deadline:
            time.sleep(POLL_S)
            dead = next((rank for rank, one in enumerate(self.processes) if one.poll()), None)
            if dead is not None and deadline == float("inf"):
                deadline = time.monotonic() + GRACE_S
                self._record_death(dead)

    def _record_death(self, rank: int) -> None:
        """A process that was killed could not say so itself."""
        code = self.processes[rank].returncode
        if code < 0 and -code not in self.asked:
            failed = RankFailed(f"was killed by {signal.Signals(-code).name}", rank, 128 - code, socket.gethostname())
            self.store.compare_set(FAILED, "", json.dumps(failed.fields))

    def _settle(self) -> None:
        """Raise how it ended, and see that the record says so too: the process that keeps it may have been killed."""
        codes = [128 - code if code < 0 else code for code in (one.returncode for one in self.processes)]
        if self.store.check([FAILED]):
            failed = RankFailed(**json.loads(self.store.get(FAILED)))
            self.close(self.folder, "failed", failed)
            raise failed
        stops = [*self.asked, *(code - 128 for code in codes if code > 128)]
        if stops:
            stop = Interrupted(stops[0])
            stop.folder = str(self.folder)
            if self.close(self.folder, "interrupted", stop) != "finished":
                raise stop
        elif code := next(filter(None, codes), 0):
            failed = RankFailed(f"ended with exit code {code} and no word", codes.index(code), code)
            self.close(self.folder, "failed", failed)
            raise failed


def process(task: str, environment: dict[str, str]) -> subprocess.Popen[bytes]:
    """One rank; it dies with this process."""
    parent = os.getpid()
    started = subprocess.Popen(
        [sys.executable, "-m", "r1.train.rank"],
        stdin=subprocess.PIPE,
        stdout=2,  # stdout is for the record's folder
        env=os.environ | environment,
        process_group=0,  # a terminal's ^C comes to the parent alone, which passes it on once
        preexec_fn=lambda: kill_on_parent_death(parent),
    )
    assert started.stdin
    started.stdin.write(task.encode())
    started.stdin.close()
    return started


def environment(cfg: Config, rank: int, port: int) -> dict[str, str]:
    """What torchrun would tell a process; threads are shared out, and nothing leaves this machine."""
    size = cfg["trainer"]["devices"]
    given = {"RANK": rank, "LOCAL_RANK": rank, "GROUP_RANK": 0, "WORLD_SIZE": size, "MASTER_PORT": port}
    threads = cfg["threads"] or max(1, (os.cpu_count() or 1) // size)
    unless_set = {"OMP_NUM_THREADS": str(threads)} | ({"GLOO_SOCKET_IFNAME": "lo"} if sys.platform == "linux" else {})
    return {
        **{name: str(value) for name, value in given.items()},
        **{name: value for name, value in unless_set.items() if name not in os.environ},
        "MASTER_ADDR": "127.0.0.1",
        "TORCHELASTIC_USE_AGENT_STORE": "True",  # the store is here, not in the first rank
    }


@contextmanager
def serve_tcp_store() -> Iterator[tuple[TCPStore, int]]:
    """A store for the processes of this machine, and its port; other machines cannot reach it."""
    from torch.distributed import TCPStore  # type: ignore[attr-defined]  # exported in another way

    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    yield TCPStore("127.0.0.1", port, is_master=True, wait_for_workers=False, master_listen_fd=listener.detach()), port
