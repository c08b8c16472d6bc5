"""Launch one process per device of this machine and supervise them.

The rendezvous store lives in this process, so it outlives every rank: the cause of a rank's death is recorded there,
and the other ranks read it there.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from r1.core.errors import Interrupted, RankFailed
from r1.core.types import Config
from r1.distributed.collectives import FAILED, HOSTNAME
from r1.distributed.process import ChildProcess, describe_exit, stopped_by
from r1.distributed.supervisor import Supervisor

if TYPE_CHECKING:
    from torch.distributed import TCPStore  # type: ignore[attr-defined]  # exported in another way

GRACE_S = 20.0  # at most, for the other ranks to end by themselves once one has failed


class RankSupervisor:
    """The ranks of a run on this machine, from their start to their end.

    Args:
        folder: the record's.
        store: the rendezvous store of all ranks.
        finalize: writes the status of a run whose record was left open; returns the record's status.
        timeout_s: a rank that is silent, or stopped by a signal, for so long has hung.
    """

    def __init__(
        self, folder: Path, store: TCPStore, finalize: Callable[[Path, str, Exception], str], timeout_s: float
    ) -> None:
        self.folder, self.store, self.finalize = folder, store, finalize
        self.timeout_s = timeout_s
        self.grace_s = min(GRACE_S, timeout_s / 2)
        self.supervisor = Supervisor[int]()
        self._stopped_since: dict[int, float] = {}  # by rank; time.monotonic()

    def run(self, task: str, environments: Sequence[dict[str, str]]) -> None:
        """Start one process per environment, and wait until all have ended.

        Raises:
            RankFailed: one has failed, and then all.
            Interrupted: a signal has stopped them.
        """
        with self.supervisor.session():
            ranks = [start_rank(task, environment) for environment in environments]
            self.supervisor.running |= {child: rank for rank, child in enumerate(ranks)}
            self._wait()
        self._raise_outcome([child.exit_code for child in ranks])

    def _wait(self) -> None:
        """Until all ranks have ended; once one has failed, the others have ``grace_s``."""
        has_failed = False
        while self.supervisor.running:
            failed = [(rank, child) for child, rank in self.supervisor.poll() if child.returncode]
            if failed and not has_failed:
                has_failed = True
                self.supervisor.kill_running_after(self.grace_s)
                self._record_death(*failed[0])
            self._kill_hung()

    def _kill_hung(self) -> None:
        """Kill a rank that has been stopped for ``timeout_s``, and one that another rank has found silent.

        That breaks the connections to it, at which the other ranks end.
        """
        failure = self._failure()  # one that the rank reported itself has its host
        silent = failure.fields["rank"] if failure and not failure.fields["host"] else None
        for child, rank in self.supervisor.running.items():
            number, now = stopped_by(child.pid), time.monotonic()
            if number is None:
                self._stopped_since.pop(rank, None)
            elif now - self._stopped_since.setdefault(rank, now) > self.timeout_s:
                name = signal.Signals(number).name
                self._publish(RankFailed(f"was stopped by {name} for {self.timeout_s:g} s", rank, 1, HOSTNAME))
                child.kill()
            if rank == silent:
                child.kill()

    def _record_death(self, rank: int, child: ChildProcess) -> None:
        """Publish the failure of a rank that was killed and could not publish it itself."""
        number = -child.returncode
        if number > 0 and number not in self.supervisor.received:
            self._publish(RankFailed(f"was {describe_exit(-number)}", rank, child.exit_code, HOSTNAME))

    def _publish(self, failed: RankFailed) -> None:
        self.store.compare_set(FAILED, "", json.dumps(failed.fields))

    def _failure(self) -> RankFailed | None:
        """The first failure that was published."""
        return RankFailed(**json.loads(self.store.get(FAILED))) if self.store.check([FAILED]) else None

    def _raise_outcome(self, codes: list[int]) -> None:
        """Raise how the run ended, and finalize the record: the rank that writes it may have been killed."""
        if failure := self._failure():
            self.finalize(self.folder, "failed", failure)
            raise failure
        if stops := [*self.supervisor.received, *(code - 128 for code in codes if code > 128)]:
            stop = Interrupted(stops[0])
            stop.folder = str(self.folder)
            if self.finalize(self.folder, "interrupted", stop) != "finished":
                raise stop
        elif code := next(filter(None, codes), 0):
            failed = RankFailed(f"exited with code {code} without reporting an error", codes.index(code), code)
            self.finalize(self.folder, "failed", failed)
            raise failed


def start_rank(task: str, environment: dict[str, str]) -> ChildProcess:
    """One rank, which reads its task from stdin."""
    return ChildProcess([sys.executable, "-m", "r1.train.rank"], os.environ | environment, stdin=task)


def rank_environment(config: Config, rank: int, port: int) -> dict[str, str]:
    """The variables that torchrun would set; the cores are divided among the ranks, and gloo stays on this machine."""
    size = config["trainer"]["devices"]
    ids = {"RANK": rank, "LOCAL_RANK": rank, "GROUP_RANK": 0, "WORLD_SIZE": size, "MASTER_PORT": port}
    threads = config["threads"] or max(1, (os.cpu_count() or 1) // size)
    defaults = {"OMP_NUM_THREADS": str(threads)} | ({"GLOO_SOCKET_IFNAME": "lo"} if sys.platform == "linux" else {})
    return {
        **{name: str(value) for name, value in ids.items()},
        **{name: value for name, value in defaults.items() if name not in os.environ},
        "MASTER_ADDR": "127.0.0.1",
        "TORCHELASTIC_USE_AGENT_STORE": "True",  # the store is in the launcher, not in rank 0
    }


@contextmanager
def serve_tcp_store() -> Iterator[tuple[TCPStore, int]]:
    """A store for the processes of this machine, and its port; other machines cannot reach it."""
    from torch.distributed import TCPStore  # type: ignore[attr-defined]  # exported in another way

    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    yield TCPStore("127.0.0.1", port, is_master=True, wait_for_workers=False, master_listen_fd=listener.detach()), port
